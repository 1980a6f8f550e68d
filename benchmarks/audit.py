"""Owns the match audit: whether two arms had the same chance to spend, and everything that says they had not.

Only arms under the same budget and family are compared. What is not a fault of the match (a run that was exhausted, or
stopped with money left) is reported beside it and not judged.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import combinations
from typing import Literal, NamedTuple

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.tables import CELL, POOLED, Arm, in_order, percent, plain, scored
from runtime.budget import BASE_DIMENSIONS, Budget
from runtime.usage import PICO

Match = Literal["cap", "spend", "none"]

TOLERANCE = 0.01
"""Share of the cap that the slack of the bound, and CHARGED_MAX, may reach in a clean pair."""
_SHOWN = 5
_BOUNDED = ("tokens", "pico_usd")
"""Dimensions in which a reservation is a bound; calls are exact."""
_CAPS = (*(f"cap_{name}" for name in BASE_DIMENSIONS), "cap_seconds")


class ArmFacts(NamedTuple):
    """One arm under one budget in one family. Shares are of the cap, over all its trials; None without such a cap."""

    family: str
    budget: str
    arm: Arm
    trials: int
    limits: tuple[str, ...]
    """Texts of the limits found; one when all trials had the same."""
    prices: tuple[str, ...]
    """Digests of the price tables found."""
    blocks: frozenset[tuple[str, int]]
    """Task and seed of each trial."""
    doubled: int
    """Trials beyond the first of the same task and seed."""
    settled_usd: float
    """Dollars a trial that are known to be used."""
    settled_tokens: float
    """Tokens a trial that are known to be used."""
    unspent: float | None
    """Share left, in the dimension nearest to its end."""
    slack: float | None
    """Share left because bounds were higher than what calls used: they were refused, or wrote less (`runtime.slack`)."""
    charged_max: float | None
    """Share charged at the bound because nobody knows what was used."""
    refused: float
    """Share of the trials in which the budget bound: it did not cover something that was asked of an agent."""
    exhausted: float
    """Share of the trials that ended exhausted. A team that goes on without what was refused is completed, so this does not
    mean the same in every arm."""
    over: Mapping[str, int]
    """In the dimensions where there are any, units above a limit, in all trials together; of a trial, what it passed most of
    its limits by: its budget, or a ceiling inside its team."""


class Pair(NamedTuple):
    """Two arms under one budget in one family, and why they are not matched; no reasons: clean."""

    family: str
    budget: str
    a: Arm
    b: Arm
    reasons: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing speaks against comparing the two at the same budget."""
        return not self.reasons


class Audit(NamedTuple):
    """The audit of an experiment."""

    match: Match
    arms: tuple[ArmFacts, ...]
    pairs: tuple[Pair, ...]

    @property
    def unclean(self) -> tuple[Pair, ...]:
        """The pairs with reasons, in the order of the table."""
        return tuple(pair for pair in self.pairs if not pair.clean)

    @property
    def matched(self) -> bool:
        """Whether a table of these trials may be called matched: there are pairs, and every pair is clean."""
        return bool(self.pairs) and not self.unclean

    @property
    def reasons(self) -> Counter[str]:
        """How many pairs each reason spoils."""
        return Counter(reason for pair in self.pairs for reason in pair.reasons)

    def label(self, kind: str) -> str:
        """What stands on the face of every table and figure: the kind, and whether the arms are matched."""
        if "not matched" in kind or not self.pairs:
            return kind
        return f"{kind}, {'matched' if self.matched else 'not matched'}"


def audit(trials: pl.DataFrame, match: Match) -> Audit:
    """Compare every pair of arms under the same budget and family.

    A pair is clean when both have the same limits and the same price table, no trial is over a limit (its own, or that of a
    ceiling inside its team), each has every task and seed of the other exactly once, and neither the slack of the bound nor
    CHARGED_MAX is above `TOLERANCE` of the cap. With `match="none"` no pair is.

    Raises:
        ConfigError: the trials lack columns, or there are none.
    """
    rows = scored(trials).filter(pl.col("family") != POOLED)
    groups = dict(rows.group_by(CELL))
    arms = tuple(_facts(groups[key]) for key in in_order(rows.select(CELL).unique()).iter_rows())
    places: dict[tuple[str, str], list[ArmFacts]] = {}
    for facts in arms:
        places.setdefault((facts.family, facts.budget), []).append(facts)
    pairs = tuple(
        Pair(*place, a.arm, b.arm, _reasons(a, b, match))
        for place, found in places.items()
        for a, b in combinations(found, 2)
    )
    return Audit(match, arms, pairs)


