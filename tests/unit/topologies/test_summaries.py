"""Mail that is summarised instead of clipped: told shorter by its reader, paid by its reader, and never at a finish's cost."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from benchmarks.metrics.channels import channels_of
from benchmarks.metrics.trace import trace_of
from benchmarks.tasks import companies
from policies import FixedPacing
from runtime.agents.agent import Agent
from runtime.agents.blocks import clip, read_blocks
from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Entry, Note
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.errors import ModelError, ModelRefused, ModelUnavailable
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Reply, Report, Verdict, bundle, reply_json
from runtime.models.base import ChatReply, ChatRequest, prompt_tokens
from runtime.models.recorded import RecordedAnswer, RecordedModel
from runtime.models.scripted import ScriptedModel
from runtime.models.simulated import Noise, SimulatedModel
from runtime.preflight import RunSpec, prepare
from runtime.protocols import FinishCall, Outcome, Team
from runtime.recording import Recording, canonical_bytes
from runtime.result import RunResult
from runtime.run import Run
from runtime.tape import TapedSpec
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Chain, Independent, Mesh, Star, Topology, Tree

TASK = Task("How many?", "42")
PLENTY = Budget(tokens=100_000)
SHORT = "Answer: 42\nWork: in short"
LONG = Report("42", "w" * 2000)
M = 50


class Wordy:
    """Reports at length, and tells a mail in few words. `told` holds what each request for a summary and for work said."""

    name, shrinkable, naps, window_tokens = "m", True, True, 1_000_000
    price: Price | None = Price(2, 3)

    def __init__(self, *, virtual: bool = True, summary: str | ModelError = SHORT) -> None:
        self.virtual = virtual
        self.summary = summary
        self.summaries: list[ChatRequest] = []
        self.works: list[ChatRequest] = []

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1)
        if request.reply:
            self.works.append(request)
            return ChatReply(reply_json(says(request)), Usage(prompt_tokens(request), 20))
        self.summaries.append(request)
        if isinstance(self.summary, ModelError):
            raise self.summary
        return ChatReply(self.summary, Usage(prompt_tokens(request), 10))


def says(request: ChatRequest) -> Reply:
    if request.reply == "plan":
        return Plan((Part("p" * 2000), Part("q")))
    return LONG if request.reply == "report" else Verdict("accept", "42", "r" * 2000)


class Relay(Topology):
    """One reports, the other reads it and reports as well."""

    def __init__(self) -> None:
        super().__init__("Relay", {"a": Agent("executor", model="m"), "b": Agent("verifier", model="m")})

    def channels(self) -> list[tuple[str, str]]:
        return [("a", "b")]

    async def solve(self, task: Task, team: Team) -> Outcome:
        return await team.ask("b", bundle(await team.ask("a", task)))


class Greedy(Relay):
    """Asks the first five times instead of once."""

    def finish(self) -> list[FinishCall]:
        return [FinishCall("b", 1)]

    async def solve(self, task: Task, team: Team) -> Outcome:
        for _ in range(5):
            report = await team.ask("a", task)
        return await team.ask("b", bundle(report), finish=True)


def summarising(topology: Topology, tokens: int = M, *, at_all: bool = True) -> Topology:
    """The topology with short messages, it and all in it."""
    topology.summarise, topology.message_tokens = at_all, tokens
    for member in topology.seats().values():
        if isinstance(member, Topology):
            summarising(member, tokens, at_all=at_all)
    return topology


def run(topology: Topology, model: Any, budget: Budget = PLENTY, task: Task = TASK, seed: int = 0) -> RunResult:
    return run_virtual([RunSpec("r", topology, task, budget, seed)], {"m": model}.__getitem__)[0]


def read(request: ChatRequest, *tags: str) -> list[str]:
    return [block.body for block in read_blocks(request.messages[-1].content) if block.tag in tags]


def test_a_mail_that_is_too_long_is_told_shorter_by_the_model_of_its_reader_and_paid_by_its_reader() -> None:
    model = Wordy()

    result = run(summarising(Star(2, model="m")), model)

    kinds = {seat: [a.kind for a in result.attempts if a.seat == seat] for seat in {a.seat for a in result.attempts}}
    assert kinds == {
        "planner": ["work"],
        "executor[0]": ["summary", "work"],  # of its part
        "executor[1]": ["work"],
        "verifier": ["summary", "summary", "work"],
    }
    senders = [a.senders for a in result.attempts if a.kind == "summary"]
    assert sorted(senders) == [("executor[0]",), ("executor[1]",), ("planner",)]
    first = next(request for request in model.summaries if read(request, "mail")[0].startswith("Answer"))
    assert (first.reply, first.max_tokens, read(first, "task"), read(first, "summary")) == (
        "",
        M,
        ["How many?"],
        ["50"],
    )
    assert read(first, "mail") == [f"Answer: 42\nWork: {'w' * 2000}"], "whole, for whoever is to shorten it"
    assert read(model.works[-1], "mail") == [SHORT, SHORT]
    assert (result.metrics["messages"], result.metrics["turns"]) == (4, 4)


def test_what_fits_is_delivered_as_it_is() -> None:
    model = Wordy()

    run(summarising(Star(2, model="m"), tokens=510), model)

    assert model.summaries == []
    assert all(len(body) > 2000 for body in read(model.works[-1], "mail"))


def test_a_summary_that_is_too_long_itself_is_clipped() -> None:
    model = Wordy(summary="Answer: 42 " + "s" * 1000)

    run(summarising(Star(2, model="m")), model)

    assert read(model.works[-1], "mail") == [clip("Answer: 42 " + "s" * 1000, M)] * 2


@pytest.mark.parametrize("failing", [ModelUnavailable("m", "down"), ModelRefused("m", 400, "too long"), ""])
def test_where_no_summary_can_be_had_the_mail_is_clipped(failing: Any) -> None:
    model = Wordy(summary=failing)

    result = run(summarising(Star(2, model="m")), model)

    assert (result.status, read(model.works[-1], "mail")) == (
        "completed",
        [clip(f"Answer: 42\nWork: {'w' * 2000}", M)] * 2,
    )


@pytest.mark.parametrize(
    "topology",
    [Star(3), Star(2, rounds=2), Chain(3), Tree(2, 2), Mesh(3), Independent(4, combine="best"), Star([Star(2)] * 2)],
    ids=lambda topology: topology.name,
)
@pytest.mark.parametrize("scarce", ["calls", "tokens"])
def test_summaries_cost_nobody_a_call_that_would_be_made_without_them(topology: Topology, scarce: str) -> None:
    """Neither those who finish, for whom something is kept, nor anybody else; at every budget from what they need without."""
    topology = topology.with_model("m")
    topology.pacing = FixedPacing(200)
    told, without = summarising(deepcopy(topology)), summarising(deepcopy(topology), at_all=False)
    seen = set()
    least, most = (run(team, Wordy()).spend.total for team in (without, told))
    low, high = (least.calls, 3 * most.calls) if scarce == "calls" else (2 * least.tokens, 8 * most.tokens)
    for amount in range(low, high, 1 + (high - low) // 40):
        budget = Budget(**{scarce: amount})
        plain, result = run(without, Wordy(), budget), run(told, Wordy(), budget)
        assert works(result) == works(plain), amount
        assert (result.status, result.answer) == ("completed", "42"), amount
        seen.add(sum(a.kind == "summary" for a in result.attempts))
    assert min(seen) < max(seen), "some budgets suffice for more of them than others"


def works(result: RunResult) -> list[tuple[str, str]]:
    return sorted((a.seat, a.kind) for a in result.attempts if a.kind == "work")


def test_a_summary_beyond_the_even_share_of_its_reader_is_not_asked_for() -> None:
    """Nine calls, of which one is kept for the verdict, are two for each of four asks."""
    model = Wordy()

    result = run(summarising(Star(2, model="m")), model, Budget(calls=9))

    assert [(a.seat, a.kind) for a in result.attempts].count(("verifier", "summary")) == 2
    few = Wordy()
    run(summarising(Star(2, model="m")), few, Budget(calls=6))
    assert read(few.works[-1], "mail") == [SHORT, clip(f"Answer: 42\nWork: {'w' * 2000}", M)]


def test_what_the_budget_refuses_is_clipped() -> None:
    """A seat that asks more often than it said has used up what its readers had to share."""
    topology, model = summarising(Greedy()), Wordy()

    result = run(topology, model, Budget(calls=6))

    assert (result.status, result.answer) == ("completed", "42")
    assert [a.kind for a in result.attempts if a.seat == "b"] == ["work"]
    assert read(model.works[-1], "mail") == [clip(f"Answer: 42\nWork: {'w' * 2000}", M)]


def test_what_enters_a_team_in_a_seat_has_no_one_reader_and_is_clipped() -> None:
    inner, model = Independent([Agent("executor", prompt="Inside.")]), Wordy()

    result = run(summarising(Star([inner, Agent("executor")], model="m")), model)

    inside = next(request for request in model.works if request.messages[0].content == "Inside.")
    assert read(inside, "part") == [clip("p" * 2000, M)]
    assert [(a.seat, a.senders) for a in result.attempts if a.kind == "summary"] == [("verifier", ("executor[1]",))]


@pytest.mark.parametrize("tokens", [3_000, 6_000, 9_000, 30_000])
def test_a_seed_decides_all_though_seats_compete_at_the_same_instant(tokens: int) -> None:
    topology = summarising(Mesh(4, rounds=2, model="m"))
    topology.pacing = FixedPacing(300)
    spec = RunSpec("r", topology, TASK, Budget(tokens=tokens), 3)

    results = run_virtual([spec] * 20, {"m": Wordy()}.__getitem__)

    assert len({result.to_json() for result in results}) == 1


def test_a_recording_of_summaries_and_of_refused_ones_is_replayed() -> None:
    for calls in (5, 6, 9):
        topology, budget, notes = summarising(Star(2, model="m")), Budget(calls=calls), list[Note]()
        (result,) = run_virtual([TapedSpec("r", topology, TASK, budget, 0)], {"m": Wordy()}.__getitem__, notes)
        recorded = recording_in(notes)

        (again,) = run_virtual([TapedSpec("r", topology, TASK, budget, 0, recorded=recorded.runs["r"])], {}.__getitem__)

        assert canonical_bytes(again) == canonical_bytes(result)


def recording_in(notes: list[Note]) -> Recording:
    import orjson

    from runtime.recording_file import _run

    kept = orjson.loads(notes[0].body)
    return Recording([_run(kept["run"], kept["asked"])])


# ---- live


async def life(disk: list[Entry], topology: Topology, model: Any, calls: int, more: int = 0) -> RunResult:
    """One life of a live run, over what earlier ones committed."""

    async def write(parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        for part in parts:
            disk.extend(op for op in part if isinstance(op, Entry))
        return [None] * len(parts)

    prepared = prepare(RunSpec("run", topology, TASK, Budget(calls=calls), 0), {"m": model}.__getitem__)
    epoch = 1 + max((entry.epoch for entry in disk), default=0)
    journal = LiveJournal("run", BankClient(write), Life(epoch, list(disk), []), 4)
    run = Run(prepared, LoopClock(), journal, lambda *_: None, epoch)
    run.earlier.extend(journal.history.restore(run.ledger, "run"))
    run.raised.append((0, 0, more, 0))
    return await run.execute()


def live(replies: Callable[[ChatRequest], Any] | None = None) -> ScriptedModel:
    def answers(request: ChatRequest) -> Any:
        return says(request) if request.reply else SHORT

    return ScriptedModel(replies or answers, input_tokens=60, output_tokens=40, name="m", virtual=False)


@pytest.mark.anyio
async def test_a_live_run_with_summaries_is_taken_up_again_after_any_of_its_commits() -> None:
    topology, whole = summarising(Star(2, model="m")), list[Entry]()
    first = await life(whole, topology, live(), 20)
    assert [a.kind for a in first.attempts].count("summary") == 3

    for cut in range(1, len(whole)):
        disk, model = whole[:cut], live()
        answered = sum(entry.state == "settled" for entry in disk)

        again = await life(disk, topology, model, 20)

        assert (again.status, again.answer) == ("completed", "42")
        assert model.served == 7 - answered, "what was told shorter before is not told again"


@pytest.mark.anyio
async def test_a_summary_that_was_refused_in_one_life_is_not_had_in_the_next_with_more_budget() -> None:
    """What was asked with the clipped mail stands in the journal, and would be another request with a summary."""
    topology, disk = summarising(Greedy()), list[Entry]()
    first = await life(disk, topology, live(), 6)
    kinds = [a.kind for a in first.attempts]
    assert (first.status, kinds.count("summary")) == ("completed", 0)

    again = await life(disk, topology, model := live(), 6, more=9)

    assert (again.status, again.answer, model.served) == ("completed", "42", 0)
    assert [a.kind for a in again.attempts] == kinds


# ---- models


def simulated(skill: float) -> SimulatedModel:
    noise = Noise(skill=skill, hit_ratio=1, catch_ratio=1, score_spread=0, correlation_ratio=0)
    speed = {"tokens_per_s": 100, "prefill_tokens_per_s": 1000}
    return SimulatedModel("m", (companies.SOLVER,), noise, price=None, window_tokens=20_000, **speed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("skill", "kept"), [(40, 1.0), (1, 0.841)])
def test_a_simulated_model_copies_an_answer_as_well_as_it_does_one_operation(skill: float, kept: float) -> None:
    """With 32 tokens to think, at a skill of 1, that is Φ(1) = .841; the channel's γ is 2 · .841 - 1."""
    team = summarising(Relay())
    team._seats = {"a": Agent("executor", model="strong"), "b": Agent("verifier", model="weak")}
    models, arrived = {"strong": simulated(40), "weak": simulated(skill)}, []
    for task in companies.generate(400):
        (result,) = run_virtual([RunSpec("r", team, task, PLENTY, 0)], models.__getitem__)
        (row,) = channels_of(trace_of(result, task), {"a": M, "b": M})
        assert (row["mails"], row["sent"], row["whole"]) == (1, 1, 1 - row["summarised"])
        arrived += [row["arrived"]] * row["summarised"]
    assert len(arrived) > 150
    assert set(arrived) <= {1, -1}
    assert arrived.count(1) / len(arrived) == pytest.approx(kept, abs=0.06)


def test_a_recorded_system_does_not_shorten_mail() -> None:
    model = RecordedModel("m", {TASK.prompt: RecordedAnswer("w" * 2000, "42", Usage(10, 10))}, price=None)
    team = summarising(Relay())
    team._seats = {seat: Agent("executor", model="m") for seat in "ab"}

    result = run(team, model)

    assert (result.status, result.answer, result.spend.total.tokens) == ("completed", "42", 40)
