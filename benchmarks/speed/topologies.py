"""Measures the memory of agents that are alive: ten thousand of them, in teams of every shape, in one host.

    python -m benchmarks.speed.topologies [--agents 10000] [--no-ray] [--out benchmarks/results/topologies.json]

All runs go on at once in one process. Planners answer, and every executor is held inside its model call, so that everybody's
seat, prompt, reservation and task exist at the same moment; then the traced memory is divided by the number of agents. What
the modules and one earlier run need is taken off before. What it costs to spread such agents over hosts is measured beside it
(`benchmarks.speed.placement`).
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import orjson

from benchmarks.speed.placement import placed
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.messages import Part, Plan, Reply, Report, Verdict, reply_json
from runtime.models.base import ChatReply, ChatRequest, prompt_tokens
from runtime.nesting import agents_of
from runtime.preflight import RunSpec, prepare
from runtime.run import Run
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Single, Star, Topology, Tree

MAX_BYTES = 10_000
SHAPES: tuple[Callable[[], Topology], ...] = (
    Single,
    lambda: Independent(8),
    lambda: Independent(4, combine="best"),
    lambda: Star(8),
    lambda: Star(4, rounds=3),
    lambda: Chain(4),
    lambda: Tree(2, 3),
    lambda: Mesh(5),
    lambda: Hybrid(4),
    lambda: Cascade([Agent("executor")] * 3),
    lambda: Star([Star(3), Chain(2), Agent("executor")]),
    lambda: Mesh([Star(2)] * 3),
    lambda: Graph(
        {"plan": Agent("planner"), "work": [Agent("executor")] * 6, "check": Agent("verifier")},
        [("plan", "work"), ("work", "check")],
    ),
)
_REPLIES: dict[str, Reply] = {
    "plan": Plan(tuple(Part(f"part {i} of the work, to be done on its own") for i in range(8))),
    "report": Report("42", "worked it out"),
    "verdict": Verdict("accept", "42"),
}


class Gate:
    """A model that answers plans at once and holds every report until it is opened."""

    name, virtual, shrinkable, naps, window_tokens = "m", False, True, False, 1_000_000
    price: Price | None = Price(2, 3)

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.held = 0
        self.all_held = anyio.Event()
        self.wanted = 0

    def bound(self, request: ChatRequest) -> Usage:
        """Upper bound of a call."""
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer; reports only once the gate is open."""
        if request.reply == "report" and not self.open.is_set():
            self.held += 1
            if self.held == self.wanted:
                self.all_held.set()
            await self.open.wait()
        return ChatReply(reply_json(_REPLIES[request.reply]), Usage(prompt_tokens(request), 20))


def teams(agents: int) -> list[Topology]:
    """One shape after another until there are so many agents."""
    found: list[Topology] = []
    n = 0
    for shape in cycle(SHAPES):
        if n >= agents:
            return found
        found.append(shape().with_model("m"))
        n += len(agents_of(found[-1]))
    return found


def first_wave(topology: Topology) -> int:
    """How many executors of a team work at the same moment when only planners have answered."""
    seats = topology.seats()
    if isinstance(topology, (Chain, Cascade, Single)):
        inner = next(member for seat, member in seats.items() if seat != "planner")
        return first_wave(inner) if isinstance(inner, Topology) else 1
    workers = [m for m in seats.values() if isinstance(m, Topology) or m.role == "executor"]
    return sum(first_wave(m) if isinstance(m, Topology) else 1 for m in workers)


async def measured(agents: int) -> dict[str, float]:
    """Hold all agents at once, and weigh them."""
    gate = Gate()
    await _all(teams(100), gate, opened=True)
    gate = Gate()
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    began = time.perf_counter()
    made = teams(agents)
    n = sum(len(agents_of(team)) for team in made)
    gate.wanted = sum(map(first_wave, made))
    weight = 0

    async def weigh() -> None:
        nonlocal weight
        await gate.all_held.wait()
        gc.collect()
        weight = tracemalloc.get_traced_memory()[0] - before
        gate.open.set()

    async with anyio.create_task_group() as group:
        group.start_soon(weigh)
        await _all(made, gate, opened=False)
    seconds = time.perf_counter() - began
    tracemalloc.stop()
    return {
        "agents": n,
        "runs": len(made),
        "calls_in_flight": gate.wanted,
        "bytes_per_agent": round(weight / n),
        "bytes_per_run": round(weight / len(made)),
        "megabytes": round(weight / 2**20, 1),
        "seconds_traced": round(seconds, 1),
    }


async def _all(made: Sequence[Topology], gate: Gate, *, opened: bool) -> None:
    if opened:
        gate.open.set()
    budget = Budget(tokens=100_000_000, usd=50, calls=10_000)

    async def one(i: int, topology: Topology) -> None:
        spec = RunSpec(f"run-{i}", topology, Task("How many of the suppliers deliver on time?"), budget, i)
        run = Run(prepare(spec, {"m": gate}.__getitem__), LoopClock(), None, lambda *_: None, 0)
        result = await run.execute()
        assert result.status == "completed", result.reason

    async with anyio.create_task_group() as group:
        for i, topology in enumerate(made):
            group.start_soon(one, i, topology)


def main() -> int:
    """Measure, print, keep; 1 where an agent weighs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-ray", action="store_true")
    args = parser.parse_args()
    found: dict[str, Any] = {
        "command": "python -m benchmarks.speed.topologies",
        "what": "traced bytes per agent, mixed topologies, all executors of all runs inside a call at the same moment",
        "python": sys.version.split()[0],
        "limit_bytes_per_agent": MAX_BYTES,
        # Live runs share an asyncio loop, virtual ones go through trio; each call is a task of its own on both.
        "loops": {loop: anyio.run(measured, args.agents, backend=loop) for loop in ("asyncio", "trio")},
    }
    if not args.no_ray:
        found["placement"] = anyio.run(placed)
    text = orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    return int(any(loop["bytes_per_agent"] > MAX_BYTES for loop in found["loops"].values()))


if __name__ == "__main__":
    sys.exit(main())
