"""The bank's one door: what is committed and what is barred, who enters, who has a run, and what an operator ruled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from runtime.bank.grants import ACCOUNT, NO_CAPS, Limits
from runtime.bank.service import STORE_FILE, Bank
from runtime.bank.store import Entry, Granted, Note, Opened, Sealed, Taken, ToppedUp
from runtime.bank.store.gc import compacted
from runtime.bank.store.ops import closes, row_of
from runtime.bank.vector import unpack
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget, Caps
from runtime.errors import BudgetExceeded, ConfigError, RunHalted, StaleEpoch, StoreError

LAB = "experiment:lab"


def cap(tokens: int | None) -> Caps:
    return (tokens, None, None, None)


def tokens(n: int) -> Amounts:
    return (n, 0, 0, 0)


def opened(
    run_id: str, *, scope: str = ACCOUNT, caps: Caps = (50, None, None, None), tools: tuple[str, ...] = ()
) -> Opened:
    dimensions = BASE_DIMENSIONS + tuple(f"tool_calls.{tool}" for tool in tools)
    facts = {"scope": scope, "dimensions": dimensions, "caps": (*caps, *(3 for _ in tools))}
    return Opened(run_id, f"address of {run_id}", orjson.dumps(facts))


def entry(run_id: str, epoch: int, state: Any = "sent", *, key: str = "0/a/0", used: int = 0) -> Entry:
    body = {"charged": [used, 0, 1, 0]} if state == "settled" else {}
    return Entry(run_id, epoch, key, 0, state, orjson.dumps(body))


def sealed(run_id: str, settled: int, open_: int = 0, *, scope: str = ACCOUNT, body: bytes = b'{"answer":1}') -> Sealed:
    unknown = [["0/a/0", 0, [open_, 0, 1, 0]]] if open_ else []
    books = {"scope": scope, "settled": [settled, 0, 0, 0], "limited": [True, False, False, False], "open": unknown}
    return Sealed(run_id, f"address of {run_id}", body, orjson.dumps(books))


def balance(bank: Bank, scope: str = ACCOUNT) -> tuple[int, int]:
    """Tokens settled and tokens held."""
    place = bank._grants.ledger.scopes[scope]
    return unpack(place.settled, 4)[0], unpack(place.held, 4)[0]


def enter(bank: Bank, *runs: tuple[str, int], scope: str = ACCOUNT, limit: int | None = 100, live: bool = True) -> int:
    return bank.enter(Limits(scope, live, cap(limit)), [[(run_id, tokens(n))] for run_id, n in runs])


def begin(bank: Bank, run_id: str = "run", budget: int = 50, **more: Any) -> int:
    """Let a live run in and give it to a host; returns the host's epoch."""
    assert enter(bank, (run_id, budget), **more) == 1
    scope = more.get("scope", ACCOUNT)
    return bank.take(opened(run_id, scope=scope, caps=cap(budget))).epoch


def top_up(bank: Bank, name: str, more: Budget) -> Amounts:
    return bank.top_up(name, more, len(bank.raised(name)))


@pytest.fixture
def bank() -> Iterator[Bank]:
    bank = Bank(None)
    bank.open(cap(100))
    yield bank
    bank.close()


# ---- Writing.


def test_of_several_parts_only_the_guilty_one_is_left_out_and_told(bank: Bank) -> None:
    begin(bank)
    assert bank.write([[Note("a", b"1")]]) == [None]
    bank.write([[entry("run", 1, "settled", used=3)]])
    contradicts = entry("run", 1, "settled", used=4)

    verdicts = bank.write([[Note("b", b"2")], [Note("c", b"3"), contradicts], [], [entry("run", 1, key="1/a/0")]])

    assert [type(verdict) for verdict in verdicts] == [type(None), StoreError, type(None), type(None)]
    assert "journalled with another content" in str(verdicts[1])
    assert [bank.note(name) for name in "abc"] == [b"1", b"2", None], "a part is committed whole or not at all"
    assert [e.state for e in bank.entries("run")] == ["settled", "sent"]


