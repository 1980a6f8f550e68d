"""Owns the loads of the bank's benchmark that wait: live attempts in flight, in this process and from hosts on Ray."""

import time
from pathlib import Path

import anyio
import orjson

from benchmarks.speed.anchors import Coalesced
from benchmarks.speed.bank_runs import EPOCH, LIMITS, MOST_USED, NEED, Work, live_run, opened_ledger, sealed_run, work
from benchmarks.speed.timing import Sample, stopwatch
from runtime.bank.book import Held
from runtime.bank.client import BankClient, in_process
from runtime.bank.ledger import Ledger
from runtime.bank.live import Life, LiveJournal
from runtime.bank.service import Bank
from runtime.budget import BASE_DIMENSIONS, Budget
from runtime.cluster import Cluster, _write_to_bank
from runtime.ids import address, draw
from runtime.journal import Key
from runtime.models.base import ChatReply
from runtime.models.catalog import Catalog
from runtime.models.scripted import ScriptedModel
from runtime.order import Order
from runtime.preflight import RunSpec
from runtime.protocols import Answer, Outcome, Team
from runtime.task import Task
from runtime.usage import Usage
from topologies import Single

N = len(BASE_DIMENSIONS)
_DIGEST = address(["request"])
_MADE_UP = 100
"""Attempts that are made up beforehand; they come again and again, under other keys."""


async def attempts(journal: LiveJournal, n: int, in_flight: int, call_s: float) -> list[float]:
    """Live attempts, each with its steps in a book of four scopes and its two entries in the journal.

    Args:
        n: how many; their keys are 0 to n - 1.
        in_flight: how many at a time.
        call_s: how long the model takes, half more or less; 0 leaves it out.

    Returns:
        Seconds that each took longer than its model.
    """
    ledger, made_up, todo = opened_ledger(4), work(_MADE_UP), iter(range(n))
    spent_s: list[float] = []

    async def worker() -> None:
        for i in todo:
            sleep_s = call_s * (0.5 + draw("call", i)) if call_s else 0.0
            began = time.perf_counter()
            await _attempt(journal, ledger, i, made_up[i % _MADE_UP], sleep_s)
            spent_s.append(time.perf_counter() - began - sleep_s)

    async with anyio.create_task_group() as group:
        for _ in range(in_flight):
            group.start_soon(worker)
    return spent_s


async def _attempt(journal: LiveJournal, ledger: Ledger, i: int, one: Work, sleep_s: float) -> None:
    key = Key(i, one.key.seat, 0)
    held = ledger.reserve(key, "run", NEED, 0, EPOCH, True)
    assert isinstance(held, Held)
    ledger.sent(held.id, EPOCH)
    await journal.sent(held, NEED, Order(key, "work", "sim/small", 0, 0, one.row.senders), _DIGEST, float(i))
    if sleep_s:
        await anyio.sleep(sleep_s)
    ledger.settle(held.id, one.used)
    reply = ChatReply(one.row.reply, Usage(one.row.input_tokens, one.row.output_tokens))
    await journal.closed(one.row._replace(step=i), one.used, reply, _DIGEST, None)


def in_this_process(folder: Path, n: int, in_flight: int, call_s: float) -> Sample:
    """Attempts over the in-process client into a store on disk, every commit durable."""

    async def run() -> Sample:
        bank = Bank(folder)
        client, on_bank = in_process(bank)
        await on_bank("open")
        journal = LiveJournal("live", client, await on_bank("take", live_run("live")), N)
        with stopwatch() as sample:
            sample.latencies_s = await attempts(journal, n, in_flight, call_s)
        sample.n = n
        assert len(await on_bank("entries", "live")) == 2 * n
        bank.close()
        return sample

    return anyio.run(run)


class Writing(Single):
    """A team that asks nobody: in its host's process it writes attempts into the bank, by the way that hosts have.

    Args:
        run_id: under which it writes.
        epoch: of the host, as the bank gave it.
        bare: sends calls without content instead, all that wait in one.
    """

    def __init__(self, run_id: str, epoch: int, n: int, in_flight: int, *, bare: bool) -> None:
        super().__init__(model="m")
        self.run_id, self.epoch, self.n, self.in_flight, self.bare = run_id, epoch, n, in_flight, bare

    async def solve(self, task: Task, team: Team) -> Outcome:
        """Write; the answer is how long each attempt took, as JSON."""
        if self.bare:
            spent_s = await pairs(Coalesced(lambda batch: _write_to_bank([()] * batch)), self.n, self.in_flight)
        else:
            journal = LiveJournal(self.run_id, BankClient(_write_to_bank), Life(self.epoch, [], []), N)
            spent_s = await attempts(journal, self.n, self.in_flight, 0.0)
        return Answer(orjson.dumps(spent_s).decode())


