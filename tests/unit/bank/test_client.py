"""The way into the bank: writes that wait together travel together, and a return means that they are committed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from runtime.bank.client import BankClient, Parts, Verdicts, in_process
from runtime.bank.service import Bank
from runtime.bank.store import Entry, Note, Opened, Taken
from runtime.errors import HostLost, InternalError, OrchestrationError, RunHalted, StaleEpoch, StoreError

pytestmark = pytest.mark.anyio


def note(name: str) -> Note:
    return Note(name, b"{}")


class Slow:
    """A bank behind a slow line: each call waits until it is let go, and then gives its verdicts or raises."""

    def __init__(self, verdicts: dict[str, OrchestrationError] | None = None) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[anyio.Event] = []
        self.errors: dict[int, BaseException] = {}
        self.verdicts = verdicts or {}
        """By the name of a part's first note."""

    async def __call__(self, parts: Parts) -> Verdicts:
        gate = anyio.Event()
        self.gates.append(gate)
        names = [[op.name for op in part if isinstance(op, Note)] for part in parts]
        self.calls.append([name for part in names for name in part])
        n = len(self.calls) - 1
        await gate.wait()
        if n in self.errors:
            raise self.errors[n]
        return [self.verdicts.get(part[0]) for part in names]


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


@pytest.mark.parametrize(
    "verdict", [StoreError("x", "another run's id"), StaleEpoch("run", 1, 2), RunHalted("run", "paused")]
)
async def test_of_several_parts_in_one_call_only_the_guilty_are_told(verdict: OrchestrationError) -> None:
    line = Slow({"c": verdict})

    assert await outcomes(line, "abcd", nothing) == [None, None, verdict, None]
    assert line.calls == [["a"], ["b", "c", "d"]]


@pytest.mark.parametrize("error", [StoreError("x", "no disk"), HostLost("the bank", "its node is gone")])
async def test_when_the_call_itself_fails_all_parts_of_it_are_told(error: OrchestrationError) -> None:
    line = Slow()
    line.errors[1] = error

    assert await outcomes(line, "abc", nothing) == [None, error, error]


async def test_one_part_is_one_commit_however_many_ops_it_has() -> None:
    parts_seen: list[list[int]] = []

    async def call(parts: Parts) -> Verdicts:
        parts_seen.append([len(part) for part in parts])
        await anyio.lowlevel.checkpoint()
        return [None] * len(parts)

    client = BankClient(call)
    async with anyio.create_task_group() as group:
        for ops in ([note("a")], [note("b"), note("c")], [note("d")]):
            group.start_soon(client.write, ops)

    assert parts_seen == [[1, 2, 1]]


async def test_nobody_takes_a_bug_of_the_bank_for_a_commit() -> None:
    line = Slow()
    line.errors[1] = ZeroDivisionError()

    _, carrier, other = await outcomes(line, "abc", nothing)

    assert isinstance(carrier, ZeroDivisionError)
    assert isinstance(other, StoreError)


async def test_a_bank_that_does_not_speak_of_every_part_is_not_believed() -> None:
    async def forgetful(parts: Parts) -> Verdicts:
        await anyio.lowlevel.checkpoint()
        return [None] * (len(parts) - 1)

    client = BankClient(forgetful)
    writers = [client.write([note(name)]) for name in "ab"]
    carrier, other = await asyncio.gather(*writers, return_exceptions=True)

    assert isinstance(carrier, InternalError)
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
    client, on_bank = in_process(bank)
    await client.write([Opened("run", "a" * 64, b'{"scope":"account"}'), Taken("run", 1, "here")])
    await client.write([Entry("run", 1, "0/a/0", 0, "sent", b"{}"), note("plan")])

    assert [entry.state for entry in await on_bank("entries", "run")] == ["sent"]
    assert await on_bank("note", "plan") == b"{}"
    with pytest.raises(StoreError, match="another content"):
        await client.write([Entry("run", 1, "0/a/0", 0, "sent", b'{"other":1}')])
    with pytest.raises(StaleEpoch):
        await client.write([Entry("run", 0, "0/a/0", 1, "sent", b"{}")])
    bank.close()


async def test_one_caller_at_a_time_is_in_the_bank() -> None:
    """It is synchronous, and each call runs in a thread of a pool."""

    class Watched:
        inside, most = 0, 0
        go_on = threading.Event()

        def look(self) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.go_on.wait()
            self.inside -= 1

        def write(self, parts: Parts) -> Verdicts:
            self.look()
            return [None] * len(parts)

    bank = Watched()
    client, on_bank = in_process(bank)
    async with anyio.create_task_group() as group:
        for name in "abcdefgh":
            group.start_soon(on_bank, "look")
            group.start_soon(client.write, [note(name)])
        await anyio.wait_all_tasks_blocked()
        bank.go_on.set()

    assert (bank.inside, bank.most) == (0, 1)
