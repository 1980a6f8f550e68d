"""Owns the way into the bank: a client that puts everything that waits into one call.

The same bank stands in the driver's process or in the one Ray actor on the node that holds the store; the client does not
know which. The call is what costs (a Ray round trip, an fsync), not what is in it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from runtime.bank.store import Op
from runtime.errors import OrchestrationError, StoreError

Parts = Sequence[Sequence[Op]]
Verdicts = Sequence[OrchestrationError | None]
"""For each part None, or why nothing of it was committed."""


@dataclass(slots=True, eq=False)
class _Part:
    """What one writer wants written."""

    ops: Sequence[Op]
    done: anyio.Event
    error: OrchestrationError | None = None


class BankClient:
    """Writes into a bank; all writes that wait at the same time travel in one call.

    Args:
        call: delivers parts to the bank and returns what became of each when it is committed.
    """

    def __init__(self, call: Callable[[Parts], Awaitable[Verdicts]]) -> None:
        self._call = call
        self._waiting: list[_Part] = []
        self._in_flight = anyio.Lock()

    async def write(self, ops: Sequence[Op]) -> None:
        """Commit ops, all or none; a return means they are committed.

        Raises:
            StaleEpoch: another host owns the run now.
            RunHalted: an operator paused or cancelled it.
            StoreError: nothing of these ops was committed.
            HostLost: the bank's node is gone.
        """
        part = _Part(ops, anyio.Event())
        self._waiting.append(part)
        if len(self._waiting) == 1:
            await self._deliver()
        else:
            await part.done.wait()
        if part.error is not None:
            raise part.error

    async def _deliver(self) -> None:
        # The first writer of a batch carries it for the others, so its own cancellation must not stop the delivery.
        with anyio.CancelScope(shield=True):
            parts = self._waiting
            try:
                async with self._in_flight:
                    self._waiting = []
                    await self._commit(parts)
            except BaseException:
                # A cancellation from outside anyio, or a bug. The others must not take it for a commit.
                for part in parts:
                    part.error = StoreError("the bank", "a write was cut off; whether it was committed is not known")
                raise
            finally:
                if self._waiting is parts:
                    self._waiting = []
                for part in parts:
                    part.done.set()

    async def _commit(self, parts: list[_Part]) -> None:
        try:
            verdicts = await self._call([part.ops for part in parts])
        except OrchestrationError as error:
            verdicts = [error] * len(parts)
        for part, verdict in zip(parts, verdicts, strict=True):
            part.error = verdict


def in_process(bank: Any) -> tuple[BankClient, Callable[..., Awaitable[Any]]]:
    """A client of a bank in this process, and a way to call its methods; in a thread, one at a time."""
    one = anyio.Lock()

    async def on_bank(method: str, *args: object) -> Any:
        async with one:
            return await anyio.to_thread.run_sync(partial(getattr(bank, method), *args))

    return BankClient(partial(on_bank, "write")), on_bank
