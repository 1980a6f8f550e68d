"""Many agents at one budget: nobody is refused in vain, nobody waits for ever, nothing leaks, and virtual runs repeat.

Teams are drawn: scopes in a tree with ceilings of their own; seats that call, use other agents as tools, finish on what was
kept for them, and give up at any moment. They are played on virtual time, where tasks that are ready at once run in random
order, and on asyncio.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from runtime.bank.admission import Admission
from runtime.bank.book import Held, Need, Refused
from runtime.bank.ledger import Ledger, Order
from runtime.bank.ledger_queue import Request
from runtime.bank.vector import Vector, pack
from runtime.errors import BudgetExceeded
from runtime.journal import Key

Outcomes = dict[Key, tuple[Any, ...]]
FOR_EVER_S = 10**6
"""On virtual time. Nobody has anything to do any more, so the clock jumps there."""
TOO_LONG_S = 60
"""On asyncio, where it can only be noticed by waiting."""


class Node(NamedTuple):
    """A scope below the run's."""

    parent: int
    cap: int | None


class Call(NamedTuple):
    """What an agent does next."""

    turns: int
    """How often it lets others go first, all in the same instant, before it asks."""
    fixed: int
    most: int
    least: int
    latency: int
    used: int | None
    """None: unknown."""
    tool: int
    """How many calls the agent makes that it then uses as a tool."""


class Seat(NamedTuple):
    node: int
    calls: list[Call]
    share: int
    """What is kept for its finishing call; 0 for none."""
    gives_up: int | None
    """After how many seconds, or turns on asyncio."""


class Team(NamedTuple):
    cap: int
    nodes: list[Node]
    seats: list[Seat]


few = st.integers(0, 3)
calls = st.builds(
    Call,
    few,
    few,
    st.integers(1, 8),
    st.integers(0, 1),
    st.integers(0, 2),
    st.none() | st.integers(0, 10),
    st.sampled_from([0, 0, 1, 2]),
)
seats = st.builds(
    Seat,
    few,
    st.lists(calls, min_size=1, max_size=4),
    st.sampled_from([0, 0, 0, 5, 12]),
    st.none() | st.none() | st.integers(0, 5),
)
teams = st.builds(
    Team,
    st.integers(0, 120),
    st.lists(st.builds(Node, few, st.none() | st.integers(0, 30)), min_size=1, max_size=3),
    st.lists(seats, min_size=2, max_size=8),
)


def name(i: int) -> str:
    return f"executor[{i}]"


