"""Owns reading a store that somebody else may be writing: one proved view of it, without a lock and without a change.

What could go wrong, and what is done:
- The driver commits meanwhile: its mark is read before the view is taken, so the view holds at least what the mark says.
- The store lies closed: SQLite would make two files beside it even for a reader, so the file is opened as one that never
  changes. Whether that was true is asked afterwards; if the file has changed, what was read is thrown away and read again.
- The store was not closed (a driver lives, or was killed): it is read through SQLite's log. SQLite then keeps its `-shm`
  file beside the store, which holds nothing but locks and what can be computed from the log.
- `gc` puts another file in its place: rows have other numbers there, so reading on is refused.
"""

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from runtime.bank.store.chain import load
from runtime.bank.store.database import connect
from runtime.bank.store.faults import told_as_store_error
from runtime.bank.store.index import Index
from runtime.bank.store.lock import Mark, read_mark
from runtime.errors import StoreError

# Each needs a writer in the same few milliseconds to fail, so the second nearly always succeeds.
_TRIES = 20


class _Stamp(NamedTuple):
    """What changes whenever the database file does."""

    inode: int
    size: int
    mtime_ns: int


class Snapshot:
    """A store opened for reading, proved.

    Raises:
        StoreError: there is no store, it cannot be read, or it is not as it was written.
    """

    def __init__(self, path: Path, busy_s: float) -> None:
        self.name = str(path)
        self._path = path
        self._busy_s = busy_s
        self._db, self._fixed, self.index = self._proved()

    def fetch(self, select: str, n: int) -> tuple[Any, ...] | None:
        """Run a SELECT with one place for a row's number."""
        while True:
            if self._fixed is not None and self._stamp() != self._fixed:
                self._reopen(self._fixed)
            try:
                with told_as_store_error(self.name):
                    found: tuple[Any, ...] | None = self._db.execute(select, (n,)).fetchone()
            except StoreError:
                if self._fixed is None or self._stamp() == self._fixed:
                    raise
                continue
            if self._fixed is None or self._stamp() == self._fixed:
                return found

    def close(self) -> None:
        """Let go of the file. Calling it again is harmless."""
        self._fixed = None
        self._db.close()

    def _proved(self) -> tuple[sqlite3.Connection, _Stamp | None, Index]:
        failed: tuple[Mark, _Stamp] | None = None
        for tries_left in reversed(range(_TRIES)):
            mark, stamp = read_mark(self._path), self._stamp()
            try:
                db, fixed = self._connected()
                index = self._loaded(db, mark)
            except StoreError:
                # A file that nobody touches fails twice the same way.
                if failed == (mark, stamp) or not tries_left:
                    raise
                failed = mark, stamp
                continue
            if fixed is None or self._stamp() == fixed:
                return db, fixed, index
            db.close()
        raise StoreError(self.name, "another program changes it all the time; try again")

    def _loaded(self, db: sqlite3.Connection, mark: Mark) -> Index:
        try:
            with told_as_store_error(self.name):
                db.execute("BEGIN")
            index = load(db, self.name, mark)
            db.rollback()
        except StoreError as error:
            db.close()
            raise self._with_cure(error) from error.__cause__
        return index

    def _connected(self) -> tuple[sqlite3.Connection, _Stamp | None]:
        """Open the file; the stamp is there if what is read counts only as long as the file has it."""
        stamp = self._stamp()
        with told_as_store_error(self.name):
            if self._has_log():
                return connect(self._path, "mode=ro", self._busy_s), None
            return connect(self._path, "mode=ro&immutable=1", self._busy_s), stamp

    def _reopen(self, fixed: _Stamp) -> None:
        self._db.close()
        self._db, self._fixed = self._connected()
        # Asked after it was opened, because until then another one can still take its place.
        if self._stamp().inode != fixed.inode:
            self.close()
            raise StoreError(self.name, "another file has taken its place since it was opened; open it again")

    def _with_cure(self, error: StoreError) -> StoreError:
        if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CANTOPEN:
            return error
        log = f"{self._path.name}-wal"
        cure = f"copy it and {log} to a folder that can be written, and read it there"
        return StoreError(self.name, f"the store was not closed, and its folder cannot be written; {cure}")

    def _has_log(self) -> bool:
        try:
            return self._path.with_name(f"{self._path.name}-wal").stat().st_size > 0
        except FileNotFoundError:
            return False

    def _stamp(self) -> _Stamp:
        try:
            found = self._path.stat()
        except OSError as error:
            raise StoreError(self.name, f"there is no store to read: {error.strerror}") from error
        return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)
