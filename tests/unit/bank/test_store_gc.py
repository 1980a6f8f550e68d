"""Proves what a compaction keeps, what it drops, and that a kill or a refusal in its middle costs nothing."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.bank.store import Entry, Granted, Kept, Note, Op, Opened, Ruled, Sealed, Store, Taken, ToppedUp, compacted
from runtime.errors import ConfigError, StoreError

BOOKS = b'{"scope":"lab","settled":[10,%d],"open":[["2/a/0",1,[0,7,1]]]}'


def live(run_id: str, settled: int = 0) -> list[Op]:
    """A live run as it is written before its seal."""
    return [
        Opened(run_id, f"address-{run_id}", b"{}"),
        Taken(run_id, 1, "host"),
        Granted(run_id, "lab", 0, (100, 200)),
        ToppedUp(run_id, 1, (5, 5)),
        Ruled(run_id, "paused"),
        Ruled(run_id, "resumed"),
        Entry(run_id, 1, "1/a/0", 1, "sent", b'{"held":40}'),
        Entry(run_id, 1, "1/a/0", 1, "settled", b'{"used":31}'),
        Entry(run_id, 1, "2/a/0", 1, "sent", b'{"held":40}'),
        Entry(run_id, 1, "2/a/0", 1, "charged_max", b'{"used":40}'),
        Entry(run_id, 1, "2/a/0", 2, "settled", b'{"used":3}'),
    ]


def seal(run_id: str, settled: int = 0) -> Sealed:
    return Sealed(run_id, f"address-{run_id}", f"result of {run_id}".encode(), BOOKS % settled)


def all_reads(store: Store) -> dict[str, object]:
    """What no compaction that keeps all runs may change; entries and what was pruned are looked at one by one."""
    return {
        "results": list(store.results()),
        "books": list(store.books()),
        "opened": store.opened(),
        "names": sorted(store.names()),
        "epochs": [store.epoch(name) for name in sorted(store.names())],
        "grants": store.grants(),
        "top-ups": store.top_ups(),
        "rulings": store.rulings(),
        "notes": [store.note(name) for name in ("manifest", "plan")],
    }


def states(store: Store, run_id: str) -> list[tuple[str, int, str]]:
    return [(entry.key, entry.try_, entry.state) for entry in store.entries(run_id)]


def pruned(store: Store) -> dict[str, object]:
    body = store.pruned()
    assert body is not None
    return dict(json.loads(body), link="")


def all_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith(("-shm", ".lock"))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three sealed live runs, two virtual ones, and an open one; of the second live run the last figure came late."""
    with Store(tmp_path / "s.db") as store:
        store.commit([Note("manifest", b"1"), Note("plan", b"a"), Ruled("lab", "paused")])
        store.commit([*live("one"), ToppedUp("lab", 1, (9, 9))])
        store.commit([seal("one", settled=1 << 80), Sealed("virtual-1", "v1", b"1"), *live("two")])
        store.commit([seal("two", settled=2), Entry("two", 1, "2/a/0", 1, "settled", b'{"used":12}'), *live("open")])
        store.commit([*live("three"), seal("three", settled=3), Note("manifest", b"2"), Ruled("lab", "resumed")])
        store.commit([Sealed("virtual-2", "v2", b"2"), Ruled("lab", "paused")])
        store.commit([Entry("two", 2, "3/a/0", 1, "sent", b""), Entry("two", 2, "4/a/0", 1, "settled", b"{}")])
    return tmp_path / "s.db"


def test_all_runs_stay_and_only_what_no_longer_counts_goes(path: Path) -> None:
    with Store(path) as store:
        before, mark = all_reads(store), store._index.mark
        size = path.stat().st_size
    kept = compacted(path, keep_runs=None)
    # Of each sealed run the first attempt and the settled second try; what was sent after a seal and never answered; a
    # ruling of each of four runs and two of the lab; a note.
    assert kept == Kept(6, 0, 3 * 3 + 1 + 4 + 2 + 1, size, path.stat().st_size)
    with Store(path) as store:
        assert all_reads(store) == before
        assert states(store, "one") == [("2/a/0", 1, "sent"), ("2/a/0", 1, "charged_max")]
        assert states(store, "two") == [*states(store, "one"), ("2/a/0", 1, "settled"), ("4/a/0", 1, "settled")]
        assert states(store, "open") == [(e.key, e.try_, e.state) for e in live("open") if isinstance(e, Entry)]
        before_gc = {"link": mark.link, "commits": mark.commit, "runs": 0, "settled": {}}
        assert json.loads(store.pruned() or b"") == before_gc