def terminal_audit(audit: Audit) -> RenderableType:
    """Write the audit for a terminal: the verdict, the reasons that spoil most pairs, and a line for each arm.

    The line shows the worst figure of the arm under any budget and in any family.
    """
    clean = len(audit.pairs) - len(audit.unclean)
    verdict = "matched" if audit.matched else "not matched" if audit.pairs else "one arm, nothing to match"
    lines = [f"Match audit: {verdict}. {clean} of {len(audit.pairs)} pairs of arms are clean."]
    reasons = audit.reasons.most_common()
    lines += [f"  {n} pairs: {plain(reason)}" for reason, n in reasons[:_SHOWN]]
    if len(reasons) > _SHOWN:
        lines.append(f"  and {len(reasons) - _SHOWN} more reasons; the report has all of them")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm, at its worst", no_wrap=True)
    for name in ("trials", "unspent", "bound slack", "CHARGED_MAX", "refused", "over", "clean pairs"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in dict.fromkeys(facts.arm for facts in audit.arms):
        table.add_row(*(Text(text) for text in _terminal_row(audit, arm)))
    return Group(Text("\n".join(lines)), table)


def _terminal_row(audit: Audit, arm: Arm) -> tuple[str, ...]:
    found = [facts for facts in audit.arms if facts.arm == arm]
    pairs = [pair for pair in audit.pairs if arm in (pair.a, pair.b)]
    return (
        plain(str(arm)),
        str(sum(facts.trials for facts in found)),
        percent(_most(facts.unspent for facts in found)),
        percent(_most(facts.slack for facts in found)),
        percent(_most(facts.charged_max for facts in found)),
        percent(_most(facts.refused for facts in found)),
        "yes" if any(facts.over for facts in found) else "no",
        f"{sum(pair.clean for pair in pairs)}/{len(pairs)}",
    )


def _facts(group: pl.DataFrame) -> ArmFacts:
    blocks = frozenset(group.select("task", "seed").iter_rows())
    over = {name: int(group[f"over_{name}"].sum()) for name in BASE_DIMENSIONS}
    settled = group.select(
        usd=(pl.col("pico_usd") - pl.col("charged_max_pico_usd")).mean() / PICO,
        tokens=(pl.col("tokens") - pl.col("charged_max_tokens")).mean(),
        refused=(pl.col("refusals") > 0).mean(),
        exhausted=(pl.col("status") == "exhausted").mean(),
        unspent=pl.col("unspent").mean(),
    ).row(0, named=True)
    return ArmFacts(
        family=group["family"][0],
        budget=group["budget"][0],
        arm=Arm(group["topology"][0], group["model"][0]),
        trials=group.height,
        limits=tuple(sorted({_limits(*caps) for caps in group.select(_CAPS).iter_rows()})),
        prices=tuple(sorted(group["prices"].unique().to_list())),
        blocks=blocks,
        doubled=group.height - len(blocks),
        settled_usd=settled["usd"],
        settled_tokens=settled["tokens"],
        unspent=settled["unspent"],
        slack=_most(_of_cap(group, "slack", name) for name in _BOUNDED),
        charged_max=_most(_of_cap(group, "charged_max", name) for name in _BOUNDED),
        refused=settled["refused"],
        exhausted=settled["exhausted"],
        over={name: units for name, units in over.items() if units},
    )


def _limits(
    tokens: int | None, pico_usd: int | None, calls: int | None, tool_calls: int | None, seconds: float | None
) -> str:
    if (tokens, pico_usd, calls, tool_calls, seconds) == (None,) * 5:
        return "no limit"
    usd = None if pico_usd is None else Decimal(pico_usd) / PICO
    return Budget(tokens, usd, calls, tool_calls, seconds).describe()


def _of_cap(group: pl.DataFrame, what: str, dimension: str) -> float | None:
    cap = group[f"cap_{dimension}"].sum()
    return float(group[f"{what}_{dimension}"].sum()) / float(cap) if cap else None


def _most(shares: Iterable[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def _reasons(a: ArmFacts, b: ArmFacts, match: Match) -> tuple[str, ...]:
    """Texts carry no figures, so that the same fault of one arm reads the same in all its pairs and can be counted."""
    reasons = []
    if match == "none":
        reasons.append("never meant to match: the arms had no common budget")
    if a.limits != b.limits or len(a.limits) > 1:
        reasons.append(f"limits differ: {' / '.join(sorted({*a.limits, *b.limits}))}")
    if a.prices != b.prices or len(a.prices) > 1:
        reasons.append("price tables differ")
    for one, other in ((a, b), (b, a)):
        if other.blocks - one.blocks:
            reasons.append(f"{one.arm} lacks tasks or seeds")
        if one.doubled:
            reasons.append(f"{one.arm} has a task and seed twice")
        if one.over:
            reasons.append(f"{one.arm} passed a limit")
        if (one.slack or 0.0) > TOLERANCE:
            reasons.append(f"{one.arm} left more than {percent(TOLERANCE)} unspent because of the bound")
        if (one.charged_max or 0.0) > TOLERANCE:
            reasons.append(f"{one.arm} has more than {percent(TOLERANCE)} CHARGED_MAX")
    return tuple(reasons)
