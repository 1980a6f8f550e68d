"""Measures how much of a limit nobody announced is used: 200 agents on two hosts against an endpoint that refuses for haste.

    python -m benchmarks.speed.endpoint_limit

Each round has an endpoint of its own, of which nothing is known: one lets so many requests through in any minute, another so
many at once, and their refusals say no more than `Retry-After`. Figures are of the end of each round, when the limit was
found; what it cost to find it is told beside them.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from benchmarks.speed.timing import load_average, machine, merge, spread
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.driver import Runtime
from runtime.errors import ModelError
from runtime.messages import Report
from runtime.models.scripted import ScriptedModel
from runtime.models.spec import ModelSpec
from runtime.preflight import RunSpec
from runtime.protocols import Outcome, Team
from runtime.result import RunResult
from runtime.task import Task
from runtime.testing import Account, HostileEndpoint, Limits
from topologies.base import Topology

HOSTS, RUNS, AGENTS = 2, 20, 10
ROUNDS = 3
REPLY_S = 0.5
TOKENS = (20, 10)


class Kind(NamedTuple):
    """A limit, and how long it is watched."""

    name: str
    limits: Limits
    found_s: float
    """Figures are of the time from here on; a minute has to pass before what was used in the first one is free again."""
    seconds: float

    @property
    def per_s(self) -> float:
        """Calls a second at the limit."""
        if self.limits.requests_per_minute is not None:
            return self.limits.requests_per_minute / self.limits.window_s
        return (self.limits.max_parallel or 0) / REPLY_S


KINDS = (
    Kind("requests_per_minute", Limits(requests_per_minute=600, announced=False), 75.0, 135.0),
    Kind("max_parallel", Limits(max_parallel=32, announced=False), 20.0, 60.0),
)


class Busy(Topology):
    """Agents that ask again as soon as they were answered, until the deadline."""

    def __init__(self, model: str) -> None:
        super().__init__("Busy", {f"agent[{i}]": Agent("executor", model=model) for i in range(AGENTS)})

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Never ends by itself."""

        async def work(seat: str) -> None:
            while True:
                try:
                    await team.ask(seat, task)
                except ModelError:
                    continue  # four refusals in a row; they stand in the journal

        async with anyio.create_task_group() as agents:
            for seat in self.seats():
                agents.start_soon(work, seat)
        return Report("never")


async def watched(rt: Runtime, kind: Kind, model: str, endpoint: HostileEndpoint) -> tuple[list[RunResult], Account]:
    """All runs of one round at once."""
    budget = Budget(calls=1_000_000, seconds=kind.seconds)
    specs: list[RunSpec] = [rt.spec(f"{model}-{i}", Busy(model), Task("How many?"), budget, i) for i in range(RUNS)]
    return [result async for _, result in rt.map(specs)], endpoint.account("busy")


def measured(kind: Kind, results: Sequence[RunResult], total: Account) -> dict[str, float]:
    """What one round says."""
    span_s = kind.seconds - kind.found_s
    late = [[a for a in r.attempts if kind.found_s <= a.ended_s <= kind.seconds] for r in results]
    served = [sum(a.state == "settled" for a in rows) for rows in late]
    refused = sum(a.state == "released" for rows in late for a in rows)
    waiting_s, working_s = sum(r.waiting_s for r in results), sum(r.working_s for r in results)
    return {
        "used": sum(served) / (kind.per_s * span_s),
        "refused": refused / (sum(served) + refused),
        "refused_from_the_start": total.limited / total.requests,
        "least_run_of_mean": min(served) * RUNS / sum(served),
        "most_run_of_mean": max(served) * RUNS / sum(served),
        "waiting_of_all": waiting_s / (waiting_s + working_s),
    }


async def compare() -> dict[str, Any]:
    """All rounds of all kinds, on one cluster."""
    found: dict[str, Any] = {}
    names = {f"{kind.name}-{i}".replace("_", "-"): kind for kind in KINDS for i in range(ROUNDS)}
    answers = {
        "busy": ScriptedModel(lambda request: "7", input_tokens=TOKENS[0], output_tokens=TOKENS[1], latency_s=REPLY_S)
    }
    async with AsyncExitStack() as stack:
        endpoints = {
            name: await stack.enter_async_context(HostileEndpoint(answers, limits=kind.limits))
            for name, kind in names.items()
        }
        models = {
            name: ModelSpec(endpoint=endpoint.base_url, model="busy", key_env="", fixed_usage=TOKENS, max_parallel=256)
            for name, endpoint in endpoints.items()
        }
        rt = await stack.enter_async_context(Runtime("local", models=models, hosts=HOSTS))
        for kind in KINDS:
            mine = [name for name in names if names[name] is kind]
            rounds = [measured(kind, *await watched(rt, kind, name, endpoints[name])) for name in mine]
            figures = {key: spread([one[key] for one in rounds], 4) for key in rounds[0]}
            found[kind.name] = {"limit_per_s": kind.per_s, "watched_s": [kind.found_s, kind.seconds], **figures}
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the figures with the command that made them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.endpoint_limit", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/models.json"))
    options = parser.parse_args(arguments)
    load = load_average()
    found = {
        "command": "python -m benchmarks.speed.endpoint_limit",
        "what": (
            f"share of an unannounced limit that {RUNS} runs of {AGENTS} agents on {HOSTS} hosts use, share of refused calls, "
            f"and the runs that got least and most, of the mean; replies take {REPLY_S} s"
        ),
        "machine": machine(load),
        "rounds": ROUNDS,
        **anyio.run(compare),
    }
    merge(options.out, "endpoint_limit", found)


if __name__ == "__main__":
    main(sys.argv[1:])
