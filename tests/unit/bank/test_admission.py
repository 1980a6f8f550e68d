"""Who gets the budget when several ask at once: by key at quiescence in virtual runs, by arrival in live ones."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from runtime.bank.admission import Admission
from runtime.bank.book import Held, Need
from runtime.bank.ledger import Ledger, Order
from runtime.bank.vector import Vector, pack
from runtime.errors import BudgetConflict, BudgetError, BudgetExceeded, StaleEpoch
from runtime.journal import Key
from runtime.trampoline import side_by_side

Outcome = tuple[Any, ...]
BOTH_WAYS = range(40)
"""trio turns each batch of tasks around at one toss of a coin: what depends on it shows in so many goes, but once in 10^12."""


def virtual(main: Callable[[], Awaitable[Any]]) -> Any:
    """Run on virtual time, where tasks that are ready at once are woken in random order."""
    clock = MockClock(autojump_threshold=0)
    return anyio.run(within, 10**6, main, backend="trio", backend_options={"clock": clock})


def live(main: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(within, 20, main, backend="asyncio")


async def within(seconds: float, main: Callable[[], Awaitable[Any]]) -> Any:
    """Who waits for ever fails."""
    with anyio.fail_after(seconds):
        return await main()


def tokens(fixed: int, most: int = 0, least: int | None = None) -> Need:
    return Need(pack((fixed,)), 1, most, most if least is None else least)


def key(seat: int, step: int = 0) -> Key:
    return Key(step, f"executor[{seat}]", 0)


def door(cap: int, order: Order, allowances: dict[str, Vector] | None = None) -> Admission:
    ledger = Ledger(("tokens",), order)
    ledger.open("run", None, (cap,))
    return Admission(ledger, allowances or {})


def even(cap: int, seats: int) -> dict[str, Vector]:
    return {f"executor[{i}]": pack((cap // seats,)) for i in range(seats)}


async def admit(admission: Admission, key: Key, need: Need, permit: Any = None, epoch: int = 0) -> Held:
    held = await admission.admit(key, "run", need, 0, epoch, permit)
    assert isinstance(held, Held)
    return held


async def beside_its_decider(admission: Admission, main: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        admission.on_first_stir = lambda: group.start_soon(admission.decide_at_quiescence)
        await main()
        group.cancel_scope.cancel()


# --- programs: each seat makes its calls one after another


class Call(NamedTuple):
    """What a seat does next."""

    turns: int
    """How often it lets others go first, all in the same instant, before it asks."""
    fixed: int
    most: int
    least: int
    latency_s: int
    used: int | None
    """None: unknown."""


Program = Sequence[Sequence[Call]]
few = st.integers(0, 3)
calls = st.builds(
    Call, few, st.integers(0, 4), st.integers(3, 6), few, st.integers(0, 2), st.none() | st.integers(0, 10)
)
programs = st.lists(st.lists(calls, min_size=1, max_size=4), min_size=1, max_size=6)


def play(program: Program, cap: int, spawn_order: Sequence[int], allowances: dict[str, Vector]) -> dict[Key, Outcome]:
    """What every call of a program gets, and when; its seats are started in the given order."""
    admission = door(cap, "key", allowances)
    got: dict[Key, Outcome] = {}

    async def seat(i: int) -> None:
        for step, call in enumerate(program[i]):
            for _ in range(call.turns):
                await checkpoint()
            asked_s = anyio.current_time()
            try:
                held = await admit(admission, key(i, step), tokens(call.fixed, call.most, call.least))
            except BudgetExceeded as error:
                got[key(i, step)] = ("refused", error.need, error.left, anyio.current_time())
                return
            got[key(i, step)] = ("held", held.units, asked_s, anyio.current_time())
            admission.sent(held.id, 0)
            await anyio.sleep(call.latency_s)
            admission.settle(held.id, None if call.used is None else min(call.used, held.amounts))

    async def all_seats() -> None:
        async with anyio.create_task_group() as group:
            for i in spawn_order:
                group.start_soon(seat, i)

    virtual(partial(beside_its_decider, admission, all_seats))
    admission.ledger.check()
    assert (admission.ledger.scopes["run"].held, admission.ledger.waiting) == (0, 0)
    return got


@given(programs, st.integers(0, 40), st.booleans(), st.randoms(use_true_random=False))
def test_the_outcome_does_not_depend_on_who_was_started_or_woken_first(
    program: Program, cap: int, at_once: bool, chance: random.Random
) -> None:
    """Latencies are drawn from three values, so calls end at the same instant all the time."""
    allowances = even(cap, len(program)) if at_once else {}
    spawn_order = list(range(len(program)))
    first = play(program, cap, spawn_order, allowances)

    for _ in range(3):
        chance.shuffle(spawn_order)
        assert play(program, cap, spawn_order, allowances) == first


@given(programs, st.integers(0, 60))
def test_a_seat_that_stays_within_its_allowance_never_waits_and_is_never_refused(program: Program, cap: int) -> None:
    """As long as nobody was granted more than an allowance."""
    share = cap // len(program)
    small = [i for i, steps in enumerate(program) if sum(call.fixed + call.most for call in steps) <= share]
    got = play(program, cap, small, even(cap, len(program)))

    for outcome in got.values():
        assert outcome[0] == "held"
        assert outcome[2] == outcome[3], "it waited"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("n", [3, 12])
def test_winners_are_the_lowest_keys_whoever_asks_first(n: int, at_once: bool) -> None:
    program = [[Call(0, 1000, 0, 0, 1, 1000)]] * n
    for spawn_order in (range(n), range(n - 1, -1, -1), random.Random(3).sample(range(n), n)):
        got = play(program, 2500, spawn_order, even(2500, n) if at_once else {})

        assert {k for k, outcome in got.items() if outcome[0] == "held"} == {key(0), key(1)}
        assert {outcome[1:3] for outcome in got.values() if outcome[0] == "refused"} == {(1000, 500)}


def test_numbers_in_seats_count_as_numbers() -> None:
    got = play([[Call(0, 1, 0, 0, 0, 1)]] * 11, 3, range(10, -1, -1), {})

    assert sorted(k for k in got if got[k][0] == "held") == [key(0), key(1), key(2)]


def test_the_lowest_key_wins_even_if_it_asks_last_in_its_instant() -> None:
    program = [[Call(3 - i, 1000, 0, 0, 1, 1000)] for i in range(3)]
    for _ in BOTH_WAYS:
        got = play(program, 1500, range(3), {})

        assert [outcome[0] for _, outcome in sorted(got.items())] == ["held", "refused", "refused"]


def test_nobody_is_served_at_once_any_more_when_one_has_taken_more_than_its_allowance() -> None:
    """Each may have 10 of 30; the first takes 20 for good, and then the others want their 10 in the same instant."""
    program = [[Call(0, 20, 0, 0, 9, None)], *[[Call(0, 0, 0, 0, 1, 0), Call(0, 10, 0, 0, 1, None)]] * 2]
    for spawn_order in [*permutations(range(3))] * 3:
        got = play(program, 30, spawn_order, even(30, 3))

        assert (got[key(1, 1)][0], got[key(2, 1)][0]) == ("held", "refused")


def test_what_a_seat_did_not_use_it_may_have_again_at_once() -> None:
    """A share of 10, of which each of twelve calls holds 9 and uses none; the other seat waits for more than is left."""
    program = [[Call(0, 9, 0, 0, 1, 0)] * 12, [Call(0, 12, 0, 0, 1, 0)]]
    got = play(program, 20, range(2), even(20, 2))

    assert all(outcome[2] == outcome[3] for (_, seat, _), outcome in got.items() if seat == "executor[0]")


@pytest.mark.parametrize(("allowance", "first", "bill", "second"), [(10, 10, 10, 10), (10, 10, 5, 10), (10, 5, 9, 5)])
def test_what_a_seat_has_spent_of_its_allowance_it_does_not_have_again_at_once(
    allowance: int, first: int, bill: int, second: int
) -> None:
    """At 1 s everybody asks: two for their whole shares, and one, who has spent of its own, for more than it has left.

    In the last case it spent more than it held.
    """
    for spawn_order in [*permutations(range(3))] * 4:

        async def main(spawn_order: Sequence[int] = spawn_order) -> None:
            admission = door(3 * allowance, "key", even(3 * allowance, 3))
            got: dict[int, bool] = {}

            async def seat(i: int) -> None:
                if i == 0:
                    await spend(admission, key(0), first, bill)
                else:
                    await anyio.sleep(1)
                try:
                    need = second if i == 0 else allowance
                    await spend(admission, key(i, 1), need, need)
                    got[i] = True
                except BudgetExceeded:
                    got[i] = False

            async def all_seats() -> None:
                async with anyio.create_task_group() as group:
                    for i in spawn_order:
                        group.start_soon(seat, i)

            await beside_its_decider(admission, all_seats)
            assert got == {0: False, 1: True, 2: True}

        virtual(main)


async def spend(admission: Admission, key: Key, need: int, bill: int, scope: str = "run") -> None:
    """A call of one second."""
    held = await admission.admit(key, scope, tokens(need), 0, 0, None)
    assert isinstance(held, Held)
    admission.sent(held.id, 0)
    await anyio.sleep(1)
    admission.settle(held.id, bill)


@pytest.mark.parametrize("spawn_order", list(permutations(range(3))))
def test_in_a_scope_whose_own_cap_could_bind_the_lowest_key_wins(spawn_order: Sequence[int]) -> None:
    """Each has 10 of the run's 30, but the scope in which they ask has 20."""

    async def main() -> None:
        admission = door(30, "key", even(30, 3))
        admission.ledger.open("child", "run", (20,))
        got: list[int] = []

        async def seat(i: int) -> None:
            with contextlib.suppress(BudgetExceeded):
                await spend(admission, key(i), 10, 10, "child")
                got.append(i)

        async def all_seats() -> None:
            async with anyio.create_task_group() as group:
                for i in spawn_order:
                    group.start_soon(seat, i)

        await beside_its_decider(admission, all_seats)
        assert sorted(got) == [0, 1]

    for _ in BOTH_WAYS:
        virtual(main)


