"""Owns the file that keeps room on the disk, so that what is open can still be closed when the disk is full.

A live run that got an answer has to write what it cost; if it could not, the whole bound would count as spent. So as long
as live runs are open, 8 MiB beside the store belong to nobody. They are given up for the first commit that closes
something and finds no room, and from then on nothing may be opened until they are there again: else new work would take
the room that the old one needs. 8 MiB took 2,300 closing entries of 1.5 KB, one a commit.

Prior art: a ballast file stands beside CockroachDB's stores for the same reason.
"""

import os
from contextlib import suppress
from pathlib import Path

from runtime.errors import StoreError

BALLAST_BYTES = 8 << 20


class Ballast:
    """The ballast of one store.

    Args:
        path: the store; None for one in memory, which needs none.
    """

    def __init__(self, path: Path | None) -> None:
        self._name = str(path)
        self._path = None if path is None else path.with_name(f"{path.name}.ballast")
        self._is_there = False

    def keep(self) -> None:
        """Have it on the disk; a call when it is there costs nothing.

        Raises:
            StoreError: there is no room for it.
        """
        if self._path is None or self._is_there:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # Not a file with a hole: the blocks have to be taken. Those it has already stay as they are.
                os.posix_fallocate(file, 0, BALLAST_BYTES)
            finally:
                os.close(file)
        except OSError as error:
            self.give_up()
            raise StoreError(
                self._name,
                f"the disk has no {BALLAST_BYTES >> 20} MiB left to keep for closing what is open ({error.strerror});"
                " nothing of this was written, so make room and try again",
            ) from error
        self._is_there = True

    def give_up(self) -> bool:
        """Give its room back to the disk. Return whether there was any."""
        self._is_there = False
        with suppress(OSError):
            if self._path is not None:
                self._path.unlink()
                return True
        return False