def test_a_host_of_an_older_epoch_cannot_send_and_pays_for_nobody_else(bank: Bank) -> None:
    old = begin(bank)
    bank.write([[entry("run", old)]])
    new = bank.take(opened("run")).epoch
    begin(bank, "other")

    verdicts = bank.write(
        [
            [entry("other", 1)],
            [entry("run", old, key="1/a/0"), Note("with it", b"0")],
            [entry("run", new, key="2/a/0")],
            [entry("run", old, "settled", used=9)],
        ]
    )

    stale = verdicts[1]
    assert isinstance(stale, StaleEpoch)
    assert stale.args == ("run", old, new)
    assert [verdict for verdict in verdicts if verdict is not stale] == [None, None, None]
    assert bank.note("with it") is None
    assert [(e.key, e.state) for e in bank.entries("run")] == [
        ("0/a/0", "sent"),
        ("2/a/0", "sent"),
        ("0/a/0", "settled"),
    ]


def test_a_call_in_which_everything_is_barred_commits_nothing(bank: Bank) -> None:
    old = begin(bank)
    bank.take(opened("run"))
    (verdict,) = bank.write([[entry("run", old)]])
    assert isinstance(verdict, StaleEpoch)
    assert bank.entries("run") == []


def test_an_old_host_gives_back_only_what_it_had_sent_itself(bank: Bank) -> None:
    """The host that has the run now may be making an attempt of the same name."""
    old = begin(bank)
    bank.write([[entry("run", old)]])
    new = bank.take(opened("run")).epoch
    bank.write([[entry("run", new, key="1/a/0")]])

    verdicts = bank.write([[entry("run", old, "released")], [entry("run", old, "released", key="1/a/0")]])

    assert verdicts[0] is None
    assert isinstance(verdicts[1], StaleEpoch)
    assert bank.write([[entry("run", new, "released", key="1/a/0")]]) == [None]


@pytest.mark.parametrize("ruled", ["run", LAB])
@pytest.mark.parametrize("ruling", ["paused", "cancelled"])
def test_nothing_new_is_sent_for_a_run_that_was_halted_alone_or_with_its_experiment(ruled: str, ruling: str) -> None:
    bank = Bank(None)
    bank.open()
    begin(bank, scope=LAB)
    begin(bank, "alone")
    bank.write([[entry("run", 1)]])
    bank.rule(ruled, ruling)

    verdicts = bank.write([[entry("run", 1, key="1/a/0")], [entry("alone", 1)], [entry("run", 1, "settled", used=5)]])

    halted = verdicts[0]
    assert isinstance(halted, RunHalted)
    assert halted.args == ("run", ruling)
    assert verdicts[1:] == [None, None], "what others do, and what calls in flight have cost, is taken"
    bank.rule(ruled, "resumed")
    assert bank.write([[entry("run", 1, key="1/a/0")]]) == [None]


def test_a_halted_run_of_an_old_host_is_told_that_it_is_old(bank: Bank) -> None:
    """It must not wait to be resumed."""
    old = begin(bank)
    bank.take(opened("run"))
    bank.rule("run", "paused")
    (verdict,) = bank.write([[entry("run", old)]])
    assert isinstance(verdict, StaleEpoch)


def test_rulings_and_fences_outlive_the_driver(tmp_path: Path) -> None:
    first = Bank(tmp_path)
    first.open()
    begin(first, scope=LAB)
    first.take(opened("run", scope=LAB))
    first.rule(LAB, "paused")
    first.close()

    second = Bank(tmp_path)
    second.open()
    assert second.rulings() == {LAB: "paused"}
    stale, halted = (second.write([[entry("run", epoch)]])[0] for epoch in (1, 2))
    assert isinstance(stale, StaleEpoch)
    assert isinstance(halted, RunHalted)
    second.close()


def test_a_repeated_seal_is_harmless_and_another_one_is_refused(bank: Bank) -> None:
    begin(bank)
    assert bank.write([[sealed("run", 30)], [sealed("run", 30)]]) == [None, None]
    assert bank.write([[sealed("run", 30)]]) == [None]
    (verdict,) = bank.write([[sealed("run", 10, body=b'{"answer":2}')]])

    assert isinstance(verdict, StoreError)
    assert balance(bank) == (30, 0)


