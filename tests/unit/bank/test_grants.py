"""The books above the runs: who enters, in which order, and what is booked when runs end in whatever way."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bank.grants import (
    ACCOUNT,
    NO_CAPS,
    Grants,
    Limits,
    check_covered,
    granted_amounts,
    scope_caps,
)
from runtime.bank.statement import books_of
from runtime.bank.store import Granted
from runtime.bank.vector import unpack
from runtime.budget import Amounts, Budget, Caps
from runtime.errors import BudgetExceeded, ConfigError
from runtime.journal import Attempt, State

LAB = "experiment:lab"


def tokens(n: int) -> Amounts:
    return (n, 0, 0, 0)


def cap(n: int) -> Caps:
    return (n, None, None, None)


def live(limit: int | None = None, account: int | None = None, epoch: int = 1) -> Grants:
    """An experiment under an account."""
    grants = Grants(epoch, NO_CAPS if account is None else cap(account))
    grants.open(Limits(LAB, True, NO_CAPS if limit is None else cap(limit)))
    return grants


def one(run_id: str, n: int) -> list[tuple[str, Amounts]]:
    return [(run_id, tokens(n))]


def books(settled: Amounts, open_: Sequence[Any] = (), scope: str = LAB) -> dict[str, Any]:
    return {"scope": scope, "settled": settled, "limited": [True, False, False, False], "open": open_}


def never(key: str, try_: int) -> Amounts | None:
    return None


def balance(grants: Grants, scope: str = LAB) -> tuple[int, int]:
    """Tokens settled and tokens held."""
    place = grants.ledger.scopes[scope]
    grants.ledger.check()
    return unpack(place.settled, 4)[0], unpack(place.held, 4)[0]


class Walk:
    """Blocks that enter whenever they fit, and runs that settle in an order that somebody else chooses."""

    def __init__(self, limit: int, blocks: Sequence[Sequence[tuple[int, int]]]) -> None:
        self.limit = limit
        self.grants = live(limit)
        self.blocks = [
            [(f"{b}.{i}", budget, used) for i, (budget, used) in enumerate(block)] for b, block in enumerate(blocks)
        ]
        self.entered = 0
        self.under_way: dict[str, int] = {}

    def enter(self) -> bool:
        if self.entered == len(self.blocks):
            return False
        block = self.blocks[self.entered]
        before = balance(self.grants)
        held = self.grants.enter(LAB, [(run_id, tokens(budget)) for run_id, budget, _ in block])
        if held is None:
            assert balance(self.grants) == before, "a refused block holds nothing"
            return False
        assert [granted.run_id for granted in held] == [run_id for run_id, *_ in block]
        self.under_way.update({run_id: used for run_id, _, used in block})
        self.entered += 1
        return True

    def settle(self, run_id: str) -> None:
        self.grants.begun(run_id)
        self.grants.seal(run_id, books(tokens(self.under_way.pop(run_id))), never)

    def check(self) -> None:
        assert sum(balance(self.grants)) <= self.limit


runs = st.tuples(st.integers(1, 30), st.integers(0, 30)).map(lambda run: (run[0], min(run)))
plans = st.lists(st.lists(runs, min_size=1, max_size=4), min_size=1, max_size=8)


@given(st.integers(0, 150), plans, st.data())
def test_the_same_blocks_enter_in_plan_order_whatever_order_their_runs_settle_in(
    limit: int, plan: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    walk = Walk(limit, plan)
    while True:
        # A driver may ask whenever it likes, or only when a whole round is settled.
        entered = (not walk.under_way or data.draw(st.booleans(), label="ask")) and walk.enter()
        walk.check()
        if walk.under_way:
            walk.settle(data.draw(st.sampled_from(sorted(walk.under_way)), label="settles"))
            walk.check()
        elif not entered:
            break

    spent = expected = 0
    for block in plan:
        if spent + sum(budget for budget, _ in block) > limit:
            break
        spent += sum(used for _, used in block)
        expected += 1
    assert (walk.entered, balance(walk.grants)) == (expected, (spent, 0))


def test_a_block_enters_whole_or_not_at_all() -> None:
    grants = live(100)
    assert grants.enter(LAB, [*one("a", 40), *one("b", 50), *one("c", 20)]) is None
    assert balance(grants) == (0, 0)
    assert [g.run_id for g in grants.enter(LAB, [*one("a", 40), *one("b", 50)]) or ()] == ["a", "b"]
    assert balance(grants) == (0, 90)


def test_runs_of_a_block_that_hold_their_budget_already_are_not_asked_for_it_again() -> None:
    grants = live(100)
    grants.enter(LAB, one("a", 60))
    grants.begun("a")

    assert grants.enter(LAB, [*one("a", 60), *one("b", 50)]) is None
    assert balance(grants) == (0, 60), "who was in before stays in when its block is refused"
    assert [g.run_id for g in grants.enter(LAB, [*one("a", 60), *one("b", 40)]) or ()] == ["b"]


def test_an_experiment_counts_in_the_account_unless_it_is_virtual() -> None:
    grants = live(100, account=100)
    grants.open(Limits("experiment:virtual", False, cap(1000)))
    grants.enter(LAB, one("real", 60))
    grants.enter("experiment:virtual", one("dream", 500))
    assert (balance(grants), balance(grants, ACCOUNT)) == ((0, 60), (0, 60))

    assert grants.enter(ACCOUNT, one("alone", 50)) is None, "the account is shared with the experiments"
    assert grants.enter(ACCOUNT, one("alone", 40)) is not None
    assert grants.enter(LAB, one("more", 1)) is None, "and the experiments with what runs alone"
    grants.begun("real")
    grants.seal("real", books(tokens(10)), never)
    grants.seal("dream", books(tokens(400), scope="experiment:virtual"), never)
    assert (balance(grants), balance(grants, ACCOUNT)) == ((10, 0), (10, 40))
    assert balance(grants, "experiment:virtual") == (400, 0)


def test_what_a_run_spent_where_it_had_no_limit_is_counted_all_the_same() -> None:
    """Somebody may limit the account later, and means everything that was ever spent."""
    grants = live(100)
    grants.enter(LAB, one("a", 50))
    grants.begun("a")
    grants.seal("a", books((30, 7, 2, 0)), never)

    for scope in (LAB, ACCOUNT):
        place = grants.ledger.scopes[scope]
        assert (unpack(place.settled, 4), unpack(place.over, 4)) == ((30, 7, 2, 0), (0, 0, 0, 0))


OPEN = [["0/a/0", 0, [20, 5, 1, 0]], ["0/b/0", 0, [30, 5, 1, 0]]]


@given(
    st.permutations(["seal", "a", "b", "again"]),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_a_late_figure_counts_the_same_before_and_after_the_seal_in_any_order_and_however_often(
    order: list[str], a: int, b: int
) -> None:
    grants = live(1000)
    grants.enter(LAB, one("run", 100))
    grants.begun("run")
    figures: dict[tuple[str, int], Amounts] = {}
    for event in order:
        match event:
            case "seal":
                grants.seal("run", books((40, 3, 1, 0), OPEN), lambda *attempt: figures.get(attempt))
            case "again":
                grants.seal("run", books((40, 3, 1, 0), OPEN), lambda *attempt: figures.get(attempt))
                for (key, try_), figure in figures.items():
                    grants.settle_late("run", key, try_, figure)
            case _:
                figure = (a if event == "a" else b, 2, 1, 0)
                figures[f"0/{event}/0", 0] = figure
                grants.settle_late("run", f"0/{event}/0", 0, figure)

    place = grants.ledger.scopes[ACCOUNT]
    grants.ledger.check()
    assert unpack(place.settled, 4) == (40 + a + b, 3 + 2 + 2, 3, 0)
    assert unpack(place.over, 4) == (max(0, a - 20) + max(0, b - 30), 0, 0, 0)
    assert place.held == 0


def test_until_its_figure_comes_the_maximum_is_charged() -> None:
    grants = live(100)
    grants.enter(LAB, one("run", 100))
    grants.begun("run")
    grants.seal("run", books(tokens(40), OPEN), never)
    assert balance(grants) == (90, 0)
    assert grants.enter(LAB, one("next", 11)) is None

    grants.settle_late("run", "0/b/0", 0, tokens(10))
    assert balance(grants) == (70, 0)
    assert grants.enter(LAB, one("next", 11)) is not None


def test_a_figure_of_an_attempt_that_nobody_charged_at_maximum_changes_nothing() -> None:
    grants = live(100)
    grants.enter(LAB, one("run", 50))
    grants.settle_late("run", "0/a/0", 0, tokens(10))
    grants.seal("run", books(tokens(40), OPEN[:1]), never)
    grants.settle_late("run", "0/a/0", 1, tokens(10))
    grants.settle_late("another", "0/a/0", 0, tokens(10))

    assert balance(grants) == (60, 0)


def test_a_run_that_was_billed_too_much_freezes_what_it_passes_the_cap_of_and_nothing_else() -> None:
    grants = live(100, account=1000)
    grants.enter(LAB, [*one("a", 50), *one("waits", 50)])
    grants.begun("a")
    grants.seal("a", books(tokens(120)), never)

    assert balance(grants) == (120, 50)
    assert grants.frozen
    assert grants.enter(LAB, one("b", 1)) is None
    with pytest.raises(BudgetExceeded, match=LAB):
        grants.begun("waits")
    assert grants.enter(ACCOUNT, one("c", 800)) is not None
    refusal = grants.refusal(LAB, tokens(1), held=True)
    assert refusal is not None
    assert (refusal.scope, refusal.left) == (LAB, 0)


def test_what_runs_cost_is_booked_even_where_the_scope_froze_meanwhile() -> None:
    grants = live(100)
    grants.enter(LAB, [*one("a", 50), *one("held", 20), *one("begun", 20)])
    grants.begun("begun")
    grants.begun("a")
    grants.seal("a", books(tokens(120)), never)
    grants.seal("held", books(tokens(7)), never)
    grants.seal("begun", books(tokens(5)), never)

    assert balance(grants) == (132, 0)


def test_a_run_that_was_given_up_and_sealed_all_the_same_is_booked() -> None:
    """Its seal was on the way when its caller was cancelled."""
    grants = live(100, account=100)
    grants.open(Limits("experiment:virtual", False, cap(100)))
    grants.enter(LAB, [*one("held", 20), *one("begun", 20)])
    grants.enter("experiment:virtual", one("dream", 30))
    grants.begun("begun")
    grants.abandon(["held", "begun", "dream", "unknown"])
    assert (balance(grants), balance(grants, "experiment:virtual")) == ((20, 0), (0, 0))

    for run_id, scope in (("held", LAB), ("begun", LAB), ("dream", "experiment:virtual")):
        grants.seal(run_id, books(tokens(5), scope=scope), never)
    assert (balance(grants), balance(grants, "experiment:virtual")) == ((10, 0), (5, 0))


def test_what_was_given_up_before_it_began_may_enter_again_under_a_grant_of_its_own() -> None:
    grants = live(100)
    (first,) = grants.enter(LAB, one("a", 60)) or ()
    (back,) = grants.abandon(["a"])
    assert grants.enter(LAB, one("b", 60)) is not None
    assert grants.enter(LAB, one("a", 60)) is None
    grants.abandon(["b"])
    (second,) = grants.enter(LAB, one("a", 60)) or ()

    assert back == Granted("a", LAB, 1, (), grants.epoch)
    assert (first.serial, second.serial, balance(grants)) == (0, 2, (0, 60))


def test_what_holds_nothing_is_given_up_without_a_word() -> None:
    grants = live(100)
    grants.enter(LAB, [*one("a", 30), *one("begun", 30), *one("sealed", 30)])
    grants.extend("begun", 0, tokens(10))
    grants.begun("begun")
    grants.seal("sealed", books(tokens(5)), never)

    back = grants.abandon(["a", "begun", "sealed", "a", "unknown"])
    assert [granted.run_id for granted in back] == ["a", "begun"]
    assert grants.abandon(["a", "begun", "sealed"]) == []
    assert balance(grants) == (45, 0)


def test_a_live_run_that_was_begun_and_given_up_keeps_its_place_until_it_is_sealed() -> None:
    grants = live(100)
    grants.enter(LAB, one("a", 60))
    grants.begun("a")
    grants.abandon(["a"])
    assert balance(grants) == (60, 0), "nobody knows what it has spent"
    assert grants.refusal(LAB, tokens(50), held=False) is not None, "so nobody need wait for it"

    assert grants.enter(LAB, one("a", 60)) == [], "it is in already"
    grants.begun("a")
    grants.seal("a", books(tokens(15)), never)
    assert balance(grants) == (15, 0)


def test_a_topped_up_run_fills_its_first_grant_before_the_later_ones() -> None:
    grants = live(100)
    grants.enter(LAB, one("a", 40))
    assert grants.extend("a", 0, tokens(30))
    grants.begun("a")
    assert grants.extend("a", 1, tokens(20))
    assert not grants.extend("a", 2, tokens(11)), "the scope has no room for more"
    assert balance(grants) == (0, 90)

    grants.seal("a", books(tokens(75)), never)
    place = grants.ledger.scopes[LAB]
    assert (balance(grants), place.over) == ((75, 0), 0)


def test_only_what_no_grant_covers_was_billed_too_much() -> None:
    grants = live(200)
    grants.enter(LAB, one("a", 40))
    grants.extend("a", 0, tokens(30))
    grants.begun("a")
    grants.seal("a", books(tokens(75)), never)

    assert unpack(grants.ledger.scopes[LAB].over, 4) == tokens(5)


def test_a_top_up_of_a_run_that_its_driver_gave_up_is_charged_with_the_rest_of_it() -> None:
    grants = live(100)
    grants.enter(LAB, one("a", 40))
    grants.begun("a")
    grants.abandon(["a"])
    assert grants.extend("a", 0, tokens(30))
    assert balance(grants) == (70, 0)


def test_a_new_driver_closes_what_older_ones_hold_by_what_is_known_of_it() -> None:
    grants = live(100, epoch=2)
    grants.open(Limits("experiment:virtual", False, cap(100)))
    for run_id, begun in (("never began", False), ("began", True)):
        grants.restore(Granted(run_id, LAB, 0, tokens(30), 1), begun=begun)
    grants.restore(Granted("virtual", "experiment:virtual", 0, tokens(30), 1), begun=False)
    grants.restore(Granted("mine", LAB, 0, tokens(40), 2), begun=False)
    assert (balance(grants), balance(grants, "experiment:virtual")) == ((0, 100), (0, 30))

    grants.take_over()
    assert (balance(grants), balance(grants, "experiment:virtual")) == ((30, 40), (0, 0))
    grants.seal("began", books(tokens(12)), never)
    assert balance(grants) == (12, 40)


def test_runs_that_gc_dropped_still_count() -> None:
    grants = live(100, account=200)
    grants.settled_before(LAB, tokens(70))
    grants.settled_before(ACCOUNT, tokens(20))
    grants.settled_before("experiment:unknown", tokens(20))

    assert (balance(grants), balance(grants, ACCOUNT)) == ((70, 0), (90, 0))
    assert grants.enter(LAB, one("a", 31)) is None


@pytest.mark.parametrize(
    ("scope", "amounts", "held", "refused"),
    [
        (LAB, tokens(60), True, None),
        (LAB, tokens(61), True, (ACCOUNT, "tokens", 61, 60)),
        (LAB, tokens(61), False, None),
        (LAB, tokens(81), False, (LAB, "tokens", 81, 80)),
        (ACCOUNT, tokens(81), False, None),
        (ACCOUNT, tokens(171), False, (ACCOUNT, "tokens", 171, 170)),
    ],
)
def test_a_refusal_names_the_scope_and_the_dimension_that_block(
    scope: str, amounts: Amounts, held: bool, refused: tuple[str, str, int, int] | None
) -> None:
    grants = live(100, account=190)
    grants.enter(LAB, one("spent", 20))
    grants.seal("spent", books(tokens(20)), never)
    grants.enter(ACCOUNT, one("alone", 110))

    refusal = grants.refusal(scope, amounts, held=held)
    assert (None if refusal is None else refusal.args) == refused


def attempt(
    state: State, *, kind: str = "work", step: int = 0, used: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> Attempt:
    row: dict[str, Any] = dict.fromkeys(Attempt._fields, 0)
    row |= {"step": step, "seat": "a", "kind": kind, "model": "m", "state": state, "senders": ()}
    row |= {"input_tokens": used[0], "output_tokens": used[1], "pico_usd": used[2], "units": used[3]}
    return Attempt(**row)


def test_the_books_of_a_run_say_what_it_spent_and_what_is_not_known_yet() -> None:
    rows = [
        attempt("settled", used=(5, 6, 100, 0)),
        attempt("settled", kind="tool", step=1, used=(0, 0, 30, 3)),
        attempt("released", step=2),
        attempt("charged_max", step=3, used=(0, 50, 400, 0)),
    ]
    said = orjson.loads(books_of(LAB, granted_amounts(Budget(tokens=99, seconds=3)), rows))

    assert said == {
        "scope": LAB,
        "settled": [11, 130, 1, 3],
        "limited": [True, False, False, False],
        "open": [["3/a/0", 0, [50, 400, 1, 0]]],
    }


def test_a_scope_cannot_be_held_to_what_its_runs_are_not_held_to() -> None:
    with pytest.raises(ConfigError, match=r"limits usd, but the budget '5 tokens' of a run does not"):
        check_covered(scope_caps(Budget(usd=1)), Budget(tokens=5))
    check_covered(scope_caps(Budget(usd=1)), Budget(tokens=5, usd=1))
    check_covered(NO_CAPS, Budget(seconds=5))
    for limits in (Budget(seconds=1), Budget(tokens=1, tool_calls={"search": 2})):
        with pytest.raises(ConfigError, match="a cap above runs limits tokens, usd, calls or all tool calls together"):
            scope_caps(limits)
    assert scope_caps(None) == NO_CAPS
    assert granted_amounts(Budget(usd="0.5", tool_calls={"search": 2})) == (0, 5 * 10**11, 0, 0)
