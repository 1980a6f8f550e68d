"""The replay of one run: which recorded request answers which, what is told where none does, and files that are no recordings."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.bank.store import Note
from runtime.budget import Budget
from runtime.errors import BadModelReply, ConfigError, ModelRefused, OrchestrationError, ReplayDiverged
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Report, Verdict
from runtime.models.base import ChatReply, ChatRequest, TokenLogprob, ToolCall
from runtime.models.scripted import ScriptedModel
from runtime.preflight import Prepared, prepare
from runtime.protocols import Outcome, Team
from runtime.recording import Foreign, Recording, canonical_bytes
from runtime.recording_file import RecordingFile
from runtime.replay import Player
from runtime.result import RunResult
from runtime.tape import TapedSpec
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Tier, TieredPrice, Usage
from topologies import Single, Star, Topology

TASK = Task("How many?", "42")
BUDGET = Budget(calls=9)


class Asking(Topology):
    """Asks one seat for parts in an order that whoever builds it knows."""

    def __init__(self, *parts: str, prompt: str | None = None, role: str = "executor") -> None:
        super().__init__("Asking", {"a": Agent(role, model="m", prompt=prompt)})
        self.parts = parts

    async def solve(self, task: Task, team: Team) -> Outcome:
        said = [await team.ask("a", Part(part)) for part in self.parts]
        return "+".join(getattr(reply, "answer", "?") for reply in said)


def echo(request: ChatRequest) -> Any:
    """What the part says, and how often that was asked."""
    part = request.messages[-1].content.rpartition("<part>\n")[2].partition("\n")[0]
    times[part] = times.get(part, 0) + 1
    return Report(f"{part}{times[part]}")


times: dict[str, int] = {}


@pytest.fixture(autouse=True)
def afresh() -> None:
    times.clear()


def recording_of(topology: Topology, answer: Callable[[ChatRequest], Any] = echo, **more: Any) -> Recording:
    model = ScriptedModel(answer, input_tokens=60, output_tokens=40, **more)
    notes: list[Note] = []
    run_virtual([TapedSpec("r", topology, TASK, BUDGET, 0)], {"m": model}.__getitem__, notes)
    return Recording([run_in(notes[0])])


def run_in(note: Note) -> Any:
    from runtime.recording_file import _run

    kept = orjson.loads(note.body)
    return _run(kept["run"], kept["asked"])


def replayed(recording: Recording, topology: Topology, budget: Budget = BUDGET) -> RunResult:
    spec = TapedSpec("r", topology, TASK, budget, 0, recorded=recording.runs["r"])
    return run_virtual([spec], {}.__getitem__)[0]


def test_the_same_question_gets_its_answers_in_the_recorded_order() -> None:
    recording = recording_of(Asking("x", "x", "y", "x"))

    result = replayed(recording, Asking("x", "x", "y", "x"))

    assert result.answer == "x1+x2+y1+x3"
    assert recording.differences(result) == []


def test_questions_in_another_order_find_their_answers() -> None:
    """Code that asks the same in another order, as a race may make it, is no other run; its books are the recorded ones."""
    recording = recording_of(Asking("x", "y", "x", "z"))

    result = replayed(recording, Asking("z", "x", "y", "x"))

    assert result.answer == "z1+x1+y1+x2"
    assert result.attempts == recording.runs["r"].result.attempts


def test_a_question_more_is_told() -> None:
    with pytest.raises(ReplayDiverged) as caught:
        replayed(recording_of(Asking("x", "y")), Asking("x", "y", "x"))

    assert caught.value.args == ("r", "a", 2, "nothing was asked here; the recorded run holds 2 requests of this seat")


def test_of_questions_less_the_first_is_told() -> None:
    with pytest.raises(ReplayDiverged, match="a, step 2: nobody asked for it now; a tool"):
        replayed(recording_of(Asking(*"xyzzyx")), Asking("x", "y"))


def test_where_a_replay_ends_early_its_own_reason_is_told() -> None:
    class Broken(Asking):
        async def solve(self, task: Task, team: Team) -> Outcome:
            await super().solve(task, team)
            raise KeyError("pigs")

    with pytest.raises(
        ReplayDiverged, match=r"step 1: nobody asked for it now; .*; the run ended failed now .*KeyError.*pigs"
    ):
        replayed(recording_of(Asking("x", "y")), Broken("x"))


def test_whether_what_was_cut_off_is_asked_again_is_a_race() -> None:
    """Before anything of it was booked, or where the whole run was cut off."""
    recording = recording_of(Asking("x", "y"))
    run = recording.runs["r"]
    asked, cut_off = run.asks

    recording.runs["r"] = replace(run, asks=(asked, cut_off._replace(tries=(), end=None)))
    assert replayed(recording, Asking("x")).answer == "x1"

    recording.runs["r"] = replace(run, result=replace(run.result, status="cancelled"))
    assert replayed(recording, Asking("x")).status == "cancelled"


class Delegating(Topology):
    """An agent whose tool asks another agent."""

    def __init__(self) -> None:
        async def ask() -> str:
            assert self.team is not None
            reply = await self.team.ask("helper", Part("help"))
            assert isinstance(reply, Report)
            return reply.answer

        tool = Tool("ask", "Asks the helper.", ask, {}, usd="0.01", virtual=True)
        agents = {"boss": Agent("executor", model="m", tools=(tool,)), "helper": Agent("executor", model="m")}
        super().__init__("Delegating", agents)
        self.team: Team | None = None

    async def solve(self, task: Task, team: Team) -> Outcome:
        self.team = team
        return await team.ask("boss", task)


def test_what_a_tool_asked_of_an_agent_cannot_be_replayed_and_is_told() -> None:
    def answer(request: ChatRequest) -> Any:
        called = not request.tools or any(message.role == "tool" for message in request.messages)
        return Report("42") if called else (ToolCall("1", "ask", "{}"),)

    recording = recording_of(Delegating(), answer)
    assert [(row.seat, row.kind) for row in recording.runs["r"].result.attempts if row.seat == "helper"] == [
        ("helper", "work")
    ]

    with pytest.raises(ReplayDiverged) as caught:
        replayed(recording, Delegating())

    told = "nobody asked for it now; a tool is not called in a replay, so one which asks agents cannot be replayed"
    assert caught.value.args == ("r", "helper", 0, told)


def test_another_word_in_what_a_user_prompts_is_told() -> None:
    recording = recording_of(Asking("x", prompt="Count the pigs."))

    with pytest.raises(
        ReplayDiverged, match=r"step 0: message 1 of 2 \(system\) differs at character 12: .*pigs.*pugs"
    ):
        replayed(recording, Asking("x", prompt="Count the pugs."))


def test_another_model_is_told() -> None:
    """Found here by the run itself; the runtime compares the models of each seat before it begins."""
    recording = recording_of(Asking("x"))
    other = Asking("x")
    run = recording.runs["r"]
    run.models["n"] = run.models["m"]  # type: ignore[index]
    other._seats["a"] = Agent("executor", model="n")

    with pytest.raises(ReplayDiverged, match="n is asked, and recorded was m"):
        replayed(recording, other)


class Swallowing(Asking):
    async def solve(self, task: Task, team: Team) -> Outcome:
        with suppress(OrchestrationError):
            return await super().solve(task, team)
        return "all is well"


def test_a_users_code_cannot_hide_a_divergence() -> None:
    with pytest.raises(ReplayDiverged, match="holds 1 requests"):
        replayed(recording_of(Swallowing("x")), Swallowing("x", "y"))


class Hasty(Asking):
    """Waits for its second answer for a while only."""

    patience_s = 2.0

    async def solve(self, task: Task, team: Team) -> Outcome:
        await team.ask("a", Part("quick"))
        with anyio.move_on_after(self.patience_s):
            await team.ask("a", Part("slow"))
        return "done"


class Timed(ScriptedModel):
    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(5.0 if "slow" in request.messages[-1].content else 1.0)
        return await super().complete(request)


def test_what_was_cut_off_is_cut_off_again_and_is_waited_for_no_longer() -> None:
    model = Timed(["42"], input_tokens=60, output_tokens=40)
    notes: list[Note] = []
    (live,) = run_virtual([TapedSpec("r", Hasty(), TASK, BUDGET, 0)], {"m": model}.__getitem__, notes)
    recording = Recording([run_in(notes[0])])

    assert canonical_bytes(replayed(recording, Hasty())) == canonical_bytes(live)
    assert [row.state for row in live.attempts] == ["settled", "charged_max"]

    patient = Hasty()
    patient.patience_s = 99.0
    with pytest.raises(ReplayDiverged, match="still waits, long after the end of the recorded run"):
        replayed(recording, patient)


class Far(Exception):
    """An error of a user's model."""


