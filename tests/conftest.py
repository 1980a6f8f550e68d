"""Owns what every test gets: no network but loopback, the asyncio backend, and the Hypothesis profiles."""

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
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
