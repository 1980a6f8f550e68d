"""The ledger against a book kept on paper and a provider that bills on its own, under every order of operations.

The provider is the oracle: from `sent` on it may bill, and the ledger learns the figure only by `settle`. The book on paper
has no packing and no running balances; it sums every figure anew from its list of attempts. Invariants I1-I17 are those of
a two-phase ledger: balances, cap, truth, idempotence, terminal states, fencing, late figures, freeze, liveness, floors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runtime.bank.book import AttemptId, Held, Need, Refused, Settled, Waiting, natural_order
from runtime.bank.ledger import Ledger, Order
from runtime.bank.vector import pack, unpack
from runtime.errors import BudgetConflict, BudgetExceeded, InternalError, OrchestrationError, StaleEpoch
from runtime.journal import Key

DIMENSIONS = ("tokens", "pico_usd", "calls")
N = len(DIMENSIONS)
SEATS = ("executor[2]", "executor[10]", "verifier")
NOTHING = (0,) * N
Amounts = tuple[int, ...]


def plus(*vectors: Amounts) -> Amounts:
    return tuple(map(sum, zip(NOTHING, *vectors, strict=True)))


def minus(a: Amounts, b: Amounts) -> Amounts:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def least_of(a: Amounts, b: Amounts) -> Amounts:
    return tuple(map(min, a, b))


def within(a: Amounts, b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True))


@contextmanager
def refused(*errors: type[OrchestrationError]) -> Iterator[None]:
    """Like pytest.raises, but what it raises is an AssertionError, so that a test of this test can catch it."""
    try:
        yield
    except errors:
        return
    raise AssertionError(f"none of {errors} was raised")


@dataclass(frozen=True)
class Wish:
    """What a caller wants held."""

    fixed: Amounts
    per_unit: Amounts
    most: int
    least: int

    def at(self, units: int) -> Amounts:
        return tuple(f + units * p for f, p in zip(self.fixed, self.per_unit, strict=True))

    def need(self) -> Need:
        return Need(pack(self.fixed), pack(self.per_unit), self.most, self.least)


@dataclass
class Line:
    """One attempt on paper; before it is granted, a request in the queue."""

    key: Key
    scope: str
    wish: Wish
    floor: Amounts
    order: Any
    id: AttemptId | None = None
    units: int = 0
    amounts: Amounts = NOTHING
    drawn: dict[str, Amounts] = field(default_factory=dict)
    state: str = "waiting"
    charged: Amounts = NOTHING
    bill: Amounts | None = None
    """What the provider bills for it, decided when it is sent; nobody else knows it before."""

    @property
    def granted_id(self) -> AttemptId:
        assert self.id is not None
        return self.id


@dataclass
class Place:
    path: tuple[str, ...]
    cap: tuple[float, ...]
    floors: dict[str, Amounts]
    epoch: int = 0
    frozen: bool = False


class Paper:
    """The book on paper: every figure is a sum over all lines."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.lines: list[Line] = []
        self.queue: dict[Key, Line] = {}

    def in_scope(self, scope: str) -> Iterator[Line]:
        return (line for line in self.lines if scope in self.places[line.scope].path)

    def held(self, scope: str) -> Amounts:
        return plus(*(line.amounts for line in self.in_scope(scope) if line.state in {"held", "sent"}))

    def settled(self, scope: str) -> Amounts:
        return plus(*(line.charged for line in self.in_scope(scope)))

    def over(self, scope: str) -> Amounts:
        return plus(*(minus(line.charged, least_of(line.charged, line.amounts)) for line in self.in_scope(scope)))

    def billed(self, scope: str) -> Amounts:
        return plus(*(line.bill or NOTHING for line in self.in_scope(scope)))

    def open_holds(self, scope: str) -> int:
        return sum(line.state in {"held", "sent"} for line in self.in_scope(scope))

    def share(self, scope: str, seat: str) -> Amounts:
        """What is left of the seat's part of the scope's floor."""
        taken = plus(*(line.drawn[scope] for line in self.in_scope(scope) if line.key.seat == seat))
        return minus(self.places[scope].floors.get(seat, NOTHING), taken)

    def kept(self, scope: str) -> Amounts:
        return plus(*(self.share(scope, seat) for seat in SEATS))

    def own(self, scope: str, line: Line) -> Amounts:
        return least_of(self.share(scope, line.key.seat), line.floor)

    def ceiling(self, scope: str, line: Line) -> tuple[float, ...]:
        """What may be held for this request in this scope if every hold came back whole."""
        kept = minus(self.kept(scope), self.own(scope, line))
        spent = plus(self.settled(scope), kept)
        return tuple(c - s for c, s in zip(self.places[scope].cap, spent, strict=True))

    def room(self, scope: str, line: Line, amounts: Amounts) -> bool:
        return not self.places[scope].frozen and within(plus(amounts, self.held(scope)), self.ceiling(scope, line))

    def rooms(self, line: Line, amounts: Amounts) -> bool:
        return all(self.room(scope, line, amounts) for scope in self.places[line.scope].path)

    def squeezes_in(self, line: Line, amounts: Amounts) -> bool:
        """Like `rooms`; but where an over-bill ate into a floor, what takes nothing of that dimension may still go."""
        rooms = (
            tuple(c - h for c, h in zip(self.ceiling(scope, line), self.held(scope), strict=True))
            for scope in self.places[line.scope].path
        )
        return all(within(amounts, tuple(max(0, r) for r in room)) for room in rooms)

    def grant(self, line: Line, units: int) -> Held:
        earlier = [old for old in self.lines if old.key == line.key]
        line.id = AttemptId(line.key, len(earlier))
        line.drawn = {scope: self.own(scope, line) for scope in self.places[line.scope].path}
        line.units, line.amounts, line.state = units, line.wish.at(units), "held"
        self.lines.append(line)
        return Held(line.id, units, pack(line.amounts))

    def decide(self) -> list[Held | Refused]:
        decided: list[Held | Refused] = []
        blocked: set[str] = set()
        for line in sorted(self.queue.values(), key=lambda line: line.order):
            path = self.places[line.scope].path
            if blocked.intersection(path):
                continue
            full = line.wish.at(line.wish.most)
            busy = {s for s in path if self.open_holds(s) and not self.room(s, line, full)}
            refused = next(self.refusals(line), None)
            if self.rooms(line, full):
                outcome: Held | Refused = self.grant(line, line.wish.most)
            elif refused is not None:
                outcome = refused
            elif busy:
                blocked |= busy
                continue
            else:
                fitting = (u for u in range(line.wish.most, -1, -1) if self.squeezes_in(line, line.wish.at(u)))
                outcome = self.grant(line, next(fitting))
            del self.queue[line.key]
            decided.append(outcome)
        return decided

    def refusals(self, line: Line) -> Iterator[Refused]:
        """Why no hold that comes back could ever make room for the least of it."""
        least = line.wish.at(line.wish.least)
        for scope in self.places[line.scope].path:
            for i, ceiling in enumerate(self.ceiling(scope, line)):
                left = 0 if self.places[scope].frozen else max(0, ceiling)
                if least[i] > left:
                    yield Refused(line.key, scope, DIMENSIONS[i], least[i], int(left))
            if self.places[scope].frozen and not any(least):
                yield Refused(line.key, scope, DIMENSIONS[0], 0, 0)


