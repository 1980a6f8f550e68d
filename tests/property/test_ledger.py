"""The ledger against a book kept on paper and a provider that bills on its own, under every order of operations.

The provider is the oracle: from `sent` on it may bill, and the ledger learns the figure only by `settle`. The book on paper
has no packing and no running balances; it sums every figure anew from its list of attempts. It is the journal too: what a
crashed ledger knew is rebuilt from it.

    I1   no balance is negative                            I10  expiry frees what was held, nothing of what was sent
    I2   settled + held ≤ cap + over                       I11  no `sent` and no `reserve` from an epoch that is over
    I3   held is the sum of the open holds                 I12  a figure that comes after expiry counts as in time
    I4   settled is the sum of what was charged            I13  over its cap, a scope and all below it are frozen
    I5   the provider's bill ≤ settled + held              I14  balances change by operations that succeed only
    I6   closed, cap + over = settled + unspent            I15  no clock: no operation takes or reads a time, so there is
    I7   what is repeated changes nothing                        nothing to test but the imports (tests/test_layout.py)
    I8   what is released, voided, settled stays so        I16  with nothing held, what fits is granted
    I9   a crash loses at most what was in doubt           I17  what is kept for finishing calls is never lent

Each is named where it is asserted. With a provider that keeps to the bound, `over` is 0, and I2 is the hard cap.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, ClassVar, cast

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

from runtime.bank.book import AttemptId, Held, Need, Refused, Settled, Waiting
from runtime.bank.ledger import Ledger, Order
from runtime.bank.ledger_queue import natural_order
from runtime.bank.vector import pack, unpack
from runtime.errors import BudgetConflict, BudgetExceeded, InternalError, OrchestrationError, StaleEpoch
from runtime.journal import Key, State

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
    epoch: int = 0
    charged: Amounts = NOTHING
    late: bool = False
    bill: Amounts | None = None
    """What the provider bills for it, decided when it is sent; nobody else knows it before."""

    @property
    def granted_id(self) -> AttemptId:
        assert self.id is not None
        return self.id

    def come_back(self, state: str) -> None:
        """Nothing was sent, or nobody bills for it."""
        self.state, self.bill, self.drawn = state, None, dict.fromkeys(self.drawn, NOTHING)

    def charge(self, state: str, charged: Amounts) -> None:
        """A call that may be made again gives back to the floor what it did not hold; of one that is done that is free."""
        if state == "charged_max":
            self.drawn = {scope: least_of(drawn, self.amounts) for scope, drawn in self.drawn.items()}
        self.late = self.state == "charged_max"
        self.state, self.charged = state, charged

    @property
    def takes_key(self) -> bool:
        """A figure that came late is no answer, so the work may be tried again."""
        return self.state in {"waiting", "held", "sent"} or (self.state == "settled" and not self.late)

    def holds(self, scope: str) -> Amounts:
        """Its amounts, or what it drew out of the floor where that is more."""
        return tuple(map(max, self.amounts, self.drawn[scope])) if self.state in {"held", "sent"} else NOTHING

    def takes(self, scope: str) -> Amounts:
        """From others, for as long as it is open: what it holds and did not draw out of the floor."""
        return minus(self.holds(scope), self.drawn[scope])


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
        return plus(*(line.holds(scope) for line in self.in_scope(scope)))

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
        line.units, line.amounts, line.state = units, line.wish.at(units), "held"
        line.drawn = {scope: self.own(scope, line) for scope in self.places[line.scope].path}
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

    def of_older_epochs(self, lines: Iterable[Line], scope: str) -> list[Line]:
        """Those in a scope and below it whose host was replaced."""
        places = ((line, self.places[line.scope]) for line in lines)
        return [line for line, place in places if scope in place.path and line.epoch < place.epoch]

    def expire(self, scope: str, billed: bool) -> list[Line]:
        closed = [line for line in self.of_older_epochs(self.lines, scope) if line.state in {"held", "sent"}]
        for line in closed:
            if not billed:
                line.come_back("voided")
            elif line.state == "held":
                line.come_back("released")
            else:
                line.charge("charged_max", line.amounts)
        for line in self.of_older_epochs([*self.queue.values()], scope):
            del self.queue[line.key]
        return closed

    def freeze(self) -> None:
        for name, place in self.places.items():
            place.frozen = place.frozen or not within(self.settled(name), place.cap)

    def read_anew(self) -> None:
        """What is left of the book after a crash: attempts, but no queue, and no memory of a freeze that was made good.

        Finishing calls draw on the floor in the order of their attempts; one that was made while others held the floor may
        find more of it now.
        """
        self.queue.clear()
        for line in self.lines:
            line.drawn, line.late = dict.fromkeys(line.drawn, NOTHING), False
        for line in self.lines:
            if line.state not in {"released", "voided"}:
                wants = least_of(line.floor, line.amounts) if line.state == "charged_max" else line.floor
                line.drawn = {scope: least_of(self.share(scope, line.key.seat), wants) for scope in line.drawn}
        for place in self.places.values():
            place.frozen = False
        self.freeze()

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


modest = st.tuples(*[st.integers(0, 4)] * N).map(lambda fixed: Wish(fixed, NOTHING, 0, 0))
floors = st.just(NOTHING) | amounts
works = st.tuples(
    st.integers(0, 3),
    st.sampled_from(SEATS),
    modest | wishes(),
    floors,
    st.tuples(*[st.integers(0, 12)] * N),
    st.sampled_from(["held", "sent", "charged_max", "settled"]),
)
"""Scope, seat, wish, floor, excess and end of an attempt."""


Doubt = tuple[Callable[[Ledger], object], Callable[[], object]]
"""What the client asks of a ledger, and how the journal notes it."""
CLOSED = ("settled", "released", "charged_max", "voided")


class LedgerMachine(RuleBasedStateMachine):
    """Any order of operations of honest hosts, confused hosts, replaced hosts, and a provider."""

    excess: ClassVar[int] = 0
    """How much more than was held the provider may bill, in each dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.paper = Paper()
        self.arrivals = 0

    # --- opening

    @initialize(
        order=st.sampled_from(["key", "arrival"]),
        cap=st.tuples(*[st.integers(0, 40)] * N),
        children=st.lists(st.tuples(caps, st.integers(0, 3)), max_size=2),
        done=st.lists(works, max_size=8),
        data=st.data(),
    )
    def begin(self, order: Order, cap: Amounts, children: list[Any], done: list[Any], data: st.DataObject) -> None:
        """In the middle of things, or walks would seldom come to where much is held and spent."""
        self.order = order
        self.ledger = Ledger(DIMENSIONS, order)
        self.open_scope("run", None, cap, data)
        for child, pick in children:
            self.open_child(child, pick, data)
        for attempt in done:
            self.work(attempt)

    @precondition(lambda self: len(self.paper.places) < 4)
    @rule(cap=caps, pick=st.integers(0, 3), data=st.data())
    def open_child(self, cap: tuple[int | None, ...], pick: int, data: st.DataObject) -> None:
        self.open_scope(f"child-{len(self.paper.places)}", self.place(pick), cap, data)

    def open_scope(self, name: str, parent: str | None, cap: tuple[int | None, ...], data: st.DataObject) -> None:
        limit = tuple(inf if c is None else c for c in cap)
        kept = {}
        for seat in data.draw(st.sets(st.sampled_from(SEATS))):
            kept[seat] = tuple(data.draw(st.integers(0, 4 if c is None else c // 4)) for c in cap)
        above = () if parent is None else self.paper.places[parent].path
        epoch = 0 if parent is None else self.paper.places[parent].epoch
        self.paper.places[name] = Place((name, *above), limit, kept, epoch)
        self.ledger.open(name, parent, cap, {seat: pack(share) for seat, share in kept.items()})

    @rule(pick=st.integers(0, 3))
    def a_new_host_takes_over(self, pick: int) -> None:
        scope = self.place(pick)
        self.take_over(scope, self.paper.places[scope].epoch + 1)

    def take_over(self, scope: str, epoch: int) -> None:
        """A new epoch fences the older ones in the scope and everything below."""
        self.ledger.open(scope, None, (), epoch=epoch)
        for place in self.paper.places.values():
            if scope in place.path:
                place.epoch = max(place.epoch, epoch)

    @rule(pick=st.integers(0, 3), billed=st.booleans())
    def expire(self, pick: int, billed: bool) -> None:
        """Close what older epochs hold; nothing, where nobody took over. The newest epoch's own holds stay."""
        scope = self.place(pick)
        lost = [line for line in self.paper.of_older_epochs(self.paper.lines, scope) if line.state in {"held", "sent"}]
        freed = [line for line in lost if line.state == "held" or not billed]
        expected = {
            name: minus(self.taken(name), plus(*(line.takes(name) for line in freed if name in self.path_of(line))))
            for name in self.paper.places
        }
        closed = self.ledger.expire(scope, billed=billed)
        assert sorted(closed) == sorted(line.granted_id for line in lost)
        assert {name: self.taken(name) for name in self.paper.places} == expected, "I10"
        self.paper.expire(scope, billed)
        self.paper.freeze()
        with self.unchanged("I7"):
            assert self.ledger.expire(scope, billed=not billed) == []

    @rule(pick=st.integers(0, 3), more=amounts)
    def top_up(self, pick: int, more: Amounts) -> None:
        self.raise_caps(self.place(pick), more)

    @precondition(lambda self: any(place.frozen for place in self.paper.places.values()))
    @rule(pick=st.integers(0, 3), short=st.integers(0, 1))
    def top_up_an_overspent_scope(self, pick: int, short: int) -> None:
        """To just what was settled, or to one unit less in each dimension that was passed."""
        frozen = [name for name, place in self.paper.places.items() if place.frozen]
        name = frozen[pick % len(frozen)]
        self.raise_caps(name, tuple(max(0, over - short) for over in self.ledger.overspend(name)))

    def raise_caps(self, name: str, more: Amounts) -> None:
        place = self.paper.places[name]
        if any(m and c == inf for m, c in zip(more, place.cap, strict=True)):
            with self.unchanged("I14"), refused(InternalError):
                self.ledger.top_up(name, pack(more))
            more = tuple(0 if c == inf else m for m, c in zip(more, place.cap, strict=True))
        self.ledger.top_up(name, pack(more))
        place.cap = tuple(c + m for c, m in zip(place.cap, more, strict=True))
        place.frozen = place.frozen and not within(self.paper.settled(name), place.cap)

    # --- crashes

    @precondition(lambda self: self.doubts())
    @rule(pick=st.integers(0), committed=st.booleans(), more=amounts)
    def a_crash_around_an_operation(self, pick: int, committed: bool, more: Amounts) -> None:
        """The ledger dies before or after the journal has it; the client has no answer, and asks again (I9)."""
        operate, note = self.pick(pick, self.doubts())(more)
        answer = operate(self.ledger)
        if committed:
            note()
        self.crash()
        assert operate(self.ledger) == answer, "I9"
        if not committed:
            note()

    @rule(billed=st.booleans())
    def a_crashed_run_is_taken_up_again(self, billed: bool) -> None:
        """By a new host: what the old one left open is closed by what is known of it."""
        self.crash()
        self.take_over("run", 1 + max(place.epoch for place in self.paper.places.values()))
        open_lines = self.of("held", "sent")
        assert len(self.ledger.expire("run", billed=billed)) == len(open_lines)
        self.paper.expire("run", billed)
        self.paper.freeze()
        assert not any(scope.held or scope.open_holds for scope in self.ledger.scopes.values()), "I9, I10"

    def crash(self) -> None:
        self.paper.read_anew()
        kept = {name: unpack(scope.kept, N) for name, scope in self.ledger.scopes.items()}
        self.ledger = Ledger(DIMENSIONS, self.order)
        for name, place in self.paper.places.items():
            cap = tuple(None if c == inf else int(c) for c in place.cap)
            floors = {seat: pack(share) for seat, share in place.floors.items()}
            self.ledger.open(name, place.path[1] if place.path[1:] else None, cap, floors, place.epoch)
        for line in self.paper.lines:
            figure = pack(line.charged) if line.state == "settled" else None
            need, floor, state = line.wish.need(), pack(line.floor), cast(State, line.state)
            self.ledger.restore(line.granted_id, line.scope, need, floor, line.units, state, figure, line.epoch)
        for name, scope in self.ledger.scopes.items():
            assert within(unpack(scope.kept, N), kept[name]), "a floor grew, so it could pass the cap"

    def doubts(self) -> list[Callable[[Amounts], Doubt]]:
        """Operations of the newest host that would succeed now."""
        thawed = [line for line in self.of("held") if not self.is_frozen(line)]
        current = [line for line in self.of("held", "sent") if line.epoch == self.epoch_of(line)]
        return [
            *(partial(self.sending, line) for line in thawed),
            *(partial(self.settling, line, known) for line in self.of("sent") for known in (True, False)),
            *(partial(self.releasing, line) for line in self.of("held", "sent")),
            *(partial(self.asking_again, line) for line in current),
            self.asking,
        ]

    def sending(self, line: Line, more: Amounts) -> Doubt:
        epoch = self.epoch_of(line)
        return lambda ledger: ledger.sent(line.granted_id, epoch), lambda: self.note_sent(line, NOTHING, more)

    def settling(self, line: Line, known: bool, more: Amounts) -> Doubt:
        figure = line.bill if known else None
        used = None if figure is None else pack(figure)
        return lambda ledger: ledger.settle(line.granted_id, used), lambda: self.note_settled(line, figure)

    def releasing(self, line: Line, more: Amounts) -> Doubt:
        return lambda ledger: ledger.release(line.granted_id), lambda: line.come_back("released")

    def asking_again(self, line: Line, more: Amounts) -> Doubt:
        return lambda ledger: self.again(line, line.wish, line.floor, True, ledger), lambda: None

    def asking(self, more: Amounts) -> Doubt:
        """A key of its own each time, and no more than fits at once."""
        scope = list(self.paper.places)[-1]
        line = Line(Key(100 + len(self.paper.lines), "verifier", 0), scope, Wish(more, NOTHING, 0, 0), NOTHING, None)
        line.epoch = self.epoch_of(line)
        if not self.paper.rooms(line, more):
            return lambda ledger: None, lambda: None
        return lambda ledger: self.again(line, line.wish, line.floor, True, ledger), lambda: self.paper.grant(line, 0)

    # --- asking

    @rule(
        pick=st.integers(0, 3),
        step=st.integers(0, 11),
        seat=st.sampled_from(SEATS),
        wish=wishes(),
        floor=floors,
        at_once=st.booleans(),
    )
    def reserve(self, pick: int, step: int, seat: str, wish: Wish, floor: Amounts, at_once: bool) -> None:
        key = Key(step, seat, 0)
        if all(line.key != key for line in self.known()):
            self.ask(Line(key, self.place(pick), wish, floor, None), at_once)

    @precondition(lambda self: self.open_to_another_try())
    @rule(pick=st.integers(0), at_once=st.booleans())
    def another_try(self, pick: int, at_once: bool) -> None:
        """Of what was released, voided or charged at maximum; with a late figure too."""
        old = self.pick(pick, self.open_to_another_try())
        self.ask(Line(old.key, old.scope, old.wish, old.floor, None), at_once)

    def ask(self, line: Line, at_once: bool) -> None:
        line.epoch = self.epoch_of(line)
        got = self.again(line, line.wish, line.floor, at_once)
        if at_once and self.paper.rooms(line, line.wish.at(line.wish.most)):
            assert got == self.paper.grant(line, line.wish.most), "I16"
            return
        self.arrivals += 1
        line.order = natural_order(line.key) if self.order == "key" else self.arrivals
        self.paper.queue[line.key] = line
        assert got == Waiting(line.key)

    @rule(attempt=works)
    def work(self, attempt: tuple[int, str, Wish, Amounts, Amounts, str]) -> None:
        """An attempt up to some point, in one step."""
        pick, seat, wish, floor, more, end = attempt
        line = Line(Key(20 + len(self.paper.lines), seat, 0), self.place(pick), wish, floor, None)
        line.epoch = self.epoch_of(line)
        if not self.paper.rooms(line, wish.at(wish.most)):
            with self.unchanged("I2, I13"):
                assert self.again(line, wish, floor, True) == Waiting(line.key)
                self.ledger.withdraw(line.key)
            return
        assert self.again(line, wish, floor, True) == self.paper.grant(line, wish.most), "I16"
        if end == "held":
            return
        self.ledger.sent(line.granted_id, line.epoch)
        self.note_sent(line, NOTHING, more)
        if end != "sent":
            figure = line.bill if end == "settled" else None
            self.ledger.settle(line.granted_id, None if figure is None else pack(figure))
            self.note_settled(line, figure)

    @precondition(lambda self: self.known())
    @rule(pick=st.integers(0), at_once=st.booleans())
    def reserve_again(self, pick: int, at_once: bool) -> None:
        line = self.pick(pick, self.known())
        if line.state != "settled" and line.epoch < self.epoch_of(line):
            with self.unchanged("I5"), refused(InternalError):  # what another host may have sent is not sent again
                self.again(line, line.wish, line.floor, at_once)
            return
        with self.unchanged("I7"):
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
        with self.unchanged("I7"), refused(BudgetConflict):
            self.again(line, wish, floor, at_once)

    @precondition(lambda self: any(place.epoch for place in self.paper.places.values()))
    @rule(wish=wishes(), pick=st.integers(0), back=st.integers(1, 3), at_once=st.booleans())
    def a_zombie_host_reserves(self, wish: Wish, pick: int, back: int, at_once: bool) -> None:
        scope = [name for name, place in self.paper.places.items() if place.epoch]
        name = scope[pick % len(scope)]
        epoch = self.paper.places[name].epoch - back
        with self.unchanged("I11"), refused(StaleEpoch):
            self.ledger.reserve(Key(99, "executor[2]", 0), name, wish.need(), 0, epoch, at_once)

    @precondition(lambda self: self.paper.queue)
    @rule(pick=st.integers(0))
    def withdraw(self, pick: int) -> None:
        key = self.pick(pick, list(self.paper.queue))
        del self.paper.queue[key]
        self.ledger.withdraw(key)
        self.ledger.withdraw(key)

    @rule(
        requests=st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(SEATS), wishes(), floors), min_size=1, max_size=4
        )
    )
    def several_ask_at_once(self, requests: list[Any]) -> None:
        for n, (pick, seat, wish, floor) in enumerate(requests):
            self.reserve(pick, 50 + len(self.paper.lines) + n, seat, wish, floor, at_once=False)
        self.decide()

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
            assert waiting[0].key in went, "I16: nothing is held, yet nobody can go on"
        if not self.paper.open_holds("run"):
            assert not self.ledger.waiting, "I16"

    # --- sending and settling

    @precondition(lambda self: self.of("held"))
    @rule(pick=st.integers(0), cut=amounts, more=st.tuples(*[st.integers(0, 12)] * N))
    def send(self, pick: int, cut: Amounts, more: Amounts) -> None:
        line = self.pick(pick, self.of("held"))
        if self.is_frozen(line):
            with self.unchanged("I13"), refused(BudgetExceeded):
                self.ledger.sent(line.granted_id, self.epoch_of(line))
            return
        self.ledger.sent(line.granted_id, self.epoch_of(line))
        self.note_sent(line, cut, more)

    @precondition(lambda self: self.of("sent"))
    @rule(pick=st.integers(0))
    def note_again_that_it_was_sent(self, pick: int) -> None:
        line = self.pick(pick, self.of("sent"))
        with self.unchanged("I7"):
            self.ledger.sent(line.granted_id, self.epoch_of(line))

    @precondition(lambda self: self.of("held", "sent"))
    @rule(pick=st.integers(0), back=st.integers(1, 3))
    def a_zombie_host_sends(self, pick: int, back: int) -> None:
        line = self.pick(pick, self.of("held", "sent"))
        with self.unchanged("I11"), refused(StaleEpoch):
            self.ledger.sent(line.granted_id, self.epoch_of(line) - back)

    @precondition(lambda self: self.of(*CLOSED))
    @rule(pick=st.integers(0))
    def a_closed_attempt_is_sent(self, pick: int) -> None:
        line = self.pick(pick, self.of(*CLOSED))
        with self.unchanged("I8"), refused(InternalError):
            self.ledger.sent(line.granted_id, self.epoch_of(line))

    @precondition(lambda self: self.of("sent", "charged_max"))
    @rule(pick=st.integers(0))
    def settle(self, pick: int) -> None:
        """At the true figure: in time, or late, after the whole hold was charged (I12), and from any epoch (I11)."""
        line = self.pick(pick, self.of("sent", "charged_max"))
        assert line.bill is not None
        self.ledger.settle(line.granted_id, pack(line.bill))
        self.note_settled(line, line.bill)

    @precondition(lambda self: self.of("sent", "charged_max"))
    @rule(pick=st.integers(0))
    def settle_without_a_figure(self, pick: int) -> None:
        line = self.pick(pick, self.of("sent", "charged_max"))
        self.ledger.settle(line.granted_id, None)
        self.note_settled(line, None)

    @precondition(lambda self: self.of("settled"))
    @rule(pick=st.integers(0))
    def settle_again(self, pick: int) -> None:
        line = self.pick(pick, self.of("settled"))
        with self.unchanged("I7, I8"):
            self.ledger.settle(line.granted_id, pack(line.charged))
            self.ledger.settle(line.granted_id, None)

    @precondition(lambda self: self.of("settled"))
    @rule(pick=st.integers(0), figure=amounts)
    def settle_again_at_another_figure(self, pick: int, figure: Amounts) -> None:
        line = self.pick(pick, self.of("settled"))
        if figure != line.charged:
            with self.unchanged("I8"), refused(BudgetConflict):
                self.ledger.settle(line.granted_id, pack(figure))

    @precondition(lambda self: self.of("held", "released", "voided"))
    @rule(pick=st.integers(0), figure=st.none() | amounts)
    def settle_what_was_never_sent_or_is_nobodys_bill(self, pick: int, figure: Amounts | None) -> None:
        line = self.pick(pick, self.of("held", "released", "voided"))
        with self.unchanged("I8"), refused(InternalError):
            self.ledger.settle(line.granted_id, None if figure is None else pack(figure))

    @precondition(lambda self: self.of("held", "sent"))
    @rule(pick=st.integers(0))
    def release(self, pick: int) -> None:
        """On proof: nothing was sent, or the provider refused before any work."""
        line = self.pick(pick, self.of("held", "sent"))
        self.ledger.release(line.granted_id)
        line.come_back("released")

    @precondition(lambda self: self.of("released"))
    @rule(pick=st.integers(0))
    def release_again(self, pick: int) -> None:
        line = self.pick(pick, self.of("released"))
        with self.unchanged("I7"):
            self.ledger.release(line.granted_id)

    @precondition(lambda self: self.of("settled", "charged_max", "voided"))
    @rule(pick=st.integers(0))
    def release_what_was_charged_or_voided(self, pick: int) -> None:
        line = self.pick(pick, self.of("settled", "charged_max", "voided"))
        with self.unchanged("I8"), refused(InternalError):
            self.ledger.release(line.granted_id)

    # --- what holds after every step

    @invariant()
    def the_ledger_is_the_book_on_paper(self) -> None:
        for name, place in self.paper.places.items():
            scope = self.ledger.scopes[name]
            found = [unpack(v, N) for v in (scope.held, scope.settled, scope.over, scope.kept)]
            paper = [getattr(self.paper, figure)(name) for figure in ("held", "settled", "over", "kept")]
            assert found == paper, f"I3, I4: {name}"
            assert min(map(min, found)) >= 0, f"I1: {name}"
            assert (scope.frozen, scope.open_holds) == (place.frozen, self.paper.open_holds(name))
            assert {seat: unpack(share, N) for seat, share in scope.shares.items() if share} == {
                seat: self.paper.share(name, seat) for seat in SEATS if any(self.paper.share(name, seat))
            }, f"I17: {name}"
        for line in self.paper.lines:
            record = self.ledger.record(line.granted_id)
            assert (record.state, record.epoch, unpack(record.amounts, N)) == (line.state, line.epoch, line.amounts), (
                "I8"
            )
        assert self.ledger.waiting == len(self.paper.queue)
        self.ledger.check()

    @invariant()
    def the_cap_is_kept_and_the_ledger_is_never_behind_the_bill(self) -> None:
        for name, place in self.paper.places.items():
            scope = self.ledger.scopes[name]
            over = unpack(scope.over, N)
            assert within(self.booked(name), tuple(c + o for c, o in zip(place.cap, over, strict=True))), "I2"
            in_flight = plus(
                *(
                    minus(line.bill or NOTHING, least_of(line.bill or NOTHING, line.amounts))
                    for line in self.paper.in_scope(name)
                    if line.state != "settled"
                )
            )
            assert within(self.paper.billed(name), plus(self.booked(name), in_flight)), "I5"
            if not self.excess:
                assert (over, in_flight) == (NOTHING, NOTHING)
                assert within(plus(self.booked(name), unpack(scope.kept, N)), place.cap), "I17: a floor was lent"
            spent = tuple(max(0, s - c) for s, c in zip(unpack(scope.settled, N), place.cap, strict=True))
            assert self.ledger.overspend(name) == spent
            assert scope.frozen or not any(spent), "I13: over the cap and not frozen"

    @invariant()
    def nothing_goes_out_of_a_frozen_scope(self) -> None:
        for line in self.of("held"):
            if self.is_frozen(line):
                with self.unchanged("I13"), refused(BudgetExceeded):
                    self.ledger.sent(line.granted_id, self.epoch_of(line))
        for name, place in self.paper.places.items():
            if any(self.paper.places[scope].frozen for scope in place.path):
                line = Line(Key(99, "verifier", 0), name, Wish(NOTHING, NOTHING, 0, 0), NOTHING, None)
                with self.unchanged("I13"):
                    assert self.again(line, line.wish, NOTHING, True) == Waiting(line.key)
                    self.ledger.withdraw(line.key)

    def teardown(self) -> None:
        """A last host closes the books: nothing is left over, and what was not spent can be had to the last unit."""
        if not self.paper.places:
            return
        self.take_over("run", 1 + max(place.epoch for place in self.paper.places.values()))
        self.ledger.expire("run")
        self.paper.expire("run", True)
        for line in self.of("charged_max"):
            self.ledger.settle(line.granted_id, pack(line.bill or NOTHING))
            self.note_settled(line, line.bill or NOTHING)
        self.the_ledger_is_the_book_on_paper()
        for name, place in self.paper.places.items():
            assert (self.ledger.scopes[name].held, self.ledger.waiting) == (0, 0)
            inside = [other for other in self.paper.places.values() if other.path[1:2] == (name,)]
            own = plus(*(line.charged for line in self.paper.lines if line.scope == name))
            assert self.paper.settled(name) == plus(own, *(self.paper.settled(p.path[0]) for p in inside)), "I6"
            if not place.frozen and not any(self.paper.places[scope].frozen for scope in place.path):
                self.take_what_is_left(name)

    def take_what_is_left(self, name: str) -> None:
        line = Line(Key(0, f"last of {name}", 0), name, Wish(NOTHING, NOTHING, 0, 0), NOTHING, None)
        ceilings = [self.paper.ceiling(scope, line) for scope in self.path_of(line)]
        left = tuple(map(min, zip(*ceilings, strict=True)))
        if min(left) < 0:
            return  # an over-bill ate into the floor
        wish = Wish(tuple(1 if room == inf else int(room) for room in left), NOTHING, 0, 0)
        line.epoch = self.epoch_of(line)
        for i, room in enumerate(left):
            more = Wish(plus(wish.fixed, tuple(int(i == j) for j in range(N))), NOTHING, 0, 0)
            if room != inf:
                self.again(line, more, NOTHING, True)
                assert [type(outcome) for outcome in self.ledger.decide()] == [Refused], "I2"
        held = self.again(line, wish, NOTHING, True)
        assert isinstance(held, Held), "I6, I16: what is left cannot be had"
        self.ledger.release(held.id)

    # --- tools

    def note_sent(self, line: Line, cut: Amounts, more: Amounts) -> None:
        honest = minus(line.amounts, least_of(line.amounts, cut))
        line.state, line.bill = "sent", plus(honest, tuple(min(m, self.excess) for m in more))

    def note_settled(self, line: Line, figure: Amounts | None) -> None:
        if figure is None:
            line.charge("charged_max", line.amounts)
        else:
            line.charge("settled", figure)
        self.paper.freeze()

    def booked(self, name: str) -> Amounts:
        scope = self.ledger.scopes[name]
        return unpack(scope.settled + scope.held, N)

    def taken(self, name: str) -> Amounts:
        """What others cannot hold: booked, or kept for finishing calls."""
        return plus(self.booked(name), unpack(self.ledger.scopes[name].kept, N))

    def path_of(self, line: Line) -> tuple[str, ...]:
        return self.paper.places[line.scope].path

    def epoch_of(self, line: Line) -> int:
        return self.paper.places[line.scope].epoch

    def is_frozen(self, line: Line) -> bool:
        return any(self.paper.places[scope].frozen for scope in self.path_of(line))

    def place(self, pick: int) -> str:
        names = list(self.paper.places)
        return names[pick % len(names)]

    def pick(self, pick: int, among: list[Any]) -> Any:
        return among[pick % len(among)]

    def of(self, *states: str) -> list[Line]:
        return [line for line in self.paper.lines if line.state in states]

    def known(self) -> list[Line]:
        """Requests whose key is taken: queued, open, or answered."""
        return [*self.paper.queue.values(), *(line for line in self.last_tries() if line.takes_key)]

    def open_to_another_try(self) -> list[Line]:
        return [line for line in self.last_tries() if not line.takes_key and line.key not in self.paper.queue]

    def last_tries(self) -> list[Line]:
        return [*{line.key: line for line in self.paper.lines}.values()]

    def again(self, line: Line, wish: Wish, floor: Amounts, at_once: bool, ledger: Ledger | None = None) -> object:
        ask = (ledger or self.ledger).reserve
        return ask(line.key, line.scope, wish.need(), pack(floor), self.epoch_of(line), at_once)

    def unchanged(self, invariants: str) -> "Unchanged":
        return Unchanged(self.ledger, invariants)


class Unchanged:
    """Fails when what happens inside changes any balance or record (I14: a refused operation is none)."""

    def __init__(self, ledger: Ledger, invariants: str) -> None:
        self.ledger, self.invariants = ledger, invariants

    def __enter__(self) -> None:
        self.before = self.state()

    def __exit__(self, *error: object) -> None:
        assert error[0] is not None or self.state() == self.before, f"{self.invariants}, I14"

    def state(self) -> object:
        scopes = [
            (s.name, s.room, s.caps, s.settled, s.over, s.kept, s.epoch, s.frozen) for s in self.ledger.scopes.values()
        ]
        records = [(r.id, r.state, r.amounts, r.charged) for r in self.ledger.records()]
        return scopes, records, self.ledger.waiting


class OverbillingMachine(LedgerMachine):
    """The same hosts before a provider that bills more than was held."""

    excess = 12

    @precondition(lambda self: self.of("sent"))
    @rule(pick=st.integers(0), up=st.integers(0, 3), i=st.integers(0, N - 1), beyond=st.integers(-1, 1))
    def settle_at_the_brim(self, pick: int, up: int, i: int, beyond: int) -> None:
        """A bill that fills its scope, or one above, to the cap of one dimension, or misses or passes it by a unit."""
        line = self.pick(pick, self.of("sent"))
        path = self.path_of(line)
        scope = path[up % len(path)]
        left = self.paper.places[scope].cap[i] - self.paper.settled(scope)[i]
        line.bill = tuple(
            max(0, int(left) + beyond) if i == j and left != inf else a for j, a in enumerate(line.amounts)
        )
        self.ledger.settle(line.granted_id, pack(line.bill))
        self.note_settled(line, line.bill)


WALKS = 20_000 if settings.get_current_profile_name() == "long" else 200
"""More than the profiles' examples: the ledger is what everything else relies on."""


@pytest.mark.parametrize("machine", [LedgerMachine, OverbillingMachine])
def test_the_ledger_keeps_its_promises_in_every_order_of_operations(machine: type[LedgerMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(settings(), max_examples=WALKS, stateful_step_count=40))


@given(st.lists(st.builds(Key, small, st.text(alphabet="a[]0123456789²٣", min_size=1), small), unique=True))
def test_the_order_of_keys_is_total_and_counts_as_people_do(keys: list[Key]) -> None:
    ranks = [natural_order(key) for key in keys]

    assert len(set(ranks)) == len(keys)
    assert sorted(ranks, reverse=True) == sorted(ranks)[::-1]
    assert natural_order(Key(0, "a[2]", 0)) < natural_order(Key(0, "a[10]", 0)) < natural_order(Key(1, "a", 0))
