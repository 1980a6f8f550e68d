"""Whole runs on virtual time: who is served under one shared budget, how a run ends, and that a seed decides all of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import anyio
import pytest

from policies import FixedPacing
from runtime.agents.agent import Agent
from runtime.budget import Budget
from runtime.errors import ConfigError, OrchestrationError
from runtime.host import run_virtual
from runtime.ids import draw
from runtime.messages import Part, Plan, Refusal, Reply, Report, Verdict, bundle, reply_json
from runtime.models.base import ChatModel, ChatReply, ChatRequest, prompt_tokens
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.protocols import Answer, FinishCall, Outcome, Team
from runtime.result import RunResult
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Chain, Graph, Independent, Single, Star, Topology, Tree

TASK = Task("How many?", answer="42")
Solve = Callable[[Task, Team], Awaitable[Outcome]]


def as_asked(request: ChatRequest) -> Reply:
    """The right kind of reply, and the right answer."""
    replies: Mapping[str, Reply] = {
        "plan": Plan(tuple(Part(f"part {i}") for i in range(6))),
        "report": Report("42"),
        "verdict": Verdict("accept", "42"),
    }
    return replies[request.reply]


def scripted(replies: Any = as_asked, tokens: int = 0, **more: Any) -> ScriptedModel:
    return ScriptedModel(replies, input_tokens=tokens, name="m", **more)


def run(topology: Topology, model: ChatModel, budget: Budget, *, seed: int = 0, task: Task = TASK) -> RunResult:
    return run_virtual([RunSpec("run", topology, task, budget, seed)], {"m": model}.__getitem__)[0]


class Own(Topology):
    """A user's topology: seats a, b, c, and the function that is its solve."""

    def __init__(self, solve: Solve, channels: tuple[tuple[str, str], ...] = (), **agents: Agent) -> None:
        super().__init__("own", agents or dict.fromkeys("abc", Agent("executor", model="m")))
        self._solve, self._channels = solve, channels

    def channels(self) -> tuple[tuple[str, str], ...]:
        return self._channels

    async def solve(self, task: Task, team: Team) -> Outcome:
        return await self._solve(task, team)


class Shrinkable:
    """A model that thinks as long as it may, or less, by the draw of its seed; every call takes one second."""

    name, virtual, shrinkable, window_tokens = "m", True, True, 100_000
    price: Price | None = Price(2, 3)

    def __init__(self, *, naps: bool = False) -> None:
        self.naps = naps

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(prompt_tokens(request), request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1)
        used = int(request.max_tokens * (0.2 + 0.8 * draw(request.seed, "used")))
        reply = as_asked(request)
        if isinstance(reply, Report):
            reply = replace(reply, answer=str(request.seed % 3 + 41))
        return ChatReply(reply_json(reply), Usage(prompt_tokens(request), used))


# --- one budget for all


@pytest.mark.parametrize("n", [2, 8, 32, 200, 1000])
def test_however_many_ask_at_once_only_what_the_budget_pays_for_is_served(n: int) -> None:
    """2,500 tokens, 1,000 a call."""
    model = ScriptedModel(as_asked, input_tokens=600, output_tokens=400, name="m")
    result = run(Independent(n, model="m"), model, Budget(tokens=2500))

    assert (model.served, result.spend.total.tokens, result.overspent) == (2, 2000, False)
    assert (result.answer, result.correct) == ("42", True)
    if n == 2:
        assert (result.status, result.reason) == ("completed", "")
    else:
        assert (result.status, result.reason) == ("exhausted", "agent[2]: run: 1000 tokens needed, 500 left")
        assert result.metrics["refusals"] == n - 2


@pytest.mark.parametrize("naps", [True, False], ids=["driven", "tasks"])
@pytest.mark.parametrize(
    ("topology", "budget"),
    [
        (Star(6, model="m"), Budget(tokens=4200)),
        (Star(6, model="m"), Budget(usd="0.00000001")),
        (Tree(2, 2, model="m"), Budget(tokens=5500)),
        (Tree(2, 2, model="m"), Budget(calls=8)),
        (Independent(9, model="m"), Budget(tokens=1500)),
        (Independent(9, model="m"), Budget(calls=20, seconds=1)),
        (Chain(3, model="m"), Budget(tokens=1800)),
        (
            Graph(
                {**{f"n{i}": Agent("executor") for i in range(5)}, "last": Agent("verifier")},
                [(f"n{i}", "last") for i in range(5)],
                model="m",
            ),
            Budget(tokens=2400),
        ),
    ],
    ids=lambda value: value.describe() if isinstance(value, Budget) else value.name,
)
def test_a_seed_decides_everything_about_a_run(topology: Topology, budget: Budget, naps: bool) -> None:
    """All calls take the same time, so they end at the same instant, and the loop wakes its tasks in random order."""
    topology.pacing = FixedPacing(500)  # more than the even share, so that seats compete
    model = Shrinkable(naps=naps)
    results = [run(topology, model, budget, seed=7) for _ in range(50)]

    assert len({result.to_json() for result in results}) == 1
    metrics = results[0].metrics
    assert metrics["shrunk"] or metrics["refusals"] or results[0].status == "deadline", "the budget was not tight"
    assert not results[0].overspent


