"""The books of a run: every ceiling in it is told, and the budget that only the bound kept from being spent."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import orjson
import pytest
from rich.console import Console

from benchmarks.cli.books import print_books
from policies import FixedPacing
from runtime.agents.agent import Agent
from runtime.bank.grants import Grants
from runtime.books import Books, as_json, sealed_books
from runtime.budget import BASE_DIMENSIONS, Budget
from runtime.host import run_virtual
from runtime.messages import Bid, Part, Plan, Reply, Report, Verdict, reply_json
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.protocols import Award, Caller, Outcome, Team, Work
from runtime.result import RunResult
from runtime.task import Task
from runtime.trampoline import nap_s
from runtime.usage import Price, Usage
from topologies import Independent, Single, Star, Topology

TASK = Task("How many?", answer="42")


def as_asked(request: ChatRequest) -> Reply:
    replies: dict[str, Reply] = {
        "plan": Plan((Part("x"), Part("y"))),
        "report": Report("42"),
        "verdict": Verdict("accept", "42"),
        "bid": Bid(("think",)),
    }
    return replies[request.reply]


class Greedy(ScriptedModel):
    """Promises 200 tokens a call, and bills 1,000."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        return replace(await super().complete(request), usage=Usage(100, 900))


def models() -> dict[str, ChatModel]:
    kinds = {"honest": ScriptedModel, "greedy": Greedy}
    return {
        name: kind(as_asked, input_tokens=100, output_tokens=100, latency_s=1, name=name)
        for name, kind in kinds.items()
    }


def run(topology: Topology, budget: Budget, **more: ChatModel) -> RunResult:
    return run_virtual([RunSpec("r-1", topology, TASK, budget, 0)], (models() | more).__getitem__)[0]


def books_of(result: RunResult) -> Books:
    return sealed_books(result, [], Grants(0), "")


