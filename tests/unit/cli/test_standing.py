"""`ostrom ps` tells what open runs and experiments have spent of their limits, beside a driver and without one."""

import json
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from benchmarks.engine import Sweep
from benchmarks.experiment import Experiment
from runtime import Budget, Runtime, Task
from runtime.models import ScriptedModel
from runtime.models.base import ChatReply, ChatRequest
from topologies import Single, Topology

pytestmark = pytest.mark.anyio
Here = Callable[..., "subprocess.CompletedProcess[str]"]
LAB = "experiment:lab"


class Watched(ScriptedModel):
    """A live model that bills 100 tokens and 10 cents a call, and has somebody look on in the middle of its third."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        super().__init__(["42"], input_tokens=60, output_tokens=40, usd="0.10", virtual=False, name="m")
        self.look, self.asked = look, 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked += 1
        if self.asked == 3:
            await self.look()
        return await super().complete(request)


class Thrice(Topology):
    """One agent, asked three times."""

    def __init__(self) -> None:
        super().__init__("Thrice", Single().seats())

    def asks(self) -> dict[str, int]:
        return {"agent": 3}

    async def solve(self, task: Task, team: Any) -> Any:
        for _ in range(2):
            await team.ask("agent", task)
        return await team.ask("agent", task)


async def sweep(out: Path, model: ScriptedModel, cap: Budget, budget: Budget) -> str:
    """Run one trial; gives its run id."""
    tasks = [Task("What is 6 times 7?", answer="42")]
    lab = Experiment("lab", tasks=tasks, topologies=[Thrice()], models=["m"], budgets=[budget], cap=cap)
    async with Runtime(models={"m": model}, out=out) as runtime:
        plan = lab.plan(runtime)
        work = Sweep(lab, plan, runtime)
        await work.begin()
        async for _ in work.run():
            pass
    return plan.trials[0].spec.run_id


async def test_what_is_spent_held_and_limited_is_told_beside_the_driver(ostrom_here: Here, tmp_path: Path) -> None:
    told: dict[str, Any] = {}
    lines: list[str] = []

    async def look() -> None:
        ps = partial(ostrom_here, "ps", "--out", tmp_path, cwd=tmp_path)
        told.update(json.loads((await anyio.to_thread.run_sync(partial(ps, "--json"))).stdout))
        lines.extend((await anyio.to_thread.run_sync(ps)).stdout.splitlines())

    run_id = await sweep(tmp_path, Watched(look), Budget(usd=5, calls=9), Budget(tokens=5_000, usd=2, calls=4))

    none = {"tokens": None, "tool_calls": None}
    assert told.keys() == {run_id, LAB}
    assert {row["state"] for row in told.values()} == {"under way"}
    assert told[run_id]["spent"] == {"tokens": 200, "pico_usd": 2 * 10**11, "calls": 2, "tool_calls": 0}
    assert told[run_id]["held"]["calls"] == 1
    assert told[run_id]["limit"] == {"tokens": 5_000, "pico_usd": 2 * 10**12, "calls": 4, "tool_calls": None}
    assert told[LAB]["spent"] == {"tokens": 0, "pico_usd": 0, "calls": 0, "tool_calls": 0}
    assert told[LAB]["held"] == {"tokens": 5_000, "pico_usd": 2 * 10**12, "calls": 4, "tool_calls": 0}
    assert told[LAB]["limit"] == {**none, "pico_usd": 5 * 10**12, "calls": 9}
    assert lines[0].split() == ["name", "state", "tokens", "held", "of", "$", "held", "of", "calls", "held", "of"]
    assert lines[1].split() == f"{LAB} under way 0 5,000 - 0.000000 2.000000 5.00 0 4 9".split(" ")
    assert lines[2].split()[:4] == [run_id, "under", "way", "200"]


async def test_a_run_that_its_driver_left_keeps_its_figures_and_the_limit_it_was_topped_up_to(
    ostrom_here: Here, tmp_path: Path
) -> None:
    cli = partial(ostrom_here, cwd=tmp_path)

    async def leave() -> None:
        scope.cancel()
        await anyio.lowlevel.checkpoint()

    with anyio.CancelScope() as scope:
        await sweep(tmp_path, Watched(leave), Budget(usd=5), Budget(tokens=5_000, usd=2))

    def ps() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cli("ps", "--out", tmp_path, "--json").stdout)
        return found

    [(run_id, left)] = (await anyio.to_thread.run_sync(ps)).items()
    assert left["state"] == "interrupted"
    assert left["spent"]["calls"] >= 2
    topped = await anyio.to_thread.run_sync(partial(cli, "top-up", run_id, "--tokens", 7, "--out", tmp_path))
    assert topped.returncode == 0, topped.stderr
    again = (await anyio.to_thread.run_sync(ps))[run_id]
    assert (again["limit"]["tokens"], again["spent"]) == (5_007, left["spent"])
