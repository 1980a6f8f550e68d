"""A live run's journal: cut after any of its commits, the run is taken up again with its books in order."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from policies import StrategyAuction
from runtime.agents.agent import Agent
from runtime.agents.tools import Tool
from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Entry
from runtime.bank.vector import unpack
from runtime.budget import Budget
from runtime.clock import LoopClock
from runtime.errors import (
    BadModelReply,
    ModelError,
    ModelRateLimited,
    ModelRefused,
    OrchestrationError,
    RunHalted,
    StaleEpoch,
    StoreError,
)
from runtime.journal import Attempt
from runtime.messages import Bid, Part, Plan, Report, Verdict, Vote, bundle, reply_json
from runtime.models.base import ChatReply, ChatRequest, TokenLogprob, ToolCall
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec, prepare
from runtime.result import RunResult
from runtime.run import SCOPE, Run
from runtime.task import Task
from runtime.usage import Price, Usage
from topologies import Chain, Graph, Single, Star, Topology

pytestmark = pytest.mark.anyio


class Disk:
    """What was committed; it may refuse. As the store does, it takes each state of a try once."""

    def __init__(
        self,
        entries: Sequence[Entry] = (),
        refuses: Callable[[Entry], bool] = lambda entry: False,
        why: OrchestrationError = StoreError("disk", "full"),  # noqa: B008
    ) -> None:
        self.entries = list(entries)
        self.refuses = refuses
        self.why = why

    async def __call__(self, parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        return [self.take_in([op for op in part if isinstance(op, Entry)]) for part in parts]

    def take_in(self, entries: Sequence[Entry]) -> OrchestrationError | None:
        if any(map(self.refuses, entries)):
            return self.why
        for new in entries:
            for old in self.entries:
                if (old.key, old.try_, old.state) == (new.key, new.try_, new.state) and old.body != new.body:
                    return StoreError("disk", f"{new.key} was journalled with another content")
        self.entries.extend(entries)
        return None

    @property
    def epoch(self) -> int:
        """Of the life that comes next."""
        return 1 + max((entry.epoch for entry in self.entries), default=0)

    def up_to(self, n: int) -> "Disk":
        """What a crash after the n-th commit leaves."""
        return Disk(self.entries[:n])


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


class Place:
    """An endpoint with one place."""

    def __init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(1)

    def permit(self, model: object, need: object) -> Any:
        return _Borrowed(self.limiter)


class _Borrowed:
    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self.limiter = limiter

    async def acquire(self) -> None:
        await self.limiter.acquire_on_behalf_of(self)

    def release(self, ended: object = None) -> None:
        self.limiter.release_on_behalf_of(self)


def answer(request: ChatRequest) -> Any:
    return {
        "plan": Plan((Part("one half"), Part("the other half"))),
        "report": Report("42"),
        "verdict": Verdict("accept", "42"),
        "bid": Bid(("guess",)),
        "vote": Vote((1, 2)),
    }[request.reply]


def model(replies: Any = answer, name: str = "m") -> ScriptedModel:
    return ScriptedModel(replies, input_tokens=60, output_tokens=40, virtual=False, name=name)


async def life(
    disk: Disk,
    topology: Topology,
    *models: ScriptedModel,
    budget: Budget = Budget(tokens=10_000, tool_calls=99),  # noqa: B008
    clock: Any = None,
    permits: Callable[[Any, Any], Any] = lambda model, need: None,
) -> RunResult:
    spec = RunSpec("run", topology, Task("How many?", answer="42"), budget, 0)
    prepared = prepare(spec, {model.name: model for model in models}.__getitem__)
    epoch = disk.epoch
    journal = LiveJournal("run", BankClient(disk), Life(epoch, list(disk.entries), []), len(budget.dimensions))
    run = Run(prepared, clock or LoopClock(), journal, permits, epoch)
    run.earlier.extend(journal.history.restore(run.ledger, SCOPE))
    result = await run.execute()
    total = result.spend.total
    assert unpack(run.ledger.scopes[SCOPE].settled, 4) == (total.tokens, total.pico_usd, total.calls, total.tool_calls)
    return result


SEARCH = Tool("search", "Looks.", lambda: "seen", {}, units=lambda arguments: 2)


async def test_all_of_a_reply_and_of_its_usage_outlives_a_crash() -> None:
    """Policies may look at any part of a reply, so the next life must see each of them."""
    likely = (TokenLogprob("4", -0.1, (("4", -0.1), ("5", -2.5))), TokenLogprob("2", -0.2))
    usage = Usage(60, 40, cached_tokens=16, reasoning_tokens=30)
    reply = ChatReply(reply_json(Report("42")), usage, "length", (), True, likely)
    disk, said = Disk(), model([reply])

    await life(disk, Single(model="m"), said)
    (row,) = (await life(disk, Single(model="m"), said)).attempts

    assert said.served == 1
    assert (row.cached_tokens, row.reasoning_tokens, row.floored) == (16, 30, True)
    journal = LiveJournal("run", BankClient(disk), Life(2, list(disk.entries), []), 4)
    ((_, kept),) = journal.history.told.values()
    assert kept == reply


def with_tools() -> tuple[Topology, tuple[ScriptedModel, ...]]:
    def say(request: ChatRequest) -> Any:
        turns = sum(message.role == "tool" for message in request.messages)
        return answer(request) if turns == 2 else (ToolCall(f"call-{turns}", "search", "{}"),)

    return Single(Agent("executor", model="m", tools=(SEARCH,))), (model(say),)


def with_an_auction() -> tuple[Topology, tuple[ScriptedModel, ...]]:
    return Single(model=StrategyAuction("m", "n")), (model(), model(name="n"))


def with_a_repair() -> tuple[Topology, tuple[ScriptedModel, ...]]:
    def say(request: ChatRequest) -> Any:
        return "{" if len(request.messages) == 2 else answer(request)

    return Single(model="m"), (model(say),)


def with_an_unknown_usage() -> tuple[Topology, tuple[ScriptedModel, ...]]:
    def say(request: ChatRequest) -> Any:
        return ChatReply(reply_json(answer(request)), None if request.reply == "report" else Usage(60, 40))

    return Chain(2, model="m"), (model(say),)


def with_slashes() -> tuple[Topology, tuple[ScriptedModel, ...]]:
    nodes = {"team/a": Agent("executor"), "team/b/0": Agent("verifier")}
    return Graph(nodes, [("team/a", "team/b/0")], model="m"), (model(),)


@pytest.mark.parametrize(
    "team",
    [
        lambda: (Chain(2, model="m"), (model(),)),
        lambda: (Star(3, model="m"), (model(),)),
        with_tools,
        with_an_auction,
        with_a_repair,
        with_an_unknown_usage,
        with_slashes,
    ],
    ids=["chain", "star", "tools", "auction", "repair", "unknown usage", "slashes"],
)
async def test_a_run_cut_after_any_commit_is_taken_up_again(team: Callable[[], Any]) -> None:
    topology, models = team()
    disk = Disk()
    whole = await life(disk, topology, *models)
    assert whole.status == "completed"
    asked = sum(m.served for m in models)

    for n in range(len(disk.entries)):
        left = disk.up_to(n)
        topology, models = team()
        sent = {(entry.key, entry.try_) for entry in left.entries}
        closed = {(entry.key, entry.try_) for entry in left.entries if entry.state != "sent"}
        answered = sum(entry.state != "sent" and b'"tool"' not in entry.body for entry in left.entries)
        result = await life(left, topology, *models)

        assert (result.status, result.answer) == ("completed", whole.answer)
        assert len(result.attempts) == len(whole.attempts) + len(sent - closed), "a lost call is there beside its retry"
        assert sum(m.served for m in models) == asked - answered, "what was answered is not asked again"
        total = result.spend.total
        assert total.tokens == 100 * total.calls
        assert total.tool_calls == sum(a.units for a in result.attempts if a.kind == "tool")
        again = await life(Disk(left.entries), *_anew(team))
        assert (again.spend.total, again.answer) == (total, result.answer), "a third life finds nothing to do"


def _anew(team: Callable[[], Any]) -> tuple[Any, ...]:
    topology, models = team()
    return (topology, *models)


async def test_a_tool_call_that_was_lost_is_charged_with_its_units_as_a_tool_call() -> None:
    topology, models = with_tools()
    disk = Disk()
    await life(disk, topology, *models)
    (nth, *_) = (n for n, entry in enumerate(disk.entries) if b'"tool"' in entry.body)
    result = await life(disk.up_to(nth + 1), *_anew(with_tools))

    lost, *_ = (a for a in result.attempts if a.state == "charged_max")
    assert (lost.kind, lost.model, lost.units) == ("tool", "search", 2)
    assert (result.spend.by_model["search"].tool_calls, result.spend.total.calls) == (6, 3)


async def test_cached_tokens_are_remembered() -> None:
    """They decide what routing has cost, and so the effort of the work that follows."""

    class Cached(ScriptedModel):
        shrinkable = True

        def bound(self, request: ChatRequest) -> Usage:
            return Usage(60, request.max_tokens)

        async def complete(self, request: ChatRequest) -> ChatReply:
            return ChatReply(reply_json(answer(request)), Usage(60, 40, 50))

    def priced() -> list[ScriptedModel]:
        models: list[ScriptedModel] = [Cached(answer, virtual=False, name=name) for name in "mn"]
        for one in models:
            one.price = Price(10**9, 10**9, 0, 10)
        return models

    topology, disk = Single(model=StrategyAuction("m", "n")), Disk()
    whole = await life(disk, topology, *priced(), budget=Budget(usd=2))
    again = await life(disk.up_to(len(disk.entries)), topology, *priced(), budget=Budget(usd=2))

    assert (whole.status, whole.attempts[-1].kind) == ("completed", "work")
    assert whole.attempts[-1].wanted_tokens < 2000 - 60, "routing was paid out of the same share"
    assert (again.status, again.spend.total) == ("completed", whole.spend.total)


async def test_what_never_left_because_the_journal_refused_it_costs_nothing() -> None:
    disk = Disk(refuses=lambda entry: entry.state == "sent")
    m = model()
    result = await life(disk, Single(model="m"), m)

    assert (result.status, result.reason, m.served) == ("failed", "disk: full", 0)
    assert [a.state for a in result.attempts] == ["released"]
    assert result.spend.total.tokens == 0
    assert (await life(disk.up_to(9), Single(model="m"), model())).status == "completed"


def barring(nth: int, why: OrchestrationError) -> tuple[Callable[[Entry], bool], OrchestrationError]:
    """Lets the n-th `sent` of a life be the first that is refused; what ends an attempt is always taken."""
    seen: list[Entry] = []

    def refuses(entry: Entry) -> bool:
        seen.extend([entry] if entry.state == "sent" else [])
        return entry.state == "sent" and len(seen) >= nth

    return refuses, why


@pytest.mark.parametrize("why", [RunHalted("run", "paused"), StaleEpoch("run", 1, 2)])
async def test_of_an_attempt_that_was_barred_the_journal_says_nothing(why: OrchestrationError) -> None:
    """By that name another host, or a later life, makes it; it must not be told that the attempt was given back."""
    disk = Disk([], *barring(2, why))
    with pytest.raises(type(why)):
        await life(disk, Chain(1, model="m"), model())

    assert [entry.state for entry in disk.entries] == ["sent", "settled"]


async def test_a_run_that_is_halted_again_and_again_loses_none_of_its_charges() -> None:
    """One call a life. Each call is barred once before it is made, and the next life starts from the journal alone."""
    disk, served = Disk(), 0
    for _ in range(3):
        m = model()
        disk = Disk(disk.entries, *barring(2, RunHalted("run", "paused")))
        with pytest.raises(RunHalted):
            await life(disk, Chain(2, model="m"), m)
        served += m.served
    m = model()
    result = await life(Disk(disk.entries), Chain(2, model="m"), m)

    assert (result.status, result.spend.total.tokens, served + m.served) == ("completed", 400, 4)
    assert [a.state for a in result.attempts] == ["settled"] * 4


async def test_a_call_that_was_barred_may_fail_for_nothing_in_a_later_life() -> None:
    """An endpoint's 429 closes the attempt as given back, which an entry of the earlier life must not contradict."""
    disk = Disk([], *barring(1, RunHalted("run", "paused")))
    with pytest.raises(RunHalted):
        await life(disk, Single(model="m"), model())
    turns = 0

    def say(request: ChatRequest) -> Any:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ModelRateLimited("m", 0.0)
        return answer(request)

    result = await life(Disk(disk.entries), Single(model="m"), model(say))

    assert (result.status, result.spend.total.tokens) == ("completed", 100)
    assert [a.state for a in result.attempts] == ["released", "settled"]


