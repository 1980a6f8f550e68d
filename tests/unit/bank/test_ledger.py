"""The ledger in states too rare to be left to chance. tests/property/test_mutants.py plants faults for some of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.bank.book import AttemptId, Held, Need, Refused, Settled, Waiting, one_hold
from runtime.bank.ledger import Ledger
from runtime.bank.vector import UNLIMITED, pack, unpack
from runtime.errors import BudgetExceeded, InternalError, OrchestrationError, StaleEpoch
from runtime.journal import Key

DIMENSIONS = ("tokens", "pico_usd", "calls")
CAP = (100, None, None)


@contextmanager
def refused(*errors: type[OrchestrationError]) -> Iterator[None]:
    """Like pytest.raises, but what it raises is an AssertionError, so that a test of this test can catch it."""
    try:
        yield
    except errors:
        return
    raise AssertionError(f"none of {errors} was raised")


def tokens(n: int) -> Need:
    return Need(pack((n, 0, 0)), 0, 0, 0)


def key(step: int) -> Key:
    return Key(step, "verifier", 0)


def book() -> tuple[Ledger, list[AttemptId]]:
    """A cap of 100 tokens, all of it held by three attempts."""
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP)
    return ledger, [hold(ledger, step, n) for step, n in enumerate((40, 40, 20))]


def hold(ledger: Ledger, step: int, n: int, scope: str = "run", epoch: int = 0) -> AttemptId:
    held = ledger.reserve(key(step), scope, tokens(n), epoch=epoch, at_once=True)
    assert isinstance(held, Held)
    return held.id


def bill(ledger: Ledger, id: AttemptId, n: int | None) -> None:
    ledger.sent(id)
    ledger.settle(id, None if n is None else pack((n, 0, 0)))


def take_over(ledger: Ledger, epoch: int = 1, scope: str = "run") -> None:
    ledger.open(scope, None, (), epoch=epoch)


def balances(ledger: Ledger, scope: str = "run") -> tuple[int, ...]:
    """Tokens settled, held, over; and the open holds."""
    ledger.check()
    place = ledger.scopes[scope]
    return *(unpack(vector, 3)[0] for vector in (place.settled, place.held, place.over)), place.open_holds


# --- frozen


def test_what_is_held_in_a_frozen_scope_is_not_sent() -> None:
    ledger, (first, _, last) = book()
    bill(ledger, first, 101)

    with refused(BudgetExceeded):
        ledger.sent(last)

    ledger.release(last)
    assert ledger.overspend("run") == (1, 0, 0)


@pytest.mark.parametrize("honest", [39, 40, None])
def test_an_honest_bill_freezes_too_when_it_passes_the_cap(honest: int | None) -> None:
    """The over-bill before it stayed below the cap, because others held what it took."""
    ledger, (first, second, last) = book()
    bill(ledger, first, 70)
    assert not ledger.scopes["run"].frozen

    bill(ledger, second, honest)

    with refused(BudgetExceeded):
        ledger.sent(last)


def test_a_scope_stays_frozen_when_a_late_figure_brings_it_below_its_cap() -> None:
    ledger, (first, second, last) = book()
    bill(ledger, second, None)
    bill(ledger, first, 70)
    ledger.settle(second, pack((0, 0, 0)))
    assert balances(ledger) == (70, 20, 30, 1)

    with refused(BudgetExceeded):
        ledger.sent(last)
    assert ledger.reserve(key(9), "run", tokens(5), at_once=True) == Waiting(key(9))
    assert ledger.decide() == [Refused(key(9), "run", "tokens", 5, 0)]


def test_a_frozen_scope_refuses_even_a_request_for_nothing() -> None:
    ledger, (first, *_) = book()
    bill(ledger, first, 101)
    ledger.reserve(key(9), "run", tokens(0))

    assert ledger.decide() == [Refused(key(9), "run", "tokens", 0, 0)]


def test_a_top_up_thaws_what_it_covers_and_nothing_less() -> None:
    ledger, (first, _, last) = book()
    bill(ledger, first, 130)

    ledger.top_up("run", pack((29, 0, 0)))
    with refused(BudgetExceeded):
        ledger.sent(last)

    ledger.top_up("run", pack((1, 0, 0)))
    ledger.sent(last)
    assert ledger.overspend("run") == (0, 0, 0)


def test_what_is_added_to_a_cap_can_be_held() -> None:
    ledger, _ = book()
    ledger.reserve(key(9), "run", tokens(30))
    assert ledger.decide() == []

    ledger.top_up("run", pack((30, 0, 0)))

    assert [outcome.id.key for outcome in ledger.decide() if isinstance(outcome, Held)] == [key(9)]
    assert balances(ledger) == (0, 130, 0, 4)


@pytest.mark.parametrize("more", [(0, 1, 0), (UNLIMITED - 100, 0, 0)])
def test_a_cap_is_not_raised_to_or_above_no_limit(more: tuple[int, ...]) -> None:
    ledger, _ = book()

    with pytest.raises(InternalError, match="does not exist"):
        ledger.top_up("run", pack(more))

    ledger.top_up("run", pack((UNLIMITED - 101, 0, 0)))
    assert balances(ledger) == (0, 100, 0, 3)


# --- hosts that are replaced


def test_expiry_leaves_what_the_new_host_and_the_neighbours_hold() -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP)
    for child in ("lost", "alive"):
        ledger.open(child, "run", CAP)
    sent, _ = hold(ledger, 0, 10, "lost"), hold(ledger, 1, 20, "lost")
    ledger.sent(sent)
    hold(ledger, 2, 40, "alive")
    take_over(ledger, scope="lost")
    hold(ledger, 3, 5, "lost", epoch=1)

    assert len(ledger.expire("run")) == 2

    assert (balances(ledger, "lost"), balances(ledger, "alive")) == ((10, 5, 0, 1), (0, 40, 0, 1))
    assert balances(ledger) == (10, 45, 0, 2)


def test_expiry_of_one_scope_leaves_what_was_lost_in_another() -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP)
    for step, child in enumerate(("one", "other")):
        ledger.open(child, "run", CAP)
        hold(ledger, step, 10, child)
        ledger.reserve(key(8 + step), child, tokens(100))
    take_over(ledger)

    assert ledger.expire("one") == [AttemptId(key(0), 0)]

    assert (balances(ledger, "one"), balances(ledger, "other")) == ((0, 0, 0, 0), (0, 10, 0, 1))
    assert ledger.waiting == 1
    assert ledger.expire("run") == [AttemptId(key(1), 0)]
    assert (balances(ledger), ledger.waiting) == ((0, 0, 0, 0), 0)


def test_where_nobody_bills_everything_of_the_lost_host_comes_back() -> None:
    ledger, (first, second, _) = book()
    ledger.sent(first)
    bill(ledger, second, 7)
    take_over(ledger)

    ledger.expire("run", billed=False)

    assert balances(ledger) == (7, 0, 0, 0)
    with refused(InternalError):
        ledger.settle(first, pack((1, 0, 0)))


@pytest.mark.parametrize("figure", [0, 13, 40, 55, 101])
def test_a_figure_that_comes_after_expiry_counts_as_if_it_had_come_in_time(figure: int) -> None:
    in_time, (first, *_) = book()
    bill(in_time, first, figure)
    late, (first, *_) = book()
    late.sent(first)

    for ledger in (in_time, late):
        take_over(ledger)
        ledger.expire("run")
    assert balances(late) == (40, 0, 0, 0)
    late.settle(first, pack((figure, 0, 0)))

    assert balances(late) == balances(in_time) == (figure, 0, max(0, figure - 40), 0)
    assert late.scopes["run"].frozen is in_time.scopes["run"].frozen is (figure > 100)


def test_a_late_figure_for_a_hold_of_nothing_leaves_no_trace() -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP)
    id = hold(ledger, 0, 0)
    bill(ledger, id, None)

    ledger.settle(id, 0)

    assert balances(ledger) == (0, 0, 0, 0)


def test_a_late_figure_is_no_answer_so_its_key_stays_free_for_another_try() -> None:
    ledger, (first, second, _) = book()
    bill(ledger, first, None)
    ledger.settle(first, pack((30, 0, 0)))
    bill(ledger, second, 40)

    again = ledger.reserve(key(0), "run", tokens(10), at_once=True)

    assert isinstance(again, Held)
    assert again.id == AttemptId(key(0), 1)
    assert ledger.reserve(key(1), "run", tokens(40)) == Settled(second)


def test_a_new_host_does_not_get_the_hold_of_the_lost_one_for_its_own() -> None:
    """It could be sent twice then, and be billed twice under one hold."""
    ledger, (first, *_) = book()
    ledger.sent(first)
    ledger.reserve(key(9), "run", tokens(10))
    take_over(ledger)
    for step, n in ((0, 40), (9, 10)):
        with refused(InternalError):
            ledger.reserve(key(step), "run", tokens(n), epoch=1)

    ledger.expire("run")

    assert ledger.reserve(key(9), "run", tokens(10), epoch=1, at_once=True).id == AttemptId(key(9), 0)  # type: ignore[union-attr]
    assert ledger.reserve(key(0), "run", tokens(40), epoch=1, at_once=True).id == AttemptId(key(0), 1)  # type: ignore[union-attr]


def test_what_a_lost_host_waited_for_is_out_of_the_queue() -> None:
    ledger, _ = book()
    ledger.reserve(key(8), "run", tokens(10))
    take_over(ledger)
    assert ledger.reserve(key(9), "run", tokens(10), epoch=1) == Waiting(key(9))

    ledger.expire("run")

    assert [outcome.id.key for outcome in ledger.decide() if isinstance(outcome, Held)] == [key(9)]
    with refused(StaleEpoch):
        ledger.reserve(key(8), "run", tokens(10))


# --- neighbours


def test_a_finishing_call_that_holds_less_than_was_kept_for_it_finds_it_again_when_it_is_repeated() -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP, {"verifier": pack((60, 0, 0))})
    first = ledger.reserve(key(0), "run", tokens(20), floor=pack((60, 0, 0)), at_once=True)
    assert isinstance(first, Held)
    other = Key(0, "executor", 0)
    ledger.reserve(other, "run", tokens(41))
    assert (ledger.decide(), ledger.waiting) == ([], 1)

    ledger.release(first.id)  # the endpoint refused it

    assert ledger.decide() == [Refused(other, "run", "tokens", 41, 40)]
    assert ledger.reserve(key(0), "run", tokens(60), floor=pack((60, 0, 0)), at_once=True).id.try_ == 1  # type: ignore[union-attr]
    ledger.check()


@pytest.mark.parametrize(("figure", "free"), [(5, 95), (None, 40)])
def test_what_a_finishing_call_did_not_hold_is_free_when_it_is_done_and_kept_when_it_may_be_repeated(
    figure: int | None, free: int
) -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP, {"verifier": pack((60, 0, 0))})
    held = ledger.reserve(key(0), "run", tokens(20), floor=pack((60, 0, 0)), at_once=True)
    assert isinstance(held, Held)
    bill(ledger, held.id, figure)

    ledger.reserve(Key(0, "executor", 0), "run", tokens(free + 1))
    assert ledger.decide() == [Refused(Key(0, "executor", 0), "run", "tokens", free + 1, free)]

    assert isinstance(ledger.reserve(Key(1, "executor", 0), "run", tokens(free), at_once=True), Held)
    ledger.check()


def test_who_waits_in_a_full_child_does_not_stall_its_siblings() -> None:
    ledger = Ledger(DIMENSIONS, "key")
    ledger.open("run", None, CAP)
    ledger.open("full", "run", (10, None, None))
    ledger.open("wide", "run", (50, None, None))
    hold(ledger, 0, 10, "full")
    for step, scope in ((1, "full"), (2, "wide"), (3, "run")):
        ledger.reserve(key(step), scope, tokens(10))

    assert [held.id.key.step for held in ledger.decide() if isinstance(held, Held)] == [2, 3]
    assert ledger.waiting == 1


# --- taken up again


def test_an_overspent_book_can_be_taken_up_again() -> None:
    again = Ledger(DIMENSIONS, "arrival")
    again.open("run", None, CAP)
    for step, n in enumerate((120, 30)):
        again.restore(AttemptId(key(step), 0), "run", tokens(60), 0, 0, "settled", pack((n, 0, 0)))

    assert balances(again) == (150, 0, 60, 0)
    assert again.overspend("run") == (50, 0, 0)
    assert again.scopes["run"].frozen


@pytest.mark.parametrize("state", ["held", "sent", "voided", "released", "charged_max", "settled"])
def test_an_attempt_is_taken_up_in_the_state_that_it_had(state: Any) -> None:
    again = Ledger(DIMENSIONS, "arrival")
    again.open("run", None, CAP, epoch=2)
    id = AttemptId(key(0), 0)

    again.restore(id, "run", tokens(60), 0, 0, state, pack((7, 0, 0)) if state == "settled" else None, epoch=1)

    assert (again.record(id).state, again.record(id).epoch) == (state, 1)
    settled, held = {"charged_max": 60, "settled": 7}.get(state, 0), 60 if state in {"held", "sent"} else 0
    assert balances(again) == (settled, held, 0, int(held > 0))


# --- misuse


def test_a_parent_or_number_of_caps_that_does_not_fit_is_an_error() -> None:
    ledger = Ledger(DIMENSIONS, "key")

    with pytest.raises(InternalError):
        ledger.open("run", "nobody", (1, 1, 1))
    with pytest.raises(InternalError):
        ledger.open("run", None, (1,))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda scope: setattr(scope, "room", scope.room - 1),
        lambda scope: setattr(scope, "room", scope.room - one_hold(3)),
        lambda scope: setattr(scope, "settled", scope.settled + 1),
        lambda scope: setattr(scope, "kept", 1),
        lambda scope: scope.shares.update(verifier=-1),
        lambda scope: setattr(scope, "caps", pack((99, 0, 0))),
    ],
)
def test_check_finds_a_balance_that_does_not_follow_from_the_records(break_it: Callable[[Any], None]) -> None:
    ledger, _ = book()
    ledger.check()

    break_it(ledger.scopes["run"])

    with pytest.raises(InternalError):
        ledger.check()