def failing(request: ChatRequest) -> Any:
    raise Far("line one\nline two")


def refusing(request: ChatRequest) -> Any:
    raise ModelRefused("m", 400, "no")


def unusable(request: ChatRequest) -> Any:
    raise BadModelReply("m", "cut", Usage(3, 4))


@pytest.mark.parametrize("answer", [failing, refusing, unusable])
def test_an_error_ends_the_replay_as_it_ended_the_run(answer: Callable[[ChatRequest], Any]) -> None:
    recording = recording_of(Asking("x"), answer)

    result = replayed(recording, Asking("x"))

    assert result.status == "failed"
    assert recording.differences(result) == []


@pytest.mark.parametrize(
    "error", [KeyError("k"), ValueError(3), UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), Far("f")]
)
def test_a_foreign_error_is_told_and_caught_as_before(error: Exception) -> None:
    again = Foreign.of(error).again()

    assert (type(again).__name__, str(again)) == (type(error).__name__, str(error))
    assert isinstance(again, next(base for base in type(error).__mro__ if base.__module__ == "builtins"))


def test_a_reply_comes_back_whole() -> None:
    logprobs = (TokenLogprob("a", -0.5, (("b", -1.0),)),)
    whole = ChatReply('{"answer": "é"}', Usage(60, 40, 30, 20, 10), "stop", (), True, logprobs)
    recording = recording_of(Asking("x"), lambda request: whole)

    (ask,) = recording.runs["r"].asks
    assert ask.end == ask.tries[0].reply == whole
    assert replayed(recording, Asking("x")).answer == "é"


