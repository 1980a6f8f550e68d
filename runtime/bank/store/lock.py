"""Owns the file beside the store that lets one driver in, and remembers how far the store was acknowledged.

Why the second: a hash chain notices what changed inside it, never that its end is missing. A chain with its last
commits cut off is a sound chain, and SQLite itself makes one without a word: from the first damaged byte of a
write-ahead log on, it takes the rest of the log for never written. So the number and link of the last commit that was
surely on disk are written here, and a store that ends before it is refused. Deleting this file costs only that check.
"""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import orjson

from runtime.errors import StoreError

# One write of fixed length replaces the whole text, so a kill leaves the old text or the new one.
_TEXT_BYTES = 512


class Mark(NamedTuple):
    """The last commit known to be on disk."""

    commit: int
    """Its number from 1; 0 if there was none yet."""
    link: str
    """Its link, 64 hex digits."""


class Lock:
    """The right to drive one store, held until `close` or the death of the process.

    The kernel gives a `flock` back when its owner dies, kill -9 included, so no stale lock is ever in the way. The file
    stays: deleting it while a second driver opens it would let both in.

    Raises:
        StoreError: another driver holds it (pid and host are named), or the folder is missing or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        try:
            self._file = os.open(_beside(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise StoreError(self._name, f"the folder {path.parent} does not exist; make it first") from None
        except OSError as error:
            raise StoreError(self._name, f"its lock file cannot be opened for writing: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.mark = _mark_in(_text_in(self._file))
            self._write()
        except OSError as error:
            text = self._owner() if isinstance(error, BlockingIOError) else f"cannot be locked: {error.strerror}"
            os.close(self._file)
            raise StoreError(self._name, text) from error

    def acknowledge(self, mark: Mark) -> None:
        """Remember that this commit is on disk for good."""
        self.mark = mark
        # The commit stands whether or not this succeeds, so it must not be reported as failed; an older mark only
        # checks less.
        with suppress(OSError):
            self._write()

    def acknowledge_for_good(self, mark: Mark) -> None:
        """The same for a caller who goes on only if it is written, and still there after a power cut.

        Raises:
            StoreError: it is not.
        """
        self.mark = mark
        try:
            self._write()
            os.fsync(self._file)
        except OSError as error:
            raise StoreError(self._name, f"its lock file cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let the next driver in. Calling it again is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self) -> None:
        text = orjson.dumps({"pid": os.getpid(), "host": socket.gethostname(), **self.mark._asdict()})
        os.pwrite(self._file, text.ljust(_TEXT_BYTES - 1) + b"\n", 0)

    def _owner(self) -> str:
        text = _parsed(_text_in(self._file))
        return (
            f"another driver works on this store: process {text.get('pid', '?')} on host {text.get('host', '?')};"
            " end it, or choose another folder"
        )


def read_mark(path: Path) -> Mark:
    """Return the mark of the store at this path without locking anything, while its driver may be writing it.

    Raises:
        StoreError: the lock file cannot be read.
    """
    try:
        file = os.open(_beside(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Mark(0, "")
    except OSError as error:
        raise StoreError(str(path), f"its lock file cannot be read: {error.strerror}") from error
    try:
        # A read may fall into the middle of the driver's write. Two that agree did not.
        text, again = b"", _text_in(file)
        while text != again:
            text, again = again, _text_in(file)
        return _mark_in(text)
    finally:
        os.close(file)


def _beside(path: Path) -> str:
    return f"{path}.lock"


def _text_in(file: int) -> bytes:
    return os.pread(file, _TEXT_BYTES, 0)


def _parsed(text: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:  # new, or lost its content with the power
        return {}
    return found if isinstance(found, dict) else {}


def _mark_in(text: bytes) -> Mark:
    match _parsed(text):
        case {"commit": int(commit), "link": str(link)}:
            return Mark(commit, link)
        case _:
            return Mark(0, "")
