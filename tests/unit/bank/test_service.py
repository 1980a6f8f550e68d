"""The bank's one door: writes that wait together travel together, and a return means that they are committed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from runtime.bank.service import Bank, BankClient, in_process
from runtime.bank.store import Entry, Note, Op
from runtime.errors import StoreError

pytestmark = pytest.mark.anyio


def note(name: str) -> Note:
    return Note(name, b"{}")


class Slow:
    """A bank behind a slow line: each call waits until it is let go, and then succeeds or raises."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[anyio.Event] = []
        self.errors: dict[int, BaseException] = {}

    async def __call__(self, ops: Sequence[Op]) -> None:
        gate = anyio.Event()
        self.gates.append(gate)
        self.calls.append([op.name for op in ops if isinstance(op, Note)])
        n = len(self.calls) - 1
        if n < 2:  # what follows a refusal is not held up
            await gate.wait()
        if n in self.errors:
            raise self.errors[n]


async def test_writes_that_wait_at_the_same_time_travel_in_one_call_in_their_order() -> None:
    line = Slow()
    client = BankClient(line)
    async with anyio.create_task_group() as group:
        for name in "abcd":
            group.start_soon(client.write, [note(name)])
            await anyio.wait_all_tasks_blocked()
        assert line.calls == [["a"]]
        line.gates[0].set()
        await anyio.wait_all_tasks_blocked()
        assert line.calls == [["a"], ["b", "c", "d"]]
        line.gates[1].set()


async def test_nobody_returns_before_the_commit() -> None:
    line = Slow()
    client = BankClient(line)
    returned: list[str] = []

    async def write(name: str) -> None:
        await client.write([note(name)])
        returned.append(name)

    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(write, name)
            await anyio.wait_all_tasks_blocked()
        line.gates[0].set()
        await anyio.wait_all_tasks_blocked()
        assert returned == ["a"]
        line.gates[1].set()
    assert sorted(returned) == ["a", "b", "c"]


async def outcomes(line: Slow, names: str, cut: Callable[[list["asyncio.Task[None]"]], Awaitable[None]]) -> list[Any]:
    """How each of several writes of one call ends; the first of the names keeps the line busy."""
    client = BankClient(line)
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(client.write([note(name)])))
        await anyio.wait_all_tasks_blocked()
    line.gates[0].set()
    await anyio.wait_all_tasks_blocked()
    await cut(tasks)
    line.gates[1].set()
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)


async def nothing(tasks: list["asyncio.Task[None]"]) -> None:
    pass


async def test_of_a_call_that_was_refused_each_part_is_tried_alone_and_only_the_guilty_are_told() -> None:
    line = Slow()
    line.errors[1] = line.errors[3] = StoreError("x", "another run's id")

    *others, last = await outcomes(line, "abc", nothing)

    assert others == [None, None]
    assert str(last) == "x: another run's id"


async def test_nobody_takes_a_bug_of_the_bank_for_a_commit() -> None:
    line = Slow()
    line.errors[1] = ZeroDivisionError()

    _, carrier, other = await outcomes(line, "abc", nothing)

    assert isinstance(carrier, ZeroDivisionError)
    assert isinstance(other, StoreError)


async def test_nobody_takes_the_end_of_the_carrying_task_for_a_commit() -> None:
    """`asyncio.Task.cancel` goes through anyio's shields."""

    async def cut(tasks: list["asyncio.Task[None]"]) -> None:
        tasks[1].cancel()
        await anyio.wait_all_tasks_blocked()

    _, carrier, other = await outcomes(Slow(), "abc", cut)

    assert isinstance(carrier, asyncio.CancelledError)
    assert isinstance(other, StoreError)


async def test_a_carrier_that_dies_in_the_queue_does_not_block_those_after_it() -> None:
    line = Slow()
    client = BankClient(line)
    busy = asyncio.create_task(client.write([note("a")]))
    await anyio.wait_all_tasks_blocked()
    carrier = asyncio.create_task(client.write([note("b")]))
    await anyio.wait_all_tasks_blocked()
    carrier.cancel()
    await anyio.wait_all_tasks_blocked()

    later = asyncio.create_task(client.write([note("c")]))
    await anyio.wait_all_tasks_blocked()
    line.gates[0].set()
    await anyio.wait_all_tasks_blocked()
    line.gates[1].set()
    await asyncio.wait_for(asyncio.gather(busy, later), 5)

    assert line.calls == [["a"], ["c"]]


async def test_a_cancelled_writer_does_not_keep_the_others_from_committing() -> None:
    line = Slow()
    client = BankClient(line)
    done: list[str] = []

    async def write(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await client.write([note(name)])
            done.append(name)

    async with anyio.create_task_group() as group:
        scopes = {name: anyio.CancelScope() for name in "abc"}
        for name, scope in scopes.items():
            group.start_soon(write, name, scope)
            await anyio.wait_all_tasks_blocked()
        scopes["b"].cancel()  # carries the second call
        line.gates[0].set()
        await anyio.wait_all_tasks_blocked()
        line.gates[1].set()
    assert "c" in done
    assert line.calls == [["a"], ["b", "c"]]


async def test_what_was_written_can_be_read_and_errors_come_back() -> None:
    bank = Bank(None)
    client, _ = in_process(bank)
    await client.write([Entry("run", "0/a/0", 0, "sent", b"{}"), note("plan")])

    assert [entry.state for entry in bank.entries("run")] == ["sent"]
    assert bank.note("plan") == b"{}"
    bank.close()
