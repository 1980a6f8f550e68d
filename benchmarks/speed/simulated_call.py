"""Measures CPU per call of a simulated model in process, with its family's solver and with a solver that has the move ready.

    python -m benchmarks.speed.simulated_call [--out benchmarks/results/models.json]

Eight calls go side by side and wait on a clock that jumps, as the executors of a star do. What waiting alone costs there is
measured beside it, in the same rounds. The figures are kept under `simulated_call` of the file; its other keys stay.
"""

import argparse
import gc
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from benchmarks.speed.timing import Sample, figures, load_average, machine, merge, stopwatch, turns
from benchmarks.tasks import companies
from runtime.agents.context import content_of, prompt
from runtime.agents.roles import words_for
from runtime.host import GC_THRESHOLD
from runtime.messages import Bundle, Part, Report
from runtime.models.base import ChatRequest
from runtime.models.simulated import Move, SimulatedModel, Solver, small
from runtime.trampoline import nap_s, side_by_side

CALLS, SIDE_BY_SIDE, ROUNDS = 4_000, 8, 9
ROLES = {"planner": "plan", "executor": "report", "verifier": "verdict"}
Call = Callable[[ChatRequest], Coroutine[Any, Any, None]]
_TASK = companies.generate(1, seed=7)[0]


@dataclass(frozen=True)
class Ready:
    """A solver that has worked everything out before: what is left is the model around it."""

    move: Move
    parts: tuple[Part, ...]
    family: str = "ready"

    def reads(self, task: str) -> bool:
        """Every text."""
        return True

    def plan(self, task: str, part: str | None, n: int, slip: float | None = None) -> tuple[Part, ...]:
        """The parts it was made with."""
        return self.parts

    def act(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """The move it was made with."""
        return self.move

    def combine(self, task: str, part: str | None, mails: Sequence[Report], slip: float | None = None) -> Move:
        """The same."""
        return self.move

    def judge(self, task: str, mail: Report) -> bool:
        """All are right."""
        return True

    def steps(self, task: str, part: str | None) -> tuple[tuple[str, str], ...]:
        """None."""
        return ()


def requests(role: str, n: int) -> list[ChatRequest]:
    """Requests of a role for one task, a seed each: a verifier has four reports to judge, the others the task alone."""
    solver = companies.SOLVER
    moves = [solver.act(_TASK.prompt, part.text, ()) for part in solver.plan(_TASK.prompt, None, 4)]
    mails = tuple(Report(move.answer, move.work, move.covers, f"executor[{i}]") for i, move in enumerate(moves))
    content = content_of(Bundle(mails) if role == "verifier" else _TASK, _TASK)
    said = prompt(words_for(role), content, message_tokens=512)
    return [ChatRequest(said, 800, seed, ROLES[role]) for seed in range(n)]


async def fan_out(call: Call, asked: Sequence[ChatRequest]) -> None:
    """Make the calls, some at a time."""
    for i in range(0, len(asked), SIDE_BY_SIDE):
        await side_by_side([call(request) for request in asked[i : i + SIDE_BY_SIDE]])


def measured(call: Call, asked: Sequence[ChatRequest]) -> Sample:
    """One round of calls in virtual time."""
    with stopwatch() as sample:
        trio.run(fan_out, call, asked, clock=MockClock(autojump_threshold=0))
    sample.n = len(asked)
    return sample


def compare(role: str) -> dict[str, Any]:
    """CPU per call of a role: waiting alone, with the move ready, with the family's solver; and what of it is the model's own."""
    solver = companies.SOLVER
    ready: Solver = Ready(solver.act(_TASK.prompt, None, ()), solver.plan(_TASK.prompt, None, 4))

    async def wait(_: ChatRequest) -> None:
        await nap_s(1.0)

    async def ask(model: SimulatedModel, request: ChatRequest) -> None:
        await model.complete(request)

    ways: dict[str, Call] = {
        "waiting_alone": wait,
        "without_solver": partial(ask, small([ready])),
        "with_solver": partial(ask, small([solver])),
    }
    asked = requests(role, CALLS)
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for name in turns(ways, ROUNDS):
        samples[name].append(measured(ways[name], asked))
    found: dict[str, Any] = {name: figures(of)["cpu_us"] for name, of in samples.items()}
    found["own"] = round(found["without_solver"]["median"] - found["waiting_alone"]["median"], 1)
    return found


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the figures with the command that made them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.simulated_call", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/models.json"))
    options = parser.parse_args(arguments)
    load = load_average()
    gc.set_threshold(*GC_THRESHOLD)
    found: dict[str, Any] = {
        "command": "python -m benchmarks.speed.simulated_call",
        "what": f"CPU microseconds per call of sim/small in process, {SIDE_BY_SIDE} side by side in virtual time",
        "machine": machine(load),
        "gc_threshold": list(GC_THRESHOLD),
        "rounds": ROUNDS,
        "calls_per_round": CALLS,
        **{role: compare(role) for role in ROLES},
    }
    merge(options.out, "simulated_call", found)


if __name__ == "__main__":
    main(sys.argv[1:])