async def pairs(line: Coalesced, n: int, in_flight: int) -> list[float]:
    """Pairs over a bare line; seconds of each."""
    spent_s: list[float] = []
    todo = iter(range(n))

    async def worker() -> None:
        for _ in todo:
            began = time.perf_counter()
            await line.pair()
            spent_s.append(time.perf_counter() - began)

    async with anyio.create_task_group() as group:
        for _ in range(in_flight):
            group.start_soon(worker)
    return spent_s


class OnRay:
    """A local cluster with its bank on disk, and what is measured there. Use `OnRay.started`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._round = 0

    @classmethod
    async def started(cls, folder: Path, hosts: int) -> "OnRay":
        """Start it."""
        model = ScriptedModel([""], input_tokens=1, output_tokens=1, virtual=False)
        cluster = await Cluster.start("local", hosts, Catalog({"m": model}), folder, ())
        await cluster.on_bank("open")
        return cls(cluster)

    async def stop(self) -> None:
        """End it."""
        await self._cluster.stop()

    async def bare_calls(self, n: int, in_flight: int) -> Sample:
        """One call a pair, nothing in it."""
        todo = iter(range(n))

        async def worker() -> None:
            for _ in todo:
                await self._cluster.on_bank("write", [()])

        with stopwatch(children=True) as sample:
            async with anyio.create_task_group() as group:
                for _ in range(in_flight):
                    group.start_soon(worker)
        sample.n = n
        return sample

    async def from_driver(self, n: int, in_flight: int) -> Sample:
        """Pairs without content from the driver, all that wait in one call."""
        line = Coalesced(lambda batch: self._cluster.on_bank("write", [()] * batch))
        with stopwatch(children=True) as sample:
            sample.latencies_s = await pairs(line, n, in_flight)
        sample.n = n
        return sample

    async def from_hosts(self, n: int, in_flight: int, *, bare: bool) -> Sample:
        """Attempts of one live run a host, written from the hosts at the same time."""
        self._round += 1
        specs = [await self._spec(f"w{self._round}-{i}", n, in_flight, bare) for i in range(self._cluster.n_hosts)]
        latencies: list[float] = []

        async def host(i: int) -> None:
            spec, life = specs[i]
            body = orjson.loads(await self._cluster.on_host(i, "run_live", spec, life, False))
            assert body["status"] == "completed", body["reason"]
            latencies.extend(orjson.loads(body["answer"]))

        with stopwatch(children=True) as sample:
            async with anyio.create_task_group() as group:
                for i in range(self._cluster.n_hosts):
                    group.start_soon(host, i)
        sample.n, sample.latencies_s = n * self._cluster.n_hosts, latencies
        return sample

    async def granted(self, runs: int, attempts_a_run: int, group: int, in_flight: int) -> Sample:
        """Virtual runs of an experiment: granted their budgets in blocks of four, and sealed in groups. Counts their attempts,
        which were reserved and settled before, by the hosts."""
        self._round += 1
        names = [f"g{self._round}-{i}" for i in range(runs)]
        budget = tuple(attempts_a_run * amount for amount in MOST_USED)
        blocks = [[(name, budget) for name in names[first : first + 4]] for first in range(0, runs, 4)]
        todo = work(attempts_a_run)
        seals = [sealed_run(name, todo, scopes=1) for name in names]
        groups = iter([seals[first : first + group] for first in range(0, runs, group)])

        async def worker() -> None:
            for part in groups:
                await self._cluster.client.write(part)

        with stopwatch(children=True) as sample:
            assert await self._cluster.on_bank("enter", LIMITS, blocks) == len(blocks)
            async with anyio.create_task_group() as tasks:
                for _ in range(in_flight):
                    tasks.start_soon(worker)
        sample.n = runs * attempts_a_run
        return sample

    async def _spec(self, run_id: str, n: int, in_flight: int, bare: bool) -> tuple[RunSpec, Life]:
        life: Life = await self._cluster.on_bank("take", live_run(run_id))
        team = Writing(run_id, life.epoch, n, in_flight, bare=bare)
        return RunSpec(run_id, team, Task("Write."), Budget(tokens=10**9), 0, live=True), life