class Play:
    """One run of a team. The program of each seat keeps the leaf rule: it asks with empty hands."""

    def __init__(self, team: Team, order: Order, allowance: Callable[[int, int], int] | None) -> None:
        self.team, self.order = team, order
        self.outcomes: Outcomes = {}
        self.paths = self._paths()
        self.ledger = Ledger(("tokens",), order)
        for i, path in enumerate(self.paths):
            kept = {name(n): pack((seat.share,)) for n, seat in enumerate(team.seats) if i in self.path_of(seat)}
            cap = team.cap if i == 0 else team.nodes[i - 1].cap
            # What is kept comes on top of the drawn cap, because preflight refuses floors that do not fit.
            caps = (None if cap is None else cap + sum(kept.values()),)
            self.ledger.open(f"scope-{i}", f"scope-{path[1]}" if path[1:] else None, caps, kept)
        allowances: dict[str, Vector] = {}
        if allowance is not None:
            agents = [name(i) for i in range(len(team.seats))]
            agents += [f"{name(i)}/tool" for i, seat in enumerate(team.seats) if any(call.tool for call in seat.calls)]
            allowances = {agent: pack((allowance(team.cap, len(agents)),)) for agent in agents}
        self.admission = Admission(self.ledger, allowances)
        self.places = anyio.Semaphore(max(1, len(team.seats) // 2)) if order == "arrival" else None

    def _paths(self) -> list[tuple[int, ...]]:
        paths: list[tuple[int, ...]] = [(0,)]
        for i, node in enumerate(self.team.nodes, 1):
            paths.append((i, *paths[node.parent % i]))
        return paths

    def path_of(self, seat: Seat) -> tuple[int, ...]:
        return self.paths[seat.node % len(self.paths)]

    async def run(self, spawn_order: Sequence[int]) -> None:
        async with anyio.create_task_group() as group:
            self.admission.on_first_stir = lambda: group.start_soon(self.admission.decide_at_quiescence)
            with anyio.fail_after(FOR_EVER_S if self.order == "key" else TOO_LONG_S):
                async with anyio.create_task_group() as all_seats:
                    for i in spawn_order:
                        all_seats.start_soon(self.patient, i)
            group.cancel_scope.cancel()

    async def patient(self, i: int) -> None:
        gives_up = self.team.seats[i].gives_up
        if self.order == "key":
            # Between two instants, so that nobody gives up at the very moment when something else happens.
            with anyio.move_on_after(None if gives_up is None else gives_up + 0.5):
                await self.work(i)
            return
        async with anyio.create_task_group() as group:
            if gives_up is not None:
                group.start_soon(self.cancel_after, gives_up, group.cancel_scope)
            await self.work(i)
            group.cancel_scope.cancel()

    async def cancel_after(self, turns: int, scope: anyio.CancelScope) -> None:
        for _ in range(turns):
            await checkpoint()
        scope.cancel()

    async def work(self, i: int) -> None:
        seat = self.team.seats[i]
        steps = 0
        try:
            for step, call in enumerate(seat.calls):
                await self.attempt(Key(step, name(i), 0), seat, call)
                for _ in range(call.tool):  # what it asked with is settled
                    await self.attempt(Key(steps, f"{name(i)}/tool", 0), seat, call)
                    steps += 1
        except BudgetExceeded:
            pass
        if seat.share:
            most = seat.share
            call = Call(0, 0, most, most, 1, most, 0)
            with suppress(BudgetExceeded):  # which of them may be, says `its_floor_was_there`
                await self.attempt(Key(len(seat.calls), name(i), 0), seat, call, pack((most,)))

    async def attempt(self, key: Key, seat: Seat, call: Call, floor: Vector = 0) -> None:
        for _ in range(call.turns):
            await checkpoint()
        asked = self.now()
        need = Need(pack((call.fixed,)), 1, call.most, call.least)
        try:
            scope = f"scope-{self.path_of(seat)[0]}"
            held = await self.admission.admit(key, scope, need, floor, 0, self.places)  # type: ignore[arg-type]
        except BudgetExceeded as error:
            self.outcomes[key] = ("refused", error.scope, error.need, error.left, asked, self.now())
            raise
        assert isinstance(held, Held)
        try:
            self.outcomes[key] = ("held", held.units, asked, self.now())
            self.admission.sent(held.id, 0)
            used: Vector | None = None
            try:
                await self.pause(call.latency)
                used = None if call.used is None else min(call.used, held.amounts)
            finally:
                self.admission.settle(held.id, used)
        finally:
            if self.places is not None:
                self.places.release()

    async def pause(self, latency: int) -> None:
        if self.order == "key":
            await anyio.sleep(latency)
        else:
            for _ in range(latency):
                await checkpoint()

    def now(self) -> float:
        return anyio.current_time() if self.order == "key" else 0

    def ends_well(self) -> None:
        self.ledger.check()
        for scope in self.ledger.scopes.values():
            assert (scope.held, scope.open_holds) == (0, 0), "something leaked"
            assert scope.settled + scope.kept <= scope.caps, "the cap was passed, or a floor was lent"
        assert not self.ledger.waiting
        if self.places is not None:
            assert self.places.value == max(1, len(self.team.seats) // 2)
        for i, seat in enumerate(self.team.seats):
            if seat.share:
                self.its_floor_was_there(seat, Key(len(seat.calls), name(i), 0))

    def its_floor_was_there(self, seat: Seat, key: Key) -> None:
        outcome = self.outcomes.get(key)
        assert outcome is None or outcome[:2] == ("held", seat.share), "a floor was lent"


def judged(request: Request, dimensions: tuple[str, ...]) -> int | Refused | set[str]:
    """What `judge` says, held against the balances themselves."""
    said = JUDGE(request, dimensions)
    least, most = request.need.at(request.need.least), request.need.at(request.need.most)
    ceilings = {s: s.caps - s.settled - s.kept + s.own(request.key.seat, request.floor) for s in request.path}
    room = min(ceiling - scope.held for scope, ceiling in ceilings.items())
    if isinstance(said, Refused):
        assert any(least > ceiling for ceiling in ceilings.values()), "refused in vain"
    elif isinstance(said, set):
        assert most > room, "it waits in vain"
        assert said <= {scope.name for scope in request.path if scope.open_holds}, "it waits for nobody"
        assert all(least <= ceiling for ceiling in ceilings.values()), "it waits for what cannot come"
    elif said < request.need.most:
        full = [scope for scope, ceiling in ceilings.items() if most > ceiling - scope.held]
        assert not any(scope.open_holds for scope in full), "shrunk, though it could have waited"
        assert request.need.at(said) <= room < request.need.at(said + 1), "shrunk too much, or too little"
    return said


JUDGE = Request.judge


@contextmanager
def every_judgement_is_checked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Request, "judge", judged)
        yield


def virtual(main: Callable[[], Awaitable[Any]]) -> None:
    anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


def live(main: Callable[[], Awaitable[Any]]) -> None:
    anyio.run(main, backend="asyncio")


def play(team: Team, order: Order, spawn_order: Sequence[int], *, at_once: bool = False) -> Outcomes:
    made: list[Play] = []

    async def main() -> None:
        made.append(Play(team, order, (lambda cap, n: cap // n) if at_once else None))
        await made[0].run(spawn_order)

    with every_judgement_is_checked():
        (virtual if order == "key" else live)(main)
    made[0].ends_well()
    return made[0].outcomes


@given(teams, st.booleans(), st.randoms(use_true_random=False))
def test_a_virtual_team_comes_to_its_end_and_to_the_same_one_whoever_was_started_first(
    team: Team, at_once: bool, chance: random.Random
) -> None:
    spawn_order = list(range(len(team.seats)))
    first = play(team, "key", spawn_order, at_once=at_once)

    for _ in range(2):
        chance.shuffle(spawn_order)
        assert play(team, "key", spawn_order, at_once=at_once) == first


@given(teams, st.randoms(use_true_random=False))
def test_a_live_team_comes_to_its_end(team: Team, chance: random.Random) -> None:
    spawn_order = list(range(len(team.seats)))
    chance.shuffle(spawn_order)
    play(team, "arrival", spawn_order)


# --- crowds


def crowd(n: int, chance: random.Random) -> Team:
    """Everybody asks at once, for twice as much as there is; every seventh gives up."""
    seats = [
        Seat(
            i % 3,
            [
                Call(0, 5, 15, chance.choice([1, 15]), chance.randrange(3), chance.choice([5, 20, None]), 0)
                for _ in range(2)
            ],
            3 if i % 10 == 1 else 0,
            chance.randrange(4) if i % 7 == 3 else None,
        )
        for i in range(n)
    ]
    return Team(20 * n, [Node(0, 8 * n), Node(1, 6 * n)], seats)


@pytest.mark.parametrize("n", [1, 2, 8, 32, 200, 1000])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_crowd_at_one_cap_comes_to_the_same_end_whoever_was_started_first(n: int, at_once: bool) -> None:
    team = crowd(n, random.Random(n))
    first = play(team, "key", range(n), at_once=at_once)

    assert play(team, "key", range(n - 1, -1, -1), at_once=at_once) == first
    if n > 8:
        assert {outcome[0] for outcome in first.values()} == {"held", "refused"}


@pytest.mark.parametrize("n", [1, 2, 8, 32, 200, 1000])
def test_a_live_crowd_at_one_cap_comes_to_its_end(n: int) -> None:
    chance = random.Random(n)
    play(crowd(n, chance), "arrival", chance.sample(range(n), n))
