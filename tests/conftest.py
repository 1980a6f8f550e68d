"""Owns what every test gets: no network but loopback, the asyncio backend, and the Hypothesis profiles; and what tests of
the whole share: the command line in a process of its own, an endpoint, a provider that bills, and one Ray cluster for the
session; and a hold on processes."""

import ipaddress
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings

# A failure must be the same on the next run of the same commit, so CI draws no new examples. At home every run does, and
# a failing example prints the line that brings it back.
settings.register_profile(
    "default", max_examples=50, deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
settings.register_profile("long", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("OSTROM_HYPOTHESIS", "default"))


class NetworkRefused(RuntimeError):
    """A test tried to reach another machine. No OSError, so that code which retries those cannot hide it."""


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False  # a name: asking for its address is a call to another machine already
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def _network_guard() -> Iterator[list[str]]:
    """Refuse each way by which Python code in this process names another machine; yield what was refused.

    Patched are `connect`, `connect_ex` and `sendto` of `socket.socket`, which asyncio, trio and aiohttp all end in, and
    `socket.getaddrinfo`. Unix sockets and loopback pass. Not seen: child processes, and libraries with sockets of their
    own in C (Ray), which a test has to bind to loopback itself.
    """
    refused: list[str] = []

    def refuse(what: str, target: object) -> NetworkRefused:
        refused.append(f"{what}({target!r})")
        return NetworkRefused(f"tests may reach loopback only, not {target!r}")

    def guarded(name: str) -> Callable[..., Any]:
        real = getattr(socket.socket, name)

        def call(self: socket.socket, *args: Any) -> Any:
            address = args[-1]  # the only argument of connect, the last of sendto
            if self.family not in (socket.AF_INET, socket.AF_INET6):
                allowed = self.family == socket.AF_UNIX
            else:
                allowed = isinstance(address, tuple) and _is_local(address[0])
            if not allowed:
                raise refuse(name, address)
            return real(self, *args)

        return call

    real_getaddrinfo = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise refuse("getaddrinfo", host)
        return real_getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, guarded(name))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield refused


@pytest.fixture(autouse=True)
def refused_calls(_network_guard: list[str]) -> Iterator[list[str]]:
    """Fail a test that tried the network even if something between swallowed the error.

    A test that tries on purpose takes this list and clears it.
    """
    _network_guard.clear()
    yield _network_guard
    assert not _network_guard, f"the network was tried: {_network_guard}"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run an async test (`pytestmark = pytest.mark.anyio`) on asyncio, as live runs do.

    For trio, or both: `@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])`.
    """
    return "asyncio"


# ---- The product from outside: its command, and one Ray cluster for the whole session.


class Driven:
    """A runtime on an event loop in a thread of its own, so that one serves a whole session of plain tests.

    An async fixture of the session would do the same, but as long as it lives, anyio runs every async test on its loop, those
    that ask for trio included.
    """

    def __init__(self, runtime: Any, portal: BlockingPortal) -> None:
        self.runtime, self.portal = runtime, portal

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Await a coroutine function over there."""
        return self.portal.call(partial(function, *args, **kwargs))

    def run(self, topology: Any, task: Any, **more: Any) -> Any:
        """`Runtime.run`."""
        return self.call(self.runtime.run, topology, task, **more)

    def mend(self) -> None:
        """Have hosts that were killed while they had nothing to do replaced now; else the next run would find them dead."""
        from runtime.errors import HostLost

        async def knock() -> None:
            for i in range(self.runtime.hosts):
                with suppress(HostLost):
                    await self.runtime._on_host(i, "cancel", "nobody")

        self.call(knock)

    def map(self, specs: Iterable[Any]) -> list[Any]:
        """All that `Runtime.map` yields."""
        return self.begin(specs).result()

    def begin(self, specs: Iterable[Any]) -> Future[list[Any]]:
        """The same, while the test goes on."""

        async def everything() -> list[Any]:
            return [done async for done in self.runtime.map(specs)]

        return self.portal.start_task_soon(everything)


@pytest.fixture(scope="session")
def ostrom() -> Callable[..., Any]:
    """Start the command `ostrom` in a process of its own; the settings of a Ray cluster of this process are kept from it.

    Gives the process, with pipes as text; `within` runs it to its end instead and gives what it wrote.
    """
    command = str(Path(sysconfig.get_path("scripts"), "ostrom"))
    home = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OSTROM_"))}

    def start(*args: object, cwd: Path, within: float | None = None, **env: str) -> Any:
        words = [command, *map(str, args)]
        pipes: dict[str, Any] = {"cwd": cwd, "env": home | env, "text": True}
        if within is not None:
            return subprocess.run(words, capture_output=True, timeout=within, check=False, **pipes)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **pipes)

    return start


