"""Owns making a store smaller: a new file with what still counts, put in the place of the old one in one step.

What goes:
- The entries of sealed live runs, because the sealed row holds their journal. What came true after the seal stays, and so
  do all entries of attempts that the books list as open.
- Notes and rulings that a later one replaced.
- On request all runs but those sealed last. What the others have cost stays as a sum per scope, with what was charged at
  maximum: nothing is refunded by forgetting. A run of which a true figure came after its seal never goes, because the
  books do not know how much less, or more, that was.
What was opened and not sealed stays whole.

A kill at any moment leaves the old file or the new one, each whole: the new one is written beside the old, proved and
forced to the disk before it takes its name. The lock file cannot change in the same instant, so the first row of the new
file names the last link of the old one, and a mark that says the same is accepted.
"""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from runtime.bank.store.chain import create, load
from runtime.bank.store.database import Database, connect, insert, real, replacement
from runtime.bank.store.faults import told_as_store_error
from runtime.bank.store.index import Index
from runtime.bank.store.ops import Pruned, Row, row_of
from runtime.crash import crash_point
from runtime.errors import ConfigError, StoreError


class Kept(NamedTuple):
    """What a compaction left and what it took."""

    n_runs: int
    """Sealed and open runs that stayed."""
    n_dropped_runs: int
    n_dropped_rows: int
    """0 if there was nothing to drop; then the file was not touched."""
    bytes_before: int
    bytes_after: int


class _Seal(NamedTuple):
    """A sealed row without its body."""

    n: int
    run_id: str
    address: str
    books: dict[str, Any]

    @staticmethod
    def read(old: Database, n: int) -> "_Seal":
        run_id, address, books = _columns(old, "name, address, books", n)
        return _Seal(n, run_id, address, json.loads(books))

    @property
    def open(self) -> set[tuple[str, int]]:
        """Attempts that were charged at maximum, for want of their true figure."""
        return {(key, try_) for key, try_, _ in self.books.get("open", ())}

    @property
    def charged(self) -> list[int]:
        """What the run cost, as far as its books know."""
        parts = [self.books["settled"], *(amounts for _, _, amounts in self.books.get("open", ()))]
        return [sum(amounts) for amounts in zip_longest(*parts, fillvalue=0)]


class _Plan(NamedTuple):
    """What stays."""

    seals: Mapping[str, _Seal]
    """Run → its seal, for those that go too."""
    gone: set[str]
    """Runs that go."""
    gone_names: set[str]
    """Names whose rulings and top-ups go."""

    def stays(self, n: int, row: Row, index: Index) -> bool:
        match row.kind:
            case "pruned":
                return False
            case "note":
                return index.notes[row.name] == n
            case "ruled":
                return index.rulings[row.name][0] == n and row.name not in self.gone_names
            case "topped up":
                return row.name not in self.gone_names
            case "entry" if row.name in self.seals and row.name not in self.gone:
                seal = self.seals[row.name]
                return (row.state == "settled" and n > seal.n) or (row.key, row.try_) in seal.open
            case _:
                return row.name not in self.gone


def compacted(path: Path, *, keep_runs: int | None, busy_s: float = 5.0) -> Kept:
    """Write the store anew without what no longer counts, and put it in the place of the old one.

    Args:
        path: the store; nobody else may drive it.
        keep_runs: of the sealed runs keep only this many, those sealed last; None keeps all.
        busy_s: how long to wait for a program that reads the store, before an error.

    Raises:
        ConfigError: `keep_runs` is below 0.
        StoreError: there is no store, a driver has it or somebody reads it, it is damaged, or the disk is full. The old
            file is as it was.
    """
    if keep_runs is not None and keep_runs < 0:
        raise ConfigError(f"keep_runs is {keep_runs}; give a number from 0, or None to keep all runs")
    path = real(path)
    if not path.exists():
        raise StoreError(str(path), "there is no store here; nothing was done")
    with closing(Database(path, busy_s)) as old:
        new_path = replacement(path)
        try:
            plan = _planned(old, keep_runs)
            with told_as_store_error(old.name):
                new, n_dropped = _written(new_path, old, plan)
            if not old.shut():
                raise StoreError(old.name, "another program reads it, or the disk is full; see to that and try again")
            n_bytes, n_runs = path.stat().st_size, len(old.index.facts["address"])
            if not n_dropped:
                return Kept(n_runs, 0, 0, n_bytes, n_bytes)
            _put(new_path, path, old, new)
        except OSError as error:
            raise StoreError(old.name, f"the new file cannot take its place: {error.strerror}") from error
        finally:
            new_path.unlink(missing_ok=True)
    return Kept(n_runs - len(plan.gone), len(plan.gone), n_dropped, n_bytes, path.stat().st_size)


