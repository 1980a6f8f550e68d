"""Proves that a full disk begins nothing and still lets everything end.

The disk is real: a small tmpfs, where root may mount one. Elsewhere SQLite's own limit on pages, and the kernel's on the size
of files, stand for it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Granted, Note, Op, Opened, Ruled, Sealed, Store, Taken, ToppedUp, compacted
from runtime.errors import StoreError

MIB = 1 << 20
DISK_BYTES = 12 * MIB
OPENED = Opened("r", "r", b"{}")
BEGINNINGS: list[Op] = [
    Opened("q", "q", b"{}"),
    Taken("r", 1, "host"),
    Entry("r", 1, "other", 1, "held", b"{}"),
    Entry("r", 1, "other", 1, "sent", b"{}"),
    Granted("r", "lab", 0, (1,)),
    ToppedUp("lab", 1, (1,)),
    Note("note", b"{}"),
]
ENDS: list[Op] = [
    Entry("r", 1, "0", 1, "settled", b"{}"),
    Entry("r", 1, "0", 1, "released", b"{}"),
    Entry("r", 1, "0", 1, "charged_max", b"{}"),
    Entry("r", 1, "0", 1, "voided", b"{}"),
    Sealed("r", "r", b"result"),
    Ruled("r", "paused"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "ostrom-test", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is refused here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill_up(disk: Path) -> Path:
    """Take all room that is left."""
    with suppress(OSError), open(disk / "filler", "ab", 0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"


def everything(store: Store) -> tuple[object, ...]:
    return (
        [store.entries(run) for run in "rq"],
        store.opened(),
        store.epoch("r"),
        store.grants(),
        store.top_ups(),
        store.rulings(),
        store.note("note"),
        list(store.results()),
    )


def is_there(disk: Path) -> bool:
    return (disk / "s.db.ballast").exists()


def test_the_ballast_takes_its_room_with_the_first_live_run_and_goes_with_the_last(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Note("note", b"{}"), Sealed("v", "v", b"virtual"), Ruled("lab", "paused")])
        assert not is_there(tmp_path)
        store.commit([OPENED])
        assert (tmp_path / "s.db.ballast").stat().st_blocks * 512 >= 8 * MIB
        store.commit([Sealed("r", "r", b"result")])
    assert not is_there(tmp_path)
    with Store(tmp_path / "s.db") as store:
        assert not is_there(tmp_path)
        store.commit([Opened("q", "q", b"{}")])
    (tmp_path / "s.db.ballast").unlink()
    with Store(tmp_path / "s.db"):
        assert (tmp_path / "s.db.ballast").stat().st_size == 8 * MIB


@pytest.mark.parametrize("op", BEGINNINGS)
def test_a_full_disk_begins_nothing_and_changes_nothing(disk: Path, op: Op) -> None:
    with Store(disk / "s.db") as store:
        store.commit([OPENED])
        before = everything(store)
        filler = fill_up(disk)
        for ops in ([op], [ENDS[0], op]):
            with pytest.raises(StoreError, match="the disk is full; nothing of this was written, so make room"):
                # More than what is left in the log's last page.
                store.commit([*ops, *(Note(str(n), bytes(4000)) for n in range(9))])
        assert everything(store) == before
        assert is_there(disk)
        filler.unlink()
        store.commit([op])
    with Store(disk / "s.db") as store:
        assert everything(store) != before


@pytest.mark.parametrize("op", ENDS)
def test_a_full_disk_lets_everything_end(disk: Path, op: Op) -> None:
    with Store(disk / "s.db") as store:
        store.commit([OPENED, Entry("r", 1, "0", 1, "sent", b"{}")])
        fill_up(disk)
        store.commit([op])
        after = everything(store)
        assert not is_there(disk)
    with Store(disk / "s.db") as store:
        assert everything(store) == after


def test_the_room_of_the_ballast_is_for_ends_alone_until_it_can_be_made_again(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        store.commit([OPENED, *(Entry("r", 1, str(n), 1, "sent", b"{}") for n in range(200))])
        filler = fill_up(disk)
        for n in range(200):
            store.commit([Entry("r", 1, str(n), 1, "settled", bytes(500))])
            with pytest.raises(StoreError, match="the disk has no 8 MiB left to keep for closing what is open"):
                store.commit([BEGINNINGS[n % len(BEGINNINGS)]])
        assert not is_there(disk)
        filler.unlink()
        store.commit([BEGINNINGS[0]])
        assert is_there(disk)
        assert len(store.entries("r")) == 400


def test_nothing_live_begins_where_there_is_no_room_for_the_ballast(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        store.commit([Note("note", b"{}")])
        (disk / "other").write_bytes(bytes(5 * MIB))
        with pytest.raises(StoreError, match=r"the disk has no 8 MiB left .*No space left on device.* make room"):
            store.commit([OPENED])
        assert not is_there(disk)
        assert store.opened() == []
        store.commit([Sealed("v", "v", b"virtual"), Note("note", b"2")])
        (disk / "other").unlink()
        store.commit([OPENED])
    assert is_there(disk)


def test_a_live_run_that_could_not_begin_leaves_no_ballast(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        with pytest.raises(StoreError, match="the disk is full"):
            store.commit([OPENED, Note("note", bytes(6 * MIB))])
        assert not is_there(disk)
        assert everything(store) == ([[], []], [], 0, [], [], {}, None, [])


def test_a_store_with_open_runs_opens_on_a_full_disk_and_closes_them(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        store.commit([OPENED, Entry("r", 1, "0", 1, "sent", b"{}")])
    filler = fill_up(disk)
    with Store(disk / "s.db") as store:
        store.commit([Entry("r", 1, "0", 1, "settled", b"{}"), Ruled("r", "paused")])
        with pytest.raises(StoreError, match="the disk has no 8 MiB left"):
            store.commit([Taken("r", 1, "host")])
    filler.unlink()
    with Store(disk / "s.db") as store:
        assert is_there(disk)
        store.commit([Taken("r", 1, "host")])
        assert [entry.state for entry in store.entries("r")] == ["sent", "settled"]


def test_a_store_without_open_runs_is_refused_on_a_full_disk_and_opens_when_there_is_room(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        store.commit([Sealed("v", "v", b"virtual")])
    filler = fill_up(disk)
    with pytest.raises(StoreError, match="the disk is full"):
        Store(disk / "s.db")
    with Store(disk / "s.db", read_only=True) as reader:
        assert reader.result("v") == b"virtual"
    filler.unlink()
    with Store(disk / "s.db") as store:
        assert store.result("v") == b"virtual"


def test_gc_on_a_full_disk_leaves_the_store_as_it_was(disk: Path) -> None:
    with Store(disk / "s.db") as store:
        store.commit([Note("note", bytes(3 * MIB)), *(Note("small", bytes([n])) for n in range(9))])
    (disk / "other").write_bytes(bytes(7 * MIB))
    before = (disk / "s.db").read_bytes()
    with pytest.raises(StoreError, match="the disk is full"):
        compacted(disk / "s.db", keep_runs=None)
    assert (disk / "s.db").read_bytes() == before
    assert {file.name for file in disk.iterdir()} == {"s.db", "s.db.lock", "other"}
    (disk / "other").unlink()
    assert compacted(disk / "s.db", keep_runs=None).n_dropped_rows == 8


# ---- Without a disk of one's own.


def python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run this code in a process of its own; `path` and all of the store's names are known to it."""
    given = (
        "import resource, sys\nfrom pathlib import Path\nfrom runtime.bank.store import *\n"
        "from runtime.errors import StoreError\npath = Path(sys.argv[1])\n"
    )
    return subprocess.run([sys.executable, "-c", given + code, str(path)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("op", [*BEGINNINGS, *ENDS])
def test_where_not_even_the_ballast_helps_the_commit_is_refused_as_a_whole(tmp_path: Path, op: Op) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([OPENED, Entry("r", 1, "0", 1, "sent", b"{}")])
        before = everything(store)
        store._file._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StoreError, match="the disk is full"):
            store.commit([op, *(Ruled(f"{n:0999}", "paused") for n in range(9))])
        assert everything(store) == before
        assert is_there(tmp_path) == (op in BEGINNINGS)
        store._file._db.execute("PRAGMA max_page_count = 100000")
        store.commit([op])
        assert everything(store) != before
        assert is_there(tmp_path) == (op in BEGINNINGS)


def test_a_commit_that_ends_something_is_tried_once_more_when_the_ballast_is_gone(tmp_path: Path) -> None:
    """The kernel's limit on the size of files refuses like a disk with a quota; here it is lifted by the loss of the ballast."""
    code = """
store = Store(path)
store.commit([Opened("r", "r", b"{}"), Entry("r", 1, "0", 1, "sent", b"{}")])

def lift(event, args):
    if event == "os.remove" and str(args[0]).endswith(".ballast"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

sys.addaudithook(lift)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
store.commit([Entry("r", 1, "0", 1, "settled", bytes(200_000))])
print([entry.state for entry in store.entries("r")], Path(f"{path}.ballast").exists())
store.close()
"""
    done = python(code, tmp_path / "s.db")
    assert (done.stderr, done.stdout) == ("", "['sent', 'settled'] False\n")
    with Store(tmp_path / "s.db") as store:
        assert len(store.entries("r")) == 2


def test_a_disk_that_takes_no_more_is_an_error_and_the_store_goes_on_with_room(tmp_path: Path) -> None:
    # The limit on the size of files stands for the full disk: the kernel refuses the write in the middle of a commit.
    code = """
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
