"""Owns how runs get to their hosts and back: batches of virtual runs, single live runs, and sending again what was lost."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import orjson

from runtime.bank.client import BankClient
from runtime.bank.grants import ACCOUNT, Limits, granted_amounts
from runtime.bank.live import Life
from runtime.bank.statement import books_of
from runtime.bank.store import Opened, Sealed
from runtime.errors import BudgetExceeded, HostLost, RunHalted
from runtime.gates import Gates
from runtime.nesting import wired
from runtime.preflight import RunSpec
from runtime.result import RunResult

BATCH = 50
"""Virtual runs a call: a Ray call costs 1 ms of CPU, as much as ten to fifty agent steps."""
LIVE_AT_ONCE = 64
"""Live runs in flight per host, of those that were handed in together."""
MAX_SENDS = 4
"""How often work is sent when its host is lost. Virtual runs give the same results each time; a live run is taken up again
where its journal ends, and is marked as disturbed."""

T = TypeVar("T")
Done = tuple[RunSpec, RunResult]
Deliver = Callable[[Sequence[Done]], Awaitable[None]]


@dataclass(slots=True)
class Shipping:
    """The way to the hosts of one runtime."""

    on_host: Callable[..., Awaitable[Any]]
    """Calls a method of host i."""
    on_bank: Callable[..., Awaitable[Any]]
    client: BankClient
    hosts: int
    batches: int
    """Batches on the way to each host at a time: two where the way is long, so that no host waits for us."""
    account: Limits
    gates: Gates = field(default_factory=Gates)
    homes: dict[str, int] = field(default_factory=dict)
    """Host of each live run under way; a new one goes where the fewest are."""
    door: anyio.Lock = field(default_factory=anyio.Lock)
    _reached: set[str] = field(default_factory=set)
    """Models whose endpoints answered when their first run began; later on an outage is waited for like any other."""

    async def run(self, todo: Sequence[RunSpec], deliver: Deliver) -> None:
        """Run specs on the hosts, seal and deliver.

        Raises:
            ConfigError: nobody answers at the endpoint of a model that is asked for the first time; nothing was run.
            BudgetExceeded: the account had no room for one of them, or its scope was billed too much; all others were run.
        """
        virtual = [spec for spec in todo if not spec.live]
        await self._reach([spec for spec in todo if spec.live])
        size = max(1, min(BATCH, len(virtual) // (4 * self.hosts)))
        batches = iter([virtual[i : i + size] for i in range(0, len(virtual), size)])
        lives = iter([spec for spec in todo if spec.live])
        refused: list[BudgetExceeded] = []

        async def feed_batches(host: int) -> None:
            for job in batches:
                await self.gates.pass_through(job[0].scope)
                await deliver(await self._seal(job, await _insist(partial(self._send_virtual, host, job))))

        async def feed_live() -> None:
            for spec in lives:
                try:
                    if not spec.scope:
                        await self._enter_account(spec)
                    body = await self._live(spec)
                except BudgetExceeded as error:
                    refused.append(error)
                else:
                    await deliver(await self._seal([spec], [body]))

        async with anyio.create_task_group() as group:
            for host in range(self.hosts):
                for _ in range(self.batches):
                    group.start_soon(feed_batches, host)
            for _ in range(min(LIVE_AT_ONCE * self.hosts, len(todo) - len(virtual))):
                group.start_soon(feed_live)
        if refused:
            raise refused[0]

    async def _reach(self, specs: Sequence[RunSpec]) -> None:
        """Find an address that nobody answers at before anything is spent on it.

        Raises:
            ConfigError: there is one.
        """
        names = {n for spec in specs for agent in wired(spec.topology).agents.values() for n in agent.model_names()}
        if new := names - self._reached:
            await _insist(lambda again: self.on_host(0, "reach", sorted(new)))
            self._reached |= new

    async def _enter_account(self, spec: RunSpec) -> None:
        """Wait until the account has room for a live run that belongs to no experiment.

        Raises:
            BudgetExceeded: it never will.
        """
        amounts = granted_amounts(spec.budget)
        async with self.door:  # who came first enters first, however much less the next one would need
            while True:
                freed = self.gates.freed
                if await self.on_bank("enter", self.account, [[(spec.run_id, amounts)]]):
                    return
                await self.on_bank("check_room", ACCOUNT, amounts)
                await freed.wait()

    async def _send_virtual(self, host: int, job: list[RunSpec], again: bool) -> list[bytes]:
        bodies: list[bytes] = await self.on_host(host, "run_virtual", job)
        return bodies

    async def _live(self, spec: RunSpec) -> bytes:
        """Run a live run to its end, however often an operator pauses it on the way."""
        while True:
            await self.gates.pass_through(spec.run_id, spec.scope)
            load = Counter(self.homes.values())
            host = self.homes[spec.run_id] = min(range(self.hosts), key=load.__getitem__)
            try:
                return await _insist(partial(self._send_live, host, spec))
            except RunHalted as halted:
                if halted.ruling != "paused":
                    raise
            finally:
                del self.homes[spec.run_id]

    async def _send_live(self, host: int, spec: RunSpec, again: bool) -> bytes:
        facts = {"scope": spec.scope or ACCOUNT, "dimensions": spec.budget.dimensions, "caps": spec.budget.caps}
        # Each sending is a life of its own: the bank lets only the newest one spend.
        life: Life = await self.on_bank("take", Opened(spec.run_id, spec.address, orjson.dumps(facts)))
        if life.sealed is not None:
            return life.sealed  # an operator closed it while it waited here
        body: bytes = await self.on_host(host, "run_live", spec, life, again)
        return body

    async def _seal(self, specs: Sequence[RunSpec], bodies: Sequence[bytes]) -> list[Done]:
        """Seal results as their hosts wrote them, and read them."""
        done = [(spec, RunResult.from_json(body)) for spec, body in zip(specs, bodies, strict=True)]
        await self.client.write(
            [
                Sealed(spec.run_id, spec.address, body, _books(spec, r))
                for (spec, r), body in zip(done, bodies, strict=True)
            ]
        )
        self.gates.tell_freed()
        return done


def _books(spec: RunSpec, result: RunResult) -> bytes:
    """What the run says to the books above it; nothing where there are none."""
    if not (spec.live or spec.scope):
        return b"{}"
    return books_of(spec.scope or ACCOUNT, granted_amounts(spec.budget), result.attempts)


async def _insist(send: Callable[[bool], Awaitable[T]]) -> T:
    """Send again when the host is lost; `send` is told whether it was sent before."""
    for turn in range(MAX_SENDS - 1):
        with suppress(HostLost):
            return await send(turn > 0)
    return await send(True)
