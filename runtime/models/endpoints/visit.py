"""Owns one attempt's stay at an endpoint: how long it waited for its place, and what the place learns when it goes."""

from typing import NamedTuple, Protocol

from runtime.clock import Clock
from runtime.errors import ModelError


class Ended(NamedTuple):
    """How a call ended, for whoever gave it the place."""

    error: ModelError | None = None
    used_tokens: int | None = None
    """None: not known."""
    answered: bool = True
    """False: it was cut off, and nothing is known."""


CUT_OFF = Ended(answered=False)


class Lent(Protocol):
    """A place as it is lent out."""

    async def acquire(self) -> None:
        """Wait for it."""
        ...

    def release(self, ended: Ended | None = None) -> None:
        """Give it back."""
        ...


class Visit:
    """A permit that keeps the time, and may be given back more than once."""

    __slots__ = ("_clock", "_holds", "_place", "waited_s")

    def __init__(self, place: Lent, clock: Clock) -> None:
        self._place, self._clock = place, clock
        self._holds = False
        self.waited_s = 0.0
        """Seconds it waited for the place, also a second time after a wait for budget."""

    async def acquire(self) -> None:
        """Wait for the place."""
        asked_s = self._clock.now_s()
        try:
            await self._place.acquire()
            self._holds = True
        finally:
            self.waited_s += self._clock.now_s() - asked_s

    def release(self, ended: Ended | None = None) -> None:
        """Give the place back, if it was not yet; None where nothing was sent."""
        if self._holds:
            self._holds = False
            self._place.release(ended)
