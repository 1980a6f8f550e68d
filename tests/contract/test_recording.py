"""What gets into a recording whatever happens to the run: kills, pauses, top-ups, cancellations, tools, sweeps, other hosts."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from benchmarks import Experiment
from runtime import Agent, Budget, RunResult, RunSpec, Runtime, Task, Tool
from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits
from runtime.errors import ConfigError
from runtime.messages import Part, Plan, Report, Verdict
from runtime.models import ScriptedModel, ToolCall
from runtime.models.base import ChatRequest
from runtime.modes import mode_of
from runtime.protocols import Outcome, Team
from runtime.recording import Recording, canonical_bytes
from runtime.recording_file import RecordingFile
from runtime.tape import NOTE
from topologies import Independent, Single, Topology

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys

import anyio
from runtime import Agent, Budget, Runtime, Task
from runtime.errors import ModelUnavailable
from runtime.messages import Part, Plan, Report, Verdict
from runtime.models import ScriptedModel
from topologies import Chain

answered = 0

def answer(request):
    global answered
    answered += 1
    if request.reply == "plan":
        return Plan((Part("one half"), Part("the other half")))
    return Verdict("accept", "42") if request.reply == "verdict" else Report(f"{sys.argv[1]}, {answered}")

async def main():
    model = ScriptedModel(answer, input_tokens=60, output_tokens=40, virtual=False, usd="0.5")
    team, budget = Chain([Agent("executor")] * 2, model="m"), Budget(tokens=1000, usd=90)
    mode = {sys.argv[2]: sys.argv[3]} | ({"out": "store"} if sys.argv[2] == "record" else {})
    async with Runtime(models={"m": model}, **mode) as runtime:
        result = await runtime.run(team, Task("How many?", answer="42"), budget=budget, run_id="r")
    from runtime.recording import canonical_bytes
    print(answered, canonical_bytes(result).hex())

anyio.run(main)
"""


@pytest.mark.parametrize(("crash", "lost"), [("after-sent:3", 1), ("after-reserve:3", 0), ("after-reply:1", 1)])
def test_a_run_that_was_killed_is_recorded_by_the_life_that_ends_it(tmp_path: Path, crash: str, lost: int) -> None:
    """What earlier lives paid for is in it: what they answered, and what was lost and charged at maximum."""
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")

    def life(name: str, mode: str, file: str, crash: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "program.py", name, mode, file]
        env = {**os.environ, "OSTROM_CRASH": crash}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    killed = life("first life", "record", "first.jsonl", crash)
    ended = life("second life", "record", "second.jsonl")
    again = life("no life", "replay", "second.jsonl")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (ended.returncode, again.returncode) == (0, 0), ended.stderr + again.stderr
    served, live = ended.stdout.split()
    assert int(served) == 4 - (int(crash[-1]) - 1)
    assert again.stdout.split() == ["0", live]
    recording = Recording.load(tmp_path / "second.jsonl")
    states = [row.state for row in recording.runs["r"].result.attempts]
    assert (len(states), states.count("charged_max")) == (4 + lost, lost)
    with pytest.raises(ConfigError, match="holds no runs"):
        Recording.load(tmp_path / "first.jsonl")