@pytest.mark.parametrize(
    ("keep_runs", "staying", "settled"),
    [
        (9, {"one", "two", "three", "virtual-1", "virtual-2"}, {}),
        (3, {"two", "three", "virtual-2"}, {"lab": [10, (1 << 80) + 7, 1]}),
        (2, {"two", "three", "virtual-2"}, {"lab": [10, (1 << 80) + 7, 1]}),
        (1, {"two", "virtual-2"}, {"lab": [20, (1 << 80) + 3 + 2 * 7, 2]}),
        (0, {"two"}, {"lab": [20, (1 << 80) + 3 + 2 * 7, 2]}),
    ],
)
def test_only_the_runs_sealed_last_stay_with_those_charged_late_and_the_rest_is_a_sum(
    path: Path, keep_runs: int, staying: set[str], settled: dict[str, list[int]]
) -> None:
    kept = compacted(path, keep_runs=keep_runs)
    assert (kept.n_runs, kept.n_dropped_runs) == (len(staying) + 1, 5 - len(staying))
    with Store(path) as store:
        reads = all_reads(store)
        assert {run for run, *_ in store.results()} == {run for run, *_ in store.books()} == staying
        assert reads["names"] == sorted({*staying, "open"})
        assert {grant.run_id for grant in store.grants()} == {*staying, "open"} - {"virtual-1", "virtual-2"}
        assert {one.scope for one in store.top_ups()} == {grant.run_id for grant in store.grants()} | {"lab"}
        assert store.rulings().keys() == {one.scope for one in store.top_ups()}
        assert [e for e in live("open") if isinstance(e, Entry)] == store.entries("open")
        assert store.opened() == [live("open")[0]]
        assert pruned(store)["settled"] == settled
        assert pruned(store)["runs"] == kept.n_dropped_runs


def test_what_went_before_is_added_to_what_goes_now(path: Path) -> None:
    compacted(path, keep_runs=3)
    with Store(path) as store:
        store.commit([Sealed("more", "more", b"m", b'{"scope":"other","settled":[1]}'), seal("four", settled=4)])
        n_commits = store._index.n_commits
    compacted(path, keep_runs=0)
    with Store(path) as store:
        settled = {"lab": [30, (1 << 80) + 3 + 4 + 3 * 7, 3], "other": [1]}
        assert pruned(store) == {"link": "", "commits": n_commits, "runs": 6, "settled": settled}
        assert [run for run, *_ in store.results()] == ["two"]


def test_what_came_late_keeps_a_run_only_until_nothing_is_kept_of_it(path: Path) -> None:
    with Store(path) as store:
        store.commit([Entry("one", 1, "2/a/0", 1, "voided", b"")])
    compacted(path, keep_runs=0)
    with Store(path) as store:
        assert [run for run, *_ in store.results()] == ["two"]


def test_a_compacted_store_is_not_written_again(path: Path) -> None:
    compacted(path, keep_runs=3)
    before = path.read_bytes()
    size = len(before)
    assert compacted(path, keep_runs=3) == Kept(4, 0, 0, size, size)
    assert compacted(path, keep_runs=None) == Kept(4, 0, 0, size, size)
    assert path.read_bytes() == before


def test_a_compacted_store_goes_on(path: Path) -> None:
    compacted(path, keep_runs=0)
    with Store(path) as store:
        # The same again is still the same.
        n_commits = store._index.n_commits
        store.commit([*live("open")[2:4], live("open")[-1], seal("two", settled=2)])
        assert store._index.n_commits == n_commits
        store.commit([seal("one", settled=5), seal("open")])
        assert store.opened() == []
    with Store(path) as store:
        assert [run for run, *_ in store.results()] == ["one", "open", "two"]
        assert store.entries("open") == [e for e in live("open") if isinstance(e, Entry)]


def test_names_of_scopes_stay_when_a_run_of_the_same_name_goes(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Sealed("lab", "a", b"1", b'{"scope":"lab","settled":[1]}'), Sealed("alone", "b", b"2")])
        store.commit([ToppedUp("lab", 1, (5,)), Ruled("lab", "paused"), ToppedUp("alone", 1, (5,))])
        store.commit([Ruled("alone", "paused")])
    compacted(tmp_path / "s.db", keep_runs=0)
    with Store(tmp_path / "s.db") as store:
        assert (store.top_ups(), store.rulings()) == ([ToppedUp("lab", 1, (5,))], {"lab": "paused"})