# ---- Late figures.


@pytest.mark.parametrize(("state", "charged"), [("settled", 12), ("released", 0)])
@pytest.mark.parametrize("before", [True, False], ids=["before the seal", "after it"])
def test_what_an_old_host_had_in_flight_is_booked_once_at_its_true_figure(
    bank: Bank, before: bool, state: str, charged: int
) -> None:
    old = begin(bank)
    bank.write([[entry("run", old)]])
    bank.take(opened("run"))
    late = entry("run", old, state, used=12)
    if before:
        assert bank.write([[late]]) == [None]
    bank.write([[sealed("run", 10, 20)]])
    assert balance(bank) == (10 + (charged if before else 20), 0)

    assert bank.write([[late], [late]]) == [None, None]
    assert bank.write([[late]]) == [None]
    assert balance(bank) == (10 + charged, 0)


def test_what_was_said_of_an_attempt_before_it_was_sent_is_not_its_figure(bank: Bank) -> None:
    """One host gave back a call that it never made; a later one made it, and was lost."""
    begin(bank)
    bank.write([[entry("run", 1, "released")]])
    bank.take(opened("run"))
    bank.write([[entry("run", 2)]])
    bank.take(opened("run"))
    bank.write([[sealed("run", 10, 20)]])

    assert balance(bank) == (30, 0)


def test_a_late_figure_thaws_what_it_covers(bank: Bank) -> None:
    old = begin(bank)
    bank.write([[entry("run", old)]])
    bank.take(opened("run"))
    begin(bank, "greedy")
    bank.write([[sealed("greedy", 70)], [sealed("run", 0, 40)]])
    assert enter(bank, ("next", 1)) == 0

    bank.write([[entry("run", old, "settled", used=5)]])
    assert enter(bank, ("next", 25)) == 1
    assert balance(bank) == (75, 25)


# ---- Entering.


def test_blocks_enter_in_order_and_nobody_overtakes_the_first_that_does_not_fit(bank: Bank) -> None:
    assert enter(bank, ("a", 60), ("b", 50), ("c", 40)) == 1
    assert balance(bank) == (0, 60)
    assert enter(bank, ("a", 60), ("c", 40), ("b", 50)) == 2


def test_to_enter_again_is_harmless(bank: Bank) -> None:
    """Ray may make a call a second time."""
    for _ in range(3):
        assert enter(bank, ("a", 60), ("b", 40), ("c", 1)) == 2
    assert balance(bank) == (0, 100)
    assert len(bank._store.grants()) == 2


def test_what_could_not_be_committed_is_not_held(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ops: Any, *, durable: bool = True) -> None:
        raise StoreError("disk", "full")

    enter(bank, ("before", 10))
    with monkeypatch.context() as patch:
        patch.setattr(bank._store, "commit", fail)
        with pytest.raises(StoreError):
            enter(bank, ("a", 60))
        with pytest.raises(StoreError):
            bank.take(opened("before"))
        with pytest.raises(StoreError):
            bank.rule("before", "paused")
    assert balance(bank) == (0, 10)
    assert (bank.rulings(), bank.open_runs()) == ({}, [])
    assert enter(bank, ("a", 60)) == 1
    bank.abandon(["before"])
    assert balance(bank) == (0, 60), "it had not begun"


def test_another_cap_counts_what_was_spent_under_the_one_before(bank: Bank) -> None:
    begin(bank, "a", 50, scope=LAB, limit=60)
    bank.write([[sealed("a", 40, scope=LAB)]])
    assert enter(bank, ("b", 30), scope=LAB, limit=60) == 0
    assert enter(bank, ("b", 30), scope=LAB, limit=80) == 1
    assert enter(bank, ("c", 1), scope=LAB, limit=20) == 0
    assert (balance(bank, LAB), balance(bank)) == ((40, 30), (40, 30))


