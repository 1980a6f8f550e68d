"""Mail along channels: only what is declared arrives, once, cut to its length, in the order given, and a seat has one letter at
a time.

There is no queue in front of a seat. A mail exists only inside of an ask, and a seat that is being asked refuses a second
asker, so at most one message a seat is pending: mailboxes are bounded by construction.
"""

from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise

import anyio
import pytest

from policies.voting import majority
from runtime.agents.agent import Agent
from runtime.agents.blocks import read_blocks
from runtime.agents.tools import Tool
from runtime.budget import Budget
from runtime.errors import ConfigError, NoChannel
from runtime.host import run_virtual
from runtime.messages import Part, Plan, Reply, Report, Verdict, bundle
from runtime.models.base import ChatRequest, ToolCall
from runtime.models.scripted import ScriptedModel
from runtime.preflight import RunSpec
from runtime.protocols import Outcome, Team
from runtime.result import RunResult
from runtime.task import Task
from topologies import Chain, Hybrid, Independent, Mesh, Star, Topology, Tree


class Own(Topology):
    """Seats a to d, and a program."""

    def __init__(
        self, solve: Callable[[Task, Team], Awaitable[Outcome]], channels: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__("own", {seat: Agent("executor", model=seat) for seat in "abcd"})
        self._solve, self._channels = solve, tuple(channels)

    def channels(self) -> Iterable[tuple[str, str]]:
        return self._channels

    async def solve(self, task: Task, team: Team) -> Outcome:
        return await self._solve(task, team)


ALL = [(a, b) for a in "abcd" for b in "abcd" if a != b]


Says = Callable[[str, ChatRequest], Reply | tuple[ToolCall, ...]]


def run(topology: Topology, says: Says, seconds: str = "1111") -> RunResult:
    models = {
        seat: ScriptedModel(lambda request, seat=seat: says(seat, request), latency_s=float(s), name=seat)  # type: ignore[misc]
        for seat, s in zip("abcd", seconds, strict=True)
    }
    return run_virtual([RunSpec("r", topology, Task("x"), Budget(calls=99), 0)], models.__getitem__)[0]


def by_name(seat: str, request: ChatRequest) -> Reply:
    return Report(seat)


def mails(request: ChatRequest) -> list[tuple[str, str]]:
    blocks = read_blocks(request.messages[-1].content)
    return [(block.attributes["from"], block.body) for block in blocks if block.tag == "mail"]


async def ask_all_then(task: Task, team: Team) -> Outcome:
    replies = await team.ask_all([(seat, task) for seat in "cab"])
    return await team.ask("d", bundle(replies))


def test_only_declared_channels_deliver() -> None:
    missing = run(Own(ask_all_then, [("a", "d"), ("b", "d")]), by_name)

    assert (missing.status, missing.reason) == ("failed", str(NoChannel("c", "d")))
    assert all(attempt.seat != "d" for attempt in missing.attempts), "nothing was sent for it"
    assert run(Own(ask_all_then, [("a", "d"), ("b", "d"), ("c", "d")]), by_name).metrics["messages"] == 3


@pytest.mark.parametrize("seconds", ["1231", "3121", "2311", "0001"])
def test_mail_comes_in_the_order_of_the_asks_whoever_was_first(seconds: str) -> None:
    seen: list[list[tuple[str, str]]] = []

    def says(seat: str, request: ChatRequest) -> Reply:
        if seat == "d":
            seen.append(mails(request))
        return Report(seat)

    run(Own(ask_all_then, ALL), says, seconds)

    assert seen == [[("c", "Answer: c"), ("a", "Answer: a"), ("b", "Answer: b")]]


@pytest.mark.parametrize("order", ["abc", "cba", "aabbc", "cabbage"])
def test_mail_that_comes_twice_or_in_another_order_harms_nothing(order: str) -> None:
    """It is delivered once, in the order given, and a vote over other orders of the same answers is the same but for ties."""

    async def solve(task: Task, team: Team) -> Outcome:
        replies = {seat: await team.ask(seat, task) for seat in "abc"}
        told = [replies[seat] for seat in order if seat in replies]
        return await team.ask("d", bundle(told))

    def says(seat: str, request: ChatRequest) -> Reply:
        return Report("".join(sender for sender, _ in mails(request)) or seat)

    result = run(Own(solve, ALL), says)

    sent = "".join(dict.fromkeys(seat for seat in order if seat in "abc"))
    assert (result.answer, result.metrics["messages"]) == (sent, 3)
    reports = [Report("42"), Report("13"), Report("42")]
    assert {vote.answer for vote in (majority(reports), majority(reports[::-1])) if vote} == {"42"}


def test_two_replies_that_say_the_same_are_two_mails() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        return await team.ask("d", bundle(await team.ask_all([("a", task), ("a", task)])))

    def says(seat: str, request: ChatRequest) -> Reply:
        return Report(str(len(mails(request))) if seat == "d" else "the same")

    assert run(Own(solve, ALL), says).answer == "2"


def _heard(topology: Topology) -> set[tuple[str, ...]]:
    """From whom the prompts of a run had mail, in order, in a team in which whoever sits last is the fastest."""
    heard: set[tuple[str, ...]] = set()

    def says(request: ChatRequest) -> Reply:
        heard.add(tuple(sender for sender, _ in mails(request)))
        if request.reply == "plan":
            return Plan(tuple(Part(str(i)) for i in range(3)))
        return Report("42") if request.reply == "report" else Verdict("accept", "42")

    models = {str(i): ScriptedModel(says, latency_s=9 - i, name=str(i)) for i in range(9)}
    for i, (seat, member) in enumerate(topology.seats().items()):
        topology._seats[seat] = member.filled(str(9 - len(topology.seats()) + i))
    run_virtual([RunSpec("r", topology, Task("x"), Budget(calls=99), 0)], models.__getitem__)
    return heard


SEVERAL = [
    Star(3),
    Star(3, rounds=2),
    Hybrid(3),
    Mesh(3, rounds=3),
    Independent(3, combine="best"),
    Chain(3),
    Tree(2, 1),
]


@pytest.mark.parametrize("topology", SEVERAL, ids=lambda topology: topology.name)
def test_the_shipped_topologies_hand_mail_on_in_the_order_of_the_seats(topology: Topology) -> None:
    order = list(topology.seats())

    heard = _heard(topology)

    assert max(map(len, heard)) >= (1 if isinstance(topology, Chain) else 2)
    assert all([*senders] == sorted(senders, key=order.index) for senders in heard)


@pytest.mark.parametrize(("tokens", "arrives"), [(256, 256), (16, 16), (1000, 500)])
def test_a_mail_is_cut_to_the_length_of_a_message(tokens: int, arrives: int) -> None:
    lengths: list[int] = []

    def says(seat: str, request: ChatRequest) -> Reply:
        lengths.extend(len(body.encode()) for _, body in mails(request))
        return Report("x" * (4 * 500 - len("Answer: ")))

    team = Own(ask_all_then, ALL)
    team.message_tokens = tokens
    run(team, says)

    assert all(4 * arrives - 4 <= length <= 4 * arrives for length in lengths), lengths
    assert len(lengths) == 3


def test_a_seat_has_at_most_one_letter_however_many_write_to_it() -> None:
    """Of a thousand who ask at once, one is heard; the others are told at once, and nothing is stored for later."""
    refused: list[str] = []

    async def solve(task: Task, team: Team) -> Outcome:
        async def write() -> None:
            try:
                await team.ask("a", task)
            except ConfigError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(write)
        return "done"

    result = run(Own(solve), by_name)

    assert (result.status, len(result.attempts), len(refused)) == ("completed", 1, 999)
    assert result.deterministic == "D2", "which of them is heard is chance"
    assert set(refused) == {"seat 'a' is being asked already: an agent does one thing at a time; use ask_all"}


def test_asks_of_one_list_to_one_seat_wait_in_the_list_of_their_asker() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        replies = await team.ask_all([("a", task)] * 5 + [("b", task)])
        return str(len(replies))

    result = run(Own(solve), by_name)

    assert (result.answer, result.seconds, result.deterministic) == ("6", 5, "D1")
    spans = sorted((a.began_s, a.ended_s) for a in result.attempts if a.seat == "a")
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_a_team_in_a_seat_is_one_seat_to_those_who_ask() -> None:
    async def solve(task: Task, team: Team) -> Outcome:
        async with anyio.create_task_group() as group:
            group.start_soon(team.ask, "a", task)
            group.start_soon(team.ask, "a", task)
        return "never"

    team = Own(solve)
    team._seats["a"] = Independent(2, model="b")

    result = run(team, by_name)
    assert "seat 'a' is being asked already" in result.reason
    assert result.deterministic == "D2"


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("seats", "deterministic"), [("aa", "D2"), ("ab", "D1")])
def test_a_run_whose_tools_ask_one_seat_at_one_instant_is_not_called_deterministic(
    seats: str, deterministic: str, within: bool
) -> None:
    """The tool that is not heard takes it and goes on, so that nothing else in the result tells of it."""
    teams: list[Team] = []

    def asking(seat: str) -> Tool:
        async def ask() -> str:
            try:
                await teams[-1].ask(seat, Part("help"))
            except ConfigError:
                return "nobody there"
            return "helped"

        return Tool("ask", "Asks an agent.", ask, {}, usd="0.01", virtual=True)

    async def solve(task: Task, team: Team) -> Outcome:
        teams.append(team)
        await team.ask_all([("c", task), ("d", task)])
        return "done"

    def calling(seat: str, request: ChatRequest) -> Reply | tuple[ToolCall, ...]:
        called = not request.tools or any(message.role == "tool" for message in request.messages)
        return Report(seat) if called else (ToolCall("1", "ask", "{}"),)

    team: Topology = Own(solve)
    for seat, asked in zip("cd", seats, strict=True):
        team._seats[seat] = Agent("executor", model=seat, tools=(asking(asked),))

    result = run(Independent([team]) if within else team, calling)

    assert (result.status, result.deterministic) == ("completed", deterministic)
