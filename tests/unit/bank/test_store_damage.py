"""Proves that no change to a store's files goes unnoticed: whatever is flipped, zeroed, cut off or taken out, opening says
so, or every read is as before.

All bytes one by one: `OSTROM_HYPOTHESIS=long`; without it, one in each range.
"""

import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from runtime.bank.store import Entry, Granted, Note, Op, Opened, Ruled, Sealed, Store, Taken, ToppedUp, compacted
from runtime.errors import StoreError

ALL = os.environ.get("OSTROM_HYPOTHESIS") == "long"
RANGE_BYTES = 32
BEFORE_GC: list[Op] = [
    Sealed("old", "address-old", b'{"old":1}', b'{"scope":"lab","settled":[5,6]}'),
    Sealed("last", "address-last", b'{"last":1}', b'{"scope":"lab","settled":[7,8]}'),
]
COMMITS: list[list[Op]] = [
    [Note("manifest", b'{"code":1}'), Opened("run-b", "address-b", b'{"seed":7}'), Taken("run-b", 1, "host-1")],
    [Granted("run-b", "lab", 0, (90, 91)), Entry("run-b", 1, "1/planner/0", 1, "sent", b'{"held":40}')],
    [
        Entry("run-b", 1, "1/planner/0", 1, "settled", b'{"used":31}'),
        Ruled("lab", "paused"),
        ToppedUp("lab", 1, (9, 9)),
    ],
    [Sealed("run-a", "address-a", b'{"x":1}' * 90, b'{"scope":"lab","settled":[1,2]}'), Taken("run-b", 2, "host-2")],
    [Note("manifest", b'{"code":2}'), Opened("run-a2", "address-a", b"{}"), Ruled("lab", "resumed")],
    [Sealed("run-c", "address-c", b'{"answer":"\xc3\xa9"}'), Granted("run-b", "lab", 1, (1 << 70, 0))],
]


def fill(path: Path) -> Store:
    with Store(path) as store:
        store.commit(BEFORE_GC)
    compacted(path, keep_runs=1)
    store = Store(path)
    for ops in COMMITS:
        store.commit(ops)
    return store