def test_an_experiment_stays_real_or_virtual(bank: Bank) -> None:
    """Otherwise what it spent would come and go in the account."""
    enter(bank, ("a", 10), scope=LAB, live=False)
    with pytest.raises(ConfigError, match="with models that do not bill"):
        enter(bank, ("b", 10), scope=LAB, live=True)
    enter(bank, ("c", 10), scope="experiment:real", live=True)
    with pytest.raises(ConfigError, match="with models that bill"):
        enter(bank, ("d", 10), scope="experiment:real", live=False)


def test_who_waits_for_room_is_told_when_it_never_comes(bank: Bank) -> None:
    begin(bank, "a", 60)
    assert enter(bank, ("b", 50)) == 0
    bank.check_room(ACCOUNT, tokens(50))
    with pytest.raises(BudgetExceeded) as never:
        bank.check_room(ACCOUNT, tokens(101))
    assert never.value.args == (ACCOUNT, "tokens", 101, 100)

    bank.abandon(["a"])  # begun, so it may have spent everything
    with pytest.raises(BudgetExceeded, match="account: 50 tokens needed, 40 left"):
        bank.check_room(ACCOUNT, tokens(50))


def test_nobody_waits_in_a_scope_that_was_billed_too_much(bank: Bank) -> None:
    begin(bank, "a", 60)
    enter(bank, ("b", 40))
    bank.write([[sealed("a", 120)]])
    with pytest.raises(BudgetExceeded):
        bank.check_room(ACCOUNT, tokens(0))
    with pytest.raises(BudgetExceeded):
        bank.take(opened("b"))
    assert [o.run_id for o in bank.open_runs()] == [], "it was not begun"


# ---- Giving up.


def came_back(bank: Bank, folder: Path) -> Bank:
    """The bank after its process was killed and begun again, under the driver that it had."""
    bank.close()
    return Bank(folder)


