"""Owns a host: it runs many agents. In process it is this object; on Ray it is the same object inside one actor.

Virtual runs go one after another through one `trio.run` per batch, on a clock that jumps; live runs share the event loop of
whoever calls, on its monotonic clock.
"""

import gc
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import anyio
from trio.testing import MockClock

from runtime.agents.tools import Tool, use
from runtime.bank.book import Need
from runtime.bank.client import BankClient, Parts, Verdicts
from runtime.bank.live import Life, LiveJournal
from runtime.bank.store import Note
from runtime.boundary import contained
from runtime.budget import Amounts
from runtime.clock import TICK_S, LoopClock, VirtualClock
from runtime.errors import OrchestrationError
from runtime.models.base import ChatModel, ChatReply, ChatRequest
from runtime.models.catalog import Catalog
from runtime.models.governor import Exchange, Governor
from runtime.models.probe import Unproved
from runtime.models.spec import LimitField
from runtime.modes import tape_of
from runtime.preflight import Prepared, RunSpec, prepare
from runtime.result import RunResult
from runtime.run import SCOPE, Run
from runtime.spread import Peers, Spread

GC_THRESHOLD = (50_000, 20, 50)
"""Thousands of agents in flight are many young objects that live as long as their run; at Python's own threshold the
collector walks them over and over. Set in host processes only, never in the user's."""


