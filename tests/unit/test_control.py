"""The way to a running driver's operator from outside: what is understood, and that nothing that comes in ends a driver."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream

from runtime.budget import Budget
from runtime.control import MOST_BYTES, SOCKET_FILE, ask_driver, carry_out, listening
from runtime.errors import BudgetExceeded, ConfigError

pytestmark = pytest.mark.anyio


class Fake:
    """An operator that notes what it is asked, and answers, or raises, as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Callable[[], Awaitable[Any]] | None = None

    async def _note(self, *what: Any) -> Any:
        self.asked.append(what)
        return "done" if self.answer is None else await self.answer()

    async def states(self) -> dict[str, str]:
        return {"run-1": "under way"}

    async def pause(self, name: str) -> Any:
        return await self._note("pause", name)

    async def resume(self, name: str) -> Any:
        return await self._note("resume", name)

    async def cancel(self, name: str) -> Any:
        return await self._note("cancel", name)

    async def top_up(self, name: str, more: Budget) -> Any:
        return await self._note("top-up", name, more)


class Driver:
    """A fake operator that listens in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.operator = folder, Fake()

    async def ask(self, **command: Any) -> Any:
        return await ask_driver(self.folder, command)

    async def send(self, data: bytes, *, end: bool = False) -> bytes:
        """Write bytes as they are and give what comes back until the driver hangs up."""
        async with await self._connected() as stream:
            await stream.send(data)
            if end:
                await stream.send_eof()
            answer = b""
            try:
                while not answer.endswith(b"\n"):
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            return answer

    async def _connected(self) -> SocketStream:
        # Relative, because the whole path may be too long.
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            return await anyio.connect_unix(SOCKET_FILE)
        finally:
            os.chdir(before)

    async def works(self) -> bool:
        return bool(await self.ask(do="ps") == {"run-1": "under way"})


@asynccontextmanager
async def a_driver(folder: Path) -> AsyncIterator[Driver]:
    driver = Driver(folder)
    async with listening(driver.operator, folder):  # type: ignore[arg-type]
        yield driver


# ---- Commands.


async def test_every_command_arrives_and_its_answer_comes_back(tmp_path: Path) -> None:
    async with a_driver(tmp_path) as driver:
        assert await driver.works()
        for name in ("pause", "resume", "cancel"):
            assert await driver.ask(do=name, name="run-1") == "done"
        assert await driver.ask(do="top-up", name="run-1", limits={"usd": "0.50", "tool_calls": {"look": 2}}) == "done"

    *others, raised = driver.operator.asked
    assert others == [(name, "run-1") for name in ("pause", "resume", "cancel")]
    assert raised == ("top-up", "run-1", Budget(usd="0.50", tool_calls={"look": 2}))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({}, "does not know that command"),
        ({"do": "dance"}, "does not know that command"),
        ({"do": "pause"}, "does not know that command"),
        ({"do": "pause", "name": 3}, "does not know that command"),
        ({"do": "top-up", "name": "run-1"}, "does not know that command"),
        ({"do": "top-up", "name": "run-1", "limits": [1]}, "does not know that command"),
        ({"do": "top-up", "name": "run-1", "limits": {}}, "a Budget needs at least one"),
        ({"do": "top-up", "name": "run-1", "limits": {"dollars": 3}}, "limits of a top-up cannot be read"),
        ({"do": "top-up", "name": "run-1", "limits": {"tokens": -1}}, "tokens=-1"),
        ({"do": "top-up", "name": "run-1", "limits": {"tokens": 1.5}}, "tokens=1.5"),
        ({"do": "top-up", "name": "run-1", "limits": {"usd": "much"}}, "not an amount of dollars"),
        ({"do": "top-up", "name": "run-1", "limits": {"usd": []}}, "not an amount of dollars"),
        ({"do": "top-up", "name": "run-1", "limits": {"seconds": "x"}}, "limits of a top-up cannot be read"),
    ],
)
async def test_what_is_not_understood_is_refused_and_the_driver_lives(
    tmp_path: Path, command: dict[str, Any], words: str
) -> None:
    async with a_driver(tmp_path) as driver:
        with pytest.raises(ConfigError, match=words):
            await ask_driver(tmp_path, command)
        assert await driver.works()
    assert driver.operator.asked == []


async def test_without_a_driver_a_command_is_carried_out_the_same_way() -> None:
    operator: Any = Fake()
    assert await carry_out(operator, {"do": "cancel", "name": "run-1"}) == "done"
    with pytest.raises(ConfigError, match="does not know that command"):
        await carry_out(operator, {"do": "dance", "name": "run-1"})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("not now"), "not now"),
        (BudgetExceeded("account", "tokens", 5, 3), "account: 5 tokens needed, 3 left"),
        (ValueError("a bug"), "the operator raised ValueError: a bug"),
        (StopIteration(), "the operator raised"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError"),
    ],
)
async def test_whatever_a_command_raises_is_an_answer_and_not_the_end_of_the_driver(
    tmp_path: Path, error: Exception, words: str
) -> None:
    async def fail() -> Any:
        raise error

    async with a_driver(tmp_path) as driver:
        driver.operator.answer = fail
        with pytest.raises(ConfigError, match=words):
            await driver.ask(do="pause", name="run-1")
        assert await driver.works()


# ---- The wire.


@pytest.mark.parametrize(
    "line", [b"\n", b"{\n", b"nonsense\n", b"[1, 2]\n", b"null\n", b'"ps"\n', b"\xff\xfe\x00\n", b'{"do": "ps"} more\n']
)
async def test_a_line_that_is_no_command_is_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    async with a_driver(tmp_path) as driver:
        answer = await driver.send(line)
        assert list(json.loads(answer)) == ["refused"]
        assert answer.count(b"\n") == 1
        assert await driver.works()


@pytest.mark.parametrize("data", [b"", b"{", b'{"do": "ps"}'], ids=["nothing", "the beginning", "all but the end"])
async def test_a_caller_who_hangs_up_before_the_end_of_a_line_does_no_harm(tmp_path: Path, data: bytes) -> None:
    async with a_driver(tmp_path) as driver:
        if data:
            assert await driver.send(data, end=True) == b""
        else:
            await (await driver._connected()).aclose()
        assert await driver.works()


async def test_a_caller_who_does_not_wait_for_the_answer_does_no_harm(tmp_path: Path) -> None:
    asked, gone = anyio.Event(), anyio.Event()

    async def slow() -> str:
        asked.set()
        await gone.wait()
        return "x" * 1_000_000

    async with a_driver(tmp_path) as driver:
        driver.operator.answer = slow
        stream = await driver._connected()
        await stream.send(b'{"do": "pause", "name": "run-1"}\n')
        await asked.wait()
        await stream.aclose()
        gone.set()
        assert await driver.works()
    assert driver.operator.asked == [("pause", "run-1")], "it was carried out all the same"


async def test_a_line_without_an_end_is_refused_in_time(tmp_path: Path) -> None:
    async with a_driver(tmp_path) as driver:
        answer = await driver.send(b"x" * (MOST_BYTES + 10))
        assert answer in {b"", b'{"refused":"the command is longer than 65536 bytes"}\n'}
        assert await driver.works()


async def test_an_answer_may_be_long(tmp_path: Path) -> None:
    """`ps` names every run that is open."""

    async def long() -> dict[str, str]:
        return {f"run-{i}": "interrupted" for i in range(20_000)}

    async with a_driver(tmp_path) as driver:
        driver.operator.answer = long
        assert len(await driver.ask(do="pause", name="all")) == 20_000


async def test_many_callers_at_once_are_answered_each_with_its_own(tmp_path: Path) -> None:
    answers: dict[str, Any] = {}

    async def ask(name: str) -> None:
        answers[name] = (await driver.ask(do="pause", name=name))[-1]

    async with a_driver(tmp_path) as driver:

        async def echo() -> Any:
            name = driver.operator.asked[-1]
            await anyio.lowlevel.checkpoint()
            return name

        driver.operator.answer = echo
        async with anyio.create_task_group() as group:
            for i in range(50):
                group.start_soon(ask, f"run-{i}")
    assert answers == {name: name for name in answers}
    assert len(answers) == 50


async def test_a_caller_who_says_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with a_driver(tmp_path) as driver:
        silent = await driver._connected()
        assert await driver.works()
        await silent.aclose()
        assert await driver.works()


async def test_a_driver_that_ends_hangs_up_on_whoever_waits(tmp_path: Path) -> None:
    told: list[str] = []
    asked = anyio.Event()

    async def never() -> Any:
        asked.set()
        await anyio.sleep_forever()

    async def ask() -> None:
        with pytest.raises(ConfigError, match="does not answer; is it being ended") as refused:
            await driver.ask(do="pause", name="run-1")
        told.append(str(refused.value))

    async with anyio.create_task_group() as group, a_driver(tmp_path) as driver:
        driver.operator.answer = never
        group.start_soon(ask)
        await asked.wait()
    assert len(told) == 1


# ---- The socket.


async def test_where_nobody_listens_there_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as left:
        (tmp_path / "left").mkdir()
        left.bind(str(tmp_path / "left" / SOCKET_FILE))
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file", tmp_path / "left"):
        assert await ask_driver(folder, {"do": "ps"}) is None


async def test_what_a_killed_driver_left_behind_does_not_stop_the_next_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET_FILE))
    async with a_driver(tmp_path) as driver:
        assert await driver.works()
    (tmp_path / SOCKET_FILE).write_text("no socket at all")
    async with a_driver(tmp_path) as driver:
        assert await driver.works()


async def test_the_socket_goes_with_its_driver(tmp_path: Path) -> None:
    for _ in range(2):
        async with a_driver(tmp_path):
            assert (tmp_path / SOCKET_FILE).exists()
        assert not (tmp_path / SOCKET_FILE).exists()
        assert await ask_driver(tmp_path, {"do": "ps"}) is None


async def test_nobody_but_the_owner_may_command(tmp_path: Path) -> None:
    async with a_driver(tmp_path):
        assert stat.S_IMODE((tmp_path / SOCKET_FILE).stat().st_mode) == 0o600


async def test_the_folder_may_lie_as_deep_as_it_likes(tmp_path: Path) -> None:
    """A socket's address has 107 characters."""
    deep = tmp_path.joinpath(*["a-folder-of-some-length"] * 12)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 250
    n_open = len(os.listdir("/proc/self/fd"))
    async with a_driver(deep) as driver:
        assert await driver.works()
    assert len(os.listdir("/proc/self/fd")) == n_open, "nothing is left open"


async def test_another_process_commands_the_driver(tmp_path: Path) -> None:
    program = (
        "import sys, anyio\nfrom pathlib import Path\nfrom runtime.control import ask_driver\n"
        "print(anyio.run(ask_driver, Path(sys.argv[1]), {'do': 'cancel', 'name': 'run-1'}))"
    )
    async with a_driver(tmp_path) as driver:
        done = await anyio.run_process([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.STDOUT)
    assert done.stdout == b"done\n"
    assert driver.operator.asked == [("cancel", "run-1")]