@pytest.mark.parametrize("how", ["goes on", "reads its books again", "is killed and comes back"])
def test_what_a_driver_gave_up_stays_given_up_when_the_bank(how: str, tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.open(cap(100))
    enter(bank, ("never began", 30))
    begin(bank, "began", 30)
    enter(bank, ("virtual", 30), scope=LAB, live=False)
    bank.abandon(["never began", "began", "virtual", "unknown"])
    if how == "reads its books again":
        top_up(bank, ACCOUNT, Budget(tokens=5))
    elif how == "is killed and comes back":
        bank = came_back(bank, tmp_path)

    assert (balance(bank), balance(bank, LAB)) == ((30, 0), (0, 0))
    assert enter(bank, ("never began", 30)) == 1
    top_up(bank, ACCOUNT, Budget(tokens=5))
    bank = came_back(bank, tmp_path)
    assert balance(bank) == (30, 30), "it is wanted again"
    bank.close()


def test_room_that_was_given_up_is_not_held_beside_its_next_owner_when_the_bank_comes_back(tmp_path: Path) -> None:
    """Both together would be above the cap, and who waits for the first to end would wait for ever."""
    bank = Bank(tmp_path)
    bank.open()
    for run_id in ("first", "second"):
        assert enter(bank, (run_id, 100), scope=LAB, limit=100) == 1
        bank.abandon([run_id])
        bank = came_back(bank, tmp_path)

    assert enter(bank, ("third", 100), scope=LAB, limit=100) == 1
    bank._grants.ledger.check()
    bank.close()


def test_to_give_up_again_is_harmless_and_writes_nothing(bank: Bank) -> None:
    """Ray may make a call a second time, also after the bank was killed with the first one committed."""
    enter(bank, ("a", 30))
    begin(bank, "b", 30)
    commits = []
    for _ in range(2):
        bank.abandon(["a", "b", "a", "unknown"])
        commits.append(bank._store._index.n_commits)
        bank._forget()

    assert commits[0] == commits[1]
    assert balance(bank) == (30, 0)


def test_what_is_finished_or_holds_nothing_is_given_up_without_a_commit(bank: Bank) -> None:
    """It is asked of every run at its end."""
    begin(bank, "a", 30)
    bank.write([[sealed("a", 20)]])
    before = bank._store._index.n_commits
    bank.abandon(["a", "virtual, and in no experiment"])

    assert bank._store._index.n_commits == before


def test_what_could_not_be_noted_as_given_up_is_held_until_it_can(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ops: Any, *, durable: bool = True) -> None:
        raise StoreError("disk", "full")

    enter(bank, ("a", 60))
    with monkeypatch.context() as patch:
        patch.setattr(bank._store, "commit", fail)
        with pytest.raises(StoreError):
            bank.abandon(["a"])
    assert balance(bank) == (0, 60)
    bank.abandon(["a"])
    assert balance(bank) == (0, 0)


def test_to_give_up_finds_room_on_a_full_disk_as_all_does_that_only_ends_something() -> None:
    granted = Granted("a", LAB, 0, tokens(60))
    assert [closes(row_of(word)) for word in (granted, granted._replace(serial=1, amounts=()))] == [False, True]


def test_what_was_given_up_stays_so_in_a_store_that_was_made_smaller(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.open(cap(100))
    enter(bank, ("a", 60))
    bank.abandon(["a"])
    begin(bank, "b", 30)
    bank.write([[sealed("b", 20)]])
    bank.close()
    assert compacted(tmp_path / STORE_FILE, keep_runs=0).n_dropped_runs == 1

    looking = Bank(tmp_path, read_only=True)
    assert balance(looking) == (20, 0)
    looking.close()


def test_a_seal_that_comes_after_its_run_was_given_up_is_booked_in_memory_as_in_the_store(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.open(cap(100))
    enter(bank, ("virtual", 30), scope=LAB, live=False)
    begin(bank, "live", 30)
    bank.abandon(["virtual", "live"])
    assert bank.write([[sealed("virtual", 20, scope=LAB), sealed("live", 10)]]) == [None]
    seen = balance(bank, LAB), balance(bank)
    bank.close()

    again = Bank(tmp_path)
    again.open(cap(100))
    assert seen == (balance(again, LAB), balance(again)) == ((20, 0), (10, 0))
    again.close()


# ---- Drivers.


def test_a_new_driver_fences_the_older_ones_and_closes_what_they_held(tmp_path: Path) -> None:
    first = Bank(tmp_path)
    first.open(cap(100))
    enter(first, ("never began", 20))
    begin(first, "began", 30)
    enter(first, ("virtual", 40), scope=LAB, live=False)
    first.close()

    second = Bank(tmp_path)
    assert second.open() == cap(100)
    assert (balance(second), balance(second, LAB)) == ((30, 0), (0, 0))
    assert second.take(opened("began", caps=cap(30))).epoch == 2
    second.write([[sealed("began", 12)]])
    assert balance(second) == (12, 0)
    second.close()


def test_an_account_keeps_its_cap_until_somebody_names_another(tmp_path: Path) -> None:
    seen = []
    for caps in (NO_CAPS, cap(100), NO_CAPS, cap(70), NO_CAPS):
        bank = Bank(tmp_path)
        seen.append(bank.open(caps))
        bank.close()
    assert seen == [NO_CAPS, cap(100), cap(100), cap(70), cap(70)]


def test_what_was_spent_without_a_cap_counts_under_the_first_one(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.open()
    begin(bank, "run", 50)
    books = {"scope": ACCOUNT, "settled": [20, 7, 3, 0], "limited": [True, False, False, False], "open": []}
    bank.write([[Sealed("run", "address of run", b"{}", orjson.dumps(books))]])
    bank.close()

    bank = Bank(tmp_path)
    bank.open((None, 10, None, None))
    with pytest.raises(BudgetExceeded, match="account: 4 pico_usd needed, 3 left"):
        bank.check_room(ACCOUNT, (0, 4, 0, 0))
    bank.close()


@pytest.mark.parametrize("keep_runs", [None, 0])
def test_a_store_that_was_made_smaller_has_forgotten_no_spend(tmp_path: Path, keep_runs: int | None) -> None:
    bank = Bank(tmp_path)
    bank.open(cap(100))
    for run_id, settled, unknown in (("a", 10, 0), ("b", 5, 20), ("c", 5, 20)):
        begin(bank, run_id, 30)
        bank.write([[entry(run_id, 1)]])
        bank.take(opened(run_id, caps=cap(30)))
        bank.write([[sealed(run_id, settled, unknown)]])
    bank.write([[entry("c", 1, "settled", used=2)]])
    enter(bank, ("virtual", 30), scope=LAB, live=False)
    bank.write([[sealed("virtual", 25, scope=LAB)]])
    before = balance(bank), balance(bank, LAB)
    bank.close()
    compacted(tmp_path / STORE_FILE, keep_runs=keep_runs)

    bank = Bank(tmp_path)
    bank.open(cap(100))
    assert (balance(bank), balance(bank, LAB)) == before == ((42, 0), (25, 0))
    bank.close()


# ---- Taking.


def test_each_taking_is_a_life_of_its_own_and_repeating_it_is_harmless(bank: Bank) -> None:
    """Ray may make a call a second time; then the answer of the second one counts."""
    enter(bank, ("run", 50))
    lives = [bank.take(opened("run")) for _ in range(3)]
    bank.write([[entry("run", 3)]])
    last = bank.take(opened("run"))

    assert [life.epoch for life in lives] == [1, 2, 3]
    assert (last.epoch, [e.state for e in last.entries], last.raised, last.sealed) == (4, ["sent"], [], None)
    assert balance(bank) == (0, 50)
    assert [o.run_id for o in bank.open_runs()] == ["run"]


def test_a_finished_run_is_not_taken_again_but_handed_over(bank: Bank) -> None:
    begin(bank)
    bank.write([[entry("run", 1)], [sealed("run", 10, 20)]])

    life = bank.take(opened("run"))
    assert (life.epoch, life.entries, life.sealed) == (1, [], b'{"answer":1}')
    assert bank.open_runs() == []
    assert bank.write([[entry("run", 1, "settled", used=3)]]) == [None]
    assert balance(bank) == (13, 0), "its late figures still find it"


def test_a_run_id_belongs_to_one_run(bank: Bank) -> None:
    begin(bank)
    with pytest.raises(StoreError, match="run 'run' is already here"):
        bank.take(opened("run")._replace(address="another"))
    assert (balance(bank), bank._store.epoch("run")) == ((0, 50), 1)


def test_a_live_run_cannot_have_the_name_of_the_account(bank: Bank) -> None:
    """A top-up of it would raise the account."""
    enter(bank, (ACCOUNT, 10))
    with pytest.raises(ConfigError, match="cannot be named 'account'"):
        bank.take(opened(ACCOUNT))


def test_a_live_run_of_an_experiment_that_was_not_let_in_is_not_begun(bank: Bank) -> None:
    """It would spend what nobody holds for it."""
    with pytest.raises(ConfigError, match=f"run was not let into {LAB}"):
        bank.take(opened("run", scope=LAB))
    enter(bank, ("run", 50), scope=LAB)
    assert bank.take(opened("run", scope=LAB)).epoch == 1


# ---- Topping up.


def test_a_top_up_lets_more_in(bank: Bank) -> None:
    enter(bank, ("a", 90), scope=LAB, limit=90)
    assert enter(bank, ("b", 20), scope=LAB, limit=90) == 0
    assert top_up(bank, LAB, Budget(tokens=20)) == tokens(20)
    assert enter(bank, ("b", 20), scope=LAB, limit=90) == 0, "the account is full, too"
    top_up(bank, ACCOUNT, Budget(tokens=10))
    assert enter(bank, ("b", 20), scope=LAB, limit=90) == 1
    assert balance(bank) == (0, 110)


def test_a_run_is_topped_up_out_of_the_scopes_above_it(bank: Bank) -> None:
    begin(bank, "run", 50, scope=LAB, limit=70)
    begin(bank, "alone", 40)

    with pytest.raises(BudgetExceeded) as lab:
        top_up(bank, "run", Budget(tokens=21))
    assert lab.value.args == (LAB, "tokens", 21, 20)
    with pytest.raises(BudgetExceeded) as account:
        top_up(bank, "run", Budget(tokens=11))
    assert account.value.args == (ACCOUNT, "tokens", 11, 10)
    assert top_up(bank, "run", Budget(tokens=10)) == tokens(10)
    assert bank.take(opened("run", scope=LAB)).raised == [tokens(10)]
    assert (balance(bank, LAB), balance(bank)) == ((0, 60), (0, 100))
    bank.write([[sealed("run", 55, scope=LAB)]])
    assert (balance(bank, LAB), balance(bank)) == ((55, 0), (55, 40))


def test_a_top_up_counts_in_the_dimensions_of_the_run_by_their_names(bank: Bank) -> None:
    enter(bank, ("run", 50))
    bank.take(opened("run", tools=("look", "search")))

    assert top_up(bank, "run", Budget(tool_calls={"search": 5})) == (0, 0, 0, 0, 0, 5)
    assert top_up(bank, "run", Budget(tokens=7)) == (7, 0, 0, 0, 0, 0)
    assert bank.raised("run") == [(0, 0, 0, 0, 0, 5), (7, 0, 0, 0, 0, 0)]


def test_a_top_up_that_is_repeated_is_made_once(bank: Bank) -> None:
    begin(bank)
    for serial in (0, 0, 1, 1, 0):
        assert bank.top_up("run", Budget(tokens=10), serial) == tokens(10)
        assert bank.top_up(ACCOUNT, Budget(tokens=5), serial) == tokens(5)
    assert (bank.raised("run"), bank.raised(ACCOUNT)) == ([tokens(10)] * 2, [tokens(5)] * 2)
    assert balance(bank) == (0, 70)


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("run", Budget(usd=1), "has none of usd"),
        ("run", Budget(calls=1), "has none of calls"),
        ("run", Budget(tool_calls={"search": 5}), "has none of tool_calls.search"),
        (ACCOUNT, Budget(usd=1), "has none of usd"),
        (ACCOUNT, Budget(tool_calls={"search": 5}), "has none of tool_calls.search"),
        ("done", Budget(tokens=1), "there is no open run and no experiment 'done'"),
        ("nobody", Budget(tokens=1), "there is no open run and no experiment 'nobody'"),
    ],
)
def test_only_a_limit_that_exists_is_raised(bank: Bank, name: str, more: Budget, words: str) -> None:
    begin(bank, "done", 10)
    bank.write([[sealed("done", 5)]])
    begin(bank)
    with pytest.raises(ConfigError, match=words):
        top_up(bank, name, more)
    assert bank._store.top_ups() == []


def test_an_account_without_a_cap_has_nothing_to_raise() -> None:
    bank = Bank(None)
    bank.open()
    with pytest.raises(ConfigError, match="account has no such limit"):
        top_up(bank, ACCOUNT, Budget(tokens=5))


def test_what_cannot_be_counted_is_not_added(bank: Bank) -> None:
    """The sum would not be readable by any later driver."""
    bank._store.commit([ToppedUp(ACCOUNT, 0, tokens((1 << 94) - 200))])
    with pytest.raises(ConfigError, match="cannot be counted"):
        top_up(bank, ACCOUNT, Budget(tokens=200))
    assert top_up(bank, ACCOUNT, Budget(tokens=90)) == tokens(90)


# ---- Looking.


def test_who_only_looks_sees_the_books_and_changes_nothing(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    bank.open(cap(100))
    begin(bank, "run", 30)
    reader = Bank(tmp_path, read_only=True)
    assert balance(reader) == (0, 30)
    with pytest.raises(StoreError, match="for reading only"):
        reader.rule("run", "paused")
    reader.close()
    bank.close()


def test_names_of_runs_are_given_out_past_those_that_are_taken(bank: Bank) -> None:
    begin(bank, "run-2", 10)
    assert [bank.free_number(above) for above in (0, 1, 2)] == [1, 3, 3]


def test_a_bank_that_nobody_used_closes_without_making_a_store(tmp_path: Path) -> None:
    Bank(tmp_path / "never").close()
    assert not (tmp_path / "never").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made a folder"):
        Bank(tmp_path / "file" / "below").open()


def test_a_store_error_keeps_no_other_call_from_the_bank(bank: Bank) -> None:
    begin(bank)
    (error,) = bank.write([[Opened("run", "another address", b"{}"), Taken("run", 9, "here")]])
    assert isinstance(error, StoreError)
    assert bank._store.epoch("run") == 1
