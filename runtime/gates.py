"""Owns who may go on: whatever an operator paused waits here until it is resumed."""

from collections.abc import Callable

import anyio


class Gates:
    """Named gates, all open at first. Runs and experiments wait at their own."""

    def __init__(self) -> None:
        self._closed: dict[str, anyio.Event] = {}
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

    @property
    def closed(self) -> tuple[str, ...]:
        """Names of the closed gates."""
        return tuple(self._closed)

    async def pass_through(self, *names: str) -> None:
        """Wait until all of these are open."""
        while closed := next((name for name in names if name in self._closed), None):
            await self._closed[closed].wait()


def _nobody(name: str, closed: bool) -> None:
    pass