def _planned(old: Database, keep_runs: int | None) -> _Plan:
    index = old.index
    seals = {seal.run_id: seal for seal in map(_Seal.read, [old] * len(index.kinds["sealed"]), index.kinds["sealed"])}
    staying = list(dict.fromkeys(seal.address for seal in reversed(seals.values())))[:keep_runs]
    staying += [seal.address for seal in seals.values() if _came_late(old, seal)]
    # By address and not by run: a second run with the same result has no result of its own.
    leaving = {seal.address for seal in seals.values()}.difference(staying)
    gone = {run_id for run_id, (_, address) in index.facts["address"].items() if address in leaving}
    scopes = {name for (name,) in map(partial(_columns, old, "key"), index.kinds["granted"])}
    scopes.update(str(seal.books["scope"]) for seal in seals.values() if "scope" in seal.books)
    return _Plan(seals, gone, gone - scopes)


def _came_late(old: Database, seal: _Seal) -> bool:
    states = ((n, _columns(old, "state", n)[0]) for n in reversed(old.index.entries.get(seal.run_id, ())) if n > seal.n)
    return any(state == "settled" for _, state in states)


def _pruned(old: Database, plan: _Plan) -> Pruned:
    index = old.index
    before: dict[str, Any] = json.loads(index.pruned or b'{"runs": 0, "settled": {}}')
    settled: dict[str, list[int]] = before["settled"]
    for run_id in plan.gone & plan.seals.keys():
        seal = plan.seals[run_id]
        if "scope" in seal.books:
            sums = zip_longest(settled.get(seal.books["scope"], ()), seal.charged, fillvalue=0)
            settled[seal.books["scope"]] = [one + other for one, other in sums]
    body = {
        "link": index.link.hex(),
        "commits": index.n_commits,
        "runs": before["runs"] + len(plan.gone),
        "settled": dict(sorted(settled.items())),
    }
    # Not orjson: it ends at 64 bits, and sums may have more.
    return Pruned(json.dumps(body, separators=(",", ":")).encode())


def _written(path: Path, old: Database, plan: _Plan) -> tuple[Index, int]:
    """Write the new file and prove it; return its index and how many rows were left out."""
    path.unlink(missing_ok=True)
    index, n_dropped = Index(), 0
    with closing(connect(path, "mode=rwc", 0)) as db:
        # Nobody looks at this file before it is whole, so it needs no journal, and one fsync at the end is enough.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        create(db)
        db.execute("BEGIN IMMEDIATE")
        first_rows = [row_of(_pruned(old, plan))]
        index.add(first_rows, insert(db, index, first_rows))
        for first, rows in old.commits():
            staying = [row for n, row in enumerate(rows, first) if plan.stays(n, row, old.index)]
            n_dropped += sum(row.kind != "pruned" for row in rows) - len(staying)
            if staying:
                index.add(staying, insert(db, index, staying))
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    with closing(connect(path, "mode=ro&immutable=1", 0)) as db:
        return load(db, str(path), index.mark), n_dropped


def _put(new_path: Path, path: Path, old: Database, new: Index) -> None:
    """Give the new file the name of the old one, which is closed."""
    assert old.lock is not None, "a store in memory has no path"
    _force(new_path)
    old.lock.acknowledge_for_good(old.index.mark)
    crash_point("gc-before-rename")
    # Empty since the old file was closed, and there only if a reader still holds them. The new file must not find them.
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    new_path.replace(path)
    _force(path.parent)
    crash_point("gc-after-rename")
    old.lock.acknowledge(new.mark)


def _force(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _columns(old: Database, columns: str, n: int) -> tuple[Any, ...]:
    found = old.fetch(f"SELECT {columns} FROM op WHERE n = ?", n)
    assert found is not None, "the chain was proved a moment ago"
    return found