amounts = st.tuples(*[st.integers(0, 6)] * N)
caps = st.tuples(*[st.none() | st.integers(0, 30)] * N)
small = st.integers(0, 3)


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    most = draw(st.integers(0, 8))
    return Wish(draw(amounts), draw(st.tuples(small, small, st.just(0))), most, draw(st.integers(0, most)))


class LedgerMachine(RuleBasedStateMachine):
    """Any order of operations of honest hosts, confused hosts, replaced hosts, and a provider."""

    ledger_class: ClassVar[type[Ledger]] = Ledger
    excess: ClassVar[int] = 0
    """How much more than was held the provider may bill, in each dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.paper = Paper()
        self.arrivals = 0

    # --- opening

    @initialize(order=st.sampled_from(["key", "arrival"]), cap=st.tuples(*[st.integers(0, 30)] * N), data=st.data())
    def begin(self, order: Order, cap: Amounts, data: st.DataObject) -> None:
        self.order = order
        self.ledger = self.ledger_class(DIMENSIONS, order)
        self.open_scope("run", None, cap, data)

    @precondition(lambda self: len(self.paper.places) < 4)
    @rule(cap=caps, pick=st.integers(0, 3), data=st.data())
    def open_child(self, cap: tuple[int | None, ...], pick: int, data: st.DataObject) -> None:
        names = list(self.paper.places)
        self.open_scope(f"child-{len(names)}", names[pick % len(names)], cap, data)

    def open_scope(self, name: str, parent: str | None, cap: tuple[int | None, ...], data: st.DataObject) -> None:
        limit = tuple(inf if c is None else c for c in cap)
        floors = {}
        for seat in data.draw(st.sets(st.sampled_from(SEATS))):
            share = tuple(data.draw(st.integers(0, 4 if c is None else c // 4)) for c in cap)
            floors[seat] = share
        above = () if parent is None else self.paper.places[parent].path
        epoch = 0 if parent is None else self.paper.places[parent].epoch
        self.paper.places[name] = Place((name, *above), limit, floors, epoch)
        self.ledger.open(name, parent, cap, {seat: pack(share) for seat, share in floors.items()})

    @rule(pick=st.integers(0, 3))
    def a_new_host_takes_over(self, pick: int) -> None:
        """Its epoch fences the older ones in the scope and everything below."""
        scope = self.place(pick)
        epoch = self.paper.places[scope].epoch + 1
        self.ledger.open(scope, None, (), epoch=epoch)
        for place in self.paper.places.values():
            if scope in place.path:
                place.epoch = max(place.epoch, epoch)

    # --- asking

    @rule(
        pick=st.integers(0, 3),
        step=st.integers(0, 11),
        seat=st.sampled_from(SEATS),
        wish=wishes(),
        floor=st.just(NOTHING) | amounts,
        at_once=st.booleans(),
    )
    def reserve(self, pick: int, step: int, seat: str, wish: Wish, floor: Amounts, at_once: bool) -> None:
        """A new key, or the next try of one that was released or charged at maximum."""
        key, scope = Key(step, seat, 0), self.place(pick)
        if key in self.paper.queue or self.last_of(key).state in {"held", "sent", "settled"}:
            return
        line = Line(key, scope, wish, floor, None)
        got = self.ledger.reserve(key, scope, wish.need(), pack(floor), self.paper.places[scope].epoch, at_once)
        if at_once and self.paper.rooms(line, wish.at(wish.most)):
            assert got == self.paper.grant(line, wish.most)
            return
        self.arrivals += 1
        line.order = natural_order(key) if self.order == "key" else self.arrivals
        self.paper.queue[key] = line
        assert got == Waiting(key)

    @precondition(lambda self: self.known())
    @rule(pick=st.integers(0), at_once=st.booleans())
    def reserve_again(self, pick: int, at_once: bool) -> None:
        line = self.pick(pick, self.known())
        with self.unchanged():
            got = self.again(line, line.wish, line.floor, at_once)
            if line.state == "waiting":
                assert got == Waiting(line.key)
            elif line.state == "settled":
                assert got == Settled(line.granted_id)
            else:
                assert got == Held(line.granted_id, line.units, pack(line.amounts))

    @precondition(lambda self: self.known())
    @rule(pick=st.integers(0), wish=wishes(), floor=amounts, at_once=st.booleans())
    def reserve_again_with_another_body(self, pick: int, wish: Wish, floor: Amounts, at_once: bool) -> None:
        line = self.pick(pick, self.known())
        if (wish, floor) == (line.wish, line.floor):
            return
        with self.unchanged(), refused(BudgetConflict):
            self.again(line, wish, floor, at_once)

    @precondition(lambda self: any(place.epoch for place in self.paper.places.values()))
    @rule(wish=wishes(), pick=st.integers(0), back=st.integers(1, 3), at_once=st.booleans())
    def a_zombie_host_reserves(self, wish: Wish, pick: int, back: int, at_once: bool) -> None:
        scope = [name for name, place in self.paper.places.items() if place.epoch]
        name = scope[pick % len(scope)]
        epoch = self.paper.places[name].epoch - back
        with self.unchanged(), refused(StaleEpoch):
            self.ledger.reserve(Key(99, "executor[2]", 0), name, wish.need(), 0, epoch, at_once)

    @precondition(lambda self: self.paper.queue)
    @rule(pick=st.integers(0))
    def withdraw(self, pick: int) -> None:
        key = self.pick(pick, list(self.paper.queue))
        del self.paper.queue[key]
        self.ledger.withdraw(key)
        self.ledger.withdraw(key)

    @rule()
    def decide(self) -> None:
        waiting = sorted(self.paper.queue.values(), key=lambda line: line.order)
        idle = not self.paper.open_holds("run")
        decided = self.ledger.decide()
        assert decided == self.paper.decide()
        went = {outcome.id.key if isinstance(outcome, Held) else outcome.key for outcome in decided}
        for scope in self.paper.places:
            mine = [line.key in went for line in waiting if line.scope == scope]
            assert mine == sorted(mine, reverse=True), "overtaken in its own scope"
        if idle and waiting:
            assert waiting[0].key in went, "nothing is held, yet nobody can go on"
        if not self.paper.open_holds("run"):
            assert not self.ledger.waiting

    # --- sending and settling

    @precondition(lambda self: self.of("held"))
    @rule(pick=st.integers(0), cut=amounts, more=st.tuples(*[st.integers(0, 12)] * N))
    def send(self, pick: int, cut: Amounts, more: Amounts) -> None:
        line = self.pick(pick, self.of("held"))
        place = self.paper.places[line.scope]
        if any(self.paper.places[scope].frozen for scope in place.path):
            with self.unchanged(), refused(BudgetExceeded):
                self.ledger.sent(line.granted_id, place.epoch)
            return
        self.ledger.sent(line.granted_id, place.epoch)
        line.state = "sent"
        honest = minus(line.amounts, least_of(line.amounts, cut))
        line.bill = plus(honest, tuple(min(m, self.excess) for m in more))

    @precondition(lambda self: self.of("sent"))
    @rule(pick=st.integers(0))
    def note_again_that_it_was_sent(self, pick: int) -> None:
        line = self.pick(pick, self.of("sent"))
        with self.unchanged():
            self.ledger.sent(line.granted_id, self.paper.places[line.scope].epoch)

    @precondition(lambda self: self.of("held", "sent"))
    @rule(pick=st.integers(0), back=st.integers(1, 3))
    def a_zombie_host_sends(self, pick: int, back: int) -> None:
        line = self.pick(pick, self.of("held", "sent"))
        with self.unchanged(), refused(StaleEpoch):
            self.ledger.sent(line.granted_id, self.paper.places[line.scope].epoch - back)

    @precondition(lambda self: self.of("settled", "released", "charged_max"))
    @rule(pick=st.integers(0))
    def a_closed_attempt_is_sent(self, pick: int) -> None:
        line = self.pick(pick, self.of("settled", "released", "charged_max"))
        with self.unchanged(), refused(InternalError, BudgetExceeded):
            self.ledger.sent(line.granted_id, self.paper.places[line.scope].epoch)

    @precondition(lambda self: self.of("sent", "charged_max"))
    @rule(pick=st.integers(0))
    def settle(self, pick: int) -> None:
        """At the true figure: in time, or late, after the whole hold was charged."""
        line = self.pick(pick, self.of("sent", "charged_max"))
        assert line.bill is not None
        self.ledger.settle(line.granted_id, pack(line.bill))
        line.state, line.charged = "settled", line.bill
        self.freeze()

    @precondition(lambda self: self.of("sent", "charged_max"))
    @rule(pick=st.integers(0))
    def settle_without_a_figure(self, pick: int) -> None:
        line = self.pick(pick, self.of("sent", "charged_max"))
        self.ledger.settle(line.granted_id, None)
        line.state, line.charged = "charged_max", line.amounts
        self.freeze()

    @precondition(lambda self: self.of("settled"))
    @rule(pick=st.integers(0))
    def settle_again(self, pick: int) -> None:
        line = self.pick(pick, self.of("settled"))
        with self.unchanged():
            self.ledger.settle(line.granted_id, pack(line.charged))
            self.ledger.settle(line.granted_id, None)

    @precondition(lambda self: self.of("settled"))
    @rule(pick=st.integers(0), figure=amounts)
    def settle_again_at_another_figure(self, pick: int, figure: Amounts) -> None:
        line = self.pick(pick, self.of("settled"))
        if figure != line.charged:
            with self.unchanged(), refused(BudgetConflict):
                self.ledger.settle(line.granted_id, pack(figure))

    @precondition(lambda self: self.of("held", "released"))
    @rule(pick=st.integers(0), figure=st.none() | amounts)
    def settle_what_was_never_sent(self, pick: int, figure: Amounts | None) -> None:
        line = self.pick(pick, self.of("held", "released"))
        with self.unchanged(), refused(InternalError):
            self.ledger.settle(line.granted_id, None if figure is None else pack(figure))

    @precondition(lambda self: self.of("held", "sent"))
    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        """On proof: nothing was sent, or the provider refused before any work."""
        line = self.pick(pick, self.of("held", "sent"))
        self.ledger.release(line.granted_id)
        line.state, line.bill, line.drawn = "released", None, dict.fromkeys(line.drawn, NOTHING)

    @precondition(lambda self: self.of("released"))
    @rule(pick=st.integers(0))
    def release_again(self, pick: int) -> None:
        line = self.pick(pick, self.of("released"))
        with self.unchanged():
            self.ledger.release(line.granted_id)

    @precondition(lambda self: self.of("settled", "charged_max"))
    @rule(pick=st.integers(0))
    def release_what_was_charged(self, pick: int) -> None:
        line = self.pick(pick, self.of("settled", "charged_max"))
        with self.unchanged(), refused(InternalError):
            self.ledger.release(line.granted_id)

    # --- what holds after every step

    @invariant()
    def the_ledger_is_the_book_on_paper(self) -> None:
        for name, place in self.paper.places.items():
            scope = self.ledger.scopes[name]
            found = [unpack(v, N) for v in (scope.held, scope.settled, scope.over, scope.kept)]
            assert found == [getattr(self.paper, figure)(name) for figure in ("held", "settled", "over", "kept")], name
            assert (scope.frozen, scope.open_holds) == (place.frozen, self.paper.open_holds(name))
        for line in self.paper.lines:
            record = self.ledger.record(line.granted_id)
            assert (record.state, unpack(record.amounts, N)) == (line.state, line.amounts)
        assert self.ledger.waiting == len(self.paper.queue)
        self.ledger.check()

    @invariant()
    def the_cap_is_kept_and_the_ledger_is_never_behind_the_bill(self) -> None:
        for name, place in self.paper.places.items():
            scope = self.ledger.scopes[name]
            booked = plus(unpack(scope.settled, N), unpack(scope.held, N))
            over = unpack(scope.over, N)
            assert within(booked, tuple(c + o for c, o in zip(place.cap, over, strict=True)))
            in_flight = plus(
                *(
                    minus(line.bill or NOTHING, least_of(line.bill or NOTHING, line.amounts))
                    for line in self.paper.in_scope(name)
                    if line.state != "settled"
                )
            )
            assert within(self.paper.billed(name), plus(booked, in_flight))
            if not self.excess:
                assert (over, in_flight) == (NOTHING, NOTHING)
            spent = tuple(max(0, s - c) for s, c in zip(unpack(scope.settled, N), place.cap, strict=True))
            assert self.ledger.overspend(name) == spent
            assert scope.frozen or not any(spent), "over the cap and not frozen"

    def teardown(self) -> None:
        """Taken up again from what its journal proves, the book is the same."""
        if not self.paper.places:
            return
        again = Ledger(DIMENSIONS, self.order)
        for name, place in self.paper.places.items():
            cap = tuple(None if c == inf else int(c) for c in place.cap)
            again.open(name, place.path[1] if place.path[1:] else None, cap)
        for line in self.paper.lines:
            figure = pack(line.charged) if line.state == "settled" else None
            state: Any = "charged_max" if line.state in {"sent", "held"} else line.state
            again.restore(line.granted_id, line.scope, line.wish.need(), 0, line.units, state, figure)
            line.charged = line.amounts if line.state in {"sent", "held"} else line.charged
        again.check()
        for name in self.paper.places:
            assert unpack(again.scopes[name].settled, N) == self.paper.settled(name)
            assert unpack(again.scopes[name].over, N) == self.paper.over(name)

    # --- tools

    def freeze(self) -> None:
        for name, place in self.paper.places.items():
            place.frozen = place.frozen or not within(self.paper.settled(name), place.cap)

    def place(self, pick: int) -> str:
        names = list(self.paper.places)
        return names[pick % len(names)]

    def pick(self, pick: int, among: list[Any]) -> Any:
        return among[pick % len(among)]

    def of(self, *states: str) -> list[Line]:
        return [line for line in self.paper.lines if line.state in states]

    def last_of(self, key: Key) -> Line:
        tries = [line for line in self.paper.lines if line.key == key]
        return tries[-1] if tries else Line(key, "", Wish(NOTHING, NOTHING, 0, 0), NOTHING, None)

    def known(self) -> list[Line]:
        """Requests whose key is taken: queued, open, or settled."""
        return [*self.paper.queue.values(), *self.of("held", "sent", "settled")]

    def again(self, line: Line, wish: Wish, floor: Amounts, at_once: bool) -> object:
        epoch = self.paper.places[line.scope].epoch
        return self.ledger.reserve(line.key, line.scope, wish.need(), pack(floor), epoch, at_once)

    def unchanged(self) -> "Unchanged":
        return Unchanged(self.ledger)


class Unchanged:
    """Fails when what happens inside changes any balance or record."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __enter__(self) -> None:
        self.before = self.state()

    def __exit__(self, *error: object) -> None:
        assert error[0] is not None or self.state() == self.before

    def state(self) -> object:
        scopes = [(s.name, s.held, s.settled, s.over, s.kept, s.epoch, s.frozen) for s in self.ledger.scopes.values()]
        records = [(r.id, r.state, r.amounts, r.charged) for r in self.ledger.records()]
        return scopes, records, self.ledger.waiting