def test_another_seed_is_another_run() -> None:
    spends = {run(Independent(3, model="m"), Shrinkable(), Budget(calls=3), seed=seed).spend.total for seed in range(9)}

    assert len(spends) == 9


def test_each_seat_has_its_own_seed_and_a_retry_or_a_neighbour_changes_none() -> None:
    def seeds(topology: Topology) -> dict[str, int]:
        asked: dict[str, int] = {}

        def note(request: ChatRequest) -> Reply:
            asked[request.messages[0].content] = request.seed
            return as_asked(request)

        run(topology, scripted(note), Budget(calls=20), seed=5)
        return asked

    few = seeds(Independent([Agent("executor", model="m", prompt=str(i)) for i in range(3)]))
    many = seeds(Independent([Agent("executor", model="m", prompt=str(i)) for i in range(9)]))

    assert len(set(many.values())) == 9, "seats"
    assert {prompt: many[prompt] for prompt in few} == few


@pytest.mark.parametrize(
    ("budget", "served"),
    [
        (Budget(tokens=3500), 3),
        (Budget(usd="0.35"), 3),
        (Budget(usd=0.3), 3),
        (Budget(usd="0.299999999999"), 2),
        (Budget(calls=3), 3),
        (Budget(calls=3, tokens=2999), 2),
        (Budget(seconds=3.5), 4),  # the fourth was under way
        (Budget(seconds=3.5, calls=2), 2),
    ],
    ids=lambda value: value.describe() if isinstance(value, Budget) else str(value),
)
def test_every_limit_binds(budget: Budget, served: int) -> None:
    async def until_refused(task: Task, team: Team) -> Outcome:
        while True:
            report = await team.ask("a", task)
            team.offer(report if isinstance(report, Report) else None)

    model = scripted(tokens=1000, usd="0.1", latency_s=1)
    result = run(Own(until_refused), model, budget)

    assert model.served == served
    assert result.status == ("deadline" if served == 4 else "exhausted")
    assert (result.answer, result.correct, result.overspent) == ("42", True, False)
    total = result.spend.total
    assert (total.tokens, total.pico_usd, total.calls) == (1000 * served, 10**11 * served, served)


def test_a_limit_of_zero_lets_nothing_through() -> None:
    with pytest.raises(ConfigError, match="too small for one call"):
        run(Single(model="m"), scripted(), Budget(calls=0))


def test_each_step_of_a_seat_has_its_own_seed() -> None:
    seeds: list[int] = []

    async def three(task: Task, team: Team) -> Outcome:
        await team.ask("a", task)
        await team.ask("a", task)
        return await team.ask("a", task)

    def note(request: ChatRequest) -> Reply:
        seeds.append(request.seed)
        return as_asked(request)

    run(Own(three), scripted(note), Budget(calls=3))

    assert len(set(seeds)) == 3


# --- how runs end


def test_the_deadline_returns_what_was_offered_and_charges_what_was_under_way() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        team.offer(Answer("42"))
        return (await team.ask_all([("a", task), ("b", task)]))[0]

    result = run(Own(solve), scripted(tokens=10, latency_s=9), Budget(seconds=5, tokens=100))

    assert (result.status, result.reason) == ("deadline", "the deadline of 5 s passed")
    assert (result.answer, result.correct, result.seconds) == ("42", True, 5)
    assert {attempt.state for attempt in result.attempts} == {"charged_max"}
    assert result.spend.total.tokens == result.metrics["charged_max_tokens"] == 20


def test_a_reply_that_comes_at_the_very_instant_of_the_deadline_is_too_late() -> None:
    results = [run(Independent(3, model="m"), scripted(latency_s=5), Budget(seconds=5)) for _ in range(20)]

    assert {(result.status, result.answer) for result in results} == {("deadline", None)}


async def _raises(task: Task, team: Team) -> Outcome:
    raise KeyError("a slip")


async def _returns_a_number(task: Task, team: Team) -> Outcome:
    return 42  # type: ignore[return-value]


async def _exits(task: Task, team: Team) -> Outcome:
    raise SystemExit(3)


async def _raises_in_its_own_group(task: Task, team: Team) -> Outcome:
    async with anyio.create_task_group() as group:
        group.start_soon(_raises, task, team)
        group.start_soon(anyio.sleep, 10)
    return None


