"""Owns the bank's one door: the object that holds the store, and the client through which everybody reaches it.

The same `Bank` stands in the driver's process or in the one Ray actor on the node that holds the store; the client does not
know which. It puts everything that waits into one call, because the call is what costs (a Ray round trip, an fsync), not
what is in it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any

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

    def open(self) -> None:
        """Open the store now, so that what is wrong with it is told before anything runs."""
        self._store.sealed([])

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
        """Close the store and give up its lock; nothing to do where it was never opened."""
        if "_store" in vars(self):
            self._store.close()


@dataclass(slots=True, eq=False)
class _Part:
    """What one writer wants written."""

    ops: Sequence[Op]
    done: anyio.Event
    error: OrchestrationError | None = None


class BankClient:
    """Writes into a bank; all writes that wait at the same time travel in one call.

    Args:
        call: delivers ops to the bank and returns when they are committed.
    """

    def __init__(self, call: Callable[[Sequence[Op]], Awaitable[None]]) -> None:
        self._call = call
        self._waiting: list[_Part] = []
        self._in_flight = anyio.Lock()

    async def write(self, ops: Sequence[Op]) -> None:
        """Commit ops; a return means they are committed.

        Raises:
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
            await self._call([op for part in parts for op in part.ops])
        except StoreError as error:
            # Nothing of it was committed. Alone, each part fails or succeeds by itself: no run pays for another's fault.
            if len(parts) == 1:
                parts[0].error = error
            else:
                for part in parts:
                    await self._commit([part])
        except OrchestrationError as error:
            for part in parts:
                part.error = error


def in_process(bank: Bank) -> tuple[BankClient, Callable[..., Awaitable[Any]]]:
    """A client of a bank in this process, and a way to call its methods; in a thread, one at a time."""
    one = anyio.Lock()

    async def on_bank(method: str, *args: object) -> Any:
        async with one:
            return await anyio.to_thread.run_sync(partial(getattr(bank, method), *args))

    return BankClient(partial(on_bank, "write")), on_bank
