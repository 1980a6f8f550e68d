"""Drawn teams under drawn budgets, with models that fail in every way, are recorded and replayed: nothing comes out otherwise."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import FixedPacing, StrategyAuction
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.bank.client import BankClient
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Entry, Note
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.errors import BadModelReply, ConfigError, ModelRateLimited, ModelRefused, ModelTimeout
from runtime.host import run_virtual
from runtime.ids import draw
from runtime.journal import Attempt
from runtime.messages import Bid, Part, Plan, Reply, Report, Verdict, Vote, reply_json
from runtime.models.base import ChatModel, ChatReply, ChatRequest, ToolCall, prompt_tokens
from runtime.preflight import RunSpec
from runtime.recording import RecordedRun, Recording, canonical_bytes
from runtime.recording_file import RecordingFile
from runtime.result import RunResult
from runtime.run import SCOPE, Run
from runtime.tape import TapedSpec
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Tier, TieredPrice, Usage
from topologies import Cascade, Chain, Graph, Hybrid, Independent, Mesh, Single, Star, Topology, Tree


def look(where: str = "") -> str:
    """Seldom says the same twice, as the world does."""
    looks.append(where)
    return f"seen for the {len(looks)}. time"


looks: list[str] = []
LOOK = Tool("look", "Looks.", look, {}, usd="0.000000001", virtual=True)
FAR_LOOK = Tool("look", "Looks.", look, {}, usd="0.000000001")


class Moody:
    """Answers, or fails, by draws of its own that no seed decides; takes tokens and time as it likes."""

    shrinkable, window_tokens, naps = True, 100_000, True

    def __init__(self, name: str, *, failing: float, latency_s: float, virtual: bool, mood: int) -> None:
        self.name, self.virtual, self.failing, self.latency_s = name, virtual, failing, latency_s
        self.price: Price | None = (
            Price(2, 3, 1, 1) if name == "m" else TieredPrice.of([Tier(0, 5, 6), Tier(40, 7, 8, 1, 9)])
        )
        self.mood, self.calls = mood, 0

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.calls += 1
        seed = int(draw(self.mood, self.name, self.calls) * 2**40)
        await nap_s(self.latency_s * (1 + int(draw(seed, "latency") * 4)))
        if draw(seed, "fails") < self.failing:
            errors: list[Callable[[], Exception]] = [
                lambda: ModelTimeout(self.name, 1),
                lambda: BadModelReply(self.name, f"cut at {seed % 7}"),
                lambda: BadModelReply(self.name, "paid for", Usage(3, 4)),
                lambda: ModelRefused(self.name, 400, f"code {seed % 7}"),
                lambda: ModelRateLimited(self.name, 0.0),
                lambda: ValueError(seed % 5),
            ]
            raise errors[seed % 6]()
        prompt = prompt_tokens(request)
        # One bill in ten is above what the call held.
        out = request.max_tokens * 2 if seed % 10 == 0 else int(request.max_tokens * draw(seed, "used"))
        usage = Usage(prompt, out, cached_tokens=prompt // 2)
        if request.tools and draw(seed, "calls a tool") < 0.5:
            return ChatReply("let me see", usage, "tool_calls", (ToolCall("1", "look", '{"where": "here"}'),))
        answer = str(seed % 3)
        if not request.reply:
            return ChatReply(f"in short, {answer}", None if seed % 11 == 0 else usage)
        replies: dict[str, Reply] = {
            "plan": Plan(tuple(Part(f"part {i}" + " more" * (seed % (20 + i))) for i in range(6))),
            "report": Report(answer, f"mood {seed}" + " again" * (seed % 50)),
            "verdict": Verdict("accept", answer),
            "bid": Bid((answer,)),
            "vote": Vote((seed % 6, seed % 5)),
        }
        spoilt = draw(seed, "spoilt") < self.failing / 2
        return ChatReply("{" if spoilt else reply_json(replies[request.reply]), None if seed % 11 == 0 else usage)


def with_tools(tool: Tool) -> Callable[[Any], Topology]:
    return lambda model: Star([Agent("executor", tools=(tool,))] * 3, model=model)


def nested(model: Any) -> Topology:
    inner = Star(2, model=model).within(Budget(tokens=2500))
    inner.message_tokens, inner.summarise = 24, True
    return Star([Agent("executor", model=model), inner], model=model)


def graph(model: Any) -> Topology:
    nodes = {"p": Agent("planner"), "e": [Agent("executor")] * 2, "x": Agent("executor"), "v": Agent("verifier")}
    return Graph(nodes, [("p", "e"), ("e", "v"), ("x", "v")], model=model)


teams = st.sampled_from(
    [
        lambda model: Star(5, model=model),
        lambda model: Tree(2, 2, model=model),
        lambda model: Independent(7, model=model),
        lambda model: Chain(3, model=model),
        lambda model: Single(fill=True, model=model),
        lambda model: Mesh(3, model=model),
        lambda model: Hybrid(3, model=model),
        lambda model: Cascade(3, model=model),
        graph,
        nested,
        "tools",
    ]
)
routers = st.sampled_from(["m", StrategyAuction("m", "n")])
drawn = (
    teams,
    routers,
    st.none() | st.integers(1500, 9000),
    st.none() | st.sampled_from(["0.00000002", "0.00000005"]),
    st.integers(4, 14) | st.just(60),
    st.none() | st.integers(1, 9),
    st.sampled_from([100, 300, 900]),
    st.none() | st.sampled_from([16, 40]),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 0.3]),
)


def team_of(team: Any, router: Any, effort: int, mail: int | None, tool: Tool) -> Topology:
    """Of agents whose effort is set, and who have mails above a length summarised where one is set."""
    topology: Topology = (with_tools(tool) if team == "tools" else team)(router)
    topology.pacing = FixedPacing(effort)
    if mail is not None:
        topology.message_tokens, topology.summarise = mail, True
    return topology


def kept(notes: list[Note], folder: Path) -> Recording:
    """As it comes back from the file."""
    path = folder / "recording.jsonl"
    path.unlink(missing_ok=True)
    with RecordingFile(path) as file:
        for note in notes:
            file.add(note.body)
    return Recording.load(path)


def replayed(run: RecordedRun, spec: RunSpec) -> RunResult:
    def no_model(name: str) -> ChatModel:
        raise AssertionError("a replay has the recorded models")

    before = len(looks)
    again = TapedSpec(spec.run_id, spec.topology, spec.task, spec.budget, spec.seed, recorded=run)
    (result,) = run_virtual([again], no_model)
    assert len(looks) == before, "a replay calls no tool"
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@given(*drawn, st.booleans())
def test_a_virtual_run_is_replayed_to_the_last_figure(
    folder: Path,
    team: Any,
    router: Any,
    tokens: int | None,
    usd: str | None,
    calls: int,
    seconds: int | None,
    effort: int,
    mail: int | None,
    mood: int,
    failing: float,
    naps: bool,
) -> None:
    models = {n: Moody(n, failing=failing, latency_s=1.0, virtual=True, mood=mood) for n in "mn"}
    for model in models.values():
        model.naps = naps  # type: ignore[misc]
    budget = Budget(tokens=tokens, usd=usd, calls=calls, seconds=seconds)
    comes_back(team_of(team, router, effort, mail, LOOK), budget, models, folder)


def comes_back(team: Topology, budget: Budget, models: Mapping[str, ChatModel], folder: Path) -> None:
    """Whether a virtual run, as far as it passes its checks, is replayed to the last figure."""
    spec = TapedSpec("run", team, Task("How many?", answer="1"), budget, 7)
    notes: list[Note] = []
    try:
        (result,) = run_virtual([spec], models.__getitem__, notes)
    except ConfigError:
        return  # too small for one call and the finish

    recording = kept(notes, folder)
    again = replayed(recording.runs["run"], spec)

    assert recording.differences(again) == []
    assert (again.seconds, again.attempts) == (result.seconds, result.attempts), "virtual times too"


@given(teams, st.sampled_from([16, 40]), st.integers(2000, 12_000), st.integers(0, 10**6), st.booleans())
def test_what_there_was_no_room_for_near_the_budget_there_is_no_room_for_again(
    folder: Path, team: Any, mail: int, tokens: int, mood: int, in_dollars: bool
) -> None:
    """Summaries are asked for while they fit into a share, from which the price of calls is kept back that nobody made."""
    models = {"m": Moody("m", failing=0.05, latency_s=1.0, virtual=True, mood=mood)}
    budget = Budget(usd=f"{tokens * 2.5e-12:.15f}", calls=90) if in_dollars else Budget(tokens=tokens)
    comes_back(team_of(team, "m", 100, mail, LOOK), budget, models, folder)


@given(*drawn, st.integers(1, 4))
def test_a_live_run_is_replayed_whatever_came_first(
    folder: Path,
    team: Any,
    router: Any,
    tokens: int | None,
    usd: str | None,
    calls: int,
    seconds: int | None,
    effort: int,
    mail: int | None,
    mood: int,
    failing: float,
    places: int,
) -> None:
    models = {n: Moody(n, failing=failing, latency_s=0.0005, virtual=False, mood=mood) for n in "mn"}
    budget = Budget(tokens=tokens, usd=usd, calls=calls, seconds=None if seconds is None else seconds / 500)
    spec = TapedSpec("run", team_of(team, router, effort, mail, FAR_LOOK), Task("How many?", answer="1"), budget, 7)
    recorded = record_live(spec, models, places)
    if recorded is None:
        return
    result, note = recorded

    recording = kept([note], folder)
    again = replayed(recording.runs["run"], spec)

    assert recording.differences(again) == []
    assert canonical_bytes(again) == canonical_bytes(result)
    assert (again.virtual, again.deterministic, again.spend.total.virtual) == (True, "D1", True)


def record_live(spec: TapedSpec, models: Any, places: int) -> tuple[RunResult, Note] | None:
    """One life of a live run, recorded; None where it does not pass its checks."""
    from runtime.recorder import Recorder

    entries: list[Entry] = []

    async def disk(parts: Any) -> list[None]:
        await anyio.lowlevel.checkpoint()
        entries.extend(op for part in parts for op in part if isinstance(op, Entry))
        return [None] * len(parts)

    async def main() -> tuple[RunResult, Note] | None:
        tape = Recorder(spec)
        try:
            prepared = tape.prepare(models.__getitem__)
        except ConfigError:
            return None
        limiter = anyio.CapacityLimiter(places)
        journal = LiveJournal("run", BankClient(disk), Life(1, [], []), len(spec.budget.dimensions))
        run = Run(prepared, LoopClock(), journal, lambda model, need: Place(limiter), 1, tape=tape)
        tape.lay_into(run)
        result = await run.execute()
        assert run.ledger.scopes[SCOPE].open_holds == 0
        return result, tape.finish(result)

    return anyio.run(main)


class Place:
    """One caller's place at an endpoint."""

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self.limiter = limiter

    async def acquire(self) -> None:
        await self.limiter.acquire_on_behalf_of(self)

    def release(self, ended: object = None) -> None:
        self.limiter.release_on_behalf_of(self)


