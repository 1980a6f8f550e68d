"""Measures what it costs to spread the seats of runs over two Ray hosts: calls between hosts, and CPU over all processes."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.speed.step import EXECUTORS, model, script
from benchmarks.speed.timing import Sample, stopwatch
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.result import RunResult
from runtime.spread import Placement
from runtime.task import Task
from topologies import Star

HOSTS = 2
RUNS = {"virtual": 150, "live": 60}
ROUNDS = 3
MODELS = {
    "virtual": model(0.05),
    "live": ScriptedModel(script, input_tokens=800, output_tokens=200, latency_s=0.05, virtual=False),
}


async def placed() -> dict[str, Any]:
    """Measure a star of 1 + 8 + 1 with its seats together and spread, in virtual and in live runs."""
    found = {placement: await _measured(placement) for placement in ("together", "spread")}
    costs: dict[str, Any] = {
        "what": "star 1+8+1 on two Ray hosts, CPU over all processes; calls between hosts, as the seats lie"
    }
    for kind in RUNS:
        together, spread = ([s.cpu_s / s.n * 1e6 for s in found[placement][kind]] for placement in found)
        calls = _calls_a_step()
        costs[kind] = {
            "calls_per_step_together": 0.0,
            "calls_per_step_spread": calls,
            "cpu_us_per_step_together": round(statistics.median(together), 1),
            "cpu_us_per_step_spread": round(statistics.median(spread), 1),
            "cpu_us_per_call": round((statistics.median(spread) - statistics.median(together)) / calls, 1),
            "steps_per_s_together": round(statistics.median(s.n / s.wall_s for s in found["together"][kind])),
            "steps_per_s_spread": round(statistics.median(s.n / s.wall_s for s in found["spread"][kind])),
        }
    return costs


def _calls_a_step() -> float:
    """Each seat makes one step; every second one works on the other host."""
    seats = list(Star(EXECUTORS).seats())
    return len(seats[1::HOSTS]) / len(seats)


async def _measured(placement: Placement) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {kind: [] for kind in RUNS}
    async with Runtime("local", models=MODELS, hosts=HOSTS, placement=placement) as runtime:
        for turn in range(-1, ROUNDS):
            for kind, n in RUNS.items():
                specs = _specs(runtime, kind, turn, n)
                with stopwatch(children=True) as sample:
                    results = [result async for _, result in runtime.map(specs)]
                    sample.n = _steps(results)
                if turn >= 0:  # the first round warms the hosts up
                    samples[kind].append(sample)
    return samples


def _specs(runtime: Runtime, kind: str, turn: int, n: int) -> list[RunSpec]:
    star, budget = Star(EXECUTORS, model=kind), Budget(tokens=10**6)
    task = Task("What is 6 times 7?", "42")
    return [runtime.spec(f"{kind}-{turn + 1}-{i}", star, task, budget, (turn + 1) * n + i) for i in range(n)]


def _steps(results: Sequence[RunResult]) -> int:
    assert {result.status for result in results} == {"completed"}
    return sum(len(result.attempts) for result in results)
