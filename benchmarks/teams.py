"""Owns what a sweep says about its teams beside the table of trials: their measures, and a run of each, drawn."""

from typing import NamedTuple

import polars as pl

from benchmarks.engine import Sweep
from benchmarks.metrics.arms import arm_metrics
from benchmarks.rows import measured
from benchmarks.sequence import sequence


class Measures(NamedTuple):
    """What the teams did, read from the journals of all finished trials."""

    runs: pl.DataFrame
    """A row per run; see `metrics.runs`."""
    channels: pl.DataFrame
    """A row per run and channel between roles; see `metrics.channels`."""
    arms: pl.DataFrame
    """A row per arm, as the report shows it; see `metrics.arms`."""


def measures(work: Sweep, trials: pl.DataFrame) -> Measures:
    """Measure the teams of a sweep; reads every journal, so it takes about as long as the report itself.

    Args:
        trials: the sweep's own table.
    """
    done = ((t, r) for t in work.plan.trials if (r := work.results.get(t.spec.address)) is not None)
    runs, channels = measured(done)
    return Measures(runs, channels, arm_metrics(trials, runs, channels))


def examples(work: Sweep) -> dict[str, str]:
    """A run of each team, drawn as SVG, by topology: the first trial at the largest budget."""
    found: dict[str, tuple[int, str]] = {}
    for trial in work.plan.trials:
        result = work.results.get(trial.spec.address)
        team = len(trial.spec.topology.seats()) > 1
        if result is not None and team and trial.budget_rank > found.get(trial.topology, (-1, ""))[0]:
            found[trial.topology] = trial.budget_rank, trial.spec.address
    return {topology: sequence(work.results[address]) for topology, (_, address) in found.items()}
