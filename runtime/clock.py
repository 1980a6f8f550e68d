"""Owns time: the clock that is handed to everything, and the grid of virtual time.

Virtual runs live on trio's MockClock, which jumps as soon as nobody can go on; live runs on the loop's monotonic clock. Both
are read through the same port. Virtual durations are multiples of 2^-20 s, so that sums of them are exact in binary floating
point and ties are ties.
"""

import math
from typing import Protocol

import anyio
from trio.testing import MockClock

TICK_S = 2.0**-20


class Clock(Protocol):
    """A monotonic clock."""

    def now_s(self) -> float:
        """Seconds since an arbitrary origin; never goes back."""
        ...


class LoopClock:
    """The monotonic clock of the running event loop, for live runs."""

    def now_s(self) -> float:
        """Seconds on the loop's clock."""
        return anyio.current_time()


class VirtualClock:
    """The clock of a virtual run, read without asking which event loop runs."""

    def __init__(self, clock: MockClock) -> None:
        self.now_s = clock.current_time


def on_grid_s(seconds: float) -> float:
    """Round a duration up to the grid of virtual time."""
    return math.ceil(seconds / TICK_S) * TICK_S
