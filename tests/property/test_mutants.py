"""A test of the tests: ledgers with one planted fault each, which the machines or a directed case must find."""

import runpy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from runtime.bank.book import AttemptId, Held, Need, Record, Refused, Request, Settled, Waiting
from runtime.bank.ledger import Ledger
from runtime.bank.vector import Vector, fits, guards, lanewise_min, unpack
from runtime.errors import OrchestrationError
from runtime.journal import Key

TESTS = runpy.run_path(str(Path(__file__).with_name("test_ledger.py")))

# The same 250 walks every time: what they find is a fact about the machines, not luck.
ALWAYS = settings(
    max_examples=250,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class NoKeyCheck(Ledger):
    """Every request is new, whatever its key."""

    def reserve(
        self, key: Key, scope: str, need: Need, floor: Vector = 0, epoch: int = 0, at_once: bool = False
    ) -> Held | Waiting | Settled:
        tries, self._records[key] = self._records.get(key, []), []
        queued = self._queue.pop(key, None)
        try:
            return super().reserve(key, scope, need, floor, epoch, at_once)
        finally:
            self._records[key] = tries + self._records[key]
            if queued is not None and key not in self._queue:
                self._queue[key] = queued


class AncestorsUnchecked(Ledger):
    """Only the innermost scope decides."""

    def _fits(self, request: Request, amounts: Vector) -> bool:
        return request.path[0].fits(request, amounts)


class RefundsTheUnknown(Ledger):
    """An unknown usage is taken for none."""

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        before = self.record(id).state
        super().settle(id, used)
        record = self.record(id)
        if used is None and before == "sent":
            for scope in record.path:
                scope.settled -= record.amounts
            record.charged = 0


class SettlesTwice(Ledger):
    """A second figure is booked on top of the first."""

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        record = self.record(id)
        if record.state == "settled" and used is not None:
            for scope in record.path:
                scope.settled += used
            record.charged = (record.charged or 0) + used
        else:
            super().settle(id, used)


class LastFigureWins(Ledger):
    """A second figure replaces the first."""

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        record = self.record(id)
        if record.state == "settled" and used is not None:
            for scope in record.path:
                scope.settled += used - (record.charged or 0)
            record.charged = used
        else:
            super().settle(id, used)


class NoFencing(Ledger):
    """An old host may send."""

    def sent(self, id: AttemptId, epoch: int = 0) -> None:
        super().sent(id, self.record(id).path[0].epoch)


class SendsWhileFrozen(Ledger):
    """A frozen scope does not keep what is held from being sent."""

    def sent(self, id: AttemptId, epoch: int = 0) -> None:
        frozen = [scope for scope in self.record(id).path if scope.frozen]
        for scope in frozen:
            scope.frozen = False
        try:
            super().sent(id, epoch)
        finally:
            for scope in frozen:
                scope.frozen = True


class FreezesOnlyTheCulprit(Ledger):
    """A scope that an honest bill lifts over its cap, after an over-bill, goes on."""

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        before = {name: scope.frozen for name, scope in self.scopes.items()}
        held = self.record(id).amounts
        super().settle(id, used)
        if used is None or fits(used, held, guards(len(self.dimensions))):
            for name, scope in self.scopes.items():
                scope.frozen = before[name]


class OneFloorForAll(Ledger):
    """A finishing call may draw what is kept for the others."""

    def _hold(self, request: Request, units: int) -> Held:
        for scope in request.path:
            if request.floor:
                all_kept = lanewise_min(scope.kept, request.floor, scope.n)
                scope.shares = {request.key.seat: all_kept, "rest": scope.kept - all_kept}
        return super()._hold(request, units)


class LendsTheFloor(Ledger):
    """What is kept for finishing calls counts as free."""

    def _fits(self, request: Request, amounts: Vector) -> bool:
        kept = [scope.kept for scope in request.path]
        for scope in request.path:
            scope.kept = 0
        try:
            return not request.floor and super()._fits(request, amounts)
        finally:
            for scope, floor in zip(request.path, kept, strict=True):
                scope.kept = floor


class ReleasesWhatWasCharged(Ledger):
    """A release after the bill gives the money back."""

    def release(self, id: AttemptId) -> None:
        record = self.record(id)
        if record.state in {"settled", "charged_max"}:
            for scope in record.path:
                scope.settled -= record.charged or 0
            record.charged = None
            record.state = "released"
        else:
            super().release(id)


class ForgetsToRelease(Ledger):
    """The hold leaks in the ancestors."""

    def release(self, id: AttemptId) -> None:
        record = self.record(id)
        before = record.state
        super().release(id)
        for scope in record.path[1:] if before != "released" else ():
            scope.held += record.amounts
            scope.open_holds += 1


class Thaws(Ledger):
    """A new request thaws its scope."""

    def reserve(
        self, key: Key, scope: str, need: Need, floor: Vector = 0, epoch: int = 0, at_once: bool = False
    ) -> Held | Waiting | Settled:
        for place in self.scopes[scope].path:
            place.frozen = False
        return super().reserve(key, scope, need, floor, epoch, at_once)


class Overtakes(Ledger):
    """Whoever fits goes first; the head may starve."""

    def decide(self) -> list[Held | Refused]:
        decided: list[Held | Refused] = []
        for request in sorted(self._queue.values(), key=lambda request: request.order):
            outcome = self._decide_one(request, set())
            if outcome is not None:
                del self._queue[request.key]
                decided.append(outcome)
        return decided


class BlocksMoreThanIsFull(Ledger):
    """Whoever waits blocks every scope in which something is held."""

    def _decide_one(self, request: Request, blocked: set[str]) -> Held | Refused | None:
        outcome = super()._decide_one(request, blocked)
        if outcome is None:
            blocked.update(scope.name for scope in request.path if scope.open_holds)
        return outcome


class CutsToWhatIsLeft(Ledger):
    """What does not fit is held at what is left, as if that were enough."""

    def _hopeless(self, request: Request) -> Refused | None:
        return None


class RefusesWhileOthersHold(Ledger):
    """A hold that may come back counts as spent."""

    def _hopeless(self, request: Request) -> Refused | None:
        for scope in request.path:
            left = scope.left(request, held=scope.held)
            for i, amount in enumerate(unpack(request.need.at(request.need.least), scope.n)):
                if amount > left[i]:
                    return Refused(request.key, scope.name, self.dimensions[i], amount, left[i])
        return super()._hopeless(request)


class CapsTheBill(Ledger):
    """A bill above its hold is booked at the hold."""

    def settle(self, id: AttemptId, used: Vector | None) -> None:
        held: Record = self.record(id)
        super().settle(id, None if used is None else lanewise_min(used, held.amounts, len(self.dimensions)))


HONEST, OVERBILLING = "LedgerMachine", "OverbillingMachine"
WALKS = [
    (NoKeyCheck, HONEST),
    (AncestorsUnchecked, HONEST),
    (RefundsTheUnknown, HONEST),
    (SettlesTwice, HONEST),
    (LastFigureWins, HONEST),
    (NoFencing, HONEST),
    (OneFloorForAll, HONEST),
    (LendsTheFloor, HONEST),
    (ReleasesWhatWasCharged, HONEST),
    (ForgetsToRelease, HONEST),
    (Overtakes, HONEST),
    (CutsToWhatIsLeft, HONEST),
    (RefusesWhileOthersHold, HONEST),
    (CapsTheBill, OVERBILLING),
    (SendsWhileFrozen, OVERBILLING),
]


@pytest.mark.parametrize(("mutant", "machine"), WALKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_found_by_the_machine(mutant: type[Ledger], machine: str) -> None:
    planted = type(mutant.__name__, (TESTS[machine],), {"ledger_class": mutant})

    with pytest.raises((AssertionError, OrchestrationError)):
        run_state_machine_as_test(planted, settings=ALWAYS)


@pytest.mark.parametrize(
    ("mutant", "case"),
    [
        (SendsWhileFrozen, "test_what_is_held_in_a_frozen_scope_is_not_sent"),
        (FreezesOnlyTheCulprit, "test_an_honest_bill_freezes_too_when_it_passes_the_cap"),
        (Thaws, "test_a_frozen_scope_refuses_even_a_request_for_nothing"),
        (BlocksMoreThanIsFull, "test_who_waits_in_a_full_child_does_not_stall_its_siblings"),
    ],
)
def test_a_planted_fault_in_a_rare_state_is_found_by_its_case(mutant: type[Ledger], case: str) -> None:
    with pytest.raises((AssertionError, OrchestrationError)):
        TESTS[case](mutant)
