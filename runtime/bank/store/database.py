"""Owns the one connection that writes a store, with the lock that makes it the only one.

It takes rows and links and asks nothing about what they say; `file` decides that.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from runtime.bank.store.chain import check_writable, create, is_new, load
from runtime.bank.store.faults import FOREIGN, told_as_store_error, words_for
from runtime.bank.store.index import Index
from runtime.bank.store.lock import Lock, Mark
from runtime.bank.store.ops import Row, link_of
from runtime.crash import crash_point
from runtime.errors import StoreError

_INSERT = f"INSERT INTO op VALUES ({', '.join('?' * (1 + len(Row._fields)))})"


def connect(path: Path | None, options: str, busy_s: float) -> sqlite3.Connection:
    """Open a connection; nothing is begun on it.

    Args:
        path: None for a database in memory.
        options: as in SQLite's file names, `mode=ro` for instance.
        busy_s: how long SQLite waits for a lock.
    """
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}?{options}"
    # One caller at a time, yet not always on one thread: an actor is built on one and answers on another.
    return sqlite3.connect(where, timeout=busy_s, isolation_level=None, check_same_thread=False, uri=path is not None)


def insert(db: sqlite3.Connection, index: Index, rows: Sequence[Row]) -> bytes:
    """Add one commit to the tables, inside a transaction that the caller began, and return its link."""
    first = index.n_ops + 1
    link = link_of(index.link, rows)
    db.executemany(_INSERT, ((n, *row) for n, row in enumerate(rows, first)))
    db.execute("INSERT INTO chain VALUES (?, ?, ?)", (index.n_commits + 1, first + len(rows) - 1, link))
    return link


def real(path: Path) -> Path:
    """Return the file itself where a link was given, because the lock and SQLite's log lie beside the file.

    Raises:
        StoreError: it is a folder.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir():
        raise StoreError(str(path), "this is a folder; name a file in it")
    return path


def replacement(path: Path) -> Path:
    """Return where `gc` writes the file that is to take a store's place. What lies there unasked is a killed gc's."""
    return path.with_name(f"{path.name}.new")


class Database:
    """The open file of a store, proved.

    Args:
        path: None keeps everything in memory.
        busy_s: how long to wait for a program outside Ostrom that holds the file.

    Raises:
        StoreError: as for `Store`.
    """

    def __init__(self, path: Path | None, busy_s: float) -> None:
        self.name = "the store in memory" if path is None else str(path)
        self.index = Index()
        self.is_closed = False
        self.lock: Lock | None = None
        """None for one in memory."""
        with ExitStack() as undo, told_as_store_error(self.name):
            if path is not None:
                self.lock = Lock(path)
                undo.callback(self.lock.close)
                self.index = self._proved(path, self.lock.mark, busy_s)
                with suppress(OSError):
                    replacement(path).unlink(missing_ok=True)
            self._db = undo.enter_context(closing(connect(path, "mode=rwc", busy_s)))
            self._db.execute("PRAGMA journal_mode = WAL")
            if is_new(self._db):
                create(self._db)
            else:
                check_writable(self._db)
            undo.pop_all()

    def write(self, rows: list[Row], durable: bool) -> None:
        """Commit these rows, all or none; `durable` waits until the disk has them."""
        with told_as_store_error(self.name):
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                link = insert(self._db, self.index, rows)
                crash_point("store-before-commit")
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.rollback()
        crash_point("store-after-commit")
        self.index.add(rows, link)
        if durable and self.lock is not None:
            self.lock.acknowledge(self.index.mark)

    def fetch(self, select: str, n: int) -> tuple[Any, ...] | None:
        """Run a SELECT with one place for a row's number."""
        # Not `told_as_store_error`, which takes as long as the SELECT.
        try:
            found: tuple[Any, ...] | None = self._db.execute(select, (n,)).fetchone()
        except FOREIGN as error:
            raise StoreError(self.name, words_for(error)) from error
        return found

    def commits(self) -> Iterator[tuple[int, list[Row]]]:
        """Yield each commit: the number of its first row, and its rows."""
        first = 1
        for (last,) in self._db.execute("SELECT last_op FROM chain ORDER BY n"):
            found = self._db.execute("SELECT * FROM op WHERE n BETWEEN ? AND ? ORDER BY n", (first, last))
            yield first, [Row(*columns) for _, *columns in found]
            first = last + 1

    def shut(self) -> bool:
        """Move everything into the one file and close it, but keep the lock. Return whether all of it is there now."""
        # If it cannot be moved (disk full, a reader outside), the log beside the file still holds everything.
        whole = False
        with suppress(sqlite3.Error):
            (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            whole = not busy
        self._db.close()
        if whole and self.lock is not None:
            self.lock.acknowledge(self.index.mark)
        return whole

    def close(self) -> None:
        """Close the file and let the next driver in. Calling it again is harmless."""
        if self.is_closed:
            return
        self.is_closed = True
        self.shut()
        if self.lock is not None:
            self.lock.close()

    def _proved(self, path: Path, mark: Mark, busy_s: float) -> Index:
        # Read-only, because closing a writing connection moves the log into the file, and a damaged store is
        # evidence: it has to stay as it was found.
        with closing(connect(path if path.exists() else None, "mode=ro", busy_s)) as db:
            return load(db, self.name, mark)