class OverbillingMachine(LedgerMachine):
    """The same hosts before a provider that bills more than was held."""

    excess = 12


@pytest.mark.parametrize("machine", [LedgerMachine, OverbillingMachine])
def test_the_ledger_keeps_its_promises_in_every_order_of_operations(machine: type[LedgerMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(settings(), stateful_step_count=40))


# --- states too rare to be left to chance; each takes the class, so that the mutants can be put through it

ONE_LEDGER = pytest.mark.parametrize("ledger_class", [Ledger])
HOLDS = (40, 0, 0), (40, 0, 0), (20, 0, 0)


def book(ledger_class: type[Ledger]) -> tuple[Ledger, list[AttemptId]]:
    """A cap of 100 tokens, all of it held by three attempts."""
    ledger = ledger_class(DIMENSIONS, "key")
    ledger.open("run", None, (100, None, None))
    ids = [hold(ledger, step, amounts) for step, amounts in enumerate(HOLDS)]
    return ledger, ids


def hold(ledger: Ledger, step: int, amounts: Amounts) -> AttemptId:
    held = ledger.reserve(Key(step, "verifier", 0), "run", Wish(amounts, NOTHING, 0, 0).need(), at_once=True)
    assert isinstance(held, Held)
    return held.id


def bill(ledger: Ledger, id: AttemptId, tokens: int | None) -> None:
    ledger.sent(id)
    ledger.settle(id, None if tokens is None else pack((tokens, 0, 0)))


@ONE_LEDGER
def test_what_is_held_in_a_frozen_scope_is_not_sent(ledger_class: type[Ledger]) -> None:
    ledger, (first, _, last) = book(ledger_class)
    bill(ledger, first, 101)

    with refused(BudgetExceeded):
        ledger.sent(last)

    ledger.release(last)
    assert ledger.overspend("run") == (1, 0, 0)


@ONE_LEDGER
def test_an_honest_bill_freezes_too_when_it_passes_the_cap(ledger_class: type[Ledger]) -> None:
    """The over-bill before it stayed below the cap, because others held what it took."""
    ledger, (first, second, last) = book(ledger_class)
    bill(ledger, first, 70)
    assert not ledger.scopes["run"].frozen

    bill(ledger, second, 40)

    with refused(BudgetExceeded):
        ledger.sent(last)


@ONE_LEDGER
def test_a_scope_stays_frozen_when_a_late_figure_brings_it_below_its_cap(ledger_class: type[Ledger]) -> None:
    ledger, (first, second, last) = book(ledger_class)
    bill(ledger, second, None)
    bill(ledger, first, 101)
    ledger.settle(second, pack((0, 0, 0)))
    ledger.check()

    with refused(BudgetExceeded):
        ledger.sent(last)


@ONE_LEDGER
def test_a_frozen_scope_refuses_even_a_request_for_nothing(ledger_class: type[Ledger]) -> None:
    ledger, (first, *_) = book(ledger_class)
    bill(ledger, first, 101)
    key = Key(9, "verifier", 0)
    ledger.reserve(key, "run", Wish(NOTHING, NOTHING, 0, 0).need())

    assert ledger.decide() == [Refused(key, "run", "tokens", 0, 0)]


@ONE_LEDGER
def test_who_waits_in_a_full_child_does_not_stall_its_siblings(ledger_class: type[Ledger]) -> None:
    ledger = ledger_class(DIMENSIONS, "key")
    ledger.open("run", None, (100, None, None))
    ledger.open("full", "run", (10, None, None))
    ledger.open("wide", "run", (50, None, None))
    need = Wish((10, 0, 0), NOTHING, 0, 0).need()
    ledger.reserve(Key(0, "verifier", 0), "full", need, at_once=True)
    for step, scope in ((1, "full"), (2, "wide"), (3, "run")):
        ledger.reserve(Key(step, "verifier", 0), scope, need)

    assert [held.id.key.step for held in ledger.decide() if isinstance(held, Held)] == [2, 3]
    assert ledger.waiting == 1


def test_an_overspent_book_can_be_taken_up_again() -> None:
    again = Ledger(DIMENSIONS, "arrival")
    again.open("run", None, (100, None, None))
    need = Wish((60, 0, 0), NOTHING, 0, 0).need()
    for step, tokens in enumerate((120, 30)):
        again.restore(AttemptId(Key(step, "verifier", 0), 0), "run", need, 0, 0, "settled", pack((tokens, 0, 0)))

    again.check()
    assert again.overspend("run") == (50, 0, 0)
    assert again.scopes["run"].frozen


def test_a_parent_or_number_of_caps_that_does_not_fit_is_an_error() -> None:
    ledger = Ledger(DIMENSIONS, "key")

    with pytest.raises(InternalError):
        ledger.open("run", "nobody", (1, 1, 1))
    with pytest.raises(InternalError):
        ledger.open("run", None, (1,))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda scope: setattr(scope, "held", scope.held + 1),
        lambda scope: setattr(scope, "settled", scope.settled + 1),
        lambda scope: setattr(scope, "open_holds", 0),
        lambda scope: setattr(scope, "kept", 1),
        lambda scope: scope.shares.update(verifier=-1),
        lambda scope: setattr(scope, "caps", pack((99, 0, 0))),
    ],
)
def test_check_finds_a_balance_that_does_not_follow_from_the_records(break_it: Callable[[Any], None]) -> None:
    ledger, _ = book(Ledger)
    ledger.check()

    break_it(ledger.scopes["run"])

    with pytest.raises(InternalError):
        ledger.check()


@given(st.lists(st.builds(Key, small, st.text(alphabet="a[]0123456789²٣", min_size=1), small), unique=True))
def test_the_order_of_keys_is_total_and_counts_as_people_do(keys: list[Key]) -> None:
    ranks = [natural_order(key) for key in keys]

    assert len(set(ranks)) == len(keys)
    assert sorted(ranks, reverse=True) == sorted(ranks)[::-1]
    assert natural_order(Key(0, "a[2]", 0)) < natural_order(Key(0, "a[10]", 0)) < natural_order(Key(1, "a", 0))