def test_the_drawn_runs_end_in_every_way() -> None:
    """Otherwise the properties above would say little."""
    ends: set[str] = set()
    for mood in range(80):
        models = {"m": Moody("m", failing=0.1, latency_s=1.0, virtual=True, mood=mood)}
        # Every other one has its mails summarised, with calls for it; for half of those there is time enough.
        mail, calls = (None, 5 + mood % 9) if mood % 2 else (16, 60)
        budget = Budget(tokens=2100 + 40 * mood, calls=calls, seconds=2 + mood % 12 if mood % 4 else None)
        team: Any = ("tools", lambda model: Star(5, model=model), lambda model: Independent(7, model=model))[mood % 3]
        spec = RunSpec(
            "run", team_of(team, "m", (300, 900)[mood // 3 % 2], mail, LOOK), Task("How many?", answer="1"), budget, 0
        )
        (result,) = run_virtual([spec], models.__getitem__)
        ends.add(result.status)
        ends.update(row.state for row in result.attempts)
        ends.update(ended_by(row) for row in result.attempts)
        ends.update(name for name in ("shrunk", "refusals") if result.metrics[name])
        over = any(row.input_tokens + row.output_tokens > row.held_tokens for row in result.attempts)
        ends.add("above its hold" if over else "")

    assert ends >= {"completed", "exhausted", "deadline", "failed", "settled", "charged_max", "released"}
    assert ends >= {"shrunk", "refusals", "above its hold", "a tool", "a summary", "a later try"}


def ended_by(row: Attempt) -> str:
    return "a later try" if row.try_ else f"a {row.kind}"