@pytest.mark.parametrize(
    "price",
    [None, Price(1, 2, 3, 4), TieredPrice.of([Tier(0, 5, 6), Tier(40, 7, 8, 1, 9)])],
    ids=["none", "flat", "tiers"],
)
def test_a_price_comes_back_whole(price: Price | None, tmp_path: Path) -> None:
    model = ScriptedModel(echo, input_tokens=60, output_tokens=40)
    model.price = price
    notes: list[Note] = []
    run_virtual([TapedSpec("r", Asking("x"), TASK, BUDGET, 0)], {"m": model}.__getitem__, notes)

    assert run_in(notes[0]).models["m"].price == price


def test_a_request_stands_in_a_file_once(tmp_path: Path) -> None:
    model = ScriptedModel(echo, input_tokens=60, output_tokens=40)
    notes: list[Note] = []
    specs = [TapedSpec(name, Asking("x", "x"), TASK, BUDGET, 0) for name in ("r", "s")]
    run_virtual(specs, {"m": model}.__getitem__, notes)
    path = tmp_path / "r.jsonl"
    with RecordingFile(path, {"task": "t"}) as file:
        for note in (*notes, notes[0]):
            file.add(note.body)

    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    recording = Recording.load(path)

    assert [next(iter(line)) for line in lines] == ["recording", "asked", "run", "run"]
    assert (recording.command, list(recording.runs)) == ({"task": "t"}, ["r", "s"])


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    model = ScriptedModel(echo, input_tokens=60, output_tokens=40)
    notes: list[Note] = []
    run_virtual([TapedSpec("r", Asking("x"), TASK, BUDGET, 0)], {"m": model}.__getitem__, notes)
    with RecordingFile(tmp_path / "whole.jsonl") as file:
        file.add(notes[0].body)
    return (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: lines[:0], ":1: not a recording of the form 1; make one with Runtime(record=...)"),
        (lambda lines: [b'{"prompt": "x"}\n'], ":1: not a recording of the form 1"),
        (lambda lines: [b'{"recording": 2}\n'], ":1: not a recording of the form 1"),
        (lambda lines: [b"[1]\n"], ":1: no line of a recording; record again"),
        (lambda lines: [*lines[:2], lines[2][:100]], ":3: it is cut off; delete it to use what stands before it"),
        (lambda lines: [lines[0], b"{oops}\n"], ":2: not valid JSON"),
        (lambda lines: [lines[0], lines[2]], r":2: no line of a recording: '[0-9a-f]{32}' is missing; record again"),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"seed":0,', b"")],
            ":3: no line of a recording: 'seed' is missing",
        ),
        (
            lambda lines: [lines[0], lines[1].replace(b"<part>", b"<pant>"), lines[2]],
            ":2: .* is not the one that was rec",
        ),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"end":"reply"', b'"end":"eval"')],
            ":3: .*'eval' is no error of Ostrom",
        ),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"tries":[{', b'"tries":[],"old":[{')],
            ":3: no line of a recording",
        ),
        (
            lambda lines: [*lines[:2], lines[2].replace(b'"seats":{"a":{"share"', b'"seats":{"b":{"share"')],
            ":3: .*'a' is missing",
        ),
        (lambda lines: [*lines, lines[2]], "the recording holds two runs 'r'; remove the line of one"),
        (lambda lines: lines[:1], "the recording holds no runs; nothing was finished while it was made"),
    ],
)
def test_a_file_that_is_no_recording_is_told_by_line(
    lines: list[bytes], tmp_path: Path, spoil: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    path = tmp_path / "spoilt.jsonl"
    path.write_bytes(b"".join(spoil(lines)))

    with pytest.raises(ConfigError) as caught:
        Recording.load(path)

    assert re.search(words if "[0-9" in words or ".*" in words else re.escape(words), str(caught.value)), caught.value


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl: cannot be read"):
        Recording.load(tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigError, match="cannot be written"), RecordingFile(tmp_path / "no" / "folder.jsonl"):
        pass


def test_a_result_of_a_run_that_was_not_recorded_has_nothing_to_differ_from() -> None:
    recording = recording_of(Asking("x"))
    other = run_virtual(
        [TapedSpec("other", Asking("x"), TASK, BUDGET, 0, recorded=recording.runs["r"])], {}.__getitem__
    )[0]

    with pytest.raises(ConfigError, match="no run 'other' was recorded; there are 'r'"):
        recording.differences(other)


class ByLength(ScriptedModel):
    """Holds a token for each character, as a count of its own."""

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(sum(len(said.content) for said in request.messages), self.usage.output_tokens)


LARGE = Budget(tokens=200_000, tool_calls={"look": 3})
TEAM = Star([Agent("executor"), Star(2).within(Budget(tokens=80_000))], model="m")


@pytest.fixture
def led(tmp_path: Path) -> tuple[list[bytes], Prepared]:
    """The file of a run of a team whose finishing calls have a price, and the run as it was checked."""
    answers = {"plan": Plan((Part("half"),) * 2), "report": Report("42"), "verdict": Verdict("accept", "42")}
    model = ByLength(lambda request: answers[request.reply], output_tokens=40, usd="0.1")
    spec = TapedSpec("r", TEAM, TASK, LARGE, 0)
    notes: list[Note] = []
    run_virtual([spec], {"m": model}.__getitem__, notes)
    with RecordingFile(tmp_path / "led.jsonl") as file:
        file.add(notes[0].body)
    return (tmp_path / "led.jsonl").read_bytes().splitlines(keepends=True), prepare(spec, {"m": model}.__getitem__)


def test_each_seat_has_the_share_and_the_floor_it_had(led: tuple[list[bytes], Prepared], tmp_path: Path) -> None:
    """Prompts that nobody asked are priced in them, and what they would have held only the model knew."""
    lines, then = led
    (tmp_path / "again.jsonl").write_bytes(b"".join(lines))
    run = Recording.load(tmp_path / "again.jsonl").runs["r"]

    now = Player(TapedSpec("r", TEAM, TASK, LARGE, 0, recorded=run), run).prepare({}.__getitem__)

    assert {seat: (p.share, p.floor) for seat, p in now.places.items()} == {
        seat: (p.share, p.floor) for seat, p in then.places.items()
    }
    assert now.floors == {seat: then.floors.get(seat, 0) for seat in then.places}
    assert len({p.share for p in then.places.values()}) == len({*then.floors.values()}) == 2, "they are not all alike"


def test_a_recording_that_tells_no_shares_is_replayed_as_before(
    led: tuple[list[bytes], Prepared], tmp_path: Path
) -> None:
    """Those made earlier were paid for too."""
    lines, _ = led
    run = orjson.loads(lines[-1])
    del run["run"]["seats"]
    (tmp_path / "older.jsonl").write_bytes(b"".join([*lines[:-1], orjson.dumps(run)]))
    recording = Recording.load(tmp_path / "older.jsonl")

    (again,) = run_virtual([TapedSpec("r", TEAM, TASK, LARGE, 0, recorded=recording.runs["r"])], {}.__getitem__)

    assert recording.differences(again) == []


def test_a_model_that_is_replayed_answers_inside_its_run_only() -> None:
    from runtime.replay import models_of

    find = models_of(recording_of(Single(model="m")).runs["r"])

    with pytest.raises(ConfigError, match="answers inside its run only"):
        anyio.run(find("m").complete, ChatRequest((), 1))
    with pytest.raises(ConfigError, match="model 'n' has no part in run r, which used m"):
        find("n")
