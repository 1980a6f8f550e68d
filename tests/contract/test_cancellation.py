"""A live run that is ended from outside leaves nothing behind: no task, no request, no connection, and closed books.

The endpoint that never answers and the witness, to which each tool holds a connection, count what is still at work, on whatever
host it is.
"""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from typing import Any

import anyio.lowlevel
import pytest

from runtime import Agent, Budget, Task
from runtime.agents.tools import Tool
from runtime.errors import ConfigError
from topologies import Independent

LIMIT_S = 60


class Witness:
    """Listens, never answers, and knows how many connections to it are open."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._news = threading.Condition()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def wait_until(self, n: int) -> None:
        """Wait until so many connections are open."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._open) == n, LIMIT_S), (len(self._open), n)

    def hang_up(self) -> None:
        """Close all connections."""
        with self._news:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        watching = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            with self._news:
                self._open.append(connection)
                self._news.notify_all()
            watching.append(threading.Thread(target=self._watch, args=[connection]))
            watching[-1].start()
        for thread in watching:
            thread.join()

    def _watch(self, connection: socket.socket) -> None:
        connection.recv(1)  # the other side says nothing, so this is its end
        with self._news:
            self._open.remove(connection)
            connection.close()
            self._news.notify_all()


@pytest.fixture
def witness() -> Iterator[Witness]:
    with closing(Witness()) as found:
        yield found


WAYS = ["operator", "deadline", "waiter", "operator, then waiter", "waiter, then operator"]
BOTH_WAYS = [("in process", "together"), ("on Ray", "together"), ("on Ray", "spread")]


@pytest.fixture(
    params=[pytest.param(p, marks=[pytest.mark.ray] * (p[0] == "on Ray"), id=", ".join(p)) for p in BOTH_WAYS]
)
def placed(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A runtime on each kind of hosts, its seats together or spread."""
    where, placement = request.param
    found = request.getfixturevalue("ray_cluster" if where == "on Ray" else "in_process")
    if placement == "spread":
        found.runtime._on_host.__self__.spread = True
    yield found
    if placement == "spread":
        found.runtime._on_host.__self__.spread = False


def tasks(host: Any) -> int:
    """Tasks of a host's process that are not done; Ray asks in a thread of its own, where no loop is at hand."""
    return sum(isinstance(thing, asyncio.Task) and not thing.done() for thing in gc.get_objects())


def at_work(driven: Any) -> list[int]:
    """Tasks of each event loop that runs agents."""

    async def count() -> list[int]:
        cluster = getattr(driven.runtime._on_host, "__self__", None)
        return (
            [len(asyncio.all_tasks())]
            if cluster is None
            else [await host.__ray_call__.remote(tasks) for host in cluster._hosts]
        )

    found: list[int] = driven.call(count)
    return found


def wait_until(holds: Callable[[], bool], driven: Any) -> None:
    """Ask again and again, each time after everybody over there had a turn."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        driven.call(anyio.lowlevel.checkpoint)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_ended_leaves_nothing_at_work_on_any_host(
    placed: Any, own: Any, hostile: Any, witness: Witness, way: str
) -> None:
    name = f"ended-{way}-{placed.runtime.hosts}-{witness.port}".replace(", ", "-").replace(" ", "-")
    placed.run(Independent(2, model="live"), Task("Warm up?"), budget=Budget(calls=2))
    before = at_work(placed)
    tools = [Tool("wait", "Waits.", kind(witness.port), {}) for kind in (own.Hold, own.Block)]
    handy = [Agent("executor", model="handy", tools=(tool,)) for tool in tools for _ in range(2)]
    team = Independent([Agent("executor", model="hangs")] * 2 + handy)
    seconds = 4 if way == "deadline" else None
    budget = Budget(calls=20, tool_calls=8, tokens=200_000, seconds=seconds)
    running = placed.begin([placed.runtime.spec(name, team, Task("Who ends?"), budget, 0)])
    witness.wait_until(4)  # the tools of either kind, at home and, where seats are spread, elsewhere
    wait_until(lambda: hostile.in_flight == 2, placed)

    for one in way.split(", then "):
        if one == "operator":
            placed.call(placed.runtime.operator.cancel, name)
        elif one == "waiter":
            running.cancel()

    witness.wait_until(2)  # a plain function is left to its thread, which no one can end
    wait_until(lambda: hostile.in_flight == 0, placed)
    with suppress(CancelledError):
        ((_, result),) = running.result(LIMIT_S)
        assert result.status == ("deadline" if way == "deadline" else "cancelled")
        assert result.spend.total.tool_calls == 4
    witness.hang_up()
    witness.wait_until(0)
    wait_until(lambda: at_work(placed) == before, placed)
    check_closed(placed, name)


def check_closed(driven: Any, name: str) -> None:
    """No attempt is open, and the run is sealed or, where nobody waited for it, can be."""
    states: dict[tuple[str, int], str] = {}
    for entry in driven.call(driven.runtime._on_bank, "entries", name):
        states[entry.key, entry.try_] = entry.state
    assert len(states) == 10, "two requests without an answer; four calls for tools, and the tools"
    assert set(states.values()) <= {"settled", "charged_max"}
    assert list(states.values()).count("settled") >= 4
    with suppress(ConfigError):  # it is finished
        driven.call(driven.runtime.operator.cancel, name)
    assert driven.call(driven.runtime._on_bank, "result", name) is not None
    assert name not in driven.call(driven.runtime.operator.states)
