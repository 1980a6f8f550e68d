"""Owns how runs get to their hosts and back: batches of virtual runs, single live runs, and sending again what was lost."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio

from runtime.bank.service import BankClient
from runtime.bank.store import Sealed
from runtime.errors import HostLost
from runtime.preflight import RunSpec
from runtime.result import RunResult

BATCH = 50
"""Virtual runs a call: a Ray call costs 1 ms of CPU, as much as ten to fifty agent steps."""
LIVE_AT_ONCE = 64
"""Live runs in flight per host."""
MAX_SENDS = 4
"""How often work is sent when its host is lost. Virtual runs give the same results each time; a live run is taken up again
where its journal ends, and is marked as disturbed."""

T = TypeVar("T")
Done = tuple[RunSpec, RunResult]
Deliver = Callable[[Sequence[Done]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Shipping:
    """The way to the hosts of one runtime."""

    on_host: Callable[..., Awaitable[Any]]
    """Calls a method of host i."""
    on_bank: Callable[..., Awaitable[Any]]
    client: BankClient
    hosts: int
    batches: int
    """Batches on the way to each host at a time: two where the way is long, so that no host waits for us."""

    async def run(self, todo: Sequence[RunSpec], deliver: Deliver) -> None:
        """Run specs on the hosts, seal and deliver."""
        virtual = [spec for spec in todo if not spec.live]
        size = max(1, min(BATCH, len(virtual) // (4 * self.hosts)))
        batches = iter([virtual[i : i + size] for i in range(0, len(virtual), size)])
        lives = iter([spec for spec in todo if spec.live])

        async def feed_batches(host: int) -> None:
            for job in batches:
                await deliver(await self._seal(job, await _insist(partial(self._send_virtual, host, job))))

        async def feed_live(host: int) -> None:
            for spec in lives:
                await deliver(await self._seal([spec], [await _insist(partial(self._send_live, host, spec))]))

        async with anyio.create_task_group() as group:
            for host in range(self.hosts):
                for _ in range(self.batches):
                    group.start_soon(feed_batches, host)
                for _ in range(min(LIVE_AT_ONCE, len(todo) - len(virtual))):
                    group.start_soon(feed_live, host)

    async def _send_virtual(self, host: int, job: list[RunSpec], again: bool) -> list[bytes]:
        bodies: list[bytes] = await self.on_host(host, "run_virtual", job)
        return bodies

    async def _send_live(self, host: int, spec: RunSpec, again: bool) -> bytes:
        entries = await self.on_bank("entries", spec.run_id)
        body: bytes = await self.on_host(host, "run_live", spec, entries, again)
        return body

    async def _seal(self, specs: Sequence[RunSpec], bodies: Sequence[bytes]) -> list[Done]:
        """Seal results as their hosts wrote them, and read them."""
        pairs = list(zip(specs, bodies, strict=True))
        await self.client.write([Sealed(spec.run_id, spec.address, body) for spec, body in pairs])
        return [(spec, RunResult.from_json(body)) for spec, body in pairs]


async def _insist(send: Callable[[bool], Awaitable[T]]) -> T:
    """Send again when the host is lost; `send` is told whether it was sent before."""
    for turn in range(MAX_SENDS - 1):
        with suppress(HostLost):
            return await send(turn > 0)
    return await send(True)