@pytest.mark.parametrize("spawn_order", list(permutations(range(3))))
def test_what_was_granted_at_quiescence_within_an_allowance_is_spent_of_it(spawn_order: Sequence[int]) -> None:
    async def main() -> None:
        admission = door(30, "key", even(30, 3))
        admission.ledger.open("child", "run", (20,))
        got: list[int] = []

        async def seat(i: int) -> None:
            if i == 0:
                await spend(admission, key(0), 10, 10, "child")
            else:
                await anyio.sleep(1)
            with contextlib.suppress(BudgetExceeded):
                await spend(admission, key(i, 1), 10, 10)
                got.append(i)

        async def all_seats() -> None:
            async with anyio.create_task_group() as group:
                for i in spawn_order:
                    group.start_soon(seat, i)

        await beside_its_decider(admission, all_seats)
        assert sorted(got) == [1, 2]

    for _ in BOTH_WAYS:
        virtual(main)


@pytest.mark.parametrize("ceiling", [30, None])
def test_in_a_scope_as_wide_as_the_run_nobody_waits_for_the_instant_to_end(ceiling: int | None) -> None:
    async def main() -> None:
        admission = door(30, "key", even(30, 3))
        admission.ledger.open("child", "run", (ceiling,))
        held = await admission.admit(key(0), "child", tokens(10), 0, 0, None)  # and there is no decider
        assert isinstance(held, Held)

    virtual(main)


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_live_runs_serve_by_arrival(arrival: Sequence[int]) -> None:
    admission = door(2500, "arrival")
    served: list[int] = []

    async def seat(i: int) -> None:
        await admit(admission, key(i), tokens(1000))
        served.append(i)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for i in arrival:
                group.start_soon(seat, i)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()

    live(main)
    assert served == list(arrival[:2])


