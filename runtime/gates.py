"""Owns who may go on: what an operator paused waits here until it is resumed, and what needs room until some is free."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio


class Gates:
    """Named gates, all open at first. Runs and experiments wait at their own."""

    def __init__(self) -> None:
        self.freed = anyio.Event()
        """Set, and replaced by a new one, whenever a scope may have room that it had not before."""
        self._closed: dict[str, anyio.Event] = {}
        self._waiting: Counter[str] = Counter()
        self._let_through: set[str] = set()
        self._tell: Callable[[str, bool], None] = _nobody

    def watch(self, tell: Callable[[str, bool], None]) -> None:
        """Have somebody told, by name, when a gate closes (True) or opens (False), and which are closed now."""
        self._tell = tell
        for name in self._closed:
            tell(name, True)

    def close(self, name: str) -> None:
        """Close a gate."""
        self._closed.setdefault(name, anyio.Event())
        self._tell(name, True)

    def open(self, name: str) -> None:
        """Open a gate; everybody who waits at it goes on."""
        closed = self._closed.pop(name, None)
        if closed is not None:
            closed.set()
            self._tell(name, False)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep whoever goes by this name from passing for as long as the block lasts; nobody is told."""
        mine = self._closed.setdefault(name, anyio.Event())
        try:
            yield
        finally:
            self._closed.pop(name, None)
            mine.set()

    def let_through(self, name: str) -> bool:
        """Let whoever goes by this name pass all its gates, if it waits at one; returns whether it does."""
        if not self.waits(name):
            return False
        self._let_through.add(name)
        for closed in list(self._closed):
            # Whoever else waits there is woken too, and waits on.
            self._closed[closed].set()
            self._closed[closed] = anyio.Event()
        return True

    def waits(self, name: str) -> bool:
        """Whether somebody of this name waits at a gate."""
        return self._waiting[name] > 0

    def tell_freed(self) -> None:
        """Wake everybody who waits for room, to ask again."""
        self.freed.set()
        self.freed = anyio.Event()

    async def pass_through(self, name: str, *above: str) -> None:
        """Wait until the gate of this name is open, and those of what it belongs to."""
        self._waiting[name] += 1
        try:
            while name not in self._let_through and (closed := self._first_closed(name, *above)) is not None:
                await closed.wait()
        finally:
            self._waiting[name] -= 1

    def _first_closed(self, *names: str) -> anyio.Event | None:
        return next((self._closed[name] for name in names if name in self._closed), None)


def _nobody(name: str, closed: bool) -> None:
    pass
