"""Owns how measures of teams are written in a report: which of them, in which order, with which digits."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from benchmarks.metrics.arms import reference
from benchmarks.metrics.trace import SOLVERS
from benchmarks.tables import POOLED


class Column(NamedTuple):
    """One measure in a table."""

    name: str
    head: str
    form: str
    """Format of one figure."""
    bounds: bool = True


WORK = (
    Column("turns", "turns", "{:.1f}", bounds=False),
    Column("critical_s", "critical path, s", "{:.0f}", bounds=False),
    Column("parallelism", "calls at a time", "{:.2f}", bounds=False),
    Column("density", "mails a turn", "{:.2f}", bounds=False),
    Column("redundancy", "redundancy", "{:.2f}", bounds=False),
    Column("overhead", "overhead, %", "{:,.0f}"),
    Column("efficiency", "efficiency", "{:.3f}"),
    Column("per_ktok", "solved per 1,000 tokens", "{:.3f}"),
    Column("gain", "information gain, bits", "{:+.2f}"),
)
FAULTS = (
    Column("a_task", "A task", "{:.2f}"),
    Column("a_trace", "A trace", "{:.2f}"),
    Column("absorbed", "absorbed", "{:.2f}"),
    Column("rho", "ρ", "{:.2f}"),
    Column("transfer", "γ with its reader", "{:.2f}"),
    Column("unclipped", "mails unclipped", "{:.2f}", bounds=False),
    Column("drift", "drift", "{:.2f}", bounds=False),
    Column("omission", "omission", "{:.2f}", bounds=False),
    Column("contradiction", "contradiction", "{:.2f}", bounds=False),
    Column("misread", "misread", "{:.2f}", bounds=False),
    Column("unread", "unread", "{:.2f}", bounds=False),
)


class Shown(NamedTuple):
    """The section of a report on what the teams did."""

    where: str
    against: str
    tables: list[tuple[str, list[str], list[list[str]]]]
    """Caption, heads after topology and model, rows."""
    roles: list[dict[str, Any]]
    """A row per arm and role, with what its agents got right: topology, model and the fields of `arms.ROLE`."""
    judging: str
    """Families that can tell what is right for a part of a task."""


def shown(trials: pl.DataFrame, teams: pl.DataFrame) -> Shown | None:
    """Write the measures of `arms.arm_metrics` at the largest budget, over all families; None where there are none."""
    if teams.is_empty():
        return None
    family = POOLED if POOLED in teams["family"] else teams["family"][0]
    rows = teams.filter(family=family)
    rows = rows.filter(pl.col("budget_rank") == pl.col("budget_rank").max())
    where = f"{family}, budget {rows['budget'][0]} a run"
    tables = []
    for caption, columns in (("Work", WORK), ("Errors", FAULTS)):
        used = [column for column in columns if rows[column.name].is_not_null().any()]
        written = [
            [row["topology"], row["model"], *(_written(row, column) for column in used)]
            for row in rows.iter_rows(named=True)
        ]
        tables.append((f"{caption}: {where}", [column.head for column in used], written))
    roles = rows.select("topology", "model", "roles").explode("roles").drop_nulls("roles").unnest("roles")
    return Shown(where, reference(trials), tables, roles.to_dicts(), " and ".join(solver.family for solver in SOLVERS))


def _written(row: Mapping[str, Any], column: Column) -> str:
    value, low, high = (row[f"{column.name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    text = column.form.format(value)
    # What is so by definition, as the single agent's overhead against itself, needs no interval.
    if not column.bounds or low == value == high:
        return _tidy(text)
    span = "?" if low is None or high is None else f"{column.form.format(low)}, {column.form.format(high)}"
    return _tidy(f"{text} [{span}]")


def _tidy(text: str) -> str:
    return text.replace("-", "−")
