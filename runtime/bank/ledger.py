"""Owns the book of one budget: who holds what, who spent what, who waits. A pure machine: no I/O, no clock, no await.

Every attempt is *held* at its upper bound before bytes leave, *sent*, and then *settled* at the true figure. So at every
moment what a provider can bill is at most settled + held, and with honest providers settled + held never passes a cap, in
any scope, in any dimension, whatever runs in parallel.

    HELD → SENT → SETTLED          the normal way
    HELD → RELEASED                only on proof that nothing was sent
    SENT → CHARGED_MAX → SETTLED   truth unknown: the whole hold is charged, open to one true figure later
    HELD or SENT → VOIDED          its host is gone, and nobody bills for what it did (virtual runs)

**Wait, shrink, refuse.** What does not fit is never cut down and granted as if it were enough. It waits while others hold
something that may come back; when nobody does, it shrinks its own reply limit, or is refused with the figures. `decide` goes
through the waiters by key, or by arrival. The head may wait; nobody overtakes it in a scope that blocks it, so nobody
starves; requests in other scopes go on, and those granted at once (`runtime.bank.admission`) never queue. Decided at
quiescence, by key, the outcome of a virtual run depends on nothing but its seed.

**Scopes** form a tree; an operation counts in its scope and in all above. A child's cap is a ceiling, not a transfer. A
scope's *floor* is kept for finishing calls: others see it as gone, and each finishing call draws on its own seat's share,
never on another's, however often it is repeated or repaired.

**Epochs.** A scope belongs to the host of its newest epoch. Who opens it with a higher one fences the others: they can
neither reserve nor send, and `expire` closes what they hold, each attempt by what is known of it. No clock decides this: a
lease that runs out would need hosts and ledger to agree on time. `settle` is accepted from any epoch: a spend is a fact.

Prior art: two-phase transfers of TigerBeetle (pending, post, void); idempotency keys of Stripe. Unlike the former we must
accept a bill above the hold, because it is a fact too: it is booked as `over`, and the scope freezes when it passes its cap.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from runtime.bank.book import AttemptId, Held, Need, Record, Refused, Scope, Settled, Waiting
from runtime.bank.ledger_queue import Request, natural_order
from runtime.bank.proof import prove
from runtime.bank.vector import UNLIMITED, Vector, pack_caps, unpack
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

        Harmless when repeated with the same body. After RELEASED, VOIDED or CHARGED_MAX the same key opens a new try, also
        when the true figure has come since.

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
        if tries is not None and tries[-1].takes_key:
            return self._again(key, tries[-1], place, need, floor, epoch)
        if self._queue and key in self._queue:
            return self._again(key, self._queue[key], place, need, floor, epoch)
        if at_once:
            id = AttemptId(key, 0 if tries is None else len(tries))
            record = Record(id, place.path, need, floor, need.most, epoch)
            if record.hold_if_it_fits():
                if tries is None:
                    self._records[key] = [record]
                else:
                    tries.append(record)
                return Held(id, need.most, record.amounts)
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
            outcome = request.judge(self.dimensions)
            if isinstance(outcome, set):
                blocked |= outcome
            else:
                del self._queue[request.key]
                decided.append(outcome if isinstance(outcome, Refused) else self._grant(request, outcome))
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
                over = scope.overspend()
                worst = over.index(max(over))
                raise BudgetExceeded(scope.name, self.dimensions[worst], unpack(record.amounts, scope.n)[worst], 0)
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
        record.charge(used)

    def release(self, id: AttemptId) -> None:
        """Give a hold back on proof that nothing was sent. Harmless when repeated.

        A provider that refuses a request before any work proves it too, so an attempt already noted as sent may be
        released by whoever holds that proof.

        Raises:
            InternalError: the attempt was charged.
        """
        record = self.record(id)
        if record.state != "released":
            if not record.is_open:
                raise InternalError(f"attempt {id} may not be released: it is {record.state}")
            record.give_back("released")

    def expire(self, name: str, *, billed: bool = True) -> list[AttemptId]:
        """Close what hosts of older epochs hold in a scope and below, and drop what they wait for.

        Args:
            billed: whether somebody may be billed: then what was held is released and what was sent is charged at maximum.
                Otherwise both are voided and come back whole.
        """
        scope = self.scopes[name]
        closed = []
        for record in self.records():
            if record.is_open and scope in record.path and record.epoch < record.path[0].epoch:
                closed.append(record.id)
                if billed and record.state == "sent":
                    record.charge(None)
                else:
                    record.give_back("released" if billed else "voided")
        self._queue = {k: r for k, r in self._queue.items() if scope not in r.path or r.epoch >= r.path[0].epoch}
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
        record = Record(id, self.scopes[scope].path, need, floor, units, epoch)
        record.hold()
        self._records.setdefault(id.key, []).append(record)
        if state in {"released", "voided"}:
            record.give_back(state)
        elif state in {"settled", "charged_max"}:
            record.charge(charged if state == "settled" else None)
        else:
            record.state = state

    def record(self, id: AttemptId) -> Record:
        """The book's record of one try."""
        return self._records[id.key][id.try_]

    def records(self) -> Iterable[Record]:
        """All records, in the order in which their keys first came."""
        return (record for tries in self._records.values() for record in tries)

    def overspend(self, scope: str) -> Amounts:
        """What is settled in a scope above its caps, per dimension."""
        return self.scopes[scope].overspend()

    def check(self) -> None:
        """Verify every invariant that the book can see.

        Raises:
            InternalError: one does not hold.
        """
        prove(self.scopes, self.records(), self.dimensions)

    def _again(
        self, key: Key, known: Record | Request, place: Scope, need: Need, floor: Vector, epoch: int
    ) -> Held | Waiting | Settled:
        """The answer to a request that was made before."""
        if (known.path[0], known.need, known.floor) != (place, need, floor):
            raise BudgetConflict(str(tuple(key)))
        if isinstance(known, Record) and known.state == "settled":
            return Settled(known.id)
        if known.epoch < epoch:
            raise InternalError(f"{tuple(key)} belongs to epoch {known.epoch}, which was not expired")
        return Held(known.id, known.units, known.amounts) if isinstance(known, Record) else Waiting(key)

    def _grant(self, request: Request, units: int) -> Held:
        tries = self._records.setdefault(request.key, [])
        id = AttemptId(request.key, len(tries))
        record = Record(id, request.path, request.need, request.floor, units, request.epoch)
        record.hold()
        tries.append(record)
        return Held(id, units, record.amounts)