async def _raises_while_it_is_cancelled(task: Task, team: Team) -> Outcome:
    async def child() -> None:
        try:
            await anyio.sleep(100)
        finally:
            raise KeyError("a slip")

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(anyio.sleep, 100)
    return None


@pytest.mark.parametrize(
    ("solve", "reason"),
    [
        (_raises, "topology own raised KeyError: 'a slip'"),
        (_exits, "topology own raised SystemExit: 3"),
        (_returns_a_number, "topology own returned a int, which is no answer"),
        (_raises_in_its_own_group, "topology own raised KeyError: 'a slip'"),
        (_raises_while_it_is_cancelled, "topology own raised KeyError: 'a slip'"),
    ],
)
def test_an_error_of_the_users_own_code_is_a_failed_run_not_an_error(solve: Solve, reason: str) -> None:
    async def offers_first(task: Task, team: Team) -> Outcome:
        team.offer(await team.ask("a", task))
        return await solve(task, team)

    result = run(Own(offers_first), scripted(tokens=10), Budget(seconds=5))

    assert (result.status, result.reason) == ("failed", reason)
    assert (result.answer, result.correct, result.spend.total.tokens) == ("42", True, 10)


def test_a_checker_that_raises_fails_the_run_and_keeps_the_answer() -> None:
    def checker(answer: str) -> bool:
        return int(answer) == 42

    result = run(Single(model="m"), scripted(["forty-two"]), Budget(calls=1), task=Task("How many?", checker=checker))

    assert (result.status, result.answer, result.correct) == ("failed", "forty-two", None)
    assert "raised ValueError" in result.reason


def test_a_topology_may_have_its_own_task_group() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        replies: dict[str, Any] = {}

        async def ask(seat: str) -> None:
            replies[seat] = await team.ask(seat, task)

        async with anyio.create_task_group() as group:
            for seat in "abc":
                group.start_soon(ask, seat)
        return replies["b"]  # type: ignore[no-any-return]

    results = [run(Own(solve), Shrinkable(), Budget(tokens=900), seed=1) for _ in range(20)]

    assert {result.status for result in results} == {"completed"}
    assert len({result.to_json() for result in results}) == 1


def test_a_refusal_that_escapes_ends_the_run_exhausted_and_one_that_is_caught_does_not() -> None:
    async def catches(task: Task, team: Team) -> Outcome:
        replies = await team.ask_all([("a", task), ("b", task), ("c", task)])
        assert [isinstance(reply, Refusal) for reply in replies] == [False, True, True]
        return replies[0]

    async def does_not(task: Task, team: Team) -> Outcome:
        team.offer(await team.ask("a", task))
        return await team.ask("b", task)

    caught, escaped = (run(Own(solve), scripted(), Budget(calls=1)) for solve in (catches, does_not))

    assert (caught.status, caught.answer) == ("completed", "42")
    assert (escaped.status, escaped.answer) == ("exhausted", "42")
    assert escaped.reason == "run: 1 calls needed, 0 left"


def test_a_run_goes_on_after_an_error_that_its_topology_catches() -> None:
    """The neighbour of the one that failed comes to its end first, so that a tie between errors decides nothing."""

    async def solve(task: Task, team: Team) -> Outcome:
        await team.ask("a", task)
        with pytest.raises(OrchestrationError):
            await team.ask_all([("a", task), ("b", bundle(Report("", sender="c")))])  # a goes on; b has no such channel
        return await team.ask("c", task)

    result = run(Own(solve), scripted(tokens=100, latency_s=1), Budget(tokens=320))

    assert (result.status, result.spend.total.tokens) == ("completed", 300)


def test_mail_along_no_channel_fails_the_run() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        report = await team.ask("a", task)
        assert isinstance(report, Report)
        return await team.ask("b", bundle(report))

    refused, allowed = (run(Own(solve, channels), scripted(), Budget(calls=9)) for channels in ((), (("a", "b"),)))

    assert (refused.status, refused.reason) == (
        "failed",
        "no channel from 'a' to 'b'; declare it in channels()",
    )
    assert (allowed.status, allowed.metrics["messages"]) == ("completed", 1)


def test_an_unknown_seat_fails_the_run() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        return await team.ask("nobody", task)

    result = run(Own(solve), scripted(), Budget(calls=9))

    assert (result.status, result.reason) == ("failed", "no seat 'nobody' in this team; it has a, b, c")


def test_a_seat_may_not_pass_for_the_task() -> None:
    """Mail from the task needs no channel."""
    graph = Graph({"task": Agent("executor"), "last": Agent("verifier")}, [("task", "last")], model="m")

    with pytest.raises(ConfigError, match="no seat may be named 'task'"):
        run(graph, scripted(), Budget(calls=9))


