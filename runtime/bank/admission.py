"""Owns the waiting in front of a ledger: who asked sleeps until the ledger has decided.

Live runs decide on arrival and after every settle. Virtual runs decide at *quiescence*: when every task of the run is
blocked, just before the clock would jump, so that a decision sees all requests of the instant and rests on their keys alone.

Waiting for quiescence costs a scheduler round, so a virtual request is granted at once where no order of arrival could
matter. Each seat has an *allowance*, its even share of the run's budget; all allowances together fit the cap. A request
within what is left of its own seat's allowance is granted at once as long as no request beyond an allowance was granted
before. Why this is safe: with free = cap - settled - held, the surplus free - Σ (allowances left) does not change by such a
grant or its settlement, so every request of that kind fits, whatever came first; and the switch that ends this regime is
thrown at quiescence only. Requests beyond an allowance queue, and so do those in a scope whose own cap could bind.

The *leaf rule* keeps this free of deadlocks: an attempt is open only while its own bytes are out, so who waits never holds
anything, and whatever is waited for comes back on its own. A tool may ask an agent, so its call is charged as it starts. A
caller that asks with a hold in its hand may wait for itself, and nothing here can see that.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Protocol

import anyio

from runtime.bank.book import AttemptId, Held, Need, Refused, Settled, Waiting
from runtime.bank.ledger import Ledger
from runtime.bank.vector import Vector, fits, guards
from runtime.errors import BudgetError, BudgetExceeded
from runtime.journal import Key
from runtime.trampoline import handover


class Permit(Protocol):
    """A place at an endpoint. It is given back while its holder waits for budget."""

    async def acquire(self) -> None:
        """Wait for a place."""
        ...

    def release(self) -> None:
        """Give the place back."""
        ...


class _Waiter:
    __slots__ = ("decided", "outcome")

    def __init__(self) -> None:
        self.decided = anyio.Event()
        self.outcome: Held | Refused | None = None

    def decide(self, outcome: Held | Refused) -> None:
        self.outcome = outcome
        self.decided.set()


class Admission:
    """The door of one run's ledger.

    Args:
        ledger: the book; its order is "key" exactly in virtual runs.
        allowances: per seat, its share of the budget; together they fit into the cap. Not used in live runs.
    """

    def __init__(self, ledger: Ledger, allowances: Mapping[str, Vector]) -> None:
        self.ledger = ledger
        self._virtual = ledger.order == "key"
        self._allowances = dict(allowances) if self._virtual else {}
        self._guard = guards(len(ledger.dimensions))
        self._unbound: dict[str, bool] = {}
        self._waiters: dict[Key, _Waiter] = {}
        self.on_first_stir: Callable[[], object] = _nothing
        """Called once, when the first request of a virtual run has to wait; most runs never need their decider."""

    async def admit(
        self, key: Key, scope: str, need: Need, floor: Vector, epoch: int, permit: Permit | None
    ) -> Held | Settled:
        """Take the permit and hold the bound of an attempt, waiting for headroom that others hold. Maybe shrunk.

        The caller gives the permit back; when this raises, it was given back already.

        Raises:
            BudgetExceeded: it does not fit and waiting cannot help.
            StaleEpoch: a newer host owns the scope.
        """
        if permit is not None:
            await permit.acquire()
        allowance = self._allowances.get(key.seat)
        within = allowance is not None and fits(need.at(need.most), allowance, self._guard) and self._is_unbound(scope)
        try:
            outcome = self.ledger.reserve(key, scope, need, floor, epoch, at_once=within)
        except BudgetError:
            if permit is not None:
                permit.release()
            raise
        if isinstance(outcome, Waiting):
            return await self._wait(key, _Waiter(), permit)
        if isinstance(outcome, Held) and allowance is not None:
            self._allowances[key.seat] = allowance - outcome.amounts
        return outcome

    def sent(self, id: AttemptId, epoch: int) -> None:
        """Note that the bytes are about to leave.

        Raises:
            BudgetError: they must not; the hold was given back.
        """
        try:
            self.ledger.sent(id, epoch)
        except BudgetError:
            self.release(id)
            raise

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        """Settle in the book and let waiters have what came back."""
        record = self.ledger.record(id)
        self.ledger.settle(id, used)
        allowance = self._allowances.get(id.key.seat)
        if used is not None and allowance is not None:
            if fits(used, allowance + record.amounts, self._guard):
                self._allowances[id.key.seat] = allowance + record.amounts - used
            else:
                self._allowances.clear()  # a bill above its hold took what others were promised
        self.stir()

    def release(self, id: AttemptId) -> None:
        """Release in the book and let waiters have what came back."""
        self.ledger.release(id)
        if id.key.seat in self._allowances:
            self._allowances[id.key.seat] += self.ledger.record(id).amounts
        self.stir()

    async def decide_at_quiescence(self) -> None:
        """Decide whenever something stirred and the run has come to rest; a task beside a virtual run, until cancelled."""
        while True:
            await self._stirred.wait()
            await anyio.wait_all_tasks_blocked()
            del self._stirred
            self._announce()

    @cached_property
    def _stirred(self) -> anyio.Event:
        """Set by what stirs, until it is decided. Made when first needed: it weighs a kilobyte, and most runs never wait."""
        return anyio.Event()

    async def _wait(self, key: Key, waiter: _Waiter, permit: Permit | None) -> Held:
        self._waiters[key] = waiter
        in_place = True
        try:
            await handover()
            self.stir()
            if not waiter.decided.is_set():
                if permit is not None:
                    permit.release()
                in_place = False
                await waiter.decided.wait()
            if isinstance(waiter.outcome, Refused):
                raise BudgetExceeded(*waiter.outcome[1:])
            if permit is not None and not in_place:
                await permit.acquire()
        except BaseException:
            # Refused or cancelled. What was granted in the same instant goes back, what was not leaves the queue.
            if permit is not None and in_place:
                permit.release()
            if isinstance(waiter.outcome, Held):
                self.release(waiter.outcome.id)
            elif waiter.outcome is None:
                self.ledger.withdraw(key)
                self.stir()
            raise
        finally:
            del self._waiters[key]
        assert isinstance(waiter.outcome, Held)
        return waiter.outcome

    def stir(self) -> None:
        """Ask again for whoever waits: something came back, or a cap was raised."""
        if not self.ledger.waiting:
            return
        if self._virtual:
            self.on_first_stir()
            self.on_first_stir = _nothing
            self._stirred.set()
        else:
            self._announce()

    def _announce(self) -> None:
        for outcome in self.ledger.decide():
            key = outcome.id.key if isinstance(outcome, Held) else outcome.key
            if isinstance(outcome, Held) and self._allowances:
                allowance = self._allowances.get(key.seat, 0)
                if fits(outcome.amounts, allowance, self._guard):
                    self._allowances[key.seat] = allowance - outcome.amounts
                else:
                    # A grant beyond an allowance eats into the others' shares: from here on every request queues.
                    self._allowances.clear()
            self._waiters[key].decide(outcome)

    def _is_unbound(self, scope: str) -> bool:
        """Whether no cap binds there but the run's, which all allowances together fit."""
        known = self._unbound.get(scope)
        if known is None:
            *inner, run = self.ledger.scopes[scope].path
            known = all(not s.kept and fits(run.caps, s.caps, self._guard) for s in inner)
            self._unbound[scope] = known
        return known


def _nothing() -> None:
    pass
