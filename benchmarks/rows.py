"""Owns the tables of an experiment: a row per trial, a row per call, and the files they are written to."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.metrics.channels import channels_frame, channels_of
from benchmarks.metrics.runs import metrics_frame, metrics_of
from benchmarks.metrics.trace import trace_of
from benchmarks.plan import Trial
from benchmarks.tables import TRIAL_COLUMNS
from runtime.budget import BASE_DIMENSIONS
from runtime.journal import Attempt
from runtime.nesting import wired
from runtime.result import RunResult

_TYPES = (
    dict.fromkeys(("seat", "kind", "model", "state", "finish", "reply", "senders"), pl.String)
    | dict.fromkeys(("began_s", "ended_s", "waited_s"), pl.Float64)
    | {"floored": pl.Boolean}
)
CALL_COLUMNS: dict[str, type[pl.DataType]] = {
    "address": pl.String,
    **{name: _TYPES.get(name, pl.Int64) for name in Attempt._fields},
}


def trial_row(trial: Trial, result: RunResult, experiment: str, prices: str) -> dict[str, Any]:
    """The row of one finished trial, with the columns of `tables.TRIAL_COLUMNS`."""
    spec, total = trial.spec, result.spend.total
    spent = {"tokens": total.tokens, "pico_usd": total.pico_usd, "calls": total.calls, "tool_calls": total.tool_calls}
    caps = dict(zip(spec.budget.dimensions, spec.budget.caps, strict=True))
    metrics = ("charged_max_tokens", "charged_max_pico_usd", "slack_tokens", "slack_pico_usd", "refusals")
    return {
        "experiment": experiment,
        "family": spec.task.family or "tasks",
        "topology": trial.topology,
        "model": trial.model,
        "budget": spec.budget.describe(),
        "budget_rank": trial.budget_rank,
        **{f"cap_{dimension}": caps[dimension] for dimension in BASE_DIMENSIONS},
        "cap_seconds": spec.budget.seconds,
        "task": spec.task.id,
        "seed": spec.seed,
        "address": spec.address,
        "status": result.status,
        "reason": result.reason,
        "answer": result.answer,
        "correct": result.correct,
        **spent,
        "seconds": result.seconds,
        **{f"over_{dimension}": result.overspend[dimension] for dimension in BASE_DIMENSIONS},
        **{name: int(result.metrics[name]) for name in metrics},
        "deterministic": result.deterministic,
        "disturbed": result.disturbed,
        "prices": prices,
        "kind": trial.kind,
    }


def trials_frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """The trials table."""
    return pl.DataFrame(list(rows), schema=TRIAL_COLUMNS)


def calls_frame(results: Sequence[tuple[str, RunResult]]) -> pl.DataFrame:
    """One row per attempt, addressed by its trial."""
    rows = [
        {"address": address, **a._asdict(), "senders": " ".join(a.senders)}
        for address, result in results
        for a in result.attempts
    ]
    return pl.DataFrame(rows, schema=CALL_COLUMNS)


def measured(done: Iterable[tuple[Trial, RunResult]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the teams did, from their journals: a row per run, and a row per run and channel between roles."""
    runs: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for trial, result in done:
        address, trace = {"address": trial.spec.address}, trace_of(result, trial.spec.task)
        runs.append({**address, **metrics_of(result, trial.spec.task, trace)})
        levels = wired(trial.spec.topology).level_of
        lengths = {seat: level.topology.message_tokens for seat, level in levels.items()}
        channels += [{**address, **row} for row in channels_of(trace, lengths)]
    return metrics_frame(runs), channels_frame(channels)


def write_tables(
    out: Path, trials: pl.DataFrame, calls: pl.DataFrame, cells: pl.DataFrame, **more: pl.DataFrame
) -> None:
    """Write `trials.parquet`, `calls.parquet` and `cells.parquet` into the folder, and more tables under their names."""
    for name, frame in {"trials": trials, "calls": calls, "cells": cells, **more}.items():
        frame.write_parquet(out / f"{name}.parquet")
