"""Proves what each op of the store means: what may be repeated, what contradicts, what counts last."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from runtime.bank.store import Entry, Granted, Note, Op, Opened, Pruned, Ruled, Sealed, Store, Taken, ToppedUp
from runtime.errors import StoreError

ENTRY = Entry("r", 1, "1/planner/0", 1, "sent", b'{"held":40}')
GRANT = Granted("r", "lab", 0, (5, 1 << 90))
TOP_UP = ToppedUp("lab", 1, (7, 0))
ALL: list[Op] = [
    Opened("r", "address", b"{}"),
    Taken("r", 1, "host-1"),
    GRANT,
    ENTRY,
    ENTRY._replace(state="settled"),
    TOP_UP,
    Ruled("r", "paused"),
    Ruled("lab", "paused"),
    Ruled("r", "resumed"),
    Taken("r", 3, "host-2"),
    Granted("r", "lab", 1, (2, 3)),
    Note("note", b"1"),
    Sealed("s", "s", b"result", b'{"scope":"lab","settled":[1,2]}'),
    Sealed("plain", "plain", b"result"),
]


def reads(store: Store) -> dict[str, object]:
    return {
        "entries": store.entries("r"),
        "epochs": [store.epoch(run) for run in ("r", "s")],
        "grants": store.grants(),
        "top-ups": store.top_ups(),
        "rulings": store.rulings(),
        "books": list(store.books()),
        "opened": store.opened(),
        "names": set(store.names()),
    }


@pytest.fixture(params=["in memory", "on disk", "opened again", "read only"])
def store_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    """Give a store that holds these ops, in each way in which one can be had."""

    def filled(*ops: Op) -> Store:
        store = Store(None if request.param == "in memory" else tmp_path / "s.db")
        store.commit(ops)
        if request.param == "opened again":
            store.close()
            store = Store(tmp_path / "s.db")
        if request.param == "read only":
            request.addfinalizer(store.close)
            store = Store(tmp_path / "s.db", read_only=True)
        request.addfinalizer(store.close)
        return store

    return filled


def test_this_file_knows_all_ops() -> None:
    assert {type(op) for op in ALL} | {Pruned} == set(get_args(Op))


def test_every_op_is_read_back_as_it_was_written(store_of: Callable[..., Store]) -> None:
    assert reads(store_of(*ALL)) == {
        "entries": [ENTRY, ENTRY._replace(state="settled")],
        "epochs": [3, 0],
        "grants": [GRANT, Granted("r", "lab", 1, (2, 3))],
        "top-ups": [TOP_UP],
        "rulings": {"r": "resumed", "lab": "paused"},
        "books": [("s", "s", b'{"scope":"lab","settled":[1,2]}'), ("plain", "plain", b"{}")],
        "opened": [ALL[0]],
        "names": {"r", "s", "plain"},
    }


@pytest.mark.parametrize("op", [op for op in ALL if not isinstance(op, Taken | Note | Ruled)])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_same_again_writes_nothing(tmp_path: Path, op: Op, at_once: bool) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([op, op] if at_once else [op])
        size = (tmp_path / "s.db-wal").stat().st_size
        store.commit([op, op])
        assert (tmp_path / "s.db-wal").stat().st_size == size


def test_a_repeated_op_takes_nothing_along_and_leaves_the_rest() -> None:
    with Store(None) as store:
        store.commit([ENTRY])
        store.commit([ENTRY, ENTRY._replace(try_=2)])
        assert store.entries("r") == [ENTRY, ENTRY._replace(try_=2)]


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (ENTRY._replace(body=b"other"), r'entry \["r","1/planner/0",1,"sent"\] was journalled with another content'),
        (GRANT._replace(amounts=(5, 2)), r"grant '0 r' \(serial, run\) was made with another scope or other amounts"),
        (GRANT._replace(scope="other"), r"grant '0 r' \(serial, run\) was made with another scope or other amounts"),
        (TOP_UP._replace(amounts=(7, 1)), r"top-up '1 lab' \(serial, scope\) was made with other amounts"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_another_content_for_the_same_is_a_conflict_and_the_first_is_kept(op: Op, words: str, at_once: bool) -> None:
    with Store(None) as store:
        store.commit(() if at_once else ALL)
        before = reads(store)
        with pytest.raises(StoreError, match=words):
            store.commit([*ALL, Note("note", b"lost"), op] if at_once else [Note("note", b"lost"), op])
        assert reads(store) == before
        assert store.note("note") == (None if at_once else b"1")


def test_an_entry_repeated_by_a_later_host_is_the_same_entry() -> None:
    with Store(None) as store:
        store.commit([ENTRY, ENTRY._replace(epoch=2)])
        assert store.entries("r") == [ENTRY]


@pytest.mark.parametrize("other", [{"run_id": "q"}, {"key": "1/planner/1"}, {"try_": 2}, {"state": "charged_max"}])
def test_an_entry_of_another_run_key_try_or_state_is_another_entry(other: dict[str, object]) -> None:
    two = [ENTRY, ENTRY._replace(**other, body=b"other")]  # type: ignore[arg-type]
    with Store(None) as store:
        store.commit(two)
        assert [*store.entries("r"), *store.entries("q")] == two


def test_names_that_run_into_each_other_are_told_apart() -> None:
    two = [Entry("r", 1, '1/a","b/0', 1, "sent", b"1"), Entry('r","1/a', 1, "b/0", 1, "sent", b"2")]
    grants = [Granted("r", "lab[1]", 0, (2,)), Granted("0 r", "lab", 0, (1,))]
    with Store(None) as store:
        store.commit([*two, *grants])
        assert [*store.entries("r"), *store.entries('r","1/a')] == two
        assert store.grants() == grants


def test_books_are_no_part_of_what_a_seal_says() -> None:
    with Store(None) as store:
        store.commit([Sealed("r", "r", b"1", b'{"first":1}'), Sealed("r", "r", b"1", b'{"second":1}')])
        assert list(store.books()) == [("r", "r", b'{"first":1}')]


def test_the_highest_epoch_counts_and_every_takeover_is_written(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        sizes = []
        for epoch in (1, 1, 5, 2):
            store.commit([Taken("r", epoch, "host")])
            sizes.append((tmp_path / "s.db-wal").stat().st_size)
        assert sizes == sorted(set(sizes))
        assert store.epoch("r") == 5


def test_a_ruling_is_written_only_if_it_changes_something(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Ruled("r", "paused"), Ruled("r", "paused"), Ruled("r", "resumed"), Ruled("r", "resumed")])
        assert store._index.n_ops == 2
        size = (tmp_path / "s.db-wal").stat().st_size
        store.commit([Ruled("r", "resumed")])
        assert (tmp_path / "s.db-wal").stat().st_size == size
        store.commit([Ruled("r", "paused")])
        assert (tmp_path / "s.db-wal").stat().st_size > size
        assert store.rulings() == {"r": "paused"}


def test_only_gc_may_say_what_was_left_out() -> None:
    with Store(None) as store, pytest.raises(StoreError, match="only gc may say"):
        store.commit([Pruned(b"{}")])


def test_a_run_that_is_sealed_is_no_longer_open() -> None:
    with Store(None) as store:
        store.commit([Opened("r", "r", b"{}"), Opened("q", "q", b"{}"), Sealed("r", "r", b"1")])
        assert store.opened() == [Opened("q", "q", b"{}")]
