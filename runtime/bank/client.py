"""Owns the way into the bank: a client that puts everything that waits into one call.

The same bank stands in the driver's process or in the one Ray actor on the node that holds the store; the client does not
know which. The call is what costs (a Ray round trip, an fsync), not what is in it.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio

from runtime.bank.store import Op
from runtime.errors import InternalError, OrchestrationError, StoreError

Parts = Sequence[Sequence[Op]]
Verdicts = Sequence[OrchestrationError | None]
"""For each part None, or why nothing of it was committed."""


class _Batch:
    """What travels in one call."""

    __slots__ = ("done", "parts", "verdicts")

    def __init__(self) -> None:
        self.parts: list[Sequence[Op]] = []
        self.done = anyio.Event()
        """One for all writers, because making an event takes as long as the rest of a write."""
        self.verdicts: Verdicts = ()


class BankClient:
    """Writes into a bank; all writes that wait at the same time travel in one call.

    Args:
        call: delivers parts to the bank and returns what became of each when it is committed.
    """

    def __init__(self, call: Callable[[Parts], Awaitable[Verdicts]]) -> None:
        self._call = call
        self._waiting: _Batch | None = None
        self._in_flight = anyio.Lock()

    async def write(self, ops: Sequence[Op]) -> None:
        """Commit ops, all or none; a return means they are committed.

        Raises:
            StaleEpoch: another host owns the run now.
            RunHalted: an operator paused or cancelled it.
            StoreError: nothing of these ops was committed.
            HostLost: the bank's node is gone.
        """
        batch = self._waiting
        if batch is None:
            batch = self._waiting = _Batch()
            batch.parts.append(ops)
            place = 0
            await self._deliver(batch)
        else:
            place = len(batch.parts)
            batch.parts.append(ops)
            await batch.done.wait()
        error = batch.verdicts[place]
        if error is not None:
            raise error

    async def _deliver(self, batch: _Batch) -> None:
        # The first writer of a batch carries it for the others, so its own cancellation must not stop the delivery.
        with anyio.CancelScope(shield=True):
            try:
                async with self._in_flight:
                    self._waiting = None
                    verdicts = await self._answer(batch.parts)
                if len(verdicts) != len(batch.parts):
                    raise InternalError(f"the bank gave {len(verdicts)} verdicts on {len(batch.parts)} parts")
                batch.verdicts = verdicts
            except BaseException:
                # A cancellation from outside anyio, or a bug. The others must not take it for a commit.
                cut = StoreError("the bank", "a write was cut off; whether it was committed is not known")
                batch.verdicts = [cut] * len(batch.parts)
                raise
            finally:
                if self._waiting is batch:
                    self._waiting = None
                batch.done.set()

    async def _answer(self, parts: Parts) -> Verdicts:
        try:
            return await self._call(parts)
        except OrchestrationError as error:
            return [error] * len(parts)


def in_process(bank: Any) -> tuple[BankClient, Callable[..., Awaitable[Any]]]:
    """A client of a bank in this process, and a way to call its methods; in a thread, one at a time."""
    one = anyio.Lock()

    async def on_bank(method: str, *args: object) -> Any:
        async with one:
            return await anyio.to_thread.run_sync(partial(getattr(bank, method), *args))

    return BankClient(partial(on_bank, "write")), on_bank
