"""Owns the book of one budget: who holds what, who spent what, who waits. A pure machine: no I/O, no clock, no await.

What could go wrong, and what is promised
-----------------------------------------
Every attempt is *held* at its upper bound before bytes leave, *sent*, and then *settled* at the true figure. So at every
moment what a provider can bill is at most settled + held, and with honest providers settled + held never passes a cap, in
any scope, in any dimension, whatever runs in parallel.

    HELD → SENT → SETTLED          the normal way
    HELD → RELEASED                only on proof that nothing was sent
    SENT → CHARGED_MAX → SETTLED   truth unknown: the whole hold is charged, open to one true figure later

A reservation is never cut down to what is left and then granted as if it were enough. What does not fit waits while others
hold something that may come back; when nobody does, it shrinks its own reply limit, or is refused with the figures.

Waiters are decided by `decide`, in the order of their keys ("key") or of their arrival ("arrival"). The head may wait; no
waiter overtakes it in a scope that blocks it, so nobody starves; requests in other scopes go on, and those that are granted
at once (`runtime.bank.admission`) never queue. Decided at quiescence, in key order, the outcome of a virtual run depends on
nothing but its seed. `settle` is accepted from any epoch: a spend is a fact.

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
    natural_order,
    prove,
)
from runtime.bank.vector import Vector, pack_caps, unpack
from runtime.budget import Amounts, Caps
from runtime.errors import BudgetConflict, BudgetExceeded, InternalError, StaleEpoch
from runtime.journal import Key, State

Order = Literal["key", "arrival"]


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
        """
        place = self.scopes[scope]
        if epoch < place.epoch:
            raise StaleEpoch(scope, epoch, place.epoch)
        tries = self._records.get(key)
        if tries and tries[-1].state in {"held", "sent", "settled"}:
            last = tries[-1]
            if (last.path[0], last.need, last.floor) != (place, need, floor):
                raise BudgetConflict(str(tuple(key)))
            return Settled(last.id) if last.state == "settled" else Held(last.id, last.units, last.amounts)
        queued = self._queue.get(key)
        if queued is not None:
            if (queued.path[0], queued.need, queued.floor) != (place, need, floor):
                raise BudgetConflict(str(tuple(key)))
            return Waiting(key)
        request = Request(key, place.path, need, floor, ())
        if at_once and self._fits(request, need.at(need.most)):
            return self._hold(request, need.most)
        self._arrivals += 1
        request.order = natural_order(key) if self.order == "key" else (self._arrivals,)
        self._queue[key] = request
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
        record = self.record(id)
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
        record = self.record(id)
        if record.state == "settled" or (record.state == "charged_max" and used is None):
            if used is not None and used != record.charged:
                raise BudgetConflict(str(id))
            return
        if record.state not in {"sent", "charged_max"}:
            raise InternalError(f"attempt {id} may not be settled: it is {record.state}")
        charged = record.amounts if used is None else used
        for scope in record.path:
            scope.charge(record, charged)
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
        if record.state == "released":
            return
        if record.state not in {"held", "sent"}:
            raise InternalError(f"attempt {id} may not be released: it is {record.state}")
        for scope, drawn in zip(record.path, record.drawn, strict=True):
            scope.give_back(record, drawn)
        record.state = "released"

    def restore(
        self, id: AttemptId, scope: str, need: Need, floor: Vector, units: int, state: State, charged: Vector | None
    ) -> None:
        """Put an attempt of an earlier life into a fresh book, in the state that its journal proves.

        Tries of a key come in their order.
        """
        request = Request(id.key, self.scopes[scope].path, need, floor, ())
        held = self._hold(request, units)
        if state == "released":
            self.release(held.id)
        else:
            self.record(held.id).state = "sent"  # a fact, whether or not the scope has frozen since
            self.settle(held.id, charged if state == "settled" else None)

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

    def _fits(self, request: Request, amounts: Vector) -> bool:
        return all(scope.fits(request, amounts) for scope in request.path)

    def _hold(self, request: Request, units: int) -> Held:
        amounts = request.need.at(units)
        tries = self._records.setdefault(request.key, [])
        id = AttemptId(request.key, len(tries))
        drawn = tuple(scope.take(request, amounts) for scope in request.path)
        tries.append(Record(id, request.path, request.need, request.floor, drawn, units, amounts))
        return Held(id, units, amounts)

    def _decide_one(self, request: Request, blocked: set[str]) -> Held | Refused | None:
        most = request.need.at(request.need.most)
        if self._fits(request, most):
            return self._hold(request, request.need.most)
        hopeless = self._hopeless(request)
        if hopeless is not None:
            return hopeless
        busy = [s.name for s in request.path if s.open_holds and not s.fits(request, most)]
        if busy:
            blocked.update(busy)
            return None
        return self._hold(request, self._largest(request))

    def _hopeless(self, request: Request) -> Refused | None:
        """A refusal when the least of it would not fit even if every hold came back whole."""
        least = unpack(request.need.at(request.need.least), len(self.dimensions))
        for scope in request.path:
            for i, left in enumerate(scope.left(request, held=0)):
                if least[i] > left:
                    return Refused(request.key, scope.name, self.dimensions[i], least[i], left)
            if scope.frozen:
                return Refused(request.key, scope.name, self.dimensions[0], least[0], 0)
        return None

    def _largest(self, request: Request) -> int:
        """The largest reply limit that fits now, given that the least one does."""
        n = len(self.dimensions)
        fixed, per_unit = unpack(request.need.fixed, n), unpack(request.need.per_unit, n)
        units = request.need.most
        for scope in request.path:
            for i, left in enumerate(scope.left(request, held=scope.held)):
                if per_unit[i]:
                    units = min(units, (left - fixed[i]) // per_unit[i])
        return units
