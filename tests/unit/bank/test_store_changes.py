"""Proves that whoever changes a store with SQL is found out: at open with the number of the commit, later at the read."""

import sqlite3
import zlib
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Note, Op, Opened, Sealed, Store
from runtime.errors import StoreError

COMMITS: list[list[Op]] = [
    [Note("manifest", b'{"code":1}'), Opened("run-b", "address-b", b'{"seed":7}')],
    [Entry("run-b", 1, "1/planner/0", 1, "sent", b'{"held":40}'), Sealed("run-c", "address-c", b'{"answer":1}')],
    [Entry("run-b", 1, "1/planner/0", 1, "settled", b'{"used":31}'), Sealed("run-a", "address-a", b'{"x":1}' * 90)],
    [Note("manifest", b'{"code":2}'), Opened("run-a2", "address-a", b"{}")],
]


def fill(path: Path) -> Store:
    store = Store(path)
    for ops in COMMITS:
        store.commit(ops)
    return store


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM op WHERE n = 1", "commit 1 is not as it was written"),
        ("DELETE FROM op WHERE n = 4", "commit 2 is not as it was written"),
        ("DELETE FROM op WHERE n = 8", "commit 4 is not as it was written"),
        ("DELETE FROM op", "commit 1 is not as it was written"),
        ("DELETE FROM chain WHERE n = 2", "commit 2 is not as it was written"),
        ("DELETE FROM chain WHERE n = 4", "commit 4 is missing, but its rows are there"),
        ("DELETE FROM chain WHERE n = 4; DELETE FROM op WHERE n > 6", "commits 4 to 4 are missing"),
        ("DELETE FROM chain; DELETE FROM op", "commits 1 to 4 are missing"),
        ("UPDATE op SET n = 9 WHERE n = 8", "commit 4 is not as it was written"),
        ("UPDATE op SET state = 'released' WHERE n = 3", "commit 2 is not as it was written"),
        ("UPDATE op SET body = CAST(body AS TEXT) WHERE n = 3", "commit 2 is not as it was written"),
        ("UPDATE op SET name = CAST(name AS BLOB) WHERE n = 3", "commit 2 is not as it was written"),
        ("UPDATE chain SET last_op = 0 WHERE n = 2", "commit 2 is not as it was written"),
        ("UPDATE chain SET last_op = 1 << 60 WHERE n = 2", "commit 2 is not as it was written"),
        ("UPDATE chain SET last_op = 'four' WHERE n = 2", "commit 2 is not as it was written"),
        ("UPDATE chain SET last_op = 4.5 WHERE n = 2", "commit 2 is not as it was written"),
        ("UPDATE chain SET link = zeroblob(32) WHERE n = 3", "commit 3 is not as it was written"),
        ("UPDATE chain SET n = 5 WHERE n = 4", "commit 4 is not as it was written"),
        (
            "INSERT INTO op SELECT 9, kind, name, '', '', 0, '', 0, '', x'', body FROM op WHERE n = 1",
            "commit 5 is missing",
        ),
        ("CREATE TRIGGER t AFTER INSERT ON op BEGIN DELETE FROM chain; END", "not declared as they were"),
        ("PRAGMA user_version = 7", "written in store format 7, and this Ostrom reads 2"),
        ("PRAGMA application_id = 7", "not a store"),
    ],
)
def test_a_change_by_sql_is_noticed(tmp_path: Path, change: str, words: str) -> None:
    fill(tmp_path / "s.db").close()
    db = sqlite3.connect(tmp_path / "s.db")
    db.executescript(change)
    db.close()
    before = (tmp_path / "s.db").read_bytes()
    with pytest.raises(StoreError, match=words):
        Store(tmp_path / "s.db")
    assert (tmp_path / "s.db").read_bytes() == before


def test_two_commits_that_changed_places_are_noticed(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Note("n", b"first")])
        store.commit([Note("n", b"second")])
    db = sqlite3.connect(tmp_path / "s.db")
    for table in ("op", "chain"):
        db.executescript(f"UPDATE {table} SET n = -n; UPDATE {table} SET n = 3 + n")
    db.executescript("UPDATE chain SET last_op = n")
    db.close()
    (tmp_path / "s.db.lock").unlink()
    with pytest.raises(StoreError, match="commit 1 is not as it was written"):
        Store(tmp_path / "s.db")


def test_another_store_put_in_the_place_of_the_acknowledged_one_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    with Store(tmp_path / "other.db") as other:
        other.commit([Note("n", b"1")])
        for ops in COMMITS:
            other.commit(ops)
    (tmp_path / "other.db").replace(tmp_path / "s.db")
    with pytest.raises(StoreError, match="commit 4 is not the one that was acknowledged"):
        Store(tmp_path / "s.db")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE op SET body = x'00' WHERE n = 4", "run 'run-c' was changed while the store was open"),
        (f"UPDATE op SET body = x'{zlib.compress(b'{}').hex()}' WHERE n = 4", "run 'run-c' was changed while"),
        ("DELETE FROM op WHERE n = 4", "row 4 was taken away while the store was open"),
    ],
)
def test_damage_while_the_store_is_open_is_noticed_at_the_read(tmp_path: Path, change: str, words: str) -> None:
    with fill(tmp_path / "s.db") as store:
        db = sqlite3.connect(tmp_path / "s.db")
        db.executescript(change)
        db.close()
        with pytest.raises(StoreError, match=words):
            store.result("run-c")
