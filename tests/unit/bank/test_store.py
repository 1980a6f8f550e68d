"""Proves what the store promises: nothing acknowledged is lost, nothing changed goes unnoticed, one driver at a time.

Crashes, damage and a full disk are real here: processes are killed, bytes are flipped, and the kernel refuses to write.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Note, Op, Opened, Sealed, Store
from runtime.errors import ConfigError, StoreError

ADDRESS = {name: f"{number:064x}" for number, name in enumerate(("a", "b", "c"), 1)}
COMMITS: list[list[Op]] = [
    [Note("manifest", b'{"code":1}'), Opened("run-b", ADDRESS["b"], b'{"seed":7}')],
    [
        Entry("run-b", 1, "1/planner/0", 1, "sent", b'{"held":40}'),
        Sealed("run-c", ADDRESS["c"], b'{"answer":"\xc3\xa9"}'),
    ],
    [Entry("run-b", 1, "1/planner/0", 1, "settled", b'{"used":31}'), Sealed("run-a", ADDRESS["a"], b'{"x":1}' * 90)],
    [Note("manifest", b'{"code":2}'), Opened("run-a2", ADDRESS["a"], b"{}")],
]


def fill(path: Path | None) -> Store:
    store = Store(path)
    for ops in COMMITS:
        store.commit(ops)
    return store


def all_reads(store: Store) -> tuple[object, ...]:
    runs = ("run-a", "run-a2", "run-b", "run-c", "nobody")
    return (
        store.sealed([*ADDRESS.values(), "unknown"]),
        list(store.results()),
        list(store.results([ADDRESS["c"], "unknown", ADDRESS["a"]])),
        [store.result(run) for run in runs],
        [store.entries(run) for run in runs],
        store.opened(),
        [store.note(name) for name in ("manifest", "nothing")],
    )


EXPECTED = (
    {ADDRESS["a"], ADDRESS["c"]},
    [("run-a", ADDRESS["a"], b'{"x":1}' * 90), ("run-c", ADDRESS["c"], b'{"answer":"\xc3\xa9"}')],
    [("run-a", ADDRESS["a"], b'{"x":1}' * 90), ("run-c", ADDRESS["c"], b'{"answer":"\xc3\xa9"}')],
    [b'{"x":1}' * 90, b'{"x":1}' * 90, None, b'{"answer":"\xc3\xa9"}', None],
    [[], [], [COMMITS[1][0], COMMITS[2][0]], [], []],
    [COMMITS[0][1]],
    [b'{"code":2}', None],
)


def contents(folder: Path) -> dict[str, bytes]:
    """What the store's files hold; without the lock, and without SQLite's shared memory, which any reader rewrites."""
    files = (file for file in folder.iterdir() if not file.name.endswith((".lock", "-shm", ".ballast")))
    return {file.name: text for file in files if (text := file.read_bytes()) or not file.name.endswith("-wal")}


def python(code: str, path: Path, crash: str = "") -> subprocess.CompletedProcess[str]:
    """Run this code in a process of its own; `path` and all of the store's names are known to it."""
    given = "import sys\nfrom pathlib import Path\nfrom runtime.bank.store import *\npath = Path(sys.argv[1])\n"
    return subprocess.run(
        [sys.executable, "-c", given + code, str(path)],
        env={**os.environ, "OSTROM_CRASH": crash},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_was_committed_is_read_back(tmp_path: Path, on_disk: bool) -> None:
    with fill(tmp_path / "s.db" if on_disk else None) as store:
        assert all_reads(store) == EXPECTED


def test_what_was_committed_is_read_back_after_reopening(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    with Store(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED
        store.commit([Note("manifest", b"3")])
    with Store(tmp_path / "s.db") as store:
        assert store.note("manifest") == b"3"


def test_a_closed_store_is_one_file_and_its_lock(tmp_path: Path) -> None:
    store = fill(tmp_path / "s.db")
    store.close()
    store.close()
    assert {file.name for file in tmp_path.iterdir()} == {"s.db", "s.db.lock", "s.db.ballast"}
    with Store(tmp_path / "s.db") as store:
        store.commit([Sealed("run-b", ADDRESS["b"], b"{}")])
    assert {file.name for file in tmp_path.iterdir()} == {"s.db", "s.db.lock"}


def test_a_closed_store_says_so_instead_of_forgetting(tmp_path: Path) -> None:
    store = fill(tmp_path / "s.db")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.commit([Note("manifest", b"3")])
    with pytest.raises(StoreError, match="closed"):
        store.note("manifest")


def test_a_store_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(None).close()
    assert list(tmp_path.iterdir()) == []


def test_repeating_what_was_sealed_and_opened_writes_nothing(tmp_path: Path) -> None:
    with fill(tmp_path / "s.db") as store:
        before = contents(tmp_path)
        store.commit([op for ops in COMMITS for op in ops if isinstance(op, Opened | Sealed)])
        store.commit([])
        assert contents(tmp_path) == before


def test_repeating_inside_one_commit_is_harmless() -> None:
    seal = Sealed("r", "", b"1")
    with Store(None) as store:
        store.commit([seal, seal, Note("n", b"1")])
        assert [*store.results()] == [("r", "", b"1")]


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (Sealed("run-a", ADDRESS["a"], b"other"), f"address {ADDRESS['a']} was sealed with another result"),
        (Sealed("run-a", ADDRESS["b"], b"other"), "run 'run-a' is already here with other content"),
        (Opened("run-b", ADDRESS["b"], b"other"), "run 'run-b' was begun with another specification"),
        (Opened("run-b", ADDRESS["c"], b'{"seed":7}'), "run 'run-b' is already here with other content"),
    ],
)
def test_a_contradiction_is_refused_with_everything_beside_it(op: Op, words: str) -> None:
    with fill(None) as store:
        with pytest.raises(StoreError, match=words):
            store.commit([Note("manifest", b"lost"), op])
        assert all_reads(store) == EXPECTED


def test_two_results_for_one_address_inside_one_commit_are_refused() -> None:
    with Store(None) as store:
        with pytest.raises(StoreError, match="sealed with another result"):
            store.commit([Sealed("r", "x", b"1"), Sealed("r", "x", b"2")])
        assert [*store.results()] == []


def test_a_second_run_with_the_same_result_at_one_address_is_found_by_its_own_name() -> None:
    with fill(None) as store:
        store.commit([Sealed("run-a3", ADDRESS["a"], b'{"x":1}' * 90)])
        assert store.result("run-a3") == store.result("run-a")
        assert [run for run, *_ in store.results()] == ["run-a", "run-c"]


def test_sealing_closes_what_was_opened() -> None:
    with fill(None) as store:
        store.commit([Sealed("run-b", ADDRESS["b"], b"{}")])
        assert store.opened() == []


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b'{"commit":"x"}'])
def test_a_lock_file_without_a_mark_costs_only_the_check_of_the_end(tmp_path: Path, text: bytes) -> None:
    fill(tmp_path / "s.db").close()
    (tmp_path / "s.db.lock").write_bytes(text)
    with Store(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED


def test_a_commit_that_breaks_off_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with fill(tmp_path / "s.db") as store:
        # A number that JSON still holds and SQLite does not: the rows before it are already inserted.
        with pytest.raises(OverflowError):
            store.commit([Note("manifest", b"3"), Entry("run-b", 1, "1/planner/0", 2**63, "sent", b"")])
        assert all_reads(store) == EXPECTED
        store.commit([Note("later", b"1")])
    with Store(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED
        assert store.note("later") == b"1"


def test_a_second_driver_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    with fill(tmp_path / "s.db") as store:
        second = python("Store(path)", tmp_path / "s.db")
        assert f"StoreError: {tmp_path}/s.db: another driver works on this store: " in second.stderr
        assert f"process {os.getpid()} on host {os.uname().nodename}" in second.stderr
        with pytest.raises(StoreError, match=f"process {os.getpid()} on"):
            Store(tmp_path / "s.db")
        assert all_reads(store) == EXPECTED
    assert python("Store(path).close()", tmp_path / "s.db").returncode == 0


@pytest.mark.parametrize(
    ("point", "durable", "survivors"),
    [
        ("store-before-commit", True, []),
        ("store-before-commit:3", True, ["1", "2"]),
        ("store-after-commit", True, ["1"]),
        ("store-after-commit:3", True, ["1", "2", "3"]),
        ("store-after-commit:3", False, ["1", "2", "3"]),
    ],
)
def test_a_kill_keeps_every_acknowledged_commit(
    tmp_path: Path, point: str, durable: bool, survivors: list[str]
) -> None:
    dead = python(
        "store = Store(path)\n"
        "for n in range(1, 9):\n"
        f"    store.commit([Entry('r', 1, f'{{n}}', 1, 'sent', b'x'), Note(str(n), b'x')], durable={durable})\n"
        "    print(n, flush=True)\n",
        tmp_path / "s.db",
        crash=point,
    )
    acknowledged = dead.stdout.split()

    assert dead.returncode == -signal.SIGKILL
    assert survivors[: len(acknowledged)] == acknowledged
    with Store(tmp_path / "s.db") as store:
        assert [entry.key for entry in store.entries("r")] == survivors
        assert [n for n in map(str, range(1, 9)) if store.note(n)] == survivors
        store.commit([Entry("r", 1, "next", 1, "sent", b"x")])


@pytest.mark.parametrize("crash", ["store-before-commit:0", "store-before-commit:", "store-before-commit:x"])
def test_a_crash_point_that_cannot_be_read_is_refused(tmp_path: Path, crash: str) -> None:
    assert ConfigError.__name__ in python("", tmp_path, crash).stderr


def test_a_maker_killed_before_its_tables_were_there_leaves_no_obstacle(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "s.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    assert (tmp_path / "s.db").stat().st_size > 0
    with fill(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED


def test_a_database_held_by_another_program_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    with Store(path, busy_s=0.01) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds the database"):
            store.commit([Note("manifest", b"3")])
        assert all_reads(store) == EXPECTED
        other.execute("ROLLBACK")
        store.commit([Note("manifest", b"3")])
        assert store.note("manifest") == b"3"
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program holds the database"):
        Store(path, busy_s=0.01)
    other.close()
    Store(path).close()