class Waiting(ScriptedModel):
    """Says when it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(["42"], input_tokens=60, output_tokens=40, virtual=False)
        self.asked, self.go = anyio.Event(), anyio.Event()

    naps = False

    async def complete(self, request: ChatRequest) -> Any:
        self.asked.set()
        await self.go.wait()
        return await super().complete(request)


async def recorded(model: Any, path: Path, team: Topology, budget: Budget, operate: Callable[..., Any]) -> RunResult:
    """A run on which an operator acts while its first calls are out."""
    results: list[RunResult] = []
    async with Runtime(models={"m": model}, record=path) as runtime, anyio.create_task_group() as group:

        async def run() -> None:
            results.append(await runtime.run(team, Task("?"), budget=budget, run_id="r"))

        group.start_soon(run)
        await model.asked.wait()
        await operate(runtime.operator)
        model.go.set()
    return results[0]


async def replayed(path: Path, team: Topology, budget: Budget, task: Task | None = None) -> RunResult:
    async with Runtime(replay=path) as runtime:
        return await runtime.run(team, task or Task("?"), budget=budget)


async def test_what_an_operator_cancelled_is_cancelled_again(tmp_path: Path) -> None:
    path, team, budget = tmp_path / "r.jsonl", Independent(4, model="m"), Budget(tokens=250)

    live = await recorded(Waiting(), path, team, budget, lambda operator: operator.cancel("r"))
    again = await replayed(path, team, budget)

    assert (live.status, live.reason) == ("cancelled", "an operator cancelled the run")
    assert [row.state for row in live.attempts] == ["charged_max"] * 2
    assert canonical_bytes(again) == canonical_bytes(live)


async def test_what_an_operator_added_is_there_again(tmp_path: Path) -> None:
    """Two calls fit, and two that had waited are granted when the budget is raised."""
    path, team, budget = tmp_path / "r.jsonl", Independent(4, model="m"), Budget(tokens=250)

    live = await recorded(Waiting(), path, team, budget, lambda operator: operator.top_up("r", Budget(tokens=150)))
    again = await replayed(path, team, budget)

    assert (live.status, len(live.attempts), live.books["tokens"]["cap"]) == ("completed", 4, 400)
    assert canonical_bytes(again) == canonical_bytes(live)


class Impatient(Topology):
    """Waits for the first of two, and for the other a moment only."""

    def __init__(self) -> None:
        super().__init__("Impatient", {seat: Agent("executor", model="m") for seat in "ab"})

    async def solve(self, task: Task, team: Team) -> Outcome:
        answers: list[str] = []

        async def ask(seat: str, group: Any) -> None:
            reply = await team.ask(seat, task)
            answers.append(f"{seat} was first: {getattr(reply, 'answer', None)}")
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for seat in "ab":
                group.start_soon(ask, seat, group)
        return answers[0]


@pytest.mark.parametrize("winner", "ab")
async def test_a_race_is_won_by_whoever_had_won_it(tmp_path: Path, winner: str) -> None:
    path, budget = tmp_path / "r.jsonl", Budget(calls=2)
    asked: list[ChatRequest] = []
    both = anyio.Event()

    class Racing(ScriptedModel):
        naps = False

        async def complete(self, request: ChatRequest) -> Any:
            asked.append(request)
            if "ab"[len(asked) - 1] != winner:  # seat a asks first
                if len(asked) == 2:
                    both.set()
                await anyio.sleep_forever()
            if len(asked) == 1:
                await both.wait()
            return await super().complete(request)

    async with Runtime(models={"m": Racing(["42"], virtual=False)}, record=path) as runtime:
        live = await runtime.run(Impatient(), Task("?"), budget=budget)
    again = await replayed(path, Impatient(), budget)

    assert live.answer == f"{winner} was first: 42"
    assert sorted(row.state for row in live.attempts) == ["charged_max", "settled"]
    assert canonical_bytes(again) == canonical_bytes(live)


async def test_a_deadline_comes_where_it_came(tmp_path: Path) -> None:
    path, team, budget = tmp_path / "r.jsonl", Single(fill=True, model="m"), Budget(seconds=0.2)

    async with Runtime(models={"m": ScriptedModel(["42"], latency_s=0.06, virtual=False)}, record=path) as runtime:
        live = await runtime.run(team, Task("?", "42"), budget=budget)
    again = await replayed(path, team, budget, Task("?", "42"))

    assert (live.status, live.correct) == ("deadline", True)
    assert live.attempts[-1].state == "charged_max"
    assert canonical_bytes(again) == canonical_bytes(live)
    assert again.seconds == pytest.approx(live.seconds, abs=0.01)


async def test_tools_are_not_called_again(tmp_path: Path) -> None:
    """Their results come from the recording, and so do the errors that they ended in."""
    calls: list[str] = []

    def search(query: str) -> str:
        calls.append(query)
        if query == "nothing":
            raise LookupError("nothing found")
        return f"hit {len(calls)}"

    def answer(request: ChatRequest) -> Any:
        seen = [message.content for message in request.messages if message.role == "tool"]
        wanted = ["first", "nothing", "last"]
        if len(seen) < 3:
            return (ToolCall(f"c{len(seen)}", "search", f'{{"query": "{wanted[len(seen)]}"}}'),)
        return Report(" / ".join(text.splitlines()[1] for text in seen))

    tool = Tool("search", "Searches.", search, {"query": {"type": "string"}}, usd="0.001")
    path, team = tmp_path / "r.jsonl", Single(Agent("executor", model="m", tools=(tool,)))
    budget = Budget(usd=1, tool_calls={"search": 3})

    async with Runtime(models={"m": ScriptedModel(answer, virtual=False)}, record=path) as runtime:
        live = await runtime.run(team, Task("?"), budget=budget)
    again = await replayed(path, team, budget)

    assert live.answer == "hit 1 / error: LookupError: nothing found / hit 3"
    assert calls == ["first", "nothing", "last"]
    assert live.spend.total.tool_calls == 3
    assert canonical_bytes(again) == canonical_bytes(live)


def shouted(request: ChatRequest) -> Any:
    if request.reply == "plan":
        return Plan((Part("a"), Part("b")))
    return Verdict("accept", "42") if request.reply == "verdict" else Report("42")


async def test_an_experiment_is_recorded_and_replayed_as_a_whole(tmp_path: Path) -> None:
    def experiment() -> Experiment:
        return Experiment(
            "small",
            tasks=[Task("six times seven?", "42"), Task("six times eight?", "48")],
            topologies=[Single(), Independent(2)],
            models=["live"],
            budgets=[Budget(tokens=400), Budget(tokens=500)],
            cap=Budget(tokens=10_000),
        )

    path = tmp_path / "r.jsonl"
    model = ScriptedModel(shouted, input_tokens=100, output_tokens=100, virtual=False)
    async with Runtime(models={"live": model}, record=path) as runtime:
        table = await experiment().run(runtime)
    asked = model.served
    recording = Recording.load(path)
    async with Runtime(models={"live": model}, replay=recording) as runtime:
        again = await experiment().run(runtime)

    assert len(recording.runs) == 8
    assert model.served == asked > 0
    same = ["task", "topology", "budget", "status", "correct", "tokens"]
    same = [name for name in same if name in table.columns]
    assert again.select(same).equals(table.select(same))


async def test_what_was_finished_without_being_recorded_cannot_be_recorded_later(tmp_path: Path) -> None:
    async def session(**mode: Any) -> RunResult:
        model = ScriptedModel(["42"], virtual=False)
        async with Runtime(models={"m": model}, out=tmp_path / "store", **mode) as runtime:
            return await runtime.run(Single(model="m"), Task("?"), budget=Budget(calls=1), run_id="r")

    await session()

    with pytest.raises(ConfigError, match="run r was finished in this folder before, and was not recorded then"):
        await session(record=tmp_path / "r.jsonl")


async def test_what_was_recorded_is_written_again_where_it_is_asked_for_again(tmp_path: Path) -> None:
    async def session(name: str) -> bytes:
        model = ScriptedModel(["42"], virtual=False)
        async with Runtime(models={"m": model}, out=tmp_path / "store", record=tmp_path / name) as runtime:
            await runtime.run(Single(model="m"), Task("?"), budget=Budget(calls=1), run_id="r")
        return (tmp_path / name).read_bytes()

    assert await session("a.jsonl") == await session("b.jsonl")


async def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("precious")

    with pytest.raises(ConfigError, match="exists already; name a new file"):
        async with Runtime(record=tmp_path / "r.jsonl"):
            pass
    with pytest.raises(ConfigError, match="exclude each other"):
        Runtime(record=tmp_path / "a", replay=tmp_path / "r.jsonl")


def test_the_example_shows_what_it_says(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "replay.py"

    done = subprocess.run([sys.executable, "-P", example], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    recorded, again, same, told = done.stdout.splitlines()
    assert recorded == "recorded: completed, 42, $0.016 real"
    assert again == "replayed: completed, 42, $0.016 virtual, nobody is billed"
    assert same == "equal"
    assert "verifier, step 0: message 1 of 2 (system) differs" in told


@pytest.mark.ray
def test_hosts_on_ray_record_too(ray_cluster: Any, own: Any, tmp_path: Path) -> None:
    """Live and virtual runs; the recording comes back through the bank."""
    account = Limits(ACCOUNT, True, NO_CAPS)
    path, question, budget = tmp_path / "r.jsonl", Task("Recorded on Ray?"), Budget(tokens=5000)
    recording_mode = mode_of(ray_cluster.runtime.catalog, account, RecordingFile(path), None, stored=True)
    teams = {"taped-live": own.Echo("live"), "taped": own.Echo("m")}
    specs = [recording_mode.spec(RunSpec(name, team, question, budget, 1)) for name, team in teams.items()]

    live = {spec.run_id: canonical_bytes(result) for spec, result in ray_cluster.map(specs)}
    with RecordingFile(path) as file:
        for name in teams:
            file.add(ray_cluster.call(ray_cluster.runtime.note, NOTE + name))

    async def again() -> dict[str, bytes]:
        async with Runtime(replay=path) as runtime:
            return {
                name: canonical_bytes(await runtime.run(team, question, budget=budget, seed=1, run_id=name))
                for name, team in teams.items()
            }

    assert anyio.run(again) == live
