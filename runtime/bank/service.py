"""Owns the bank's one door: the object that holds the store, and the client through which everybody reaches it.

The same `Bank` stands in the driver's process or in the one Ray actor on the node that holds the store; the client does not
know which. It puts everything that waits into one call, because the call is what costs (a Ray round trip, an fsync), not
what is in it.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

import anyio

from runtime.bank.store import Entry, Op, Opened, Store
from runtime.errors import OrchestrationError, StoreError
from runtime.result import RunResult

STORE_FILE = "store.sqlite"


class Bank:
    """Holds the store. Synchronous; one caller at a time. The store is opened, and proved, on first use.

    Not in the constructor: what a Ray actor's constructor raises reaches nobody, and after a restart of the actor the first
    call opens the store anew.

    Args:
        folder: where the store lies; None keeps it in memory, and nothing can be resumed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @cached_property
    def _store(self) -> Store:
        if self._folder is None:
            return Store(None)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(str(self._folder), f"cannot be made a folder: {error.strerror}; choose another") from None
        return Store(self._folder / STORE_FILE)

    def write(self, ops: Sequence[Op]) -> None:
        """Commit, waiting for the disk only where somebody may be billed: virtual runs can be run again."""
        self._store.commit(ops, durable=any(isinstance(op, (Opened, Entry)) for op in ops))

    def sealed(self, addresses: Sequence[str]) -> set[str]:
        """Which of these trials are finished."""
        return self._store.sealed(addresses)

    def results(self, addresses: Sequence[str]) -> dict[str, RunResult]:
        """The finished ones of these trials, by address."""
        return {address: RunResult.from_json(body) for _, address, body in self._store.results(addresses)}

    def result(self, run_id: str) -> RunResult | None:
        """One finished run."""
        body = self._store.result(run_id)
        return None if body is None else RunResult.from_json(body)

    def run_ids(self) -> list[str]:
        """Every finished run."""
        return [run_id for run_id, _, _ in self._store.results()]

    def free_number(self, above: int) -> int:
        """The lowest number above this one for which no run `run-N` was begun or finished."""
        known = self._store.names()
        return next(n for n in count(above + 1) if f"run-{n}" not in known)

    def entries(self, run_id: str) -> list[Entry]:
        """What a live run wrote so far."""
        return self._store.entries(run_id)

    def note(self, name: str) -> bytes | None:
        """A named document."""
        return self._store.note(name)

    def close(self) -> None:
        """Close the store and give up its lock."""
        self._store.close()


class _Batch:
    __slots__ = ("done", "error", "ops")

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.done = anyio.Event()
        self.error: OrchestrationError | None = None


class BankClient:
    """Writes into a bank; all writes that wait at the same time travel in one call.

    Args:
        call: delivers ops to the bank and returns when they are committed.
    """

    def __init__(self, call: Callable[[Sequence[Op]], Awaitable[None]]) -> None:
        self._call = call
        self._open: _Batch | None = None
        self._in_flight = anyio.Lock()

    async def write(self, ops: Sequence[Op]) -> None:
        """Commit ops; a return means they are committed.

        Raises:
            StoreError: nothing of the batch was committed.
            HostLost: the bank's node is gone.
        """
        batch = self._open
        if batch is not None:
            batch.ops.extend(ops)
            await batch.done.wait()
        else:
            batch = self._open = _Batch()
            batch.ops.extend(ops)
            await self._deliver(batch)
        if batch.error is not None:
            raise batch.error

    async def _deliver(self, batch: _Batch) -> None:
        # The first writer of a batch carries it for the others, so its own cancellation must not stop the delivery.
        try:
            with anyio.CancelScope(shield=True):
                async with self._in_flight:
                    self._open = None
                    await self._call(batch.ops)
        except OrchestrationError as error:
            batch.error = error
        except BaseException:
            # A cancellation from outside anyio, or a bug. The others must not take it for a commit.
            batch.error = StoreError("the bank", "a write was cut off; whether it was committed is not known")
            raise
        finally:
            if self._open is batch:
                self._open = None
            batch.done.set()


def in_process(bank: Bank) -> BankClient:
    """A client of a bank in this process; the disk is waited for in a thread, one commit at a time."""

    async def call(ops: Sequence[Op]) -> None:
        await anyio.to_thread.run_sync(bank.write, ops)

    return BankClient(call)