def all_reads(store: Store) -> tuple[object, ...]:
    runs = ("old", "last", "run-a", "run-a2", "run-b", "run-c", "nobody")
    return (
        store.sealed([f"address-{name}" for name in ("old", "last", "a", "b", "c")]),
        list(store.results()),
        list(store.books()),
        [(store.result(run), store.entries(run), store.epoch(run)) for run in runs],
        store.opened(),
        sorted(store.names()),
        store.grants(),
        store.top_ups(),
        store.rulings(),
        [store.note(name) for name in ("manifest", "nothing")],
        store.pruned(),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """What the store's files hold; without the lock, and without SQLite's shared memory, which any reader rewrites."""
    files = (file for file in folder.iterdir() if not file.name.endswith((".lock", "-shm", ".ballast")))
    return {file.name: text for file in files if (text := file.read_bytes()) or not file.name.endswith("-wal")}


class Found(NamedTuple):
    """A store as it was found, to be damaged again and again."""

    folder: Path
    files: dict[str, bytes]
    reads: tuple[object, ...]

    def said_of(self, file: str, text: bytes) -> str:
        """Return what opening says with this text in the place of one of the files; "" if it says nothing. Then all reads
        are right, and the store can be written and opened again. A refused store is left as it was.
        """
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in {**self.files, file: text}.items():
            (self.folder / name).write_bytes(content)
        before = contents(self.folder)
        try:
            store = Store(self.folder / "s.db")
        except StoreError as error:
            assert contents(self.folder) == before, "the evidence was changed"
            return str(error)
        with store:
            assert all_reads(store) == self.reads, "nobody noticed"
            store.commit([Note("later", b"1")], durable=False)
        with Store(self.folder / "s.db") as store:
            assert (*all_reads(store), store.note("later")) == (*self.reads, b"1")
        return ""


@pytest.fixture(params=["s.db", "s.db-wal"])
def file(request: pytest.FixtureRequest) -> str:
    """The file to damage."""
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of stores are opened here, and a disk would wait for each."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def found(tmp_path: Path, folder: Path, file: str) -> Found:
    """A closed store, or, to damage its log, one whose driver was killed: all of COMMITS are in the log."""
    with fill(tmp_path / "s.db") as store:
        reads = all_reads(store)
        if file == "s.db":
            store.close()
        kept = [path for path in tmp_path.iterdir() if not path.name.endswith((".ballast", "-shm"))]
        assert file in {path.name for path in kept}
        return Found(folder, {path.name: path.read_bytes() for path in kept}, reads)


def ranges(size: int) -> Iterator[tuple[int, int]]:
    """Ranges of an odd length that together cover everything."""
    return ((first, min(size, first + RANGE_BYTES)) for first in range(0, size, RANGE_BYTES))


def test_every_flipped_byte_is_noticed_or_harmless(found: Found, file: str) -> None:
    good = found.files[file]
    rng = random.Random(len(good))
    texts = set()
    for at in range(len(good)) if ALL else (rng.randrange(*one) for one in ranges(len(good))):
        bad = bytearray(good)
        bad[at] ^= 0xFF if at % 2 else 1 << at // 2 % 8
        texts.add(found.said_of(file, bytes(bad)))
    assert any(("is not as it was written" if file == "s.db" else "are missing") in text for text in texts)


@pytest.mark.parametrize("how", ["scrambled", "zeroed", "taken out"])
def test_every_damaged_range_is_noticed_or_harmless(found: Found, file: str, how: str) -> None:
    good = found.files[file]
    rng = random.Random(how)
    step = 1 if ALL else 3
    for first, end in [*ranges(len(good))][rng.randrange(step) :: step]:
        # Its length too is random, up to several pages.
        n = min(len(good) - first, max(end - first, rng.choice((1, 100, 4096, 9000))))
        filling = {"scrambled": rng.randbytes(n), "zeroed": bytes(n), "taken out": b""}[how]
        found.said_of(file, good[:first] + filling + good[first + n :])


def test_a_cut_at_every_page_and_between_is_noticed_or_harmless(found: Found, file: str) -> None:
    good = found.files[file]
    rng = random.Random(file)
    # A frame of the log is a header of 24 bytes and a page, after a header of 32 bytes of the log itself.
    pages = range(0, len(good), 4096) if file == "s.db" else range(32, len(good), 24 + 4096)
    places = {place + odd for place in pages for odd in (-1, 0, 1, 24, rng.randrange(4096))}
    for size in sorted({0, 1, 31, 99, 100, 512, *places} & {*range(len(good))}):
        assert found.said_of(file, good[:size]), f"cut at {size}, and nobody noticed"


def test_added_bytes_are_noticed_or_harmless(found: Found, file: str) -> None:
    good = found.files[file]
    for more in (b"\0", bytes(4096), good[-4096:], good[-4120:], good, random.Random(1).randbytes(9000)):
        found.said_of(file, good + more)


def test_every_commit_says_its_number_when_a_body_was_changed(tmp_path: Path, folder: Path) -> None:
    fill(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "s.db") as db:
        bodies = db.execute(
            "SELECT (SELECT min(chain.n) FROM chain WHERE last_op >= op.n), body FROM op WHERE length(body) > 2"
        ).fetchall()
    db.close()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith(".ballast")}
    found = Found(folder, files, ())
    assert {number for number, _ in bodies} == {*range(1, 9)}
    for number, body in bodies:
        good = files["s.db"]
        assert good.count(body) == 1
        for at in range(good.index(body), good.index(body) + len(body), 1 if ALL else 7):
            bad = bytearray(good)
            bad[at] ^= 1
            assert f"commit {number} is not as it was written" in found.said_of("s.db", bytes(bad))


@pytest.mark.parametrize("file", ["s.db"], indirect=True)
def test_every_flipped_byte_of_the_declarations_is_noticed(found: Found) -> None:
    good = found.files["s.db"]
    for start in (good.index(table) for table in (b"tableopop", b"tablechainchain")):
        for at in range(start, start + 24):
            assert found.said_of("s.db", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


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


@pytest.mark.parametrize("file", ["s.db-wal"], indirect=True)
@pytest.mark.parametrize("lost", ["s.db", "s.db-wal"])
def test_a_missing_file_is_noticed_and_not_made_anew(found: Found, lost: str) -> None:
    for name in found.files.keys() - {lost}:
        (found.folder / name).write_bytes(found.files[name])
    with pytest.raises(StoreError, match=r"commits [13] to 8 are missing"):
        Store(found.folder / "s.db")
    assert lost not in contents(found.folder)