def test_a_request_waits_shrinks_to_what_is_left_and_is_then_refused() -> None:
    """Held 60 of 100; asked 80, at least 30; the first call uses 20, the second all it got."""

    async def main() -> None:
        admission = door(100, "key")

        async def calls() -> None:
            first = await admit(admission, key(0), tokens(60))
            admission.sent(first.id, 0)
            async with anyio.create_task_group() as group:
                group.start_soon(second, admission)
                await anyio.sleep(5)
                admission.settle(first.id, 20)

        async def second(admission: Admission) -> None:
            held = await admit(admission, key(1), tokens(10, 90, 20))
            assert (anyio.current_time() - began_s, held.units) == (5, 70)
            admission.sent(held.id, 0)
            admission.settle(held.id, 70)
            with pytest.raises(BudgetExceeded) as refused:
                await admit(admission, key(1, 1), tokens(10, 90, 20))
            assert refused.value.args == ("run", "tokens", 30, 10)

        began_s = anyio.current_time()
        await beside_its_decider(admission, calls)

    virtual(main)


@pytest.mark.parametrize("order", ["key", "arrival"])
def test_the_head_is_not_overtaken(order: Order) -> None:
    """50 of 100 are held: the head needs 95, and 10 asked for after it would fit now, but not beside the head."""
    admission = door(100, order)
    served: list[int] = []

    async def seat(i: int, need: Need) -> None:
        held = await admit(admission, key(i), need)
        served.append(i)
        admission.sent(held.id, 0)
        admission.settle(held.id, 0)

    async def main() -> None:
        first = await admit(admission, key(0), tokens(50))
        async with anyio.create_task_group() as group:
            group.start_soon(seat, 1, tokens(95))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(seat, 2, tokens(10))
            await anyio.sleep(0.001)
            assert served == []
            admission.release(first.id)
        assert sorted(served) == [1, 2]  # granted in one instant; which of them runs first is the loop's choice

    (virtual if order == "key" else live)(partial(beside_its_decider, admission, main))


