"""Proves that a store can be read by anybody at any time: beside its driver, after its death, from a disk that takes no
write; and that reading leaves no trace."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Note, Opened, Sealed, Store, compacted
from runtime.errors import StoreError

READS = 50
BUSY = """
import os
import sys
from itertools import count
from pathlib import Path
from runtime.bank.store import *

for opening in count():
    with Store(Path(sys.argv[1])) as store:
        at = len(store.entries("r"))
        for n in range(at, at + int(sys.argv[2])):
            body = bytes([n % 251]) * (n * 7 % 9000)
            store.commit([Entry("r", 1, str(n), 1, "sent", body), Note(str(n), body)], durable=n % 2 == 0)
            os.write(1, b"%d\\n" % n)
    if int(sys.argv[2]) > 10 and opening % 3 == 2:
        compacted(Path(sys.argv[1]), keep_runs=None)
"""


def body_of(n: int) -> bytes:
    return bytes([n % 251]) * (n * 7 % 9000)


def trace(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def fill(path: Path) -> Store:
    store = Store(path)
    store.commit([Note("n", b"1"), Sealed("r", "r", b"result")])
    return store


def killed(folder: Path) -> Path:
    """A copy of a store whose driver was killed, without SQLite's `-shm` file."""
    folder.joinpath("dead").mkdir()
    with fill(folder / "s.db"):
        for name in ("s.db", "s.db-wal", "s.db.lock"):
            shutil.copy(folder / name, folder / "dead" / name)
    return folder / "dead" / "s.db"