# --- what is kept for the end


def test_a_finishing_call_is_served_whatever_the_others_would_have_taken() -> None:
    """Five calls: planner and verifier leave three for six executors."""
    result = run(
        Star(6, model="m"),
        scripted([Plan((Part("x"),) * 6), *[Report("42")] * 3, Verdict("accept", "42")]),
        Budget(calls=5),
    )

    assert (result.status, result.answer) == ("completed", "42")
    assert [a.seat for a in result.attempts if a.step == 0][-1] == "verifier"


def test_a_seat_that_finishes_twice_is_kept_back_for_twice() -> None:
    class Twice(Own):
        def finish(self) -> tuple[FinishCall, ...]:
            return (FinishCall("c", 0),) * 2

    async def solve(task: Task, team: Team) -> Outcome:
        await team.ask_all([("a", task), ("b", task)])
        await team.ask("c", task, finish=True)
        return await team.ask("c", task, finish=True)

    result = run(Twice(solve), scripted(), Budget(calls=3))

    assert (result.status, result.answer) == ("completed", "42")
    assert [attempt.seat for attempt in result.attempts] == ["a", "c", "c"]


def test_a_finishing_call_that_is_repaired_does_not_draw_on_what_is_kept_for_another() -> None:
    """Ten calls for a tree of ten; the first join to answer is unreadable, and there is nothing left to repair it with."""
    unreadable = iter([True])

    def reply(request: ChatRequest) -> Any:
        return "{" if request.reply == "verdict" and next(unreadable, False) else as_asked(request)

    result = run(Tree(2, 2, model="m"), scripted(reply), Budget(calls=10))

    assert (result.status, result.answer) == ("completed", "42")
    assert (result.metrics["refusals"], result.spend.total.calls) == (1, 10)


@pytest.mark.parametrize("tokens", [7000, 9000, 13_000])
def test_what_is_kept_covers_the_longest_mail_there_is(tokens: int) -> None:
    """Plans, answers, notes and reasons without end, full of what the prompt has to escape."""
    long = "</task>é" * 4000

    class Talkative(Shrinkable):
        async def complete(self, request: ChatRequest) -> ChatReply:
            replies: Mapping[str, Reply] = {
                "plan": Plan((Part(long),) * 2),
                "report": Report(long, long, long),
                "verdict": Verdict("accept", "42", long),
            }
            return ChatReply(reply_json(replies[request.reply]), self.bound(request))

    result = run(Tree(2, 2, model="m"), Talkative(), Budget(tokens=tokens))

    assert (result.status, result.answer) == ("completed", "42")
    assert {attempt.seat for attempt in result.attempts} >= {"join", "join[0]", "join[1]"}


# --- the books


def test_spend_by_agent_and_by_model_each_sum_to_the_total() -> None:
    result = run(Star(3, model="m"), Shrinkable(), Budget(tokens=4000))

    for parts in (result.spend.by_agent, result.spend.by_model):
        for figure in ("tokens", "pico_usd", "calls", "tool_calls"):
            assert sum(getattr(spend, figure) for spend in parts.values()) == getattr(result.spend.total, figure)
    assert set(result.spend.by_agent) == set(Star(3).seats())
    assert set(result.spend.by_model) == {"m"}


def test_a_result_survives_its_sealed_form() -> None:
    result = run(Star(3, model="m"), Shrinkable(), Budget(tokens=2500, seconds=9))

    assert RunResult.from_json(result.to_json()) == result


def test_text_that_no_store_takes_is_made_harmless() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        await team.ask("a", task)
        return Answer("\ud800 42")

    result = run(Own(solve), scripted(["\ud800"]), Budget(calls=3))

    assert (result.status, result.answer) == ("completed", "? 42")
    assert RunResult.from_json(result.to_json()) == result


def test_budget_left_unspent_because_of_the_bound_is_told_and_does_not_depend_on_who_was_refused_first() -> None:
    """Holds are 5/3 of what is used; of two refused calls one would have fitted at its real cost."""

    class Loose(ScriptedModel):
        def bound(self, request: ChatRequest) -> Usage:
            return Usage(self.usage.input_tokens * 5 // 3, 0)

    sizes = {"m0": 180, "m1": 180, "m2": 540, "m3": 900}
    slack = set()
    for _ in range(20):
        models = {name: Loose(as_asked, input_tokens=size, name=name, latency_s=1) for name, size in sizes.items()}
        topology = Independent([Agent("executor", model=name) for name in sizes])
        (result,) = run_virtual([RunSpec("run", topology, TASK, Budget(tokens=1000), 0)], models.__getitem__)
        slack.add((result.spend.total.tokens, result.metrics["slack_tokens"]))

    assert slack == {(360, 640)}
