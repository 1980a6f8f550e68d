"""What the estimates promise: what was planted in journals comes back, and the intervals hold it as often as they say.

The agents of these journals are drawn, from the mixture of Liu et al. or from the noise of simulated models.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pytest

from benchmarks.metrics.channels import channels_frame, channels_of, fidelity
from benchmarks.metrics.correlation import Votes, error_correlation, error_correlation_within, information_gain
from benchmarks.metrics.jackknife import Estimate
from benchmarks.metrics.trace import trace_of
from runtime.journal import Attempt
from runtime.messages import Report, reply_json
from runtime.models.simulated.noise import Noise
from runtime.result import RunResult, SpendReport
from runtime.task import Task

SEEDS = 200
RIGHT = Task("How much is 6 times 7?", "42", "numeric")
Said = tuple[str, int, bool, tuple[str, ...]]
"""Seat, step, whether it is right, senders."""


def journal(said: Sequence[Said]) -> RunResult:
    """A run in which every call takes one second and begins at its place in the list."""
    attempts = tuple(
        Attempt(
            *(step, seat, 0, 0, "work", "m", "settled", 10, 5, 0, 0, 15, 0, 5, 5),
            *(float(at), at + 1.0, "stop", reply_json(Report("42" if right else "41")), senders),
        )
        for at, (seat, step, right, senders) in enumerate(said)
    )
    return RunResult(
        *("run", "completed", "", "42", True, SpendReport(), {}, {}, float(len(said)), True, "D1", False),
        {"messages": sum(map(len, (senders for *_, senders in said)))},
        attempts,
    )


def votes_of(result: RunResult) -> list[bool]:
    return [bool(reply.right) for reply in trace_of(result, RIGHT).first]


def share_held(truth: float, estimate: Callable[[np.random.Generator], Estimate | None]) -> tuple[float, float]:
    """How often the interval held the truth, and the mean of the estimates."""
    found = [one for seed in range(SEEDS) if (one := estimate(np.random.default_rng(seed))) is not None]
    assert len(found) > 0.98 * SEEDS
    held = sum(e.low is not None and e.high is not None and e.low <= truth <= e.high for e in found)
    return held / len(found), float(np.mean([e.value for e in found]))


@pytest.mark.parametrize(("rho", "mu"), [(0.0, 0.3), (0.3, 0.2), (0.6, 0.0)])
def test_rho_of_the_mixture_is_found(rho: float, mu: float) -> None:
    def estimate(rng: np.random.Generator) -> Estimate | None:
        right = rng.random((40, 4)) < (1 + mu) / 2
        right = np.where(rng.random(40)[:, None] < rho, right[:, :1], right)
        runs = [journal([(f"agent[{i}]", 0, bool(y), ()) for i, y in enumerate(row)]) for row in right]
        return error_correlation({task: [votes_of(run)] for task, run in enumerate(runs)})

    held, mean = share_held(rho, estimate)
    assert 0.90 <= held <= 0.99
    assert mean == pytest.approx(rho, abs=0.03)


NOISE = Noise(skill=0.4, correlation_ratio=0.4, hit_ratio=0.9, catch_ratio=0.9, score_spread=1.0)


def test_rho_of_shared_difficulty_is_found_and_there_is_none_within_tasks() -> None:
    """The errors of simulated models are tied by the item alone: ρ = Var p(D) / (p̄ (1 − p̄)), and 0 given the item."""
    grid, weights = np.polynomial.hermite_e.hermegauss(60)
    chances = np.array([NOISE.chance(2, 80.0, difficulty) for difficulty in grid])
    mean = float(np.average(chances, weights=weights))
    rho = float(np.average((chances - mean) ** 2, weights=weights)) / (mean * (1 - mean))

    def drawn(rng: np.random.Generator, tasks: int) -> dict[object, list[list[bool]]]:
        p = [NOISE.chance(2, 80.0, float(difficulty)) for difficulty in rng.standard_normal(tasks)]
        return {task: (rng.random((3, 3)) < chance).tolist() for task, chance in enumerate(p)}

    held, middle = share_held(rho, lambda rng: error_correlation(drawn(rng, 60)))
    assert 0.90 <= held <= 0.99
    assert middle == pytest.approx(rho, abs=0.03)
    held, middle = share_held(0.0, lambda rng: error_correlation_within(drawn(rng, 60)))
    assert 0.90 <= held <= 0.99
    assert middle == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("gamma", [0.9, 0.6, 0.2])
def test_gamma_of_a_relay_is_found(gamma: float) -> None:
    """The relay test: what the second agent says is what the first said, flipped with probability (1 − γ) / 2."""

    def estimate(rng: np.random.Generator) -> Estimate | None:
        sent = rng.random(40) < 0.7
        received = np.where(rng.random(40) < (1 - gamma) / 2, ~sent, sent)
        rows: list[dict[str, object]] = []
        for task, (first, second) in enumerate(zip(sent.tolist(), received.tolist(), strict=True)):
            run = journal([("solver[0]", 0, first, ()), ("solver[1]", 0, second, ("solver[0]",))])
            rows += [
                {**row, "address": str(task)} for row in channels_of(trace_of(run, RIGHT), defaultdict(lambda: 64))
            ]
        table = channels_frame(rows).with_columns(cluster=pl.col("address"))
        return fidelity(table).transfer

    held, mean = share_held(gamma, estimate)
    assert 0.90 <= held <= 0.99
    assert mean == pytest.approx(gamma, abs=0.03)


def test_the_gain_of_information_is_found() -> None:
    """Before: right with chance .5, V = .25. After: .1 or .9 by the task, V = .09."""

    def estimate(rng: np.random.Generator) -> Estimate | None:
        before: Votes = {task: (rng.random((6, 3)) < 0.5).tolist() for task in range(40)}
        after: Votes = {task: (rng.random((6, 1)) < (0.1, 0.9)[task % 2]).tolist() for task in range(40)}
        return information_gain(before, after)

    held, mean = share_held(0.5 * float(np.log2(0.25 / 0.09)), estimate)
    assert 0.90 <= held <= 0.99
    assert mean == pytest.approx(0.5 * float(np.log2(0.25 / 0.09)), abs=0.03)
