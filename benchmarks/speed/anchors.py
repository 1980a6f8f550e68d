"""Owns the anchors of the bank's benchmark: what the parts below it cost bare, so that a figure has something to stand on.

A pair is a reservation that tests a limit, and its settlement.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from benchmarks.speed.timing import Sample, stopwatch

LINE = b"x" * 249 + b"\n"
"""As long as a short line of a journal."""
_RESERVE = "UPDATE book SET held = held + ?1 WHERE held + settled + ?1 <= cap"
_SETTLE = "UPDATE book SET held = held - ?, settled = settled + ?"


class Counter:
    """The least that can be called a ledger: one dimension, one scope, no keys, no states."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.held = 0
        self.settled = 0

    def reserve(self, amount: int) -> bool:
        """Hold an amount if it fits."""
        if self.held + self.settled + amount > self.cap:
            return False
        self.held += amount
        return True

    def settle(self, amount: int, used: int) -> None:
        """Put the true figure in the place of the hold."""
        self.held -= amount
        self.settled += used

    def pairs(self, n: int) -> int:
        """Work off a batch."""
        for _ in range(n):
            self.reserve(30)
            self.settle(30, 10)
        return n


def counter(n: int) -> Sample:
    """Two bare methods."""
    book = Counter(20 * n + 30)
    with stopwatch() as sample:
        for _ in range(n):
            book.reserve(30)
            book.settle(30, 10)
    sample.n = n
    assert book.settled == 10 * n
    return sample


def locked_counter(n: int, make_lock: Callable[[], Any]) -> Sample:
    """The same with a lock around each, which it would need if it waited inside."""

    async def work() -> Sample:
        book, lock = Counter(20 * n + 30), make_lock()
        with stopwatch() as sample:
            for _ in range(n):
                async with lock:
                    book.reserve(30)
                async with lock:
                    book.settle(30, 10)
        sample.n = n
        return sample

    return anyio.run(work)


LOCKS: dict[str, Callable[[], Any]] = {"asyncio.Lock": asyncio.Lock, "anyio.Lock": anyio.Lock}


def sqlite_pairs(folder: Path, n: int, group: int, synchronous: str) -> Sample:
    """Two tested updates a pair in SQLite with a write-ahead log, `group` pairs a transaction."""
    with closing(sqlite3.connect(folder / "anchor.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("CREATE TABLE book (cap INTEGER, held INTEGER, settled INTEGER)")
        db.execute("INSERT INTO book VALUES (?, 0, 0)", (20 * n + 30,))
        with stopwatch() as sample:
            for _ in range(n // group):
                db.execute("BEGIN IMMEDIATE")
                for _ in range(group):
                    db.execute(_RESERVE, (30,))
                    db.execute(_SETTLE, (30, 10))
                db.execute("COMMIT")
        sample.n = n // group * group
        assert db.execute("SELECT settled FROM book").fetchone() == (10 * sample.n,)
    return sample


def synced_lines(folder: Path, n: int, group: int) -> Sample:
    """One line a pair into a file, and `fdatasync` after each group of them: a latency for each."""
    latencies: list[float] = []
    file = os.open(folder / "anchor.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        with stopwatch() as sample:
            for _ in range(n // group):
                began = time.perf_counter()
                os.write(file, LINE * group)
                os.fdatasync(file)
                latencies.append(time.perf_counter() - began)
        sample.n, sample.latencies_s = n // group * group, latencies
    finally:
        os.close(file)
    return sample


class Coalesced:
    """Hands pairs on in one call for all that wait: the bank's client without its content.

    Args:
        call: works off a batch of so many pairs.
    """

    def __init__(self, call: Callable[[int], Any]) -> None:
        self._call = call
        self._waiting: list[asyncio.Future[None]] = []
        self._is_busy = False

    async def pair(self) -> None:
        """One pair; a return means that it was worked off."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if not self._is_busy:
            self._is_busy = True
            await asyncio.sleep(0)
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._call(len(batch))
                for one in batch:
                    one.set_result(None)
            self._is_busy = False
        await done
