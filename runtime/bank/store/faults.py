"""Owns the words for what SQLite reports: no error of sqlite3 leaves the store, and each says what to do next."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import StoreError

_WORDS = {
    sqlite3.SQLITE_BUSY: "another program holds the database; end it and try again",
    sqlite3.SQLITE_LOCKED: "another program holds the database; end it and try again",
    sqlite3.SQLITE_FULL: "the disk is full; nothing of this was written, so make room and try again",
    sqlite3.SQLITE_IOERR: "the disk refused to read or write; nothing of this was written, so look at the disk",
    sqlite3.SQLITE_NOTADB: "this is not a store: not a database, or its first bytes are damaged; nothing was changed",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; nothing was changed, so restore it from a copy",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; may you read and write it and its folder?",
    sqlite3.SQLITE_READONLY: "cannot be written; may you write this file and its folder?",
    sqlite3.SQLITE_PERM: "cannot be written; may you write this file and its folder?",
}
# The others beside SQLITE_FULL: a write that a quota refuses (SQLite knows ENOSPC only), and no room for its index of the
# log, which lies in a file too.
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}

# The second: SQLite quotes the file in what it says, and the bytes of a damaged file need not be text.
Foreign = sqlite3.Error | UnicodeDecodeError
FOREIGN = (sqlite3.Error, UnicodeDecodeError)


def words_for(error: Foreign, otherwise: str = "") -> str:
    """Say what happened and what to do; what SQLite itself said stands in brackets.

    Args:
        error: what was raised.
        otherwise: what to do when the error alone does not tell.
    """
    if isinstance(error, UnicodeDecodeError):
        return _WORDS[sqlite3.SQLITE_CORRUPT]
    # The low byte is the kind, the rest a detail. Errors of the Python module itself carry no code.
    code = getattr(error, "sqlite_errorcode", 0)
    kind = sqlite3.SQLITE_FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else code & 0xFF
    if kind in _WORDS:
        return f"{_WORDS[kind]} ({error})"
    return f"{error}: {otherwise}" if otherwise else str(error)


def was_full(error: StoreError) -> bool:
    """Whether room on the disk would, or could, have helped."""
    match error.__cause__:
        case sqlite3.Error() as cause:
            return getattr(cause, "sqlite_errorcode", 0) in _FULL
        case OSError() as cause:
            return cause.errno in {errno.ENOSPC, errno.EDQUOT}
        case _:
            return False


@contextmanager
def told_as_store_error(name: str) -> Iterator[None]:
    """Turn whatever sqlite3 raises inside into a StoreError about the store of this name."""
    try:
        yield
    except FOREIGN as error:
        raise StoreError(name, words_for(error)) from error
