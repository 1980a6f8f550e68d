"""Owns the comparisons of an experiment: pairs of arms on common tasks and seeds, and the headline."""

from collections.abc import Mapping, Sequence

import polars as pl

from benchmarks.statistics import Paired, holm, paired
from benchmarks.tables import CELL, POOLED, SINGLE, Arm, scored
from runtime.ids import seed_of

_Place = tuple[str, int, str]
"""Family, budget rank, budget."""
_Outcomes = Mapping[tuple[_Place, Arm], pl.DataFrame]


def compare(trials: pl.DataFrame, pairs: Sequence[tuple[Arm, Arm]]) -> pl.DataFrame:
    """Compare pairs of arms within each family and budget, on the tasks and seeds both have.

    Columns: family, budget_rank, budget, topology, model, against_topology, against_model, difference (first − second) with
    `low` and `high` (95 %), p, p_holm (corrected over the pairs of the same family and budget), pairs, tasks, wins, losses
    and spend_ratio (mean dollars of the first over those of the second; None when the second cost nothing).
    """
    outcomes = _outcomes(trials)
    places = sorted({place for place, _ in outcomes}, key=lambda place: (place[0] == POOLED, place))
    found: list[tuple[object, ...]] = []
    for place in places:
        seen = [(a, b, *one) for a, b in pairs if (one := _pair(outcomes, place, a, b, 0.95)) is not None]
        corrected = holm([result.p for _, _, result, _ in seen])
        found += [
            (*place, *a, *b, r.difference, r.low, r.high, r.p, p, r.pairs, r.clusters, r.wins, r.losses, ratio)
            for (a, b, r, ratio), p in zip(seen, corrected, strict=True)
        ]
    text = ("family", "budget", "topology", "model", "against_topology", "against_model")
    whole = ("budget_rank", "pairs", "tasks", "wins", "losses")
    names = "family budget_rank budget topology model against_topology against_model difference low high p p_holm pairs"
    schema = {
        name: pl.String if name in text else pl.Int64 if name in whole else pl.Float64
        for name in f"{names} tasks wins losses spend_ratio".split()
    }
    return pl.DataFrame(found, schema=schema, orient="row")


def compare_with_single(trials: pl.DataFrame) -> pl.DataFrame:
    """Compare each arm with `Single(fill)` of the same model and budget; empty when there is no such arm."""
    arms = [Arm(*row) for row in trials.select("topology", "model").unique().sort("topology", "model").iter_rows()]
    return compare(trials, [(arm, Arm(SINGLE, arm.model)) for arm in arms if arm.topology != SINGLE])


def headline(trials: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
    """The best arm per family and budget, held against the best `Single(fill)` arm of whatever model.

    The best arm has the highest success; ties go to the lower mean spend, then to the first in the table. Its interval is
    widened (Bonferroni, 1 − .05/k) because it was picked among k arms after looking.

    Columns: family, budget_rank, budget, topology, model, success, low, high, mean_usd, mean_tokens, single_model,
    single_success, difference, difference_low, difference_high, picked_from (k) and beats (the interval of the difference is
    above 0). The single and difference columns are None when there is no `Single(fill)` arm; difference, too, when the best
    arm is itself `Single(fill)`, and then beats is False.
    """
    outcomes = _outcomes(trials)
    found = []
    for place, group in cells.filter(pl.col("success").is_not_null()).group_by(CELL[:3], maintain_order=True):
        best_first = group.sort(
            "success", "mean_usd", "mean_tokens", descending=[True, False, False], maintain_order=True
        )
        best = best_first.row(0, named=True)
        singles = best_first.filter(pl.col("topology") == SINGLE).head(1).rows(named=True)
        picked_from = group.filter(pl.col("topology") != SINGLE).height
        seen = None
        if singles and best["topology"] != SINGLE:
            a, b = Arm(best["topology"], best["model"]), Arm(SINGLE, singles[0]["model"])
            seen = _pair(outcomes, place, a, b, 1 - 0.05 / picked_from)
        difference = seen[0][:3] if seen else (None, None, None)
        found.append(
            {name: best[name] for name in (*CELL, "success", "low", "high", "mean_usd", "mean_tokens")}
            | {"single_model": singles[0]["model"] if singles else None}
            | {"single_success": singles[0]["success"] if singles else None}
            | dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
            | {"picked_from": picked_from, "beats": seen is not None and seen[0].low > 0}
        )
    return pl.DataFrame(found, infer_schema_length=None)


def _outcomes(trials: pl.DataFrame) -> _Outcomes:
    """Scored outcomes of each arm at each place, one per task and seed."""
    rows = scored(trials).filter(pl.col("solved").is_not_null())
    # The audit reports doubled trials; here the first of them stands, or a pair would be counted several times.
    rows = rows.unique([*CELL, "cluster", "seed"], keep="first", maintain_order=True)
    return {
        ((family, rank, budget), Arm(topology, model)): group.select("cluster", "seed", "solved", "pico_usd")
        for (family, rank, budget, topology, model), group in rows.group_by(CELL)
    }


def _pair(outcomes: _Outcomes, place: _Place, a: Arm, b: Arm, level: float) -> tuple[Paired, float | None] | None:
    """Compare two arms at one place; None when they have no task and seed in common."""
    first, second = outcomes.get((place, a)), outcomes.get((place, b))
    if first is None or second is None:
        return None
    both = first.join(second, on=["cluster", "seed"], suffix="_b").sort("cluster", "seed")
    if both.is_empty():
        return None
    seed = seed_of("sign flips", *place, *a, *b)
    result = paired(both["solved"].to_numpy(), both["solved_b"].to_numpy(), both["cluster"].to_list(), seed, level)
    spent, spent_b = int(both["pico_usd"].sum()), int(both["pico_usd_b"].sum())
    return result, spent / spent_b if spent_b else None
