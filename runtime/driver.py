"""Owns Runtime, the user's door: it opens the bank, starts or joins hosts, ships runs to them and seals what comes back."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from runtime.bank.client import BankClient, in_process
from runtime.bank.grants import ACCOUNT, Limits, granted_amounts, scope_caps
from runtime.bank.service import Bank
from runtime.bank.store import Note
from runtime.boundary import contained
from runtime.budget import Budget
from runtime.control import listening
from runtime.errors import BudgetExceeded, ConfigError, OrchestrationError
from runtime.host import Host, calls_to
from runtime.ids import check_name
from runtime.models.base import ChatModel
from runtime.models.catalog import Catalog, ModelSpec
from runtime.modes import mode_of
from runtime.operator import Operator
from runtime.preflight import RunSpec
from runtime.protocols import Topology
from runtime.recording import Recording
from runtime.recording_file import RecordingFile
from runtime.result import RunResult
from runtime.shipping import Deliver, Done, Shipping
from runtime.spread import Placement, is_spread, provide_nothing
from runtime.task import Task


class Runtime:
    """Runs teams under budgets; use it as `async with Runtime() as rt`.

    Args:
        address: None runs in this process; "local" starts a Ray cluster on this machine; "host:port" joins one; "cluster"
            joins the one whose job this process is.
        models: names for ModelSpecs or ChatModels, beside the catalogue's own and those of ostrom.toml.
        out: folder for the store; None keeps it in memory, and nothing can be resumed.
        cap: limit of the account, that is, of everything real which runs of this folder ever spend.
        hosts: number of hosts on Ray; None: one per core of the cluster.
        modules: modules of the user that the hosts cannot import by name; they are shipped by value.
        placement: where the seats of a run work, which changes no result: all on its home host ("together"), or in turn on
            all hosts ("spread"), which are asked call by call (`runtime.spread`).
        record: a new file, into which all that runs ask, get and are granted is written.
        replay: such a file, or a Recording: runs get from it what the recorded ones got; nothing is called or billed.

    Raises:
        ConfigError: hosts below 1, another placement, a model that cannot be used, record with replay; and on entering.
        StoreError: on entering.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        models: Mapping[str, ModelSpec | ChatModel] | None = None,
        out: Path | str | None = None,
        cap: Budget | None = None,
        hosts: int | None = None,
        modules: Sequence[ModuleType] = (),
        placement: Placement = "together",
        record: Path | str | RecordingFile | None = None,
        replay: Path | str | Recording | None = None,
    ) -> None:
        if hosts is not None and hosts < 1:
            raise ConfigError(f"Runtime: hosts={hosts} must be 1 or more; leave it out for one per core")
        self.catalog = Catalog(models)
        self._address = address
        self._out = None if out is None else Path(out)
        self._account = Limits(ACCOUNT, True, scope_caps(cap))
        self._mode = mode_of(self.catalog, self._account, record, replay, stored=out is not None)
        self._n_hosts = hosts
        self._modules = modules
        self._spread = is_spread(placement)
        self._provide = provide_nothing
        self._stack = AsyncExitStack()
        self._on_host: Callable[..., Any] = _not_entered
        self._on_bank: Callable[..., Any] = _not_entered
        self._client: BankClient
        self._shipping: Shipping
        self.operator: Operator
        """Pause, resume, cancel and top up what is under way; see `runtime.operator`."""
        self._group: TaskGroup
        self.hosts = 1
        self._unnamed = 0
        self._under_way: dict[str, anyio.Event] = {}
        self._names: dict[str, str] = {}
        """Run ids under way, each with the address of its run."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._address is None:
                bank = Bank(self._out)
                stack.callback(bank.close)
                self._client, self._on_bank = in_process(bank)
                host = Host(self.catalog, partial(self._on_bank, "write"), own_process=False)
                stack.push_async_callback(host.close)
                self._on_host = calls_to(host)
            else:
                from runtime.cluster import Cluster

                cluster = await Cluster.start(self._address, self._n_hosts, self.catalog, self._out, self._modules)
                stack.push_async_callback(cluster.stop)
                cluster.spread = self._spread
                self._client, self.hosts, self._provide = cluster.client, cluster.n_hosts, cluster.provide
                self._on_host, self._on_bank = cluster.on_host, cluster.on_bank
            self._account = self._account._replace(caps=await self._on_bank("open", self._account.caps))
            self._mode.limit(self._account)
            self.operator = Operator(self._on_bank, self._on_host, self._client)
            for name, ruling in (await self._on_bank("rulings")).items():
                if ruling == "paused":
                    self.operator.gates.close(name)
            self._shipping = Shipping(
                self._on_host,
                self._on_bank,
                self._client,
                self.hosts,
                1 if self._address is None else 2,
                self._account,
                self.operator.gates,
                self.operator.homes,
            )
            stack.enter_context(self._mode.open())
            if self._out is not None:
                await stack.enter_async_context(listening(self.operator, self._out))
            # Entered last, so that work which somebody left behind in `map` ends before the bank closes under it.
            self._group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._group.cancel_scope.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def run(
        self,
        topology: Topology,
        task: Task,
        *,
        budget: Budget,
        seed: int = 0,
        run_id: str | None = None,
    ) -> RunResult:
        """Run a topology on a task under a budget.

        With the `run_id` of an earlier run of the same ingredients: a finished one is returned from the store, an
        interrupted live one is taken up again.

        Raises:
            ConfigError: found before anything is spent.
            ReplayDiverged: a replay asked for something else than the recorded run.
        """
        if run_id is None and not self._mode.replays:
            free = await self._on_bank("free_number", self._unnamed)
            self._unnamed = max(self._unnamed + 1, free)
            run_id = f"run-{self._unnamed}"
        spec = self.spec("" if run_id is None else check_name(run_id, "run_id"), topology, task, budget, seed)
        finished: list[Done] = []

        async def deliver(more: Sequence[Done]) -> None:
            finished.extend(more)

        await contained("the driver", self._work, [spec], self._mode.keeping(deliver, self._on_bank))
        return finished[0][1]

    def spec(self, run_id: str, topology: Topology, task: Task, budget: Budget, seed: int) -> RunSpec:
        """Check a run and give it its content address; in a replay, find the recorded run of these ingredients.

        Raises:
            ConfigError: see `runtime.preflight.prepare` and `runtime.modes`; also a missing key.
        """
        return self._mode.spec(RunSpec(run_id, topology, task, budget, seed))

    async def map(self, specs: Iterable[RunSpec]) -> AsyncIterator[tuple[RunSpec, RunResult]]:
        """Run many specs; each comes back with its result as soon as that is sealed, in any order.

        Specs come from `spec`; those without an address are checked first. Trials whose address is sealed in
        the store already are given back from there.

        Raises:
            ConfigError: a spec does not pass its checks; nothing was run.
        """
        todo = [s if s.address else self.spec(s.run_id, s.topology, s.task, s.budget, s.seed) for s in specs]
        send, receive = anyio.create_memory_object_stream[Sequence[Done] | OrchestrationError](len(todo) + 1)
        scope = anyio.CancelScope()

        async def work() -> None:
            # In the runtime's own task group: a generator must not hold one open between two of its results.
            with send, scope:
                try:
                    await contained("the driver", self._work, todo, self._mode.keeping(send.send, self._on_bank))
                except OrchestrationError as error:
                    with suppress(anyio.BrokenResourceError):  # nobody listens any more
                        send.send_nowait(error)

        self._group.start_soon(work)
        try:
            with receive:
                async for item in receive:
                    if isinstance(item, OrchestrationError):
                        raise item
                    for done in item:
                        yield done
        finally:
            scope.cancel()

    async def sealed(self, addresses: Sequence[str]) -> dict[str, RunResult]:
        """Finished trials of these addresses, from the store."""
        found: dict[str, RunResult] = await self._on_bank("results", list(addresses))
        return found

    async def note(self, name: str) -> bytes | None:
        """A named document of the store."""
        found: bytes | None = await self._on_bank("note", name)
        return found

    async def set_note(self, name: str, body: bytes) -> None:
        """Write a named document into the store."""
        await self._client.write([Note(name, body)])

    async def enter(self, limits: Limits, blocks: Sequence[Sequence[RunSpec]]) -> int:
        """Let the next blocks of an experiment's runs in, as many as its cap has room for; returns how many.

        A block enters iff what was settled under the cap, what is held, and the whole budgets of its own runs fit. Where the
        first one would fit if others gave back what they hold, they are waited for: timing may delay it, and not change it.
        """
        asked = [[(spec.run_id, granted_amounts(spec.budget)) for spec in block] for block in blocks]
        while True:
            freed = self.operator.gates.freed
            entered: int = await self._on_bank("enter", limits, asked)
            if entered or not asked:
                return entered
            first = tuple(map(sum, zip(*(amounts for _, amounts in asked[0]), strict=True)))
            try:
                await self._on_bank("check_room", limits.scope, first)
            except BudgetExceeded:
                return 0
            await freed.wait()

    async def resume(self, run_id: str) -> None:
        """Let a paused run go on.

        Raises:
            ConfigError: it is not paused.
        """
        await self.operator.resume(run_id)

    async def _work(self, specs: Sequence[RunSpec], deliver: Deliver) -> None:
        """Take finished specs from the store and run the others; each address once, however many ask for it at a time."""
        # What a run holds goes by its id, so two at once must not share one.
        taken = {spec.run_id: spec.address for spec in reversed(specs)} | self._names
        twice = next(
            (s.run_id for s in specs if s.address not in self._under_way and taken[s.run_id] != s.address), None
        )
        if twice is not None:
            raise ConfigError(f"run id {twice!r} belongs to another run that is under way; take another one")
        mine, elsewhere = list[RunSpec](), list[RunSpec]()
        for spec in specs:
            if spec.address in self._under_way:
                elsewhere.append(spec)
            else:
                self._under_way[spec.address] = anyio.Event()
                self._names[spec.run_id] = spec.address
                mine.append(spec)
        scopes = {spec.scope for spec in mine if spec.scope}
        self.operator.scopes.update(scopes)
        try:
            done: dict[str, RunResult] = await self._on_bank("results", [spec.address for spec in mine])
            if done:
                await deliver([(spec, done[spec.address]) for spec in mine if spec.address in done])
            self._provide({wanted for spec in mine if spec.address not in done for wanted in spec.equipment})
            await self._shipping.run([spec for spec in mine if spec.address not in done], deliver)
        finally:
            self.operator.scopes.subtract(scopes)
            try:
                with anyio.CancelScope(shield=True):
                    await self._on_bank("abandon", [spec.run_id for spec in mine])
            finally:
                for spec in mine:
                    self._under_way.pop(spec.address).set()
                    del self._names[spec.run_id]
                self.operator.gates.tell_freed()
        for spec in elsewhere:
            while spec.address in self._under_way:
                await self._under_way[spec.address].wait()
        if elsewhere:
            # From the store now, or still to be run, if whoever had begun was cancelled.
            await self._work(elsewhere, deliver)


async def _not_entered(*_: object) -> Any:
    raise ConfigError("use the runtime as `async with Runtime(...) as rt:`")
