"""Owns the measures of arms: what each did in each cell, over trials, with intervals that leave out whole tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from benchmarks.metrics.channels import fidelity
from benchmarks.metrics.correlation import Votes, error_correlation, error_correlation_within, information_gain
from benchmarks.metrics.jackknife import Estimate, Floats, jackknife, ratio, share
from benchmarks.statistics import interval
from benchmarks.tables import CELL, SINGLE, in_order, scored
from topologies.drawing import role

ONCE = "Single"
"""Topology of one agent that answers once."""
MEANS = ("turns", "messages", "critical_s", "critical_calls", "parallelism", "density", "redundancy")
SHARES = ("shared_parts", "drift", "omission", "contradiction", "unread", "misread")
MEASURES = (
    *(*MEANS, *SHARES, "overhead", "efficiency", "a_task", "a_trace", "absorbed", "per_ktok"),
    *("rho", "rho_within", "gain", "unclipped", "gamma", "transfer"),
)
"""Measures of an arm; each has columns `_low` and `_high` beside it."""
ROLE: dict[str, type[pl.DataType]] = {
    "role": pl.String,
    **dict.fromkeys(("replies", "scored", "right"), pl.Int64),
    **dict.fromkeys(("share", "share_low", "share_high"), pl.Float64),
}
"""Fields of one entry of the column `roles`."""


def arm_metrics(
    trials: pl.DataFrame, metrics: pl.DataFrame, channels: pl.DataFrame, against: str | None = None
) -> pl.DataFrame:
    """Measure each arm in each cell; a row per family × budget × topology × model, as in `tables.cells`.

    Means over runs, with 95 % intervals clustered by task: what `runs.metrics_of` gives under these names. Against the arm
    `against` (by default `reference`) of the same model and budget, on the tasks and seeds both have; None where there is no
    such arm:

    - overhead: O% = 100 (T − T₁) / T₁, T and T₁ the sums of turns. A ratio of turns, not of tokens.
    - efficiency: E_c = S / (T / T₁), S the success of the arm.
    - a_task: A = (1 − S) / (1 − S₁). Error absorption, (E₁ − E) / E₁ in Kim et al., is 1 − A where E is the share of wrong
      answers, so it stands for itself only as `absorbed`.

    From the arm alone:

    - a_trace: wrong replies / wrong replies born, over all runs: how many wrong replies come of one that had no wrong mail to
      blame, itself included. 1 where no error travels. Kim et al. print no formula for theirs; this one is ours.
    - absorbed: of the runs in which some reply was wrong, the share with a right answer all the same. Ours.
    - per_ktok: solved runs per 1,000 tokens, sum over sum.
    - rho, rho_within, gain: see `correlation`; from first answers to the whole task, so None for teams that cut it up.
    - unclipped, gamma, transfer: see `channels`, over all channels of the arm.
    - roles: what the agents of each role got right, a list with an entry per role (`executor` for all of `executor[…]`): replies,
      scored and right as in `runs.metrics_of`, and share = right / scored with its interval, None where none was scored.
    """
    rows = scored(trials).join(metrics, on="address", how="inner")
    against = reference(trials) if against is None else against
    firsts = rows.filter(pl.col("topology") == against)
    mails = channels.select(pl.exclude("sender", "receiver"))
    found = []
    for key, group in rows.group_by(CELL, maintain_order=True):
        cell = dict(zip(CELL, key, strict=True))
        same = firsts.filter(*(pl.col(name) == cell[name] for name in ("family", "budget_rank", "budget", "model")))
        measured = _alone(group) | _against(group, same) | _votes(group)
        measured |= _mailed(group.select("address", "cluster").join(mails, on="address", how="inner"))
        found.append(cell | {"n": group.height} | _flat(measured) | {"roles": _roles(group)})
    bounds = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    schema: dict[str, pl.DataType] = {name: rows.schema[name] for name in CELL}
    schema |= {"n": pl.Int64(), **dict.fromkeys(bounds, pl.Float64()), "roles": pl.List(pl.Struct(ROLE))}
    return in_order(pl.DataFrame(found, schema=schema))


def reference(trials: pl.DataFrame) -> str:
    """The single agent that turns are held against: one that answers once, or, without such an arm, `Single(fill)`.

    One that repeats until its budget is spent takes more turns than any team, so it tells nothing about overhead.
    """
    return ONCE if ONCE in trials["topology"] else SINGLE


def channel_metrics(trials: pl.DataFrame, channels: pl.DataFrame) -> list[dict[str, Any]]:
    """Fidelity of each kind of channel of each arm, over all budgets and families: a row per arm, sender and receiver role."""
    places = trials.select("address", "topology", "model", cluster=pl.concat_str("family", "task", separator="\x1f"))
    keys = ["topology", "model", "sender", "receiver"]
    rows = channels.join(places, on="address", how="inner").sort(keys)
    return [
        dict(zip(keys, key, strict=True)) | fidelity(group)._asdict()
        for key, group in rows.group_by(keys, maintain_order=True)
    ]


def _alone(group: pl.DataFrame) -> dict[str, Estimate | None]:
    def sums(over: str, under: str) -> Estimate | None:
        return jackknife(_by_task(group, [over, under]), ratio)

    hurt = group.filter(pl.col("wrong") > 0)
    return {
        **{name: jackknife(_by_task(group.with_columns(one=1.0), [name, "one"]), ratio) for name in MEANS},
        **{name: _share(group, name) for name in SHARES},
        "a_trace": sums("wrong", "born"),
        "absorbed": _share(hurt.with_columns(pl.col("solved").cast(pl.Float64)), "solved"),
        "per_ktok": _scaled(1000.0, sums("solved", "tokens")),
    }


def _against(group: pl.DataFrame, single: pl.DataFrame) -> dict[str, Estimate | None]:
    """Measures against the single agent; its sums are the columns after the arm's: turns, failures, successes, runs."""
    pairs = group.join(single.select("cluster", "seed", "turns", "solved"), on=["cluster", "seed"], suffix="_1")
    known = pairs.filter(pl.col("solved").is_not_null() & pl.col("solved_1").is_not_null())
    known = known.with_columns(one=1.0, failed=~pl.col("solved"), failed_1=~pl.col("solved_1"))

    def efficiency(sums: Floats) -> Floats:
        solved, n, turns, turns_1 = np.moveaxis(sums, -1, 0)
        return np.asarray(solved / n * turns_1 / turns)

    more = jackknife(_by_task(pairs, ["turns", "turns_1"]), lambda sums: 100 * (ratio(sums) - 1))
    return {
        "overhead": more,
        "efficiency": jackknife(_by_task(known, ["solved", "one", "turns", "turns_1"]), efficiency),
        "a_task": jackknife(_by_task(known, ["failed", "failed_1"]), ratio),
    }


