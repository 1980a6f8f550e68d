"""Owns the cheap fan-out of virtual runs: children are driven inside their asker's task for as long as they only nap.

A task of its own and a cancel scope for its sleep cost 35 µs a child; most children of a virtual run do nothing but work,
nap until a model's latency is over, and work again. So `side_by_side` drives each child's coroutine by hand. A nap is a
yielded `Nap`; the asker sleeps until the earliest one is over and goes on with that child, ties in the order of the children.

Everything else that may wait (a queue for budget, a user's router, tool or model) must not run in the asker's task, because
an event loop ties a wait to the task it began in. Such code is announced by `await handover()`: the child goes on from there
as a task of its own. Outside a fan-out both functions do the ordinary thing.
"""

import threading
from collections.abc import Coroutine, Generator, Sequence
from heapq import heappop, heappush
from types import coroutine
from typing import Any, NamedTuple

import anyio
from anyio.abc import TaskGroup

from runtime.errors import InternalError

Child = Coroutine[Any, Any, None]


class Nap(NamedTuple):
    """What a driven child yields to be left alone for a while."""

    seconds: float


class _Driving(threading.local):
    """Whether the code that runs right now in this thread is a driven child; only set while it is being driven."""

    now = False


_driving = _Driving()
_HANDOVER = object()


@coroutine
def _yielding(signal: object) -> Generator[object, None, None]:
    yield signal


async def nap_s(seconds: float) -> None:
    """Sleep on the loop's clock, cheaply where the caller is a driven child."""
    if _driving.now:
        await _yielding(Nap(seconds))
    else:
        await anyio.sleep(seconds)


async def handover() -> None:
    """Announce that what follows may wait for anything; no cancel scope may be open between the fan-out and here."""
    if _driving.now:
        await _yielding(_HANDOVER)


async def side_by_side(children: Sequence[Child]) -> None:
    """Run coroutines at once, to the end of the last one. The first error ends the others and is raised."""
    fan = _Fan(children)
    try:
        await fan.go_on(None)
        if fan.handed:
            async with anyio.create_task_group() as group:
                await fan.go_on(group)
    finally:
        fan.close()


class _Fan:
    """The children of one fan-out: not started, napping, or waiting to become tasks."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.handed: list[Child] = []
        self._now_s = anyio.current_time()
        self._fresh = list(reversed(children))
        self._naps: list[tuple[float, int, Child]] = []
        self._places = {id(child): i for i, child in enumerate(children)}

    async def go_on(self, group: TaskGroup | None) -> None:
        """Drive until all are done; without a group, only until one must become a task."""
        while self._fresh:
            self._drive(self._fresh.pop())
        while True:
            while self.handed:
                if group is None:
                    return
                group.start_soon(_finish, self.handed.pop(0))
            if not self._naps:
                return
            until_s, _, child = self._naps[0]
            if until_s > self._now_s:
                await anyio.sleep_until(until_s)
                # A virtual clock jumps to the deadline and not beyond, so the time need not be asked for.
                self._now_s = until_s
            heappop(self._naps)
            self._drive(child)

    def close(self) -> None:
        """End children that are still here, because of an error or a cancellation; their clean-up runs."""
        for child in [*self._fresh, *(nap[2] for nap in self._naps), *self.handed]:
            child.close()

    def _drive(self, child: Child) -> None:
        _driving.now = True
        try:
            signal = child.send(None)
        except StopIteration:
            return
        finally:
            _driving.now = False
        if isinstance(signal, Nap):
            heappush(self._naps, (self._now_s + signal.seconds, self._places[id(child)], child))
        else:
            if signal is not _HANDOVER:
                raise InternalError(f"a model with naps = True waits for {signal!r}; it may only wait by `nap_s`")
            self.handed.append(child)


async def _finish(child: Child) -> None:
    await _rest_of(child)


@coroutine
def _rest_of(child: Child) -> Generator[Any, Any, None]:
    # `await` refuses a coroutine that is in the middle of an await already; `yield from` goes on where it stands.
    yield from child