async def test_a_journal_that_knows_the_end_of_an_attempt_before_its_beginning_is_folded_all_the_same() -> None:
    """One life was cancelled while the store refused its `sent`; a later one made the attempt under the same name."""
    disk = Disk()
    await life(disk, Single(model="m"), model())
    sent, settled = disk.entries
    said = orjson.loads(settled.body)
    said["row"][Attempt._fields.index("state")] = "released"
    early = settled._replace(state="released", body=orjson.dumps(said | {"charged": None, "reply": None}))
    m = model()
    result = await life(Disk([early, sent, settled]), Single(model="m"), m)

    assert (result.status, result.spend.total.tokens, m.served) == ("completed", 100, 0)


async def test_what_is_cancelled_under_way_is_journalled_all_the_same() -> None:
    stuck, disk = anyio.Event(), Disk()

    class Stuck(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            stuck.set()
            await anyio.sleep_forever()
            raise AssertionError

    async with anyio.create_task_group() as group:
        group.start_soon(life, disk, Single(model="m"), Stuck(answer, input_tokens=100, virtual=False, name="m"))
        await stuck.wait()
        group.cancel_scope.cancel()

    assert [entry.state for entry in disk.entries] == ["sent", "charged_max"]
    result = await life(Disk(disk.entries), Single(model="m"), model())
    assert [a.state for a in result.attempts] == ["charged_max", "settled"]


async def test_the_time_of_all_lives_counts() -> None:
    """Three lives of four seconds each; what passes between them is nobody's."""
    clock, disk = Clock(), Disk()

    def say(request: ChatRequest) -> Any:
        clock.time_s += 4
        return answer(request)

    for lived in (1, 2):
        await life(disk, Chain(1, model="m"), model(say), clock=clock)
        disk = disk.up_to(2 * lived)
        clock.time_s += 1000
    result = await life(disk, Chain(1, model="m"), model(say), clock=clock)

    assert [(a.began_s, a.ended_s) for a in result.attempts] == [(4, 8), (0, 4), (8, 12)]
    assert result.seconds == 12


async def test_the_deadline_counts_from_the_first_life() -> None:
    clock, disk = Clock(), Disk()

    def say(request: ChatRequest) -> Any:
        clock.time_s += 4
        return answer(request)

    for lived in (1, 2):
        await life(disk, Chain(1, model="m"), model(say), clock=clock, budget=Budget(seconds=1000))
        disk = disk.up_to(2 * lived)
    result = await life(disk, Chain(1, model="m"), model(say), clock=clock, budget=Budget(seconds=8))

    assert result.status == "deadline"
    assert sorted(a.state for a in result.attempts) == ["released", "settled", "settled"], "nothing left after it"


async def test_who_waits_for_budget_at_the_deadline_ends_with_the_deadline() -> None:
    """It has given its place at the endpoint back, so it has none to give back when it is cancelled."""

    class Stuck(ScriptedModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            await anyio.sleep_forever()
            raise AssertionError

    stuck = Stuck(answer, input_tokens=100, virtual=False, name="m")
    places = {"m": anyio.CapacityLimiter(2)}
    result = await life(
        Disk(),
        Star(2, model="m"),
        stuck,
        budget=Budget(tokens=250, seconds=0.05),
        permits=lambda m, need: _Borrowed(places["m"]),
    )

    assert (result.status, places["m"].borrowed_tokens) == ("deadline", 0)


async def test_a_place_is_free_again_whatever_became_of_its_call() -> None:
    place = Place()
    results = [
        await life(Disk(), Star(2, model="m"), m, budget=Budget(tokens=tokens), permits=place.permit)
        for m in (model(), model(lambda request: "{"))
        for tokens in (10_000, 300, 200)
    ]

    assert {result.status for result in results} == {"completed", "exhausted", "failed"}
    assert place.limiter.borrowed_tokens == 0


async def test_other_words_under_the_name_of_a_run_are_refused() -> None:
    disk = Disk()
    await life(disk, Single(model="m"), model())

    result = await life(disk, Single(Agent("executor", model="m", prompt="Other words.")), model())

    assert result.status == "failed"
    assert result.reason.startswith("run run: the request of step 0 of agent differs from the one in the store")


class Reader(Topology):
    """Three seats are asked at once, and a fourth is told what came of it."""

    def __init__(self) -> None:
        seats = {"few": Agent("executor", model="m"), "many": Agent("executor", model="big")}
        super().__init__("Reader", {**seats, "last": Agent("verifier", model="m")})

    def channels(self) -> list[tuple[str, str]]:
        return [("few", "last"), ("many", "last")]

    async def solve(self, task: Task, team: Any) -> Any:
        replies = await team.ask_all([("few", task), ("many", task)])
        return await team.ask("last", bundle([reply for reply in replies if isinstance(reply, Report)]))


async def test_what_was_refused_once_is_refused_in_every_later_life() -> None:
    """Budget has come since: but the reader's prompt stands in the journal, without the report that was refused."""

    def models() -> tuple[ScriptedModel, ...]:
        return model(), ScriptedModel(answer, input_tokens=60, output_tokens=2_000, virtual=False, name="big")

    disk = Disk()
    whole = await life(disk, Reader(), *models(), budget=Budget(tokens=1_000))
    (refused,) = (n for n, entry in enumerate(disk.entries) if entry.state == "unanswered")
    assert (whole.status, whole.metrics["refusals"]) == ("completed", 1)

    for n in range(refused + 1, len(disk.entries)):
        left, again = disk.up_to(n), models()
        result = await life(left, Reader(), *again, budget=Budget(tokens=9_000))

        assert (result.status, result.answer, result.metrics["refusals"]) == ("completed", "42", 1)
        assert again[1].served == 0


async def test_a_refusal_that_nobody_was_told_of_is_none() -> None:
    """The life ended before: nothing rests on it, so what has come since may be used."""
    disk = Disk(refuses=lambda entry: entry.state == "unanswered")
    big = ScriptedModel(answer, input_tokens=60, output_tokens=2_000, virtual=False, name="big")
    assert (await life(disk, Reader(), model(), big, budget=Budget(tokens=1_000))).reason == "disk: full"

    result = await life(disk.up_to(9), Reader(), model(), big, budget=Budget(tokens=9_000))

    assert (result.status, result.metrics["refusals"], big.served) == ("completed", 0, 1)


async def test_what_a_users_model_raised_once_has_failed_in_every_later_life() -> None:
    """The others were heard, and the reader's prompt stands in the journal."""

    def breaks(request: ChatRequest) -> Any:
        raise ZeroDivisionError("a bug of the user's")

    disk = Disk()
    broken, works = (ScriptedModel(does, input_tokens=60, virtual=False, name="big") for does in (breaks, answer))
    whole = await life(disk, Reader(), model(), broken)
    (raised,) = (n for n, entry in enumerate(disk.entries) if entry.state == "unanswered")
    assert (whole.status, whole.answer) == ("completed", "42")

    for n in range(raised + 1, len(disk.entries)):
        assert (await life(disk.up_to(n), Reader(), model(), works)).status == "completed"
    assert works.served == 0


@pytest.mark.parametrize(
    "error",
    [ModelRefused("n", 400, "too long"), BadModelReply("n", "cut off", (60, 40)), BadModelReply("n", "no JSON")],
)
async def test_a_bidder_that_failed_has_failed_in_every_later_life(error: ModelError) -> None:
    """It answers by now, but the award stands in the journal, made without its bid."""

    def fails(request: ChatRequest) -> Any:
        raise error

    topology, disk = Chain(1, model=StrategyAuction("m", "n")), Disk()
    whole = await life(disk, topology, model(), model(fails, "n"))
    told = [n for n, entry in enumerate(disk.entries) if entry.state == "unanswered"]
    assert (whole.status, len(told) > 0) == ("completed", True)

    for n in range(len(disk.entries)):
        if disk.entries[n].state == "unanswered" and isinstance(error, BadModelReply) and error.usage:
            continue  # it is in one commit with the entry before it
        result = await life(disk.up_to(n), topology, model(), model(fails, "n"))

        assert (result.status, result.reason) == ("completed", "")
    up = model(name="n")
    assert (await life(disk, topology, model(), up)).spend.total == whole.spend.total
    assert up.served == 0


async def test_a_lost_life_counts_up_to_its_last_entry() -> None:
    """Killed while its second call was out: how long that had been is in no journal."""
    clock, disk = Clock(), Disk()

    def say(request: ChatRequest) -> Any:
        clock.time_s += 4
        return answer(request)

    await life(disk, Chain(2, model="m"), model(say), clock=clock)
    result = await life(disk.up_to(3), Chain(2, model="m"), model(say), clock=clock)

    times = [(a.began_s, a.ended_s) for a in result.attempts if a.seat != "planner"]
    assert times == [(4, 4), (4, 8), (8, 12), (12, 16)], "the lost call, and its next try"


class Consults(Topology):
    """A boss whose tool asks a helper, which the topology asks itself later on."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        tool = Tool("consult", "Asks.", self.consult, {}, virtual=False)
        boss = Agent("executor", model="boss", tools=(tool,))
        super().__init__("Consults", {"boss": boss, "helper": Agent("executor", model="m")})

    async def consult(self) -> str:
        team, task = self.asked[-1]
        return (await team.ask("helper", task)).answer  # type: ignore[no-any-return]

    async def solve(self, task: Task, team: Any) -> Any:
        self.asked.append((team, task))
        await team.ask("boss", task)
        return await team.ask("helper", bundle(part=Part("and something else")))


def consulting(twice: bool = True) -> ScriptedModel:
    def say(request: ChatRequest) -> Any:
        turns = sum(message.role == "tool" for message in request.messages)
        return answer(request) if turns > twice else (ToolCall(f"call-{turns}", "consult", "{}"),)

    return model(say, "boss")


async def test_what_a_tool_asked_an_agent_is_not_asked_again_and_what_follows_keeps_its_name() -> None:
    """Answered from the journal, the tool is not called; its helper goes on where it was all the same."""
    disk = Disk()
    whole = await life(disk, Consults(), consulting(), model())
    assert (whole.status, whole.spend.total.calls, whole.spend.total.tool_calls) == ("completed", 6, 2)

    for n in range(len(disk.entries)):
        result = await life(disk.up_to(n), Consults(), consulting(), model())

        lost = sum(a.state == "charged_max" for a in result.attempts)
        assert (result.status, result.reason, lost <= 2) == ("completed", "", True)
    boss, helper = consulting(), model()
    assert (await life(disk, Consults(), boss, helper)).spend.total == whole.spend.total
    assert (boss.served, helper.served) == (0, 0)


async def test_a_model_that_failed_inside_a_tool_has_failed_in_every_later_life() -> None:
    """The tool is not called again, which would cost again and might come to another end."""

    class Hears(Consults):
        async def solve(self, task: Task, team: Any) -> Any:
            self.asked.append((team, task))
            await team.ask_all([("boss", task)])
            return "heard"

    def fails(request: ChatRequest) -> Any:
        raise ModelRefused("m", 400, "too long")

    budget, disk = Budget(tokens=10_000, tool_calls=1), Disk()
    whole = await life(disk, Hears(), consulting(), model(fails), budget=budget)
    assert (whole.answer, whole.metrics["failures"], whole.spend.total.tool_calls) == ("heard", 1, 1)

    again = await life(disk, Hears(), consulting(), model(), budget=budget)

    assert (again.answer, again.metrics["failures"], again.spend.total) == ("heard", 1, whole.spend.total)


class OutOfCredit(ModelRefused):
    """A user's own kind of a failure."""

    def __init__(self, model: str) -> None:
        super().__init__(model, 402, "no credit")


class Odd(ModelRefused):
    """Keeps arguments of its own."""

    def __init__(self) -> None:
        Exception.__init__(self, {"no": "JSON"}, object())
        self.model, self.status, self.text = "n", 402, "odd \ud800"


@pytest.mark.parametrize("error", [OutOfCredit("n"), Odd(), ModelRefused("n", 400, "lone \ud800")])
async def test_an_error_of_a_users_own_class_is_journalled_as_the_one_of_ours_that_it_is(error: ModelError) -> None:
    def fails(request: ChatRequest) -> Any:
        raise error

    topology, disk = Chain(1, model=StrategyAuction("m", "n")), Disk()
    whole = await life(disk, topology, model(), model(fails, "n"))

    again = await life(disk, topology, model(), model(name="n"))

    assert (again.status, again.answer, again.spend.total) == ("completed", "42", whole.spend.total)


async def test_a_bill_that_comes_when_another_host_has_the_run_is_kept_though_its_reply_is_of_no_use() -> None:
    """The fence bars what the asker is told; what was charged counts from any epoch."""

    def cut_off(request: ChatRequest) -> Any:
        raise BadModelReply("m", "cut off", (60, 30))

    disk = Disk(refuses=lambda entry: entry.state == "unanswered", why=StaleEpoch("run", 1, 2))
    with pytest.raises(StaleEpoch):
        await life(disk, Single(model="m"), model(cut_off))

    assert [entry.state for entry in disk.entries] == ["sent", "settled"]
    assert orjson.loads(disk.entries[1].body)["charged"][0] == 90