@pytest.mark.parametrize("order", ["key", "arrival"])
def test_a_waiter_that_is_cancelled_leaves_nothing_and_lets_the_next_go(order: Order) -> None:
    admission = door(100, order)

    async def main() -> None:
        first = await admit(admission, key(0), tokens(50))
        async with anyio.create_task_group() as group:
            patience = anyio.CancelScope()
            group.start_soon(waits, patience)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(partial(admit, admission, key(2), tokens(50)))
            await anyio.wait_all_tasks_blocked()
            patience.cancel()
        assert (admission.ledger.waiting, admission.ledger.scopes["run"].held) == (0, 100)
        admission.release(first.id)
        assert admission.ledger.scopes["run"].held == 50

    async def waits(patience: anyio.CancelScope) -> None:
        with patience:
            await admit(admission, key(1), tokens(80))
            pytest.fail("it was to be cancelled")

    (virtual if order == "key" else live)(partial(beside_its_decider, admission, main))


def test_what_was_granted_in_the_instant_of_a_cancellation_goes_back() -> None:
    """asyncio's own `cancel` reaches a task even after that for which it waited has happened."""

    async def main() -> None:
        admission = door(100, "arrival")
        first = await admit(admission, key(0), tokens(50))
        waits = asyncio.create_task(admit(admission, key(1), tokens(80)))
        await anyio.wait_all_tasks_blocked()

        admission.release(first.id)
        assert admission.ledger.scopes["run"].held == 80, "it was granted"
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits

        assert (admission.ledger.waiting, admission.ledger.scopes["run"].held) == (0, 0)

    live(main)


def test_a_request_of_a_fan_out_that_ends_before_it_could_wait_is_out_of_the_queue() -> None:
    admission = door(100, "key")

    async def main() -> None:
        first = await admit(admission, key(0), tokens(50))

        async def fails() -> None:
            assert admission.ledger.waiting == 1
            raise LookupError

        async def waits() -> None:
            await admit(admission, key(1), tokens(80))

        with pytest.raises(LookupError):
            await side_by_side([waits(), fails()])
        assert admission.ledger.waiting == 0
        admission.release(first.id)
        await anyio.sleep(1)

    virtual(partial(beside_its_decider, admission, main))


# --- the leaf rule


@pytest.mark.parametrize("settles_first", [True, False])
def test_an_agent_that_asks_for_its_tool_with_a_hold_in_its_hand_waits_for_itself(settles_first: bool) -> None:
    """Each call takes 60 of 100. Nobody else holds anything, so nothing comes back; and nothing is refused either."""
    served: list[str] = []

    async def main() -> None:
        admission = door(100, "key")

        async def agent() -> None:
            own = await admit(admission, key(0), tokens(60))
            admission.sent(own.id, 0)
            if settles_first:
                admission.settle(own.id, 20)
            tool = await admit(admission, Key(0, "executor[0]/tool", 0), tokens(60))
            served.append("tool")
            admission.sent(tool.id, 0)
            admission.settle(tool.id, 20)
            if not settles_first:
                admission.settle(own.id, 20)

        with anyio.move_on_after(10**5) as for_ever:
            await beside_its_decider(admission, agent)
        assert for_ever.cancelled_caught is not settles_first
        assert admission.ledger.scopes["run"].open_holds == (0 if settles_first else 1)

    virtual(main)
    assert served == (["tool"] if settles_first else [])


# --- nobody starves


