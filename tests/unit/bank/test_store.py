"""Proves what the store promises: nothing acknowledged is lost, nothing changed goes unnoticed, one driver at a time.

Crashes, damage and a full disk are real here: processes are killed, bytes are flipped, and the kernel refuses to write.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
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


def killed_after_filling(folder: Path) -> Path:
    """Return a copy of a store whose driver was killed: all commits are still in the write-ahead log."""
    (folder / "alive").mkdir()
    (folder / "dead").mkdir()
    with fill(folder / "alive" / "s.db"):
        for file in (folder / "alive").iterdir():
            (folder / "dead" / file.name).write_bytes(file.read_bytes())
    return folder / "dead" / "s.db"


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


def flips(folder: Path, file: str, positions: Callable[[int], Iterable[int]]) -> Iterator[tuple[int, str]]:
    """Yield, for each position, what opening said after that byte of the file was flipped; "" if all reads were
    right and the store could be written and opened again.

    A refused store must be left as it was found.
    """
    found = {path: path.read_bytes() for path in folder.iterdir()}
    good = found[folder / file]
    for position in positions(len(good)):
        for path in folder.iterdir():
            path.unlink()
        bad = bytearray(good)
        bad[position] ^= 0xFF if position % 2 else 1 << position // 2 % 8
        for path, text in found.items():
            path.write_bytes(bytes(bad) if path.name == file else text)
        before = contents(folder)
        try:
            with Store(folder / "s.db") as store:
                assert all_reads(store) == EXPECTED, f"byte {position} of {file} was flipped and nobody noticed"
                store.commit([Note("later", b"1")])
            with Store(folder / "s.db") as store:
                assert (*all_reads(store), store.note("later")) == (*EXPECTED, b"1"), f"byte {position} of {file}"
            yield position, ""
        except StoreError as error:
            assert contents(folder) == before, f"byte {position} of {file}: the evidence was changed"
            yield position, str(error)


def some(size: int) -> Iterable[int]:
    return range(0, size, 61)


@pytest.mark.parametrize("positions", [some, pytest.param(range, marks=pytest.mark.long)])
def test_every_flipped_byte_of_the_file_is_noticed_or_harmless(
    tmp_path: Path, positions: Callable[[int], Iterable[int]]
) -> None:
    fill(tmp_path / "s.db").close()
    texts = [text for _, text in flips(tmp_path, "s.db", positions)]
    assert any("is not as it was written" in text for text in texts)


@pytest.mark.parametrize("positions", [some, pytest.param(range, marks=pytest.mark.long)])
def test_every_flipped_byte_of_the_log_is_noticed_or_harmless(
    tmp_path: Path, positions: Callable[[int], Iterable[int]]
) -> None:
    path = killed_after_filling(tmp_path)
    texts = [text for _, text in flips(path.parent, "s.db-wal", positions)]
    assert any("are missing" in text for text in texts)


@pytest.mark.parametrize("nth", range(len(COMMITS)))
def test_every_flipped_byte_of_a_body_is_noticed_with_the_number_of_its_commit(tmp_path: Path, nth: int) -> None:
    fill(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM op WHERE n IN (?, ?)", (2 * nth + 1, 2 * nth + 2))]
    db.close()
    file = (tmp_path / "s.db").read_bytes()
    at = [file.index(body) + offset for body in bodies if len(body) > 2 for offset in range(0, len(body), 3)]
    assert at
    assert all(
        f"commit {nth + 1} is not as it was written" in text for _, text in flips(tmp_path, "s.db", lambda _: at)
    )


def test_every_flipped_byte_of_the_declarations_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    file = (tmp_path / "s.db").read_bytes()
    starts = [file.index(table) for table in (b"tableopop", b"tablechainchain")]
    spots = [start + offset for start in starts for offset in range(24)]
    assert [spot for spot, text in flips(tmp_path, "s.db", lambda _: spots) if not text] == []


def test_every_flipped_byte_that_misleads_lookups_is_noticed_when_opening(tmp_path: Path) -> None:
    # In a table of several pages an inner page says which rows lie where. Reading all rows does not look at that, so
    # the chain alone would call this file sound, and rows would be missed later.
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.commit([Entry("r", 1, str(n), 1, "sent", bytes(1000)) for n in range(40)])
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'op'").fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    good = path.read_bytes()
    for position in range(page * page_bytes - 40, page * page_bytes):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(StoreError):
            Store(path)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 512, 4096, 8192, 12287])
def test_a_truncated_file_is_noticed(tmp_path: Path, size: int) -> None:
    fill(tmp_path / "s.db").close()
    os.truncate(tmp_path / "s.db", size)
    before = contents(tmp_path)
    with pytest.raises(StoreError):
        Store(tmp_path / "s.db")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("lost", ["s.db", "s.db-wal"])
def test_a_missing_file_is_noticed_and_not_made_anew(tmp_path: Path, lost: str) -> None:
    path = killed_after_filling(tmp_path)
    (path.parent / lost).unlink()
    with pytest.raises(StoreError, match="commits 1 to 4 are missing"):
        Store(path)
    assert not (path.parent / lost).exists() or lost == "s.db-wal"


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
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=words):
        Store(tmp_path / "s.db")
    assert contents(tmp_path) == before


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


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b'{"commit":"x"}'])
def test_a_lock_file_without_a_mark_costs_only_the_check_of_the_end(tmp_path: Path, text: bytes) -> None:
    fill(tmp_path / "s.db").close()
    (tmp_path / "s.db.lock").write_bytes(text)
    with Store(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED


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


def test_a_disk_that_takes_no_more_is_an_error_and_the_store_goes_on_with_room(tmp_path: Path) -> None:
    # The limit on the size of files stands for the full disk: the kernel refuses the write in the middle of a commit.
    code = """
import resource
from runtime.errors import StoreError
store = Store(path)
store.commit([Entry("r", 1, "1", 1, "sent", b"x")])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    store.commit([Note("n", bytes(200_000)), Entry("r", 1, "2", 1, "sent", b"x")])
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.commit([Note("n", bytes(200_000)), Entry("r", 1, "3", 1, "sent", b"x")])
print([entry.key for entry in store.entries("r")], len(store.note("n")))
store.close()
"""
    done = python(code, tmp_path / "s.db")
    assert done.stderr == ""
    assert "nothing of this was written" in done.stdout
    assert done.stdout.endswith("['1', '3'] 200000\n")
    with Store(tmp_path / "s.db") as store:
        assert [entry.key for entry in store.entries("r")] == ["1", "3"]


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"minutes of the meeting\n" * 50)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="this is not a store"):
        Store(tmp_path / "s.db")
    assert contents(tmp_path) == before


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").mkdir()
    with pytest.raises(StoreError, match="this is a folder"):
        Store(tmp_path / "s.db")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"the folder {tmp_path}/nowhere does not exist"):
        Store(tmp_path / "nowhere" / "s.db")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened for writing: Not a directory"):
        Store(tmp_path / "file" / "s.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_only_be_read_is_refused_when_opening(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    (tmp_path / "s.db").chmod(0o444)
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "s.db")


def test_a_refused_opening_lets_the_next_one_in(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"no store" * 200)
    with pytest.raises(StoreError):
        Store(tmp_path / "s.db")
    (tmp_path / "s.db").unlink()
    with fill(tmp_path / "s.db") as store:
        assert all_reads(store) == EXPECTED


def test_a_path_with_odd_characters_names_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#%41.db"
    fill(path).close()
    assert path.stat().st_size > 0
    with Store(path) as store:
        assert all_reads(store) == EXPECTED
