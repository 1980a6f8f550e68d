"""Owns the book of one budget: who holds what, who spent what, who waits. A pure machine: no I/O, no clock, no await.

What could go wrong, and what is promised
-----------------------------------------
Every attempt is *held* at its upper bound before bytes leave, *sent*, and then *settled* at the true figure. So at every
moment what a provider can bill is at most settled + held, and with honest providers settled + held never passes a cap, in
any scope, in any dimension, whatever runs in parallel.

    HELD → SENT → SETTLED          the normal way
    HELD → RELEASED                only on proof that nothing was sent
    SENT → CHARGED_MAX → SETTLED   truth unknown: the whole hold is charged, open to one true figure later
    HELD or SENT → VOIDED          its host is gone, and nobody bills for what it did (virtual runs)

A reservation is never cut down to what is left and then granted as if it were enough. What does not fit waits while others
hold something that may come back; when nobody does, it shrinks its own reply limit, or is refused with the figures.

Waiters are decided by `decide`, in the order of their keys ("key") or of their arrival ("arrival"). The head may wait; no
waiter overtakes it in a scope that blocks it, so nobody starves; requests in other scopes go on, and those that are granted
at once (`runtime.bank.admission`) never queue. Decided at quiescence, in key order, the outcome of a virtual run depends on
nothing but its seed.

A scope belongs to the host of its newest *epoch*. Who opens a scope with a higher one fences the others: they can neither
reserve nor send any more, and `expire` closes what they hold, each attempt by what is known of it. No clock decides this: a
lease that runs out by time would need hosts and ledger to agree on time, and a host that cannot reach the ledger cannot
send anyway. `settle` is accepted from any epoch: a spend is a fact.

Scopes form a tree; an operation counts in its scope and all ancestors. A child's cap is a ceiling, not a transfer. A
scope's *floor* is kept for finishing calls: others see it as gone, and each finishing call draws on its own seat's share,
never on another's, however often it is repeated or repaired.

Prior art: two-phase transfers of TigerBeetle (pending, post, void); idempotency keys of Stripe. Unlike the former we must
accept a bill above the hold, because a provider's bill is a fact: it is booked as `over`, and the scope freezes when it
passes its cap.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from runtime.bank.book import (
    AttemptId,
    Held,
    Need,
    Record,
    Refused,
    Request,
    Scope,
    Settled,
    Waiting,
    one_hold,
)
from runtime.bank.proof import natural_order, prove
from runtime.bank.vector import UNLIMITED, Vector, pack_caps, unpack
from runtime.budget import Amounts, Caps
from runtime.errors import BudgetConflict, BudgetExceeded, InternalError, StaleEpoch
from runtime.journal import Key, State

Order = Literal["key", "arrival"]
_OPEN = frozenset({"held", "sent"})
_TAKEN = _OPEN | {"settled"}
"""States in which a key is not free for another try."""


class Ledger:
    """The book of one home host. Amounts are packed vectors (`runtime.bank.vector`) in the order of `dimensions`.

    Args:
        dimensions: names of what is counted.
        order: how waiters are decided: by key (virtual runs, decided at quiescence) or by arrival (live runs).
    """

    def __init__(self, dimensions: tuple[str, ...], order: Order) -> None:
        self.dimensions = dimensions
        self.order = order
        self.scopes: dict[str, Scope] = {}
        self._records: dict[Key, list[Record]] = {}
        self._queue: dict[Key, Request] = {}
        self._arrivals = 0
        self._one = one_hold(len(dimensions))

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    def open(
        self, name: str, parent: str | None, caps: Caps, floors: Mapping[str, Vector] | None = None, epoch: int = 0
    ) -> None:
        """Open a scope; opening it again raises its epoch, which fences every older host there and below.

        Args:
            floors: by seat, what is kept back for its finishing calls.

        Raises:
            InternalError: unknown parent, or another number of dimensions.
        """
        if name in self.scopes:
            for scope in self.scopes.values():
                if self.scopes[name] in scope.path:
                    scope.epoch = max(scope.epoch, epoch)
            return
        if len(caps) != len(self.dimensions) or (parent is not None and parent not in self.scopes):
            raise InternalError(f"scope {name}: parent {parent} or the number of dimensions does not fit")
        above = () if parent is None else self.scopes[parent].path
        epoch = max((epoch, *(s.epoch for s in above)))
        self.scopes[name] = Scope(name, above, pack_caps(caps), dict(floors or {}), epoch, len(caps))

    def top_up(self, name: str, amounts: Vector) -> None:
        """Raise the caps of a scope; one that was frozen thaws when they cover what was settled.

        Raises:
            InternalError: a dimension without a cap.
        """
        scope = self.scopes[name]
        raised = zip(unpack(amounts, scope.n), unpack(scope.caps, scope.n), strict=True)
        if any(amount and cap + amount >= UNLIMITED for amount, cap in raised):
            raise InternalError(f"scope {name}: a limit that does not exist cannot be raised")
        scope.raise_caps(amounts)

    def reserve(
        self, key: Key, scope: str, need: Need, floor: Vector = 0, epoch: int = 0, at_once: bool = False
    ) -> Held | Waiting | Settled:
        """Hold the upper bound of an attempt, or queue for it.

        Harmless when repeated with the same body. After RELEASED or CHARGED_MAX the same key opens a new try.

        Args:
            floor: for a finishing call, how much of its seat's share of the floor it may draw.
            at_once: grant without queueing when it fits. Only for requests that no order of arrival could decide
                otherwise (see `runtime.bank.admission`).

        Raises:
            BudgetConflict: the key is open or queued with another body.
            StaleEpoch: a newer host owns the scope.
            InternalError: a host of an older epoch holds the key or waits for it, so `expire` was forgotten. To answer with
                its hold would let the same work be sent, and billed, twice under one hold.
        """
        place = self.scopes[scope]
        if epoch < place.epoch:
            raise StaleEpoch(scope, epoch, place.epoch)
        tries = self._records.get(key)
        if tries is not None and tries[-1].state in _TAKEN:
            last = tries[-1]
            if (last.path[0], last.need, last.floor) != (place, need, floor):
                raise BudgetConflict(str(tuple(key)))
            if last.state != "settled" and last.epoch < epoch:
                raise InternalError(f"{tuple(key)} is {last.state} since epoch {last.epoch}, which was not expired")
            return Settled(last.id) if last.state == "settled" else Held(last.id, last.units, last.amounts)
        if self._queue and key in self._queue:
            queued = self._queue[key]
            if (queued.path[0], queued.need, queued.floor) != (place, need, floor):
                raise BudgetConflict(str(tuple(key)))
            if queued.epoch < epoch:
                raise InternalError(f"{tuple(key)} waits since epoch {queued.epoch}, which was not expired")
            return Waiting(key)
        if at_once:
            record = Record(key, 0 if tries is None else len(tries), place.path, need, floor, need.most, epoch)
            if self._fits(record, record.amounts):
                return self._hold(record, tries)
        self._arrivals += 1
        order = natural_order(key) if self.order == "key" else (self._arrivals,)
        self._queue[key] = Request(key, place.path, need, floor, order, epoch)
        return Waiting(key)

    def decide(self) -> list[Held | Refused]:
        """Grant, shrink or refuse what can be decided now, in order; the rest goes on waiting."""
        decided: list[Held | Refused] = []
        blocked: set[str] = set()
        for request in sorted(self._queue.values(), key=lambda r: r.order):
            if blocked and any(scope.name in blocked for scope in request.path):
                continue
            outcome = self._decide_one(request, blocked)
            if outcome is not None:
                del self._queue[request.key]
                decided.append(outcome)
        return decided

    def withdraw(self, key: Key) -> None:
        """Take a waiting request out of the queue (its caller was cancelled)."""
        self._queue.pop(key, None)

    def sent(self, id: AttemptId, epoch: int = 0) -> None:
        """Note that the bytes are about to leave. Harmless when repeated.

        Raises:
            StaleEpoch: a newer host owns the scope, so the call must not be made.
            BudgetExceeded: its scope or one above was overspent and is frozen, so the call must not be made.
            InternalError: the attempt is not held.
        """
        record = self._records[id[0]][id[1]]
        scope = record.path[0]
        if epoch < scope.epoch:
            raise StaleEpoch(scope.name, epoch, scope.epoch)
        if record.state == "sent":
            return
        if record.state != "held":
            raise InternalError(f"attempt {id} may not be sent: it is {record.state}")
        for scope in record.path:
            if scope.frozen:
                amounts, over = unpack(record.amounts, scope.n), self.overspend(scope.name)
                worst = over.index(max(over))
                raise BudgetExceeded(scope.name, self.dimensions[worst], amounts[worst], 0)
        record.state = "sent"

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        """Replace the hold by the true figure, or by its maximum when `used` is None.

        Accepted from any epoch. The same figure again is harmless.

        Raises:
            BudgetConflict: it was settled with another figure.
            InternalError: the attempt was never sent.
        """
        record = self._records[id[0]][id[1]]
        state = record.state
        if state == "settled" or (state == "charged_max" and used is None):
            if used is not None and used != record.charged:
                raise BudgetConflict(str(id))
            return
        if state not in {"sent", "charged_max"}:
            raise InternalError(f"attempt {id} may not be settled: it is {state}")
        charged = record.amounts if used is None else used
        # A late figure comes in the place of the maximum that was charged before; otherwise, in the place of the hold.
        is_late = state == "charged_max"
        late = record.amounts if is_late else 0
        back = record.amounts + (0 if is_late else self._one) - charged
        exact = charged == record.amounts
        for scope in record.path:
            scope.room += back
            scope.settled += charged - late
            if not exact or scope.over:
                scope.charge_over(record, charged)
        record.charged = charged
        record.state = "charged_max" if used is None else "settled"

    def release(self, id: AttemptId) -> None:
        """Give a hold back on proof that nothing was sent. Harmless when repeated.

        A provider that refuses a request before any work proves it too, so an attempt already noted as sent may be
        released by whoever holds that proof.

        Raises:
            InternalError: the attempt was charged.
        """
        record = self.record(id)
        if record.state != "released":
            if record.state not in _OPEN:
                raise InternalError(f"attempt {id} may not be released: it is {record.state}")
            self._give_back(record, "released")

    def expire(self, name: str, *, billed: bool = True) -> list[AttemptId]:
        """Close what hosts of older epochs hold in a scope and below, and drop what they wait for.

        Args:
            billed: whether somebody may be billed: then what was held is released and what was sent is charged at maximum.
                Otherwise both are voided and come back whole.
        """
        scope = self.scopes[name]
        closed = []
        for record in self.records():
            if record.state in _OPEN and scope in record.path and record.epoch < record.path[0].epoch:
                closed.append(record.id)
                if not billed:
                    self._give_back(record, "voided")
                elif record.state == "held":
                    self.release(record.id)
                else:
                    self.settle(record.id, None)
        for request in list(self._queue.values()):
            if scope in request.path and request.epoch < request.path[0].epoch:
                self.withdraw(request.key)
        return closed

    def restore(
        self,
        id: AttemptId,
        scope: str,
        need: Need,
        floor: Vector,
        units: int,
        state: State,
        charged: Vector | None,
        epoch: int = 0,
    ) -> None:
        """Put an attempt of an earlier life into a fresh book, in the state that its journal proves.

        Tries of a key come in their order.
        """
        tries = self._records.get(id.key)
        self._hold(Record(*id, self.scopes[scope].path, need, floor, units, epoch), tries)
        if state in {"released", "voided"}:
            self._give_back(self.record(id), state)
        elif state != "held":
            self.record(id).state = "sent"  # a fact, whether or not the scope has frozen since
            if state != "sent":
                self.settle(id, charged if state == "settled" else None)

    def record(self, id: AttemptId) -> Record:
        """The book's record of one try."""
        return self._records[id.key][id.try_]

    def records(self) -> Iterable[Record]:
        """All records, in the order in which their keys first came."""
        return (record for tries in self._records.values() for record in tries)

    def overspend(self, scope: str) -> Amounts:
        """What is settled in a scope above its caps, per dimension."""
        place = self.scopes[scope]
        settled, caps = (unpack(vector, place.n) for vector in (place.settled, place.caps))
        return tuple(max(0, s - c) for s, c in zip(settled, caps, strict=True))

    def check(self) -> None:
        """Verify every invariant that the book can see.

        Raises:
            InternalError: one does not hold.
        """
        prove(self.scopes, self.records(), self.dimensions)

    def _fits(self, request: Request | Record, amounts: Vector) -> bool:
        if request.floor:
            return all(scope.fits(request, amounts) for scope in request.path)
        for scope in request.path:  # unrolled from `Scope.fits`, because this is the most frequent question of all
            if (scope.room - amounts) & scope.guard != scope.guard or scope.frozen:
                return False
        return True

    def _hold(self, record: Record, tries: list[Record] | None) -> Held:
        hold = record.amounts + self._one
        if record.floor:
            record.drawn = tuple(scope.take(record, hold) for scope in record.path)
        else:
            for scope in record.path:
                scope.room -= hold
        if tries is None:
            self._records[record.key] = [record]
        else:
            tries.append(record)
        return Held(AttemptId(record.key, record.try_), record.units, record.amounts)

    def _grant(self, request: Request, units: int) -> Held:
        tries = self._records.get(request.key)
        n = 0 if tries is None else len(tries)
        return self._hold(
            Record(request.key, n, request.path, request.need, request.floor, units, request.epoch), tries
        )

    def _give_back(self, record: Record, state: State) -> None:
        hold = record.amounts + self._one
        for i, scope in enumerate(record.path):
            scope.give_back(record, hold, record.drawn[i] if record.drawn else 0)
        record.state = state

    def _decide_one(self, request: Request, blocked: set[str]) -> Held | Refused | None:
        most = request.need.at(request.need.most)
        if self._fits(request, most):
            return self._grant(request, request.need.most)
        hopeless = request.hopeless(self.dimensions)
        if hopeless is not None:
            return hopeless
        busy = [s.name for s in request.path if s.open_holds and not s.fits(request, most)]
        if busy:
            blocked.update(busy)
            return None
        return self._grant(request, request.largest())