@contextmanager
def read_only_disk(folder: Path) -> Iterator[None]:
    """Make what lies in this folder a disk that takes no write. Permissions would not do: they do not bind root."""
    for words in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount is refused here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_closed_store_is_read_without_a_trace(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    before = trace(tmp_path)
    with Store(tmp_path / "s.db", read_only=True) as reader:
        assert (reader.note("n"), reader.result("r")) == (b"1", b"result")
        assert trace(tmp_path) == before
    assert trace(tmp_path) == before


def test_two_readers_and_a_driver_do_not_see_each_other(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    with (
        Store(tmp_path / "s.db", read_only=True) as early,
        Store(tmp_path / "s.db") as store,
        Store(tmp_path / "s.db", read_only=True) as late,
    ):
        store.commit([Note("n", b"2")])
        assert [one.note("n") for one in (early, store, late)] == [b"1", b"2", b"1"]
        with Store(tmp_path / "s.db", read_only=True) as latest:
            assert latest.note("n") == b"2"
    Store(tmp_path / "s.db").close()


def test_what_is_read_from_a_closed_store_stays_right_when_a_driver_rewrites_the_file(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Sealed(f"r{n}", f"{n:03}", body_of(n)) for n in range(100)])
    with Store(tmp_path / "s.db", read_only=True) as reader:
        results = reader.results()
        assert [next(results)[2] for _ in range(50)] == [body_of(n) for n in range(50)]
        with Store(tmp_path / "s.db") as store:
            store.commit([Note("large", bytes(3_000_000))])
        assert [body for *_, body in results] == [body_of(n) for n in range(50, 100)]
        assert reader.note("large") is None


def test_a_reader_of_a_file_that_gc_replaced_is_told_to_open_it_again(tmp_path: Path) -> None:
    with fill(tmp_path / "s.db") as store:
        store.commit([Note("n", b"2")])
    with Store(tmp_path / "s.db", read_only=True) as reader:
        compacted(tmp_path / "s.db", keep_runs=None)
        with pytest.raises(StoreError, match="another file has taken its place since it was opened; open it again"):
            reader.result("r")
        with pytest.raises(StoreError, match="closed"):
            reader.result("r")


def test_a_reader_of_a_driven_store_keeps_its_view_when_gc_replaces_the_file(tmp_path: Path) -> None:
    with fill(tmp_path / "s.db") as store:
        store.commit([Note("n", b"2")])
        reader = Store(tmp_path / "s.db", read_only=True)
    compacted(tmp_path / "s.db", keep_runs=0)
    with Store(tmp_path / "s.db") as store:
        store.commit([Note("n", b"3")])
        assert (reader.result("r"), reader.note("n")) == (b"result", b"2")
        assert (store.result("r"), store.note("n")) == (None, b"3")
    reader.close()


def test_a_store_that_was_not_closed_is_read_with_its_log(tmp_path: Path) -> None:
    path = killed(tmp_path)
    before = {name: found[2] for name, found in trace(path.parent).items()}
    with Store(path, read_only=True) as reader:
        assert (reader.note("n"), reader.result("r")) == (b"1", b"result")
    after = {name: found[2] for name, found in trace(path.parent).items()}
    assert {name: text for name, text in after.items() if name != "s.db-shm"} == before


def test_a_closed_store_is_read_on_a_disk_that_takes_no_write(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    with read_only_disk(tmp_path):
        with Store(tmp_path / "s.db", read_only=True) as reader:
            assert reader.result("r") == b"result"
        with pytest.raises(StoreError, match="its lock file cannot be opened for writing: Read-only file system"):
            Store(tmp_path / "s.db")


def test_a_store_that_was_not_closed_says_so_on_a_disk_that_takes_no_write(tmp_path: Path) -> None:
    path = killed(tmp_path)
    words = "was not closed, and its folder cannot be written; copy it and s.db-wal to a folder"
    with read_only_disk(path.parent), pytest.raises(StoreError, match=words):
        Store(path, read_only=True)


def test_nothing_is_committed_through_a_reader(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    with Store(tmp_path / "s.db", read_only=True) as reader:
        with pytest.raises(StoreError, match="opened for reading only; open it without read_only to write"):
            reader.commit([Note("n", b"2")])
        assert reader.note("n") == b"1"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store to read"):
        Store(tmp_path / "s.db", read_only=True)
    with pytest.raises(StoreError, match="there is nothing to read yet"):
        Store(None, read_only=True)
    with pytest.raises(StoreError, match="this is a folder"):
        Store(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_lock_file_can_be_read_and_gets_none(tmp_path: Path) -> None:
    fill(tmp_path / "s.db").close()
    (tmp_path / "s.db.lock").unlink()
    with Store(tmp_path / "s.db", read_only=True) as reader:
        assert reader.note("n") == b"1"
    assert {file.name for file in tmp_path.iterdir()} == {"s.db"}


@pytest.mark.parametrize("logged", [True, False])
def test_a_damaged_store_is_refused_to_readers_too(tmp_path: Path, logged: bool) -> None:
    path = killed(tmp_path)
    if not logged:
        Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE op SET body = x'00' WHERE n = 1")
    db.close()
    with pytest.raises(StoreError, match="commit 1 is not as it was written"):
        Store(path, read_only=True)


def test_a_link_to_a_store_is_the_store(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere" / "s.db")
    with Store(tmp_path / "link.db") as store:
        store.commit([Opened("r", "r", b"{}"), Entry("r", 1, "k", 1, "sent", b"1")])
        with pytest.raises(StoreError, match="another driver"):
            Store(tmp_path / "elsewhere" / "s.db")
        with Store(tmp_path / "link.db", read_only=True) as reader:
            assert len(reader.entries("r")) == 1
    compacted(tmp_path / "link.db", keep_runs=None)
    assert {file.name for file in tmp_path.iterdir()} == {"elsewhere", "link.db"}
    assert (tmp_path / "link.db").is_symlink()


@pytest.mark.parametrize("commits_per_opening", [1, 5, 200])
def test_readers_find_whatever_was_acknowledged_while_a_driver_is_at_work(
    tmp_path: Path, commits_per_opening: int
) -> None:
    """The driver opens, commits, closes and compacts all the time; each reader sees at least what was there before it."""
    path = tmp_path / "s.db"
    busy = subprocess.Popen([sys.executable, "-c", BUSY, str(path), str(commits_per_opening)], stdout=subprocess.PIPE)
    assert busy.stdout is not None
    try:
        for _ in range(READS):
            acknowledged = int(os.read(busy.stdout.fileno(), 1 << 16).split()[-1])
            with Store(path, read_only=True) as reader:
                entries = reader.entries("r")
                assert [entry.key for entry in entries] == [str(n) for n in range(len(entries))]
                assert all(entry.body == body_of(n) for n, entry in enumerate(entries))
                assert len(entries) > acknowledged
                assert reader.note(str(acknowledged)) == body_of(acknowledged)
    finally:
        busy.kill()
        busy.communicate()
    assert busy.returncode == -signal.SIGKILL
