"""Owns what an operator may do to runs and experiments while they go on, and which states allow it.

A run is under way (this driver has it), interrupted (begun, and no driver has it), paused, or finished. An experiment is
under way, paused or idle. A pause lets nothing new be sent: calls in flight end and are settled, the run ends this life of
its and is taken up again, from its journal and at no cost, when it is resumed. The time in between does not count.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from runtime.bank.client import BankClient
from runtime.bank.closing import cancelled_result
from runtime.bank.grants import books_of
from runtime.bank.live import Life
from runtime.bank.store import Sealed
from runtime.budget import BASE_DIMENSIONS, Budget
from runtime.errors import ConfigError, HostLost
from runtime.gates import Gates

State = Literal["under way", "interrupted", "paused", "idle", "finished"]
ALLOWED: dict[str, tuple[State, ...]] = {
    "pause": ("under way",),
    "resume": ("paused",),
    "cancel": ("under way", "interrupted", "paused"),
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

    async def states(self) -> dict[str, State]:
        """The state of every run and experiment that is not finished."""
        found: dict[str, State] = dict.fromkeys(self.scopes, "under way")
        found.update({opened.run_id: "interrupted" for opened in await self.on_bank("open_runs")})
        found.update(dict.fromkeys(self.homes, "under way"))
        for name, ruling in (await self.on_bank("rulings")).items():
            if ruling == "paused" and (name in found or name.startswith(EXPERIMENT)):
                found[name] = "paused"
        return found

    async def pause(self, name: str) -> str:
        """Let nothing new be sent for a run or an experiment; returns what was done.

        Raises:
            ConfigError: its state does not allow it.
        """
        name = await self._allowed("pause", name)
        self.gates.close(name)
        await self.on_bank("rule", name, "paused")
        return f"{name} is paused; calls in flight end and are settled"

    async def resume(self, name: str) -> str:
        """Let a paused run or experiment go on; returns what was done.

        Raises:
            ConfigError: its state does not allow it.
        """
        name = await self._allowed("resume", name)
        await self.on_bank("rule", name, "resumed")
        self.gates.open(name)
        return f"{name} may go on" + ("" if self._here(name) else "; run the command that began it again")

    async def cancel(self, name: str) -> str:
        """End a run with the status cancelled; what is in flight is charged at maximum. Returns what was done.

        Raises:
            ConfigError: its state does not allow it, or it is an experiment.
        """
        name = await self._allowed("cancel", name)
        if name.startswith(EXPERIMENT):
            raise ConfigError(f"{name} cannot be cancelled as a whole: end its command, or pause it")
        await self.on_bank("rule", name, "cancelled")
        if name in self.homes:
            with suppress(HostLost):  # then its next life is cancelled before it sends anything
                await self.on_host(self.homes[name], "cancel", name)
            return f"{name} is cancelled"
        if name in self.gates.closed:
            self.gates.open(name)  # it is waiting here, and its next life ends at once
            return f"{name} is cancelled"
        opened = next(o for o in await self.on_bank("open_runs") if o.run_id == name)
        life: Life = await self.on_bank("take", opened)
        facts = orjson.loads(opened.body)
        result = cancelled_result(opened, life)
        caps = dict(zip(facts["dimensions"], facts["caps"], strict=True))
        amounts = tuple(caps.get(dimension) or 0 for dimension in BASE_DIMENSIONS)
        books = books_of(facts["scope"], amounts, result.attempts)
        await self.client.write([Sealed(name, opened.address, result.to_json(), books)])
        return f"{name} is cancelled; it had spent ${result.spend.total.usd}"

    async def top_up(self, name: str, more: Budget) -> str:
        """Raise the limits of an open live run, an experiment or the account; returns what was done.

        Raises:
            ConfigError: its state does not allow it, or it has no such limit.
            BudgetExceeded: the scope above has no room for it.
        """
        if more.seconds is not None:
            raise ConfigError("a deadline cannot be topped up; only tokens, usd, calls and tool calls can")
        name = await self._allowed("top-up", name)
        await self.on_bank("top_up", name, tuple(cap or 0 for cap in more.caps))
        if name in self.homes:
            with suppress(HostLost):  # its next life reads the top-up from the store
                await self.on_host(self.homes[name], "top_up", name, tuple(cap or 0 for cap in more.caps))
        return f"{name} got {more.describe()} more"

    def _here(self, name: str) -> bool:
        return name in self.homes or self.scopes[name] > 0

    async def _allowed(self, command: str, name: str) -> str:
        states = await self.states()
        full = name if name in states else EXPERIMENT + name
        state: State = states.get(full, "idle")
        if full not in states:
            if await self.on_bank("result", name) is not None:
                full, state = name, "finished"
            elif name == "account" or await self.on_bank("knows_scope", full):
                full = name if name == "account" else full
            else:
                known = ", ".join(sorted(states)) or "none"
                raise ConfigError(f"there is no open run and no experiment {name!r}; open are: {known}")
        if state not in ALLOWED[command]:
            raise ConfigError(
                f"{full} is {state}, and {command} needs {' or '.join(ALLOWED[command])}"
                + ("; run it anew with a larger budget" if (command, state) == ("top-up", "finished") else "")
            )
        return full