@pytest.fixture
def ostrom_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command `ostrom` in this process: two seconds faster than a process of its own, and nothing to kill."""
    from benchmarks.cli import main

    def call(*args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        code: Any = 0
        words = ["ostrom", *map(str, args)]
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", words)
            for name, value in env.items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def endpoint(ostrom: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of `ostrom serve` with the simulated models and a scripted one, `m`: 500 tokens in, 500 out, 50 ms."""
    serving = ostrom("serve", "--port", "0", "--scripted", "m=500,500,0.05,42", cwd=tmp_path_factory.mktemp("serve"))
    try:
        yield serving.stdout.readline().rpartition(" at ")[2].strip()
    finally:
        serving.terminate()
        serving.communicate(timeout=20)


def _loaded(name: str, path: str) -> ModuleType:
    found = spec_from_file_location(name, Path(__file__).parent / path)
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def own() -> ModuleType:
    """A user's own file with topologies and models. No host can import it by name, not even from this checkout, which an
    editable install puts on the path of every process; so it has to be shipped, as an experiment's file is."""
    return _loaded("a_file_of_the_user", "contract/users_own.py")


@pytest.fixture(scope="session")
def billing() -> ModuleType:
    """The file `cluster/provider.py`; shipped like the user's own."""
    return _loaded("a_provider_that_bills", "cluster/provider.py")


@pytest.fixture(scope="session")
def provider(billing: ModuleType) -> Iterator[Any]:
    """A provider in a process of its own, the witness against the books; see `cluster/provider.py`."""
    with closing(billing.Provider()) as found:
        yield found


@pytest.fixture(scope="session")
def hostile() -> Iterator[Any]:
    """An endpoint that goes wrong on purpose, for the model `hangs`; it knows how many requests it is at."""
    from runtime.testing import HostileEndpoint

    with HostileEndpoint() as found:
        yield found


class Narrow:
    """A model that notes how many calls it has at once."""

    name, virtual, shrinkable, window_tokens, price = "narrow", False, True, 100_000, None

    def __init__(self) -> None:
        self.now = self.peak = 0

    def bound(self, request: Any) -> Any:
        """Nothing: the side that asks knows."""
        from runtime.usage import Usage

        return Usage(0, 0)

    async def complete(self, request: Any) -> Any:
        """Answer after a while, for one call too many to be seen."""
        from runtime.models.base import ChatReply
        from runtime.usage import Usage

        self.now += 1
        self.peak = max(self.peak, self.now)
        await anyio.sleep(0.05)
        self.now -= 1
        return ChatReply("7", Usage(500, 500))


@pytest.fixture(scope="session")
def narrow() -> Iterator[Any]:
    """The address of an endpoint that is declared to take four calls at once, as `far/narrow`, and the model behind it."""
    from runtime.testing import HostileEndpoint

    model = Narrow()
    with HostileEndpoint({"narrow": model}) as at:
        yield at.base_url, model


@pytest.fixture(scope="session")
def models(
    own: ModuleType, billing: ModuleType, endpoint: str, provider: Any, hostile: Any, narrow: Any
) -> dict[str, Any]:
    """All models of the session's runtimes: the user's own, the endpoint's as `far/...`, the hostile one's and the provider's."""
    from runtime import ModelSpec

    free = {"input_usd": 0, "output_usd": 0, "fixed_usage": (500, 500), "window_tokens": 100_000}
    small = {"input_usd": "0.10", "output_usd": "0.40", "tokenizer": "bytes4", "window_tokens": 32_768}
    return {
        "far/m": ModelSpec(endpoint=endpoint, model="m", key_env="", **free),
        "far/small": ModelSpec(endpoint=endpoint, model="sim/small", key_env="", **small),
        "hangs": ModelSpec(endpoint=hostile.base_url, model="fault/hang", key_env="", **small),
        "far/narrow": ModelSpec(endpoint=narrow[0], model="narrow", key_env="", max_parallel=4, **free),
        **own.MODELS,
        "crowd": billing.CROWD,
        "billed": provider.model("billed", 0.05),
        "billed-slow": provider.model("billed-slow", 0.25),
        "billed-fast": provider.model("billed-fast", 0.0),
    }