def test_runs_that_share_a_result_stay_and_go_together(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.commit([Sealed("first", "same", b"1"), Sealed("other", "other", b"2"), Sealed("second", "same", b"1")])
        store.commit([Opened("third", "same", b"{}"), Note("n", b"1"), Note("n", b"2")])
    compacted(tmp_path / "s.db", keep_runs=1)
    with Store(tmp_path / "s.db") as store:
        assert set(store.names()) == {"first", "second", "third"}
        assert store.result("second") == b"1"
        assert store.opened() == []
    compacted(tmp_path / "s.db", keep_runs=0)
    with Store(tmp_path / "s.db") as store:
        assert (set(store.names()), store.opened()) == (set(), [])
        assert pruned(store)["runs"] == 4


KILLED = (
    "import sys\nfrom pathlib import Path\nfrom runtime.bank.store import *\ncompacted(Path(sys.argv[1]), keep_runs=2)"
)


@pytest.mark.parametrize("point", ["gc-before-rename", "gc-after-rename"])
@pytest.mark.parametrize("logged", [True, False], ids=["driver killed before", "closed before"])
def test_a_kill_leaves_the_old_store_or_the_new_one(path: Path, point: str, logged: bool) -> None:
    if logged:
        copies = {}
        with Store(path) as store:
            store.commit([Note("plan", b"b")])
            copies = {file: file.read_bytes() for file in path.parent.iterdir() if file.name != "s.db-shm"}
        for file, text in copies.items():
            file.write_bytes(text)
        assert copies[path.with_name("s.db-wal")]
    dead = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "OSTROM_CRASH": point}, check=False
    )
    assert dead.returncode == -signal.SIGKILL
    is_new = point == "gc-after-rename"
    with Store(path, read_only=True) as reader, Store(path) as store:
        for one in (reader, store):
            assert (one.pruned() is not None) == is_new
            assert [run for run, *_ in one.results()].count("one") == (not is_new)
            assert one.note("plan") == (b"b" if logged else b"a")
        assert not path.with_name("s.db.new").exists()
        store.commit([Note("plan", b"c")])
    compacted(path, keep_runs=2)
    with Store(path) as store:
        assert {run for run, *_ in store.results()} == {"two", "three", "virtual-2"}
        assert store.note("plan") == b"c"


def test_a_cut_is_noticed_although_gc_was_killed_before_it_could_mark_its_file(path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "OSTROM_CRASH": "gc-after-rename"}, check=False
    )
    with Store(path) as store:
        n_commits = store._index.n_commits
        store.commit([Note("plan", b"b")])
        # As if power had failed before the log reached the disk.
        early = (path.read_bytes(), path.with_name("s.db.lock").read_bytes())
    path.write_bytes(early[0])
    path.with_name("s.db.lock").write_bytes(early[1])
    with pytest.raises(StoreError, match=f"commits {n_commits + 1} to {n_commits + 1} are missing"):
        Store(path)


def test_a_cut_of_a_compacted_store_is_noticed(path: Path) -> None:
    compacted(path, keep_runs=2)
    db = sqlite3.connect(path)
    db.executescript(
        "DELETE FROM op WHERE n > (SELECT last_op FROM chain ORDER BY n DESC LIMIT 1, 1);"
        "DELETE FROM chain WHERE n = (SELECT max(n) FROM chain)"
    )
    db.close()
    with pytest.raises(StoreError, match="are missing"):
        Store(path)


def test_gc_is_refused_while_a_driver_has_the_store(path: Path) -> None:
    with Store(path), pytest.raises(StoreError, match=f"another driver works on this store: process {os.getpid()} on"):
        compacted(path, keep_runs=None)


def test_gc_is_refused_while_a_reader_keeps_the_log_from_being_moved_into_the_file(path: Path) -> None:
    with Store(path, busy_s=0.01) as store:
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM op").fetchone()
        store.commit([Note("plan", b"b")])
    before = all_files(path)
    with pytest.raises(StoreError, match="another program reads it"):
        compacted(path, keep_runs=0, busy_s=0.01)
    assert all_files(path) == before
    reader.close()
    assert compacted(path, keep_runs=0).n_dropped_runs == 4
    with Store(path) as store:
        assert store.note("plan") == b"b"


def test_gc_is_refused_for_a_damaged_store_and_leaves_it(path: Path) -> None:
    damaged = path.read_bytes().replace(b'{"used":12}', b'{"used":13}')
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="commit 4 is not as it was written"):
        compacted(path, keep_runs=0)
    assert path.read_bytes() == damaged
    assert not path.with_name("s.db.new").exists()


def test_gc_needs_a_store_and_a_sensible_number(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        compacted(tmp_path / "s.db", keep_runs=None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="keep_runs is -1; give a number from 0"):
        compacted(tmp_path / "s.db", keep_runs=-1)


def test_what_a_killed_gc_left_is_gone_when_the_store_is_opened(path: Path) -> None:
    path.with_name("s.db.new").write_bytes(b"half a store")
    Store(path).close()
    assert not path.with_name("s.db.new").exists()