class Host:
    """Runs runs.

    Args:
        catalog: the models, as the driver resolved them.
        write: delivers what live runs write to the bank and returns what became of it when it is committed.
        name: under which it has its share of the endpoints.
        share: asks for that share; None: it has all of them to itself.
    """

    def __init__(
        self,
        catalog: Catalog,
        write: Callable[[Parts], Awaitable[Verdicts]],
        name: str = "here",
        share: Exchange | None = None,
        *,
        own_process: bool = True,
    ) -> None:
        self._catalog = catalog
        self._bank = BankClient(write)
        self._governor = Governor(name, share)
        self._under_way: dict[str, Run] = {}
        self._lost: set[str] = set()
        """Ids of other hosts that were found lost."""
        if own_process:
            gc.set_threshold(*GC_THRESHOLD)

    async def run_virtual(self, specs: Sequence[RunSpec], peers: Peers | None = None) -> list[bytes]:
        """Run virtual runs one after another in virtual time, in a thread of their own; returns their sealed forms.

        Args:
            peers: the hosts over which their seats are spread; None: all seats stay here.
        """
        notes: list[Note] = []

        def batch() -> list[bytes]:
            return [
                result.to_json()
                for result in run_virtual(specs, self._catalog.get, notes, partial(self._spread, peers))
            ]

        bodies = await anyio.to_thread.run_sync(batch)
        if notes:
            await self._bank.write(notes)
        return bodies

    async def run_live(self, spec: RunSpec, life: Life, disturbed: bool, peers: Peers | None = None) -> bytes:
        """Run a live run, or take it up again where its entries end; returns its sealed form.

        Args:
            disturbed: it lost a host before, and the result is to say so.
            peers: as for virtual runs.

        Raises:
            ConfigError: the run does not pass its checks, or differs from the one in the store.
            RunHalted: an operator paused it.
            StaleEpoch: another host took it over.
        """
        tape = tape_of(spec)
        prepared = prepare(spec, self._catalog.get) if tape is None else tape.prepare(self._catalog.get)
        journal = LiveJournal(spec.run_id, self._bank, life, len(spec.budget.dimensions))
        run = Run(
            prepared,
            LoopClock(),
            journal,
            partial(self._governor.permit, spec.run_id),
            life.epoch,
            disturbed=disturbed,
            tape=tape,
            beside=self._governor.serve,
        )
        run.spread = self._spread(peers, prepared)
        run.earlier.extend(journal.history.restore(run.ledger, SCOPE))
        run.raised.extend(life.raised)
        if tape is not None:
            tape.lay_into(run)
        self._under_way[spec.run_id] = run
        try:
            result = await run.execute()
            note = None if tape is None else tape.finish(result)
            if note is not None:
                await self._bank.write([note])
            return result.to_json()
        finally:
            if self._under_way.get(spec.run_id) is run:
                del self._under_way[spec.run_id]

    async def reach(self, names: Collection[str]) -> None:
        """Connect to the endpoints of these models, before anything is spent on a run.

        Raises:
            ConfigError: nobody answers at one of them.
        """
        for name in names:
            reach = getattr(self._catalog.get(name), "reach", None)
            if reach is not None:
                await reach()

    async def complete(self, name: str, request: ChatRequest, where: str, learned: LimitField) -> ChatReply:
        """Let a model of this host answer for a seat whose run has its home on another.

        Args:
            where: what errors of the model's own code call the place.
            learned: the field in which the endpoint was found to obey the limit; empty where that needs no finding out.

        Raises:
            OrchestrationError: whatever the model raised.
        """
        model = self._catalog.get(name)
        if learned and getattr(model, "unproved", False):
            cast("Unproved", model).learn(learned)
        return await contained(where, model.complete, request)

    async def use(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """Use a tool here for a seat whose run has its home on another host."""
        return await use(tool, arguments)

    async def in_virtual_time(self, method: str, *args: object) -> tuple[float, object]:
        """Call `complete` or `use` on a clock that jumps; returns how long it took there, and what came of it, errors too."""
        return await anyio.to_thread.run_sync(_timed, partial(getattr(self, method), *args))

    async def cancel(self, run_id: str) -> None:
        """End a live run now, if it is under way here."""
        if run_id in self._under_way:
            self._under_way[run_id].cancel()

    async def top_up(self, run_id: str, amounts: Amounts) -> None:
        """Raise the budget of a live run, if it is under way here."""
        if run_id in self._under_way:
            self._under_way[run_id].top_up(amounts)

    async def close(self) -> None:
        """Close the connections of the models' clients."""
        await self._catalog.aclose()

    def _spread(self, peers: Peers | None, prepared: Prepared) -> Spread | None:
        agents = prepared.wiring.agents
        return None if peers is None else Spread(peers, agents, self._lost, virtual=prepared.virtual)


def _no_place(model: ChatModel, need: Need) -> None:
    """Virtual models need none."""


def calls_to(host: Host) -> Callable[..., Awaitable[Any]]:
    """Calls methods of the one host of this process the way a cluster calls its actors'."""

    async def on_host(_: int, method: str, *args: object) -> Any:
        return await getattr(host, method)(*args)

    return on_host


def _timed(call: Callable[[], Awaitable[object]]) -> tuple[float, object]:
    async def timed(mock: MockClock) -> tuple[float, object]:
        try:
            outcome = await call()
        except OrchestrationError as error:
            outcome = error
        return mock.current_time(), outcome

    mock = MockClock(autojump_threshold=0)
    return anyio.run(timed, mock, backend="trio", backend_options={"clock": mock})


def run_virtual(
    specs: Sequence[RunSpec],
    find: Callable[[str], ChatModel],
    notes: list[Note] | None = None,
    spread: Callable[[Prepared], Spread | None] = lambda prepared: None,
) -> list[RunResult]:
    """Run virtual runs one after another in virtual time; blocks the calling thread.

    Args:
        notes: where the recordings of runs go that are to be recorded.
        spread: says which hosts work for the seats of a run; by default all do it here.

    Raises:
        ConfigError: a run does not pass its checks.
        ReplayDiverged: one is no replay of what was recorded.
    """

    todo = deque(specs)
    results: list[RunResult] = []

    async def batch(mock: MockClock) -> None:
        clock = VirtualClock(mock)
        # A user's own sleep may leave the grid of virtual time, where sums are no longer exact; the next run then begins on
        # a clock of its own, so that no run feels which others came before it.
        while todo and mock.current_time() % TICK_S == 0:
            spec = todo.popleft()
            tape = tape_of(spec)
            prepared = prepare(spec, find) if tape is None else tape.prepare(find)
            run = Run(prepared, clock, None, _no_place, 0, tape=tape, spread=spread(prepared))
            if tape is not None:
                tape.lay_into(run)
            results.append(await run.execute())
            note = None if tape is None else tape.finish(results[-1])
            if note is not None and notes is not None:
                notes.append(note)

    while todo:
        mock = MockClock(autojump_threshold=0)
        anyio.run(batch, mock, backend="trio", backend_options={"clock": mock})
    return results
