"""Owns what a sweep and a report print: the table, why trials failed, the match audit, and the answer in the last lines."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.console import Console
from rich.text import Text

from benchmarks.audit import audit, terminal_audit
from benchmarks.comparisons import headline
from benchmarks.plan import Match
from benchmarks.tables import POOLED, cells, plain, signed, success, terminal_table

REASONS = 3


def print_results(screen: Console, trials: pl.DataFrame, match: Match, kind: str, *, full: bool) -> None:
    """Print the results of an experiment.

    Args:
        full: every family and the whole audit; otherwise what is pooled over the families, and of the audit what is unclean.
    """
    table, seen = cells(trials), audit(trials, match)
    label = seen.label(kind)
    pooled = table.filter(pl.col("family") == POOLED)
    shown = table if full or pooled.is_empty() else pooled
    screen.print(terminal_table(shown, label, screen.width))
    for row in _failures(trials):
        screen.print(Text(plain(f"{row['len']:,} trials failed: {row['reason']}"), style="red"))
    if full or not seen.matched:
        screen.print(terminal_audit(seen))
    else:
        screen.print(f"Match audit: matched, all {len(seen.pairs):,} pairs of arms are clean.")
    best = headline(trials, table)
    for row in best.filter(pl.col("family").is_in(shown["family"].unique().to_list())).to_dicts():
        screen.print(_best(row, label), soft_wrap=True)


def _failures(trials: pl.DataFrame) -> list[dict[str, Any]]:
    failed = trials.filter(pl.col("status") == "failed").group_by("reason").len()
    return failed.sort(["len", "reason"], descending=[True, False]).head(REASONS).to_dicts()


def _best(row: Mapping[str, Any], label: str) -> Text:
    """One line on the best arm of a family and budget, held against one agent that spends all of it."""
    where = f"{row['family']}, {row['budget']} ({label}): "
    if not row["success"]:
        return Text(plain(f"{where}no arm solved a task"))
    text = f"{where}best is {row['topology']} · {row['model']}, {success(row['success'], row['low'], row['high'])}"
    if row["difference"] is not None:
        span = f"[{signed(row['difference_low'])}, {signed(row['difference_high'])}]"
        text += f"; against Single(fill) · {row['single_model']} {signed(row['difference'])} {span}, "
        text += "more than chance" if row["beats"] else "within chance"
    return Text(plain(text))
