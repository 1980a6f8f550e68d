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
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runtime.bank.store.chain import check_writable, create, is_new, load
from runtime.bank.store.faults import told_as_store_error
from runtime.bank.store.index import Index
from runtime.bank.store.lock import Lock
from runtime.bank.store.ops import Fact, Op, Row, facts_of, link_of, row_of
from runtime.bank.store.reads import Reads
from runtime.crash import crash_point
from runtime.errors import StoreError

_CONFLICTS = {
    "address": "run {name!r} is already here with other content; take another run id or another folder",
    "opened": "run {name!r} was begun with another specification; take another run id or another folder",
    "sealed": "address {name} was sealed with another result; the first one is kept",
    "entry": "entry {name} was journalled with another content; the first one is kept",
    "granted": "grant {name!r} (serial, run) was made with another scope or other amounts; the first one is kept",
    "topped up": "top-up {name!r} (serial, scope) was made with other amounts; the first one is kept",
}


class Store(Reads):
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
        super().__init__(self._name, self._index, self._fetched)

    def commit(self, ops: Sequence[Op], *, durable: bool = True) -> None:
        """Write these ops as one transaction and one link of the chain: all of them or none.

        What was opened, journalled, granted, topped up or sealed before with the same content is skipped, so repeating a
        commit of such ops is harmless; so is a ruling that is in force. `Taken` and notes are always added. With nothing
        left to add, nothing is written.

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
        ruled: dict[str, str] = {}
        for row in map(row_of, ops):
            facts = facts_of(row)
            news = [fact for fact in facts if self._is_news(fact, said)]
            said.update({(fact.about, fact.name): fact.value for fact in news})
            if row.kind == "ruled":
                in_force = ruled.get(row.name, self._index.rulings.get(row.name))
                ruled[row.name] = row.state
                new = in_force != row.state
            else:
                new = bool(news) or not facts
            if new:
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
                "INSERT INTO op VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((n, *row) for n, row in enumerate(rows, first)),
            )
            self._db.execute(
                "INSERT INTO chain VALUES (?, ?, ?)", (self._index.n_commits + 1, first + len(rows) - 1, link)
            )
            crash_point("store-before-commit")
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def _fetched(self, select: str, n: int) -> tuple[Any, ...] | None:
        with told_as_store_error(self._name):
            found: tuple[Any, ...] | None = self._db.execute(select, (n,)).fetchone()
        return found
