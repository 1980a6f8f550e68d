"""Owns the folder in which a local cluster lives: short, private, and swept up later where its owner was killed.

Unix sockets lie below it, and their paths may have 107 characters, so it lies directly below the system's folder for
temporary files. Its owner holds a lock on a file in it for as long as it lives; a folder whose lock is free has no owner any
more. Ids of processes would not do: they come again, and are not the same inside and outside a container.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "ostrom-"
_LOCK = "owner"


class Scratch:
    """A folder of this process. Making one removes those of processes that were killed."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # It gets its name when it is locked, so that nobody can take it for one that was left behind.
        new = self.path / f"{_LOCK}.new"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / _LOCK)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove the folders that killed processes of this user left behind; what cannot be removed stays for the next time."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):
            home = lock.parent.lstat()
            if stat.S_ISDIR(home.st_mode) and home.st_uid == os.getuid():
                _remove_if_free(lock)


def _remove_if_free(lock: Path) -> None:
    file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for entry in lock.parent.iterdir():
            if entry != lock:
                shutil.rmtree(entry)
        shutil.rmtree(lock.parent)
    finally:
        os.close(file)