def printed(books: Books) -> list[str]:
    screen = Console(file=StringIO(), width=100)
    print_books(screen, books)
    assert isinstance(screen.file, StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def nested() -> Star:
    """A team of three under 2,000 tokens, and in it another under 600 tokens of which each call bills 1,000."""
    inner = Independent(3, model="greedy").within(Budget(tokens=600))
    middle = Star([inner, Agent("executor", model="honest")], model="honest").within(Budget(tokens=9000))
    return Star([middle, Agent("executor", model="honest")], model="honest")


# --- ceilings


def test_a_passed_ceiling_is_an_overspend_of_the_run() -> None:
    inner = Independent(3, model="greedy").within(Budget(tokens=600))
    result = run(Star([inner, Agent("executor")], model="honest"), Budget(tokens=20_000))

    (ceiling,) = result.ceilings
    assert result.overspend == {"tokens": 2400, "pico_usd": 0, "calls": 0, "tool_calls": 0}
    assert result.overspent
    assert (ceiling["scope"], ceiling["parent"]) == ("run/executor[0]", "run")
    assert ceiling["seats"] == [f"executor[0]/agent[{i}]" for i in range(3)]
    assert ceiling["balances"]["tokens"] == {"cap": 600, "settled": 3000, "over": 2400, "unspent": -2400}
    assert ceiling["balances"]["calls"] == {"cap": None, "settled": 3, "over": 0, "unspent": None}
    assert result.books["tokens"]["unspent"] == 20_000 - 3600


def test_the_overspend_is_the_most_that_any_limit_was_passed_by() -> None:
    """Both ceilings are passed by the same bill, which is told once."""
    inner = Independent(3, model="greedy").within(Budget(tokens=600))
    outer = Star([inner, Agent("executor")], model="honest").within(Budget(tokens=3100))
    result = run(Star([outer, Agent("executor")], model="honest"), Budget(tokens=20_000))

    over = [-(ceiling["balances"]["tokens"]["unspent"] or 0) for ceiling in result.ceilings]
    assert over[0] > 0
    assert over[1] == 2400
    assert result.overspend["tokens"] == max(over)


def test_the_books_explain_every_unit_of_every_ceiling() -> None:
    result = run(nested(), Budget(tokens=20_000, calls=30))
    books = books_of(result)

    outer, inner = books.ceilings
    seats = {outer.scope: "executor[0]/", inner.scope: "executor[0]/executor[0]/"}
    for ceiling in books.ceilings:
        within = [a for a in result.attempts if a.seat.startswith(seats[ceiling.scope])]
        assert ceiling.line.attempts == len(within) > 0
        assert ceiling.line.reserved[0] == sum(a.held_tokens for a in within)
        assert ceiling.line.settled[0] == sum(a.input_tokens + a.output_tokens for a in within)
        assert set(ceiling.rest.values()) == {0}
    assert [(c.parent, c.depth) for c in books.ceilings] == [("run", 1), (outer.scope, 2)]
    assert (inner.line.over[0], inner.balances["tokens"]["unspent"]) == (2400, -2400)
    assert outer.line.settled[0] > inner.line.settled[0]
    assert books.reconciled


def test_a_seat_whose_name_looks_like_a_place_in_a_ceiling_is_not_counted_there() -> None:
    class Named(Topology):
        async def solve(self, task: Task, team: Team) -> Outcome:
            await team.ask("a/b", task)
            return await team.ask("a", task)

    inner = Single(model="honest").within(Budget(tokens=600))
    result = run(Named("named", {"a": inner, "a/b": Agent("executor", model="honest")}), Budget(tokens=9000))
    books = books_of(result)

    assert (books.ceilings[0].line.attempts, books.total.attempts) == (1, 2)
    assert books.reconciled


def test_books_in_which_a_ceiling_is_not_explained_are_not_reconciled() -> None:
    result = run(nested(), Budget(tokens=20_000))
    sealed = orjson.loads(result.to_json())
    sealed["ceilings"][1]["balances"]["calls"]["settled"] += 1
    books = books_of(RunResult.from_json(orjson.dumps(sealed)))

    assert not books.reconciled
    assert not any(books.rest.values())
    assert books.ceilings[1].rest["calls"] == 1
    assert any("executor[0]" in line and "THE BOOKS ARE WRONG" in line for line in printed(books))


def test_ceilings_are_printed_as_a_tree_below_the_run() -> None:
    lines = printed(books_of(run(nested(), Budget(tokens=20_000))))

    tokens = lines[: lines.index("", lines.index("") + 1)]
    at = next(i for i, line in enumerate(tokens) if line.startswith("run "))
    assert tokens[at + 1].startswith("  executor[0] ")
    assert tokens[at + 2].startswith("    executor[0] ")
    assert [line.split(";")[0] for line in tokens[at + 3 :]] == [
        "run: limit 20,000, unspent 15,800",
        "  executor[0]: limit 9,000, unspent 5,400",
        "    executor[0]: limit 600, passed by 2,400",
    ]
    assert max(map(len, lines)) <= 100


def test_the_plain_values_of_the_books_carry_the_ceilings() -> None:
    document = as_json(books_of(run(nested(), Budget(tokens=20_000))))

    outer, inner = document["ceilings"]
    assert (outer["scope"], outer["parent"]) == ("run/executor[0]", "run")
    assert (inner["scope"], inner["parent"]) == ("run/executor[0]/executor[0]", "run/executor[0]")
    assert inner["settled"]["tokens"] == 3000
    assert inner["balances"]["tokens"]["cap"] == 600
    assert inner["unexplained"] == dict.fromkeys(BASE_DIMENSIONS, 0)
    assert orjson.loads(orjson.dumps(document)) == document


def test_a_run_without_ceilings_is_sealed_as_it_always_was_and_older_results_open() -> None:
    plain, capped = run(Single(model="honest"), Budget(tokens=900)), run(nested(), Budget(tokens=20_000))

    assert b"ceilings" not in plain.to_json()
    assert RunResult.from_json(plain.to_json()) == plain
    assert RunResult.from_json(capped.to_json()) == capped
    older = orjson.loads(capped.to_json())
    del older["ceilings"]
    assert books_of(RunResult.from_json(orjson.dumps(older))).ceilings == ()


# --- unspent because of the bound


class Loose:
    """Bounds a prompt of 250 tokens at 1,000; its reply is as long as it may be, or `says` tokens."""

    name, virtual, shrinkable, window_tokens, naps = "loose", True, True, 100_000, True
    price: Price | None = Price(2, 3)

    def __init__(self, bound: int = 1000, says: int = 10**9) -> None:
        self._bound, self._says = bound, says

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(self._bound, request.max_tokens)

    async def complete(self, request: ChatRequest) -> ChatReply:
        await nap_s(1)
        usage = Usage(250, min(self._says, request.max_tokens))
        return ChatReply(reply_json(as_asked(request)), usage)


class Unshrinkable(Loose):
    """Writes 100 tokens, whatever it may."""

    shrinkable = False

    def bound(self, request: ChatRequest) -> Usage:
        return Usage(1000, 100)

    async def complete(self, request: ChatRequest) -> ChatReply:
        return replace(await super().complete(request), usage=Usage(250, 100))


class Asking:
    """Has its model bid once, and gives it the work."""

    name, models = "asking", ("loose",)

    async def route(self, work: Work, caller: Caller) -> Award:
        await caller.ask_role("bidder", ("loose",), work)
        return Award("loose")


class Twice(Topology):
    """Asks its one seat twice, and has budgets split so."""

    async def solve(self, task: Task, team: Team) -> Outcome:
        await team.ask("a", task)
        return await team.ask("a", task)

    def calls(self) -> int:
        return 2


def slack(topology: Topology, budget: Budget, model: Loose) -> tuple[int, int]:
    result = run(topology, budget, loose=model)
    return int(result.metrics["slack_tokens"]), int(result.metrics["slack_pico_usd"])


def alone(**agent: Any) -> Single:
    return Single(Agent("executor", model="loose", **agent))


def paced(tokens: int) -> Single:
    topology = alone()
    topology.pacing = FixedPacing(tokens)
    return topology


def test_what_a_loose_bound_took_from_the_reply_is_unspent_because_of_the_bound() -> None:
    assert slack(alone(), Budget(tokens=2000), Loose()) == (750, 0)


def test_in_dollars_it_is_the_price_of_the_same_prompt_tokens() -> None:
    picos = 2000 * 3

    assert slack(alone(), Budget(usd=f"{picos}e-12"), Loose()) == (0, 750 * 2)


@pytest.mark.parametrize(
    ("topology", "budget", "model"),
    [
        pytest.param(alone, Budget(tokens=2000), Loose(250), id="the bound is exact"),
        pytest.param(alone, Budget(tokens=2000), Loose(says=400), id="the reply ended by itself"),
        pytest.param(alone, Budget(tokens=50_000), Loose(), id="pacing asks for no more"),
        pytest.param(lambda: alone(effort_tokens=1000), Budget(tokens=2000), Loose(), id="the agent's own effort"),
        pytest.param(lambda: paced(500), Budget(tokens=2000), Loose(), id="fixed pacing"),
        pytest.param(alone, Budget(tokens=1100), Unshrinkable(), id="a reply that is never longer"),
    ],
)
def test_where_the_bound_cut_nothing_nothing_counts(
    topology: Callable[[], Topology], budget: Budget, model: Loose
) -> None:
    assert slack(topology(), budget, model) == (0, 0)


def test_a_reply_that_admission_shrank_counts() -> None:
    """1,600 wanted; beside the bound of 1,000 there is room for 1,000."""
    assert slack(alone(effort_tokens=1600), Budget(tokens=2000), Loose()) == (750, 0)


def test_no_more_counts_than_is_left() -> None:
    """What the first calls gave back is spent by those that came after them."""

    class Thrice(Twice):
        async def solve(self, task: Task, team: Team) -> Outcome:
            await super().solve(task, team)
            return await team.ask("a", task)

    topology = Thrice("thrice", {"a": Agent("executor", model="loose")})
    result = run(topology, Budget(tokens=4000), loose=Loose())

    assert [(a.held_tokens, a.max_tokens) for a in result.attempts] == [(2000, 1000), (2000, 1000), (1500, 500)]
    assert result.books["tokens"]["unspent"] == 4000 - 2 * 1250 - 750 == 750
    assert result.metrics["slack_tokens"] == 750


def test_what_routing_cost_is_no_part_of_what_the_bound_cut() -> None:
    topology = Twice("twice", {"a": Agent("executor", model=Asking())})
    result = run(topology, Budget(tokens=8000), loose=Loose())

    assert [a.kind for a in result.attempts] == ["bid", "work"] * 2
    for bid, work in zip(result.attempts[::2], result.attempts[1::2], strict=True):
        assert work.held_tokens == 4000 - (bid.input_tokens + bid.output_tokens)
    assert result.metrics["slack_tokens"] == 2 * 750


def test_a_finishing_call_may_hold_its_floor_too() -> None:
    """The planner's share is small; the verifier's is larger by what was kept back for it."""
    result = run(Star(2, model="loose"), Budget(tokens=12_000), loose=Loose())

    cut = [a for a in result.attempts if a.output_tokens == a.max_tokens]
    assert len(cut) == 4
    assert result.metrics["slack_tokens"] == 4 * 750