@pytest.fixture(scope="session")
def in_process(models: dict[str, Any]) -> Iterator[Driven]:
    """A runtime without Ray."""
    from runtime import Runtime

    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(Runtime(models=models)) as runtime,
    ):
        yield Driven(runtime, portal)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the store of the session's Ray cluster; on disk, because its bank is killed now and then."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def ray_cluster(models: dict[str, Any], own: ModuleType, billing: ModuleType, store: Path) -> Iterator[Driven]:
    """The session's one Ray cluster, with two hosts; for tests that bear the mark `ray`."""
    from runtime import Runtime

    with start_blocking_portal("asyncio") as portal:
        entering = Runtime("local", models=models, hosts=2, modules=[own, billing], out=store)
        with portal.wrap_async_context_manager(entering) as runtime:
            yield Driven(runtime, portal)


@pytest.fixture(params=["in process", pytest.param("on Ray", marks=pytest.mark.ray)])
def driven(request: pytest.FixtureRequest) -> Driven:
    """The same test on both kinds of hosts."""
    return request.getfixturevalue("ray_cluster" if request.param == "on Ray" else "in_process")


# ---- Processes, and what kills of them cost.


class Processes:
    """What runs on this machine, as far as it concerns a test."""

    def family_of(self, pid: int) -> dict[int, str]:
        """A process and all that descend from it, with what they call themselves."""
        parents, names = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except (FileNotFoundError, ProcessLookupError):
                    continue
        found = {pid}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return {one: names[one].strip() for one in found if one in names}

    def still_there(self, pids: Iterable[int], within_s: float) -> set[int]:
        """Those of them that have not ended after this time."""
        left = set()
        for pid in pids:
            try:
                ends = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            poll = select.poll()
            poll.register(ends, select.POLLIN)
            if not poll.poll(within_s * 1000):
                left.add(pid)
            os.close(ends)
        return left

    def banks(self, driver: int) -> list[int]:
        """The bank's process, where this driver has one."""
        return [pid for pid, name in self.family_of(driver).items() if name.startswith("ray::Bank")]

    def hosts(self, driver: int) -> list[int]:
        """The processes of this driver's hosts."""
        return sorted(pid for pid, name in self.family_of(driver).items() if name.startswith("ray::Host"))

    def kill(self, pids: Iterable[int]) -> None:
        """Kill these with SIGKILL."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_bank(self, driver: int) -> int:
        """Kill the bank of this driver, as soon as it has one that is alive; returns which it was."""
        return self._kill_any(lambda: self.banks(driver), "bank")

    def kill_host(self, driver: int, among: Callable[[list[int]], int], unless: Future[Any]) -> int:
        """The same with one of the driver's hosts. Where work is done that needs hosts, none may come; then returns 0."""
        return self._kill_any(lambda: [among(found)] if (found := self.hosts(driver)) else [], "host", unless)

    def _kill_any(self, find: Callable[[], list[int]], what: str, unless: Future[Any] | None = None) -> int:
        # A process that somebody else starts gives no sign to us, so we look until it is there.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if unless is not None and unless.done():
                return 0
            for pid in find():
                with suppress(ProcessLookupError):
                    ends = os.pidfd_open(pid)
                    signal.pidfd_send_signal(ends, signal.SIGKILL)
                    dead = select.poll()
                    dead.register(ends, select.POLLIN)
                    dead.poll()
                    os.close(ends)
                    return pid
            select.select([], [], [], 0.005)
        raise AssertionError(f"there is no {what} to kill")


@pytest.fixture(scope="session")
def processes() -> Processes:
    """A hold on processes."""
    return Processes()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep figures of this test: printed, and under its name in the JSON file that OSTROM_CHAOS_FIGURES names, if it is set."""

    def keep(**values: float) -> None:
        name = request.node.name
        print(f"{name}: {json.dumps(values)}")
        if path := os.environ.get("OSTROM_CHAOS_FIGURES"):
            file = Path(path)
            known = json.loads(file.read_text("utf-8")) if file.exists() else {}
            kills = request.node.get_closest_marker("chaos") is not None
            what = "chaos" if kills else f"test ARGS={request.node.nodeid.partition('::')[0]}"
            made = {"command": f"OSTROM_CHAOS_FIGURES=FILE make {what}"}
            file.write_text(json.dumps(made | known | {name: values}, indent=2) + "\n", "utf-8")

    return keep