def _votes(group: pl.DataFrame) -> dict[str, Estimate | None]:
    before: dict[object, list[Sequence[bool]]] = {}
    after: dict[object, list[Sequence[bool]]] = {}
    for task, first, solved in group.select("cluster", "first_right", "solved").iter_rows():
        before.setdefault(task, []).append(first)
        after.setdefault(task, []).append([] if solved is None else [solved])
    teams: Votes = {task: [run for run in runs if len(run) > 1] for task, runs in before.items()}
    teams = {task: runs for task, runs in teams.items() if runs}
    return {
        "rho": error_correlation(teams) if teams else None,
        "rho_within": error_correlation_within(teams) if teams else None,
        "gain": information_gain(teams, after) if teams else None,
    }


def _roles(group: pl.DataFrame) -> list[dict[str, Any]]:
    by_role: dict[str, list[tuple[object, Mapping[str, Any]]]] = {}
    for task, agents in group.select("cluster", "agents").iter_rows():
        for agent in agents or ():
            by_role.setdefault(role(agent["seat"]), []).append((task, agent))
    found = []
    for name, rows in by_role.items():
        counts = {what: [agent[what] for _, agent in rows] for what in ("replies", "scored", "right")}
        right = share(counts["right"], counts["scored"], [task for task, _ in rows])
        totals = {what: sum(each) for what, each in counts.items()}
        found.append({"role": name} | totals | _flat({"share": right}))
    return found


def _mailed(rows: pl.DataFrame) -> dict[str, Estimate | None]:
    if rows.is_empty():
        return {}
    found = fidelity(rows)
    return {"unclipped": found.whole, "gamma": found.gamma, "transfer": found.transfer}


def _share(group: pl.DataFrame, name: str) -> Estimate | None:
    known = group.filter(pl.col(name).is_not_null())
    if known.is_empty():
        return None
    seen = interval(known[name].cast(pl.Float64).to_numpy(), known["cluster"].to_list())
    return Estimate(seen.mean, max(0.0, seen.low), min(1.0, seen.high), seen.clusters)


def _by_task(group: pl.DataFrame, names: Sequence[str]) -> Floats:
    """Sums of the columns, a row per task."""
    values = pl.col(*dict.fromkeys(names)).cast(pl.Float64).sum()
    return group.drop_nulls(names).group_by("cluster", maintain_order=True).agg(values).select(names).to_numpy()


def _scaled(by: float, one: Estimate | None) -> Estimate | None:
    if one is None or one.low is None or one.high is None:
        return one if one is None else one._replace(value=by * one.value)
    return Estimate(by * one.value, by * one.low, by * one.high, one.clusters)


def _flat(measured: Mapping[str, Estimate | None]) -> dict[str, float | None]:
    parts: dict[str, Callable[[Estimate], float | None]] = {
        "": lambda one: one.value,
        "_low": lambda one: one.low,
        "_high": lambda one: one.high,
    }
    return {
        f"{name}{end}": None if one is None or (bound := part(one)) is None or not np.isfinite(bound) else bound
        for name, one in measured.items()
        for end, part in parts.items()
    }
