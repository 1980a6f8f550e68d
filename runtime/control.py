"""Owns the way from another process to the operator of a running driver: a Unix socket beside the store.

One line of JSON in, one line out. The socket lies in the store's folder and is open to its owner alone. Its path may be
longer than the 107 characters a socket's address has, so it is bound and reached through a descriptor of the folder.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import orjson
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from runtime.boundary import contained
from runtime.budget import Budget
from runtime.errors import ConfigError, OrchestrationError
from runtime.operator import Operator

SOCKET_FILE = "control.sock"
MOST_BYTES = 65_536
MOST_ANSWER_BYTES = 1 << 26
"""`ps` names every run that is open."""
WAIT_S = 30.0
"""How long to wait for the other side; a cancel over Ray takes the longest, a second or so."""


@asynccontextmanager
async def listening(operator: Operator, folder: Path) -> AsyncIterator[None]:
    """Take commands for this operator for as long as the block lasts."""
    with _reachable(folder) as path:
        with suppress(FileNotFoundError):
            os.unlink(path)  # left behind by a driver that was killed; the store's lock proves that none is alive
        listener = await anyio.create_unix_listener(path, mode=0o600)

        async def serve(stream: SocketStream) -> None:
            # Nothing that comes in here, or goes away, may end the driver.
            async with stream:
                with suppress(anyio.IncompleteRead, anyio.BrokenResourceError, TimeoutError):
                    with anyio.fail_after(WAIT_S):
                        line = await _line(stream)
                    await stream.send(orjson.dumps(await _answer(operator, line)) + b"\n")

        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
                with suppress(FileNotFoundError):
                    os.unlink(path)


async def ask_driver(folder: Path, command: Mapping[str, Any]) -> Any:
    """Give a command to the driver that works on this folder; returns its answer, or None where no driver listens.

    Raises:
        ConfigError: the driver refused it, or did not answer in time.
    """
    try:
        with _reachable(folder) as path:
            stream = await anyio.connect_unix(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise ConfigError(
            f"the driver that works on {folder} belongs to another user, who alone may command it"
        ) from None
    async with stream:
        try:
            with anyio.fail_after(WAIT_S):
                await stream.send(orjson.dumps(dict(command)) + b"\n")
                answer = orjson.loads(await BufferedByteReceiveStream(stream).receive_until(b"\n", MOST_ANSWER_BYTES))
        except (TimeoutError, anyio.IncompleteRead, anyio.BrokenResourceError):
            raise ConfigError(f"the driver that works on {folder} does not answer; is it being ended?") from None
    if "refused" in answer:
        raise ConfigError(answer["refused"])
    return answer["done"]


async def carry_out(operator: Operator, command: Mapping[str, Any]) -> Any:
    """Carry out one command: {"do": pause | resume | cancel | top-up | ps, "name": ..., and for a top-up its limits}.

    Raises:
        OrchestrationError: it is not understood, or not allowed.
    """
    match command:
        case {"do": "ps"}:
            return await operator.states()
        case {"do": "pause", "name": str(name)}:
            return await operator.pause(name)
        case {"do": "resume", "name": str(name)}:
            return await operator.resume(name)
        case {"do": "cancel", "name": str(name)}:
            return await operator.cancel(name)
        case {"do": "top-up", "name": str(name), "limits": dict(limits)}:
            return await operator.top_up(name, _budget(limits))
        case _:
            raise ConfigError("this driver does not know that command; is it of the same version of Ostrom?")


def _budget(limits: Mapping[str, Any]) -> Budget:
    try:
        return Budget(**limits)
    except TypeError as error:
        raise ConfigError(f"the limits of a top-up cannot be read: {error}") from None


async def _line(stream: SocketStream) -> bytes | None:
    """One line; None where it is too long."""
    try:
        return await BufferedByteReceiveStream(stream).receive_until(b"\n", MOST_BYTES)
    except anyio.DelimiterNotFound:
        return None


async def _answer(operator: Operator, line: bytes | None) -> dict[str, Any]:
    if line is None:
        return {"refused": f"the command is longer than {MOST_BYTES} bytes"}
    try:
        command = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return {"refused": f"the command cannot be read: {error}"}
    try:
        return {"done": await contained("the operator", carry_out, operator, command)}
    except OrchestrationError as error:
        return {"refused": str(error)}


class _reachable:
    """A path of the socket that is short enough, through an open descriptor of its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        short = Path(f"/proc/self/fd/{self._descriptor}")
        # Where there is no /proc (macOS), a deep folder has to do without.
        return str((short if short.exists() else self._folder) / SOCKET_FILE)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
