"""Owns what an operator may do to runs and experiments while they go on, and which states allow it.

A run is under way (this driver has it), interrupted (begun, and no driver has it), paused, cancelled (and not sealed yet), or
finished. An experiment is under way, paused or idle. A pause lets nothing new be sent: calls in flight end and are settled,
the run ends this life of its and is taken up again, from its journal and at no cost, when it is resumed. The time in between
does not count.

Commands are carried out one after another, because each of them looks at a state before it changes it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import orjson

from runtime.bank.client import BankClient
from runtime.bank.closing import cancelled_result
from runtime.bank.grants import ACCOUNT
from runtime.bank.live import Life
from runtime.bank.statement import books_of
from runtime.bank.store import Sealed
from runtime.budget import BASE_DIMENSIONS, Amounts, Budget
from runtime.errors import ConfigError, HostLost
from runtime.gates import Gates

State = Literal["under way", "interrupted", "paused", "cancelled", "idle", "finished"]
ALLOWED: dict[str, tuple[State, ...]] = {
    "pause": ("under way",),
    "resume": ("paused",),
    "cancel": ("under way", "interrupted", "paused", "cancelled"),
    "top-up": ("under way", "interrupted", "paused", "idle"),
}
EXPERIMENT = "experiment:"
"""Begins the scope of an experiment, so that it is never taken for a run."""


@dataclass(slots=True)
class Operator:
    """Commands about the runs of one store.

    Args:
        on_bank: calls a method of the bank.
        on_host: calls a method of host i.
    """

    on_bank: Callable[..., Awaitable[Any]]
    on_host: Callable[..., Awaitable[Any]]
    client: BankClient
    gates: Gates = field(default_factory=Gates)
    homes: dict[str, int] = field(default_factory=dict)
    """Host of each live run under way."""
    scopes: Counter[str] = field(default_factory=Counter)
    """How often each experiment is under way."""
    _one: anyio.Lock = field(default_factory=anyio.Lock)

    async def states(self) -> dict[str, State]:
        """The state of every run and experiment that is not finished."""
        found: dict[str, State] = dict.fromkeys(+self.scopes, "under way")
        found.update({opened.run_id: "interrupted" for opened in await self.on_bank("open_runs")})
        found.update(dict.fromkeys(self.homes, "under way"))
        for name, ruling in (await self.on_bank("rulings")).items():
            if ruling == "paused" and (name in found or name.startswith(EXPERIMENT)):
                found[name] = "paused"
            elif ruling == "cancelled" and name in found:
                found[name] = "cancelled"
        return found

    async def pause(self, name: str) -> str:
        """Let nothing new be sent for a run or an experiment; returns what was done.

        Raises:
            ConfigError: its state does not allow it.
        """
        async with self._one:
            name = await self._allowed("pause", name)
            self.gates.close(name)
            try:
                await self.on_bank("rule", name, "paused")
            except BaseException:
                self.gates.open(name)
                raise
        return f"{name} is paused; calls in flight end and are settled"

    async def resume(self, name: str) -> str:
        """Let a paused run or experiment go on; returns what was done.

        Raises:
            ConfigError: its state does not allow it.
        """
        async with self._one:
            name = await self._allowed("resume", name)
            await self.on_bank("rule", name, "resumed")
            here = name in self.homes or self.scopes[name] > 0 or self.gates.waits(name)
            self.gates.open(name)
        return f"{name} may go on" + ("" if here else "; run the command that began it again")

    async def cancel(self, name: str) -> str:
        """End a run with the status cancelled; what is in flight is charged at maximum. Returns what was done.

        Raises:
            ConfigError: its state does not allow it, or it is an experiment.
        """
        async with self._one:
            name = await self._allowed("cancel", name)
            if name.startswith(EXPERIMENT):
                raise ConfigError(f"{name} cannot be cancelled as a whole: end its command, or pause it")
            await self.on_bank("rule", name, "cancelled")
            if name in self.homes:
                self.gates.open(name)  # if a pause has just ended this life of its, the next one ends at once
                with suppress(HostLost):  # so does the next one then
                    await self.on_host(self.homes[name], "cancel", name)
            elif not self.gates.let_through(name):
                with self.gates.held(name):  # nobody begins it here meanwhile
                    return await self._close(name)
        return f"{name} is cancelled"

    async def top_up(self, name: str, more: Budget) -> str:
        """Raise the limits of an open live run, an experiment or the account; returns what was done.

        Raises:
            ConfigError: its state does not allow it, or it has no such limit.
            BudgetExceeded: the scope above has no room for it.
        """
        if more.seconds is not None:
            raise ConfigError("a deadline cannot be topped up; only tokens, usd, calls and tool calls can")
        async with self._one:
            name = await self._allowed("top-up", name)
            serial = len(
                await self.on_bank("raised", name)
            )  # so that Ray may repeat the call, and nothing is added twice
            amounts: Amounts = await self.on_bank("top_up", name, more, serial)
            if name in self.homes:
                with suppress(HostLost):  # its next life reads the top-up from the store
                    await self.on_host(self.homes[name], "top_up", name, amounts)
            self.gates.tell_freed()
        return f"{name} got {more.describe()} more"

    async def _close(self, name: str) -> str:
        """Seal an interrupted run as its journal leaves it."""
        opened = next((o for o in await self.on_bank("open_runs") if o.run_id == name), None)
        life: Life | None = None if opened is None else await self.on_bank("take", opened)
        if opened is None or life is None or life.sealed is not None:
            return f"{name} is finished"
        facts = orjson.loads(opened.body)
        result = cancelled_result(opened, life)
        caps = dict(zip(facts["dimensions"], facts["caps"], strict=True))
        amounts = tuple(caps.get(dimension) or 0 for dimension in BASE_DIMENSIONS)
        books = books_of(facts["scope"], amounts, result.attempts)
        await self.client.write([Sealed(name, opened.address, result.to_json(), books)])
        self.gates.tell_freed()
        return f"{name} is cancelled; it had spent ${result.spend.total.usd}"

    async def _allowed(self, command: str, name: str) -> str:
        states = await self.states()
        full = name if name in states or name.startswith(EXPERIMENT) else EXPERIMENT + name
        state: State = states.get(full, "idle")
        if full not in states:
            if name == ACCOUNT:
                full = name
            elif await self.on_bank("result", name) is not None:
                full, state = name, "finished"
            elif not await self.on_bank("knows_scope", full):
                known = ", ".join(sorted(states)) or "none"
                raise ConfigError(f"there is no open run and no experiment {name!r}; open are: {known}")
        if state not in ALLOWED[command]:
            raise ConfigError(
                f"{full} is {state}, and {command} needs {' or '.join(ALLOWED[command])}"
                + ("; run it anew with a larger budget" if (command, state) == ("top-up", "finished") else "")
            )
        return full