@pytest.mark.parametrize("order", ["key", "arrival"])
def test_a_large_request_is_served_in_spite_of_a_stream_of_small_ones(order: Order) -> None:
    """Eight seats never stop; what a ninth needs is free only when all others hold nothing."""
    before: list[Key] = []

    async def main() -> None:
        admission = door(10**6, order)
        admission.ledger.open("narrow", "run", (80,))

        async def small(i: int) -> None:
            for step in range(100):
                held = await admission.admit(key(i, step), "narrow", tokens(10), 0, 0, None)
                assert isinstance(held, Held)
                before.append(held.id.key)
                admission.sent(held.id, 0)
                await (anyio.sleep(1 + i % 3) if order == "key" else several_turns(1 + i % 3))
                admission.settle(held.id, 0)

        async def large() -> None:
            await (anyio.sleep(5) if order == "key" else several_turns(5))
            asked = len(before)
            held = await admission.admit(key(9, 7), "narrow", tokens(80), 0, 0, None)
            assert isinstance(held, Held)
            overtaking = [other for other in before[asked:] if order == "arrival" or other.step > 7]
            assert overtaking == []
            admission.release(held.id)
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for i in range(8):
                group.start_soon(small, i)
            group.start_soon(large)
            if order == "key":
                group.start_soon(admission.decide_at_quiescence)

    (virtual if order == "key" else live)(main)


async def several_turns(n: int) -> None:
    for _ in range(n):
        await checkpoint()


# --- the permit


class Place:
    """The one place at an endpoint. Giving it back without having it is an error, as it is with every limiter."""

    def __init__(self) -> None:
        self.free = anyio.Semaphore(1)
        self.acquired = 0

    async def acquire(self) -> None:
        await self.free.acquire()
        self.acquired += 1

    def release(self) -> None:
        assert self.free.value == 0, "it was not held"
        self.free.release()

    @property
    def is_taken(self) -> bool:
        return self.free.value == 0


@contextmanager
def comes_back_without_its_place(place: Place, error: type[BudgetError]) -> Iterator[None]:
    with pytest.raises(error):
        yield
    assert not place.is_taken


def test_a_place_is_given_back_while_waiting_for_budget_and_taken_again() -> None:
    async def main() -> None:
        admission, place = door(100, "arrival"), Place()
        first = await admit(admission, key(0), tokens(50))
        async with anyio.create_task_group() as group:
            group.start_soon(partial(admit, admission, key(1), tokens(80), place))
            await anyio.wait_all_tasks_blocked()
            assert not place.is_taken
            admission.release(first.id)
        assert (place.is_taken, place.acquired) == (True, 2)

    live(main)


def test_a_place_is_kept_by_whom_the_budget_suffices_for_at_once() -> None:
    """Otherwise everybody holds budget while queueing a second time at the endpoint."""

    async def main() -> None:
        admission, place = door(100, "arrival"), Place()
        await admit(admission, key(0), tokens(50), place)
        assert (place.is_taken, place.acquired) == (True, 1)

    live(main)


def test_who_is_cancelled_while_waiting_for_budget_or_place_has_no_place() -> None:
    async def main() -> None:
        admission, place = door(100, "arrival"), Place()
        first = await admit(admission, key(0), tokens(50))
        with anyio.move_on_after(0):
            await admit(admission, key(1), tokens(80), place)
        assert not place.is_taken

        async with anyio.create_task_group() as group:
            group.start_soon(partial(admit, admission, key(1), tokens(80), place))
            await anyio.wait_all_tasks_blocked()
            await place.acquire()  # somebody else
            admission.release(first.id)  # the waiter has its budget, and now waits for the place
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert place.is_taken
        place.release()
        assert admission.ledger.scopes["run"].held == 0

    live(main)


def test_a_refusal_a_conflict_and_a_newer_host_give_the_place_back() -> None:
    async def main() -> None:
        admission, place = door(100, "arrival"), Place()
        with comes_back_without_its_place(place, BudgetExceeded):
            await admit(admission, key(0), tokens(101), place)
        await admit(admission, key(1), tokens(1))
        with comes_back_without_its_place(place, BudgetConflict):
            await admit(admission, key(1), tokens(2), place)
        admission.ledger.open("run", None, (), epoch=1)
        with comes_back_without_its_place(place, StaleEpoch):
            await admit(admission, key(2), tokens(1), place)

    live(main)


def test_a_hold_that_may_not_be_sent_any_more_goes_back() -> None:
    async def main() -> None:
        admission = door(100, "arrival")
        held = await admit(admission, key(0), tokens(50))
        admission.ledger.open("run", None, (), epoch=1)

        with pytest.raises(StaleEpoch):
            admission.sent(held.id, 0)

        assert admission.ledger.scopes["run"].held == 0

    live(main)
