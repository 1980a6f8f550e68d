"""A test of the tests: faults planted in the source of ledger and admission, each to be found by a machine or a case."""

import inspect
import runpy
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from runtime.bank.admission import Admission
from runtime.bank.book import Record, Scope
from runtime.bank.ledger import Ledger
from runtime.bank.ledger_queue import Request
from runtime.errors import OrchestrationError

HERE = Path(__file__).parent
MACHINES = runpy.run_path(str(HERE / "test_ledger.py"))
TEAMS = runpy.run_path(str(HERE / "test_admission.py"))
UNIT = HERE.parent / "unit" / "bank"
CASES = runpy.run_path(str(UNIT / "test_ledger.py")) | runpy.run_path(str(UNIT / "test_admission.py"))
FOUND = (AssertionError, OrchestrationError, TimeoutError, KeyError, ExceptionGroup)
"""How a planted fault shows; who waits for ever comes to a TimeoutError."""

# The same 250 walks for the same sources. Each fault that is left to them was found by six times 250 others as well; those
# that are too rare for that have a case of their own.
ALWAYS = settings(
    max_examples=250,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
DRAWN_TEAMS = ALWAYS(TEAMS["test_a_virtual_team_comes_to_its_end_and_to_the_same_one_whoever_was_started_first"])


class Edit(NamedTuple):
    """One change of a method's source; what is replaced must be there exactly once, or the fault has lost its place."""

    owner: type
    method: str
    old: str
    new: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method = inspect.getattr_static(self.owner, self.method)
        source = getattr(method, "planted", None) or textwrap.dedent(inspect.getsource(method))
        assert source.count(self.old) == 1, f"{self.owner.__name__}.{self.method}: {source.count(self.old)}× {self.old}"
        source = source.replace(self.old, self.new)
        made: dict[str, Any] = {}
        exec(source, vars(sys.modules[self.owner.__module__]), made)
        made[self.method].planted = source
        monkeypatch.setattr(self.owner, self.method, made[self.method])


in_ledger, in_scope = partial(Edit, Ledger), partial(Edit, Scope)
in_record, in_request = partial(Edit, Record), partial(Edit, Request)
in_admission = partial(Edit, Admission)

FITS = "room & scope.guard != scope.guard"
SETTLED_BEFORE = 'state == "settled" or (state == "charged_max" and used is None)'
MAY_BE_SETTLED = 'not in {"sent", "charged_max"}'
SECOND_FIGURE = [
    in_ledger("settle", SETTLED_BEFORE, 'state == "charged_max" and used is None'),
    in_ledger("settle", MAY_BE_SETTLED, 'not in {"sent", "charged_max", "settled"}'),
]
IS_OPEN, IS_OLD = "record.is_open and", " and record.epoch < record.path[0].epoch"

HONEST: dict[str, list[Edit]] = {
    # keys
    "no key check": [in_ledger("reserve", "tries[-1].takes_key", "False")],
    "no key check in the queue": [in_ledger("reserve", "if self._queue and key in self._queue", "if False")],
    "another body is taken for the same": [
        in_ledger("_again", "(known.path[0], known.need, known.floor) != (place, need, floor)", "False")
    ],
    # room
    "ancestors unchecked at once": [in_record("hold_if_it_fits", FITS, f"scope is self.path[0] and {FITS}")],
    "ancestors unchecked in the queue": [in_request("judge", "in self.path if", "in self.path[:1] if")],
    "what does not fit leaves a trace": [in_record("hold_if_it_fits", "taken.room += hold", "pass")],
    "what does not fit is cut to what is left": [in_request("judge", "self._hopeless(dimensions) or", "")],
    "a hold that may come back counts as spent": [in_request("_hopeless", "scope.left(0", "scope.left(scope.held")],
    "whoever fits goes first": [in_ledger("decide", "blocked |= outcome", "pass")],
    # settling
    "refund of sent": [in_record("charge", "self.amounts if used is None else used", "used or 0")],
    "the second figure replaces the first": SECOND_FIGURE,
    "the second figure comes on top": [*SECOND_FIGURE, in_record("charge", "charged - (self.charged or 0)", "charged")],
    "the late figure comes on top": [in_record("charge", "charged - (self.charged or 0)", "charged")],
    "what was charged can be released": [in_ledger("release", "not record.is_open", "False")],
    "a release leaks in the ancestors": [
        in_record("give_back", "for scope in self.path:", "for scope in self.path[:1]:")
    ],
    # floors
    "one floor for all": [in_scope("own", "self.shares.get(seat, 0)", "self.kept")],
    "the floor counts as free": [
        in_scope("fits", "self.own(seat, floor)", "self.kept"),
        in_record("hold_if_it_fits", FITS, "(room + scope.kept) & scope.guard != scope.guard"),
    ],
    "who shrinks takes the floor": [in_scope("left", "+ self.kept", "")],
    "what was drawn beyond the hold is free for others": [in_record("hold", "scope.room -= spare", "pass")],
    "what a call did not need stays held": [in_record("_let_go_of_spares", "scope.room += spare", "pass")],
    "what was kept for a repetition is free": [in_record("charge", "again=used is None", "again=False")],
    "a release forgets the floor": [in_record("give_back", "scope.draw(self.id.key.seat, -drawn)", "pass")],
    # epochs
    "no fencing": [in_ledger("sent", "epoch < scope.epoch", "False")],
    "no fencing of new requests": [in_ledger("reserve", "epoch < place.epoch", "False")],
    "only the scope itself is fenced": [in_ledger("open", "self.scopes[name] in scope.path", "scope.name == name")],
    "expiry frees what was sent": [in_ledger("expire", 'billed and record.state == "sent"', "False")],
    "expiry keeps what was held": [in_ledger("expire", IS_OPEN, 'record.state == "sent" and')],
    "expiry touches the newest epoch": [in_ledger("expire", IS_OLD, "")],
    "expiry touches the newest epoch's waiters": [in_ledger("expire", "or r.epoch >= r.path[0].epoch", "")],
    "expiry forgets the waiters": [in_ledger("expire", "if scope not in r.path or r.epoch >= r.path[0].epoch", "")],
    "void charges": [in_ledger("expire", "billed and ", "")],
    "what is released can be sent": [in_ledger("sent", 'record.state != "held"', 'record.state == "settled"')],
    # top-ups and restoring
    "a top-up forgets the room": [in_scope("raise_caps", "self.room += amounts", "pass")],
    "no limit can be raised": [in_ledger("top_up", "amount and cap + amount >= UNLIMITED", "False")],
    "what was voided is taken up as held": [in_ledger("restore", '"released", "voided"', '"released"')],
    "an attempt is taken up in epoch 0": [in_ledger("restore", "units, epoch", "units, 0")],
    "what was sent is taken up as charged": [in_ledger("restore", '"settled", "charged_max"', '"settled", "sent"')],
}
OVERBILLING: dict[str, list[Edit]] = {
    "a bill above its hold is cut": [
        in_record("charge", "is None else used", "is None else lanewise_min(used, self.amounts, place.n)")
    ],
    "`sent` ignores the freeze": [in_ledger("sent", "if scope.frozen", "if False")],
    "a top-up does not thaw": [in_scope("raise_caps", "self.frozen and not", "self.frozen or not")],
    "a top-up thaws although it does not cover": [in_scope("raise_caps", "self.frozen and not fits", "False and fits")],
    "the excess is not counted": [in_scope("note_excess", "self.over += excess", "pass")],
}
RARE: dict[str, tuple[list[Edit], str, dict[str, object]]] = {
    "`sent` ignores the freeze": (
        OVERBILLING["`sent` ignores the freeze"],
        "test_what_is_held_in_a_frozen_scope_is_not_sent",
        {},
    ),
    "only the culprit freezes": (
        [in_record("charge", "if excess or scope.over", "if excess")],
        "test_an_honest_bill_freezes_too_when_it_passes_the_cap",
        {"honest": 40},
    ),
    "a new request thaws its scope": (
        [in_ledger("reserve", "place = self.scopes[scope]", "place = self.scopes[scope]; place.frozen = False")],
        "test_a_frozen_scope_refuses_even_a_request_for_nothing",
        {},
    ),
    "a frozen scope grants at once": (
        [in_record("hold_if_it_fits", " or scope.frozen", "")],
        "test_a_scope_stays_frozen_when_a_late_figure_brings_it_below_its_cap",
        {},
    ),
    "a frozen scope grants to those who waited": (
        [in_scope("fits", "not self.frozen and ", "")],
        "test_a_scope_stays_frozen_when_a_late_figure_brings_it_below_its_cap",
        {},
    ),
    "expiry of one scope closes others": (
        [in_ledger("expire", "scope in record.path and", "")],
        "test_expiry_of_one_scope_leaves_what_was_lost_in_another",
        {},
    ),
    "expiry of one scope empties the queue of others": (
        [in_ledger("expire", "scope not in r.path or ", "")],
        "test_expiry_of_one_scope_leaves_what_was_lost_in_another",
        {},
    ),
    "whoever waits blocks every scope in which something is held": (
        [in_request("judge", "in full if scope.open_holds", "in self.path if scope.open_holds")],
        "test_who_waits_in_a_full_child_does_not_stall_its_siblings",
        {},
    ),
    "a late figure for nothing counts as a first one": (
        [in_record("charge", "if self.charged is None else 0", "if not self.charged else 0")],
        "test_a_late_figure_for_a_hold_of_nothing_leaves_no_trace",
        {},
    ),
    "a late figure takes the key": (
        [in_record("charge", "self.late = self.charged is not None", "pass")],
        "test_a_late_figure_is_no_answer_so_its_key_stays_free_for_another_try",
        {},
    ),
    "what is voided can be settled": (
        [in_ledger("settle", MAY_BE_SETTLED, 'not in {"sent", "charged_max", "voided"}')],
        "test_where_nobody_bills_everything_of_the_lost_host_comes_back",
        {},
    ),
    "a top-up does not thaw": (
        OVERBILLING["a top-up does not thaw"],
        "test_a_top_up_thaws_what_it_covers_and_nothing_less",
        {},
    ),
    "a new host gets the hold of the lost one": (
        [in_ledger("_again", "known.epoch < epoch", "False")],
        "test_a_new_host_does_not_get_the_hold_of_the_lost_one_for_its_own",
        {},
    ),
}
SPENT = "test_what_a_seat_has_spent_of_its_allowance_it_does_not_have_again_at_once"
ADMISSION: dict[str, tuple[list[Edit], str, tuple[object, ...]]] = {
    "who gives up lets nobody go": (
        [in_admission("_wait", "withdraw(key)\n            self.stir()", "withdraw(key)")],
        "test_a_waiter_that_is_cancelled_leaves_nothing_and_lets_the_next_go",
        ("key",),
    ),
    "a grant to who gives up leaks": (
        [in_admission("_wait", "self.release(waiter.outcome.id)", "pass")],
        "test_what_was_granted_in_the_instant_of_a_cancellation_goes_back",
        (),
    ),
    "allowances never end": (
        [in_admission("_announce", "    self._allowances.clear()", "    pass")],
        "test_nobody_is_served_at_once_any_more_when_one_has_taken_more_than_its_allowance",
        (),
    ),
    "an allowance is not used up": (
        [in_admission("admit", "self._allowances[key.seat] = allowance - outcome.amounts", "pass")],
        SPENT,
        (10, 10, 10, 10),
    ),
    "an allowance comes back whole": (
        [in_admission("settle", "record.amounts - used", "record.amounts")],
        SPENT,
        (10, 10, 5, 10),
    ),
    "a bill above its hold is nobody's": (
        [
            in_admission("settle", "fits(used, allowance + record.amounts", "fits(used, record.amounts"),
            in_admission("settle", "self._allowances.clear()", "pass"),
        ],
        SPENT,
        (10, 5, 9, 5),
    ),
    "what is granted at quiescence uses up no allowance": (
        [in_admission("_announce", "= allowance - outcome.amounts", "= allowance")],
        "test_what_was_granted_at_quiescence_within_an_allowance_is_spent_of_it",
        ((0, 1, 2),),
    ),
    "children's caps bind on arrival": (
        [in_admission("_is_unbound", "return known", "return True")],
        "test_in_a_scope_whose_own_cap_could_bind_the_lowest_key_wins",
        ((2, 1, 0),),
    ),
    "a place is kept by who waits for budget": (
        [in_admission("_wait", "in_place = False", "pass")],
        "test_a_place_is_given_back_while_waiting_for_budget_and_taken_again",
        (),
    ),
}
IN_TEAMS = {
    "decided on arrival": in_admission("stir", "if self._virtual", "if False"),
    "decided before everybody has asked": in_admission(
        "decide_at_quiescence", "anyio.wait_all_tasks_blocked()", "anyio.lowlevel.checkpoint()"
    ),
    "every request at once": in_admission("admit", "fits(need.at(need.most), allowance, self._guard)", "True"),
    "what comes back wakes nobody": in_admission("settle", "    self.stir()", "    pass"),
    "who gives up stays in the queue": in_admission("_wait", "self.ledger.withdraw(key)", "pass"),
}
WALKS = [
    *(("LedgerMachine", fault, edits) for fault, edits in HONEST.items()),
    *(("OverbillingMachine", fault, edits) for fault, edits in OVERBILLING.items()),
]


@pytest.mark.parametrize(("machine", "edits"), [(m, e) for m, _, e in WALKS], ids=[fault for _, fault, _ in WALKS])
def test_a_planted_fault_is_found_by_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, edits: list[Edit]
) -> None:
    for edit in edits:
        edit.plant(monkeypatch)

    with pytest.raises(FOUND):
        run_state_machine_as_test(MACHINES[machine], settings=ALWAYS)


@pytest.mark.parametrize(("edits", "case", "arguments"), RARE.values(), ids=RARE)
def test_a_planted_fault_in_a_rare_state_is_found_by_its_case(
    monkeypatch: pytest.MonkeyPatch, edits: list[Edit], case: str, arguments: dict[str, object]
) -> None:
    for edit in edits:
        edit.plant(monkeypatch)

    with pytest.raises(FOUND):
        CASES[case](**arguments)


@pytest.mark.parametrize(("edits", "case", "arguments"), ADMISSION.values(), ids=ADMISSION)
def test_a_planted_fault_of_admission_is_found_by_its_case(
    monkeypatch: pytest.MonkeyPatch, edits: list[Edit], case: str, arguments: tuple[object, ...]
) -> None:
    for edit in edits:
        edit.plant(monkeypatch)

    with pytest.raises(FOUND):
        CASES[case](*arguments)


@pytest.mark.parametrize("edit", IN_TEAMS.values(), ids=IN_TEAMS)
def test_a_planted_fault_of_admission_is_found_by_drawn_teams(monkeypatch: pytest.MonkeyPatch, edit: Edit) -> None:
    edit.plant(monkeypatch)

    with pytest.raises(FOUND):
        DRAWN_TEAMS()
