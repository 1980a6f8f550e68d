"""Owns the store's one file: commits that happen whole or not at all, and reads of what was committed.

What could go wrong, and what is promised:
- Killed at any moment: the file holds every acknowledged commit, and possibly the one that was on its way.
- Changed, damaged or cut: noticed at open, with the number of the commit; see `chain` and `lock`.
- Disk full, file locked, disk failing: the commit is refused as a whole, and the store goes on when the cause is gone.
- Two drivers: the second is refused.
Not promised: that commits made with `durable=False` survive a power cut. Encryption, and a proof against somebody who
computes the chain anew, are not promised either.

It waits for the disk and for nothing else, has no thread and no clock. Which ops go together into one commit, and
when, is the choice of the bank's service; one caller at a time.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from runtime.bank.store.chain import Index, check_writable, create, is_new, load
from runtime.bank.store.faults import told_as_store_error
from runtime.bank.store.lock import Lock
from runtime.bank.store.ops import Entry, Fact, Op, Opened, Row, facts_of, link_of, row_of, unpacked
from runtime.crash import crash_point
from runtime.errors import StoreError
from runtime.journal import State

_CONFLICTS = {
    "address": "run {name!r} is already here with other content; take another run id or another folder",
    "opened": "run {name!r} was begun with another specification; take another run id or another folder",
    "sealed": "address {name} was sealed with another result; the first one is kept",
}


class Store:
    """Everything a bank must not forget.

    Opening reads the whole file once: about 20 ms for 3,000 sealed runs of 1.5 KB.

    Args:
        path: the file, made if it is not there; None keeps everything in memory, and nothing can be resumed.
        busy_s: how long to wait for a program outside Ostrom that holds the file, before an error.

    Raises:
        StoreError: see `runtime.errors`; every text says what to do. The file was not changed.
    """

    def __init__(self, path: Path | None, *, busy_s: float = 5.0) -> None:
        self._name = "the store in memory" if path is None else str(path)
        self._busy_s = busy_s
        self._lock: Lock | None = None
        self._index = Index()
        with ExitStack() as undo, told_as_store_error(self._name):
            if path is not None:
                if path.is_dir():
                    raise StoreError(self._name, "this is a folder; name a file in it")
                self._lock = Lock(path)
                undo.callback(self._lock.close)
                self._index = self._proved(path, self._lock)
            self._db = undo.enter_context(closing(self._connect(path, "rwc")))
            self._db.execute("PRAGMA journal_mode = WAL")
            if is_new(self._db):
                create(self._db)
            else:
                check_writable(self._db)
            self._exit = undo.pop_all()

    def commit(self, ops: Sequence[Op], *, durable: bool = True) -> None:
        """Write these ops as one transaction and one link of the chain: all of them or none.

        What was sealed or opened before with the same content is skipped, so repeating a commit of such ops is harmless;
        entries and notes are always added. With nothing left to add, nothing is written.

        Args:
            ops: in the order in which they happened.
            durable: wait until the disk has it (fsync), power cut or not. It is an argument here and not a setting of
                the store because one store holds both kinds of runs: bytes must not leave for a paid model before
                the hold is safe, while a virtual run that a power cut takes is run again with the same outcome,
                so its seal need not wait. A kill of the process takes neither.

        Raises:
            StoreError: an op contradicts what is stored, or the disk, or a program that holds the file, refused.
                Nothing of this commit was written.
        """
        rows = self._new_rows(ops)
        if not rows:
            return
        link = link_of(self._index.link, rows)
        with told_as_store_error(self._name):
            self._write(rows, link, durable)
        crash_point("store-after-commit")
        self._index.add(rows, link)
        if durable and self._lock is not None:
            self._lock.acknowledge(self._index.mark)

    def sealed(self, addresses: Iterable[str]) -> set[str]:
        """Return those of the addresses that have a sealed run. Touches no disk."""
        return self._index.facts["sealed"].keys() & set(addresses)

    def results(self, addresses: Iterable[str] | None = None) -> Iterator[tuple[str, str, bytes]]:
        """Yield (run id, address, body) of the sealed runs at these addresses, or of all, in order of address.

        An address without a sealed run is passed over. A run sealed while this iterates may be missing.
        """
        rows = self._index.facts["sealed"]
        for address in sorted(rows if addresses is None else self.sealed(addresses)):
            row = self._row(rows[address][0])
            yield row.name, address, self._body(row)

    def result(self, run_id: str) -> bytes | None:
        """Return the body of this sealed run, or None if it is unknown or not sealed."""
        _, address = self._index.facts["address"].get(run_id, (0, ""))
        found = self._index.facts["sealed"].get(address)
        return None if found is None else self._body(self._row(found[0]))

    def names(self) -> Set[str]:
        """Return the ids of all runs that were opened or sealed. Touches no disk."""
        return self._index.facts["address"].keys()

    def entries(self, run_id: str) -> list[Entry]:
        """Return the journal entries of this run in the order in which they were committed."""
        rows = map(self._row, self._index.entries.get(run_id, ()))
        return [Entry(row.name, row.key, row.try_, cast(State, row.state), row.body) for row in rows]

    def opened(self) -> list[Opened]:
        """Return the runs that were opened and have no result at their address, first opened first."""
        rows = (self._row(n) for n, _ in self._index.facts["opened"].values())
        sealed = self._index.facts["sealed"]
        return [Opened(row.name, row.address, row.body) for row in rows if row.address not in sealed]

    def note(self, name: str) -> bytes | None:
        """Return the last document of this name, or None."""
        n = self._index.notes.get(name)
        return None if n is None else self._row(n).body

    def close(self) -> None:
        """Move everything into the one file and let the next driver in. Calling it again is harmless."""
        # If this cannot be done (disk full, a reader outside), the log beside the file still holds everything.
        with suppress(sqlite3.Error):
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy and self._lock is not None:
                self._lock.acknowledge(self._index.mark)
        self._exit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, path: Path | None, mode: str) -> sqlite3.Connection:
        where = ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"
        # One caller at a time, yet not always on one thread: an actor is built on one and answers on another.
        return sqlite3.connect(
            where, timeout=self._busy_s, isolation_level=None, check_same_thread=False, uri=path is not None
        )

    def _proved(self, path: Path, lock: Lock) -> Index:
        # Read-only, because closing a writing connection moves the log into the file, and a damaged store is
        # evidence: it has to stay as it was found.
        with closing(self._connect(path if path.exists() else None, "ro")) as db:
            return load(db, self._name, lock.mark)

    def _new_rows(self, ops: Sequence[Op]) -> list[Row]:
        rows = []
        said: dict[tuple[str, str], str] = {}
        for row in map(row_of, ops):
            facts = facts_of(row)
            news = [fact for fact in facts if self._is_news(fact, said)]
            said.update({(fact.about, fact.name): fact.value for fact in news})
            if news or not facts:
                rows.append(row)
        return rows

    def _is_news(self, fact: Fact, said: dict[tuple[str, str], str]) -> bool:
        before = said.get((fact.about, fact.name), self._index.said(fact))
        if before not in {None, fact.value}:
            raise StoreError(self._name, _CONFLICTS[fact.about].format(name=fact.name))
        return before is None

    def _write(self, rows: list[Row], link: bytes, durable: bool) -> None:
        first = self._index.n_ops + 1
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO op VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", ((n, *row) for n, row in enumerate(rows, first))
            )
            self._db.execute(
                "INSERT INTO chain VALUES (?, ?, ?)", (self._index.n_commits + 1, first + len(rows) - 1, link)
            )
            crash_point("store-before-commit")
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def _row(self, n: int) -> Row:
        with told_as_store_error(self._name):
            columns = self._db.execute("SELECT * FROM op WHERE n = ?", (n,)).fetchone()
        if columns is None:
            raise StoreError(
                self._name, f"row {n} was taken away while the store was open; restore the file from a copy"
            )
        return Row(*columns[1:])

    def _body(self, row: Row) -> bytes:
        body = unpacked(row)
        if body is None:
            raise StoreError(self._name, f"run {row.name!r} was changed while the store was open; restore the file")
        return body
