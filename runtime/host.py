"""Owns a host: it runs many agents. In process it is this object; on Ray it is the same object inside one actor.

Virtual runs go one after another through one `trio.run` per batch, on a clock that jumps; live runs share the caller's event
loop, on its monotonic clock.
"""

from collections.abc import Callable, Sequence

import anyio
from trio.testing import MockClock

from runtime.bank.live import LiveJournal
from runtime.bank.service import BankClient
from runtime.bank.store import Entry
from runtime.clock import LoopClock
from runtime.models.base import ChatModel
from runtime.models.governor import Governor
from runtime.preflight import RunSpec, prepare
from runtime.result import RunResult
from runtime.run import SCOPE, Run

Find = Callable[[str], ChatModel]


def run_virtual(specs: Sequence[RunSpec], find: Find) -> list[RunResult]:
    """Run virtual runs one after another in virtual time; blocks the calling thread.

    Raises:
        ConfigError: a run does not pass its checks.
    """

    async def batch() -> list[RunResult]:
        clock = LoopClock()
        return [await Run(prepare(spec, find), clock, None, lambda _: None).execute() for spec in specs]

    return anyio.run(batch, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})


class LiveRunner:
    """Runs live runs in the current event loop; they share its endpoints' places."""

    def __init__(self, bank: BankClient) -> None:
        self._bank = bank
        self._governor = Governor()

    async def run(self, spec: RunSpec, find: Find, entries: Sequence[Entry]) -> RunResult:
        """Run a live run, or take it up again where its entries end.

        Raises:
            ConfigError: the run does not pass its checks, or differs from the one in the store.
        """
        prepared = prepare(spec, find)
        journal = LiveJournal(spec.run_id, self._bank, entries, len(spec.budget.dimensions))
        if not entries:
            await journal.open(spec.address, b"{}")
        run = Run(prepared, LoopClock(), journal, self._governor.permit)
        run.earlier.extend(journal.restore(run.ledger, SCOPE))
        return await run.execute()
