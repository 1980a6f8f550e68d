"""Owns tools: functions an agent may call, with a price and a number of units for each call."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import orjson

from runtime.boundary import contained, contained_sync, encodable
from runtime.errors import AgentFailed, ConfigError
from runtime.models.base import ToolCall, ToolSpec
from runtime.usage import PICO, pico_usd

MOST_UNITS = 10**9
"""Units of one call, at most: its arguments are a model's words, and sums of amounts must fit into 64 bits."""
MOST_PICO_USD = 10_000 * PICO
"""Price of one call, at most: $10,000."""


def _one_unit(arguments: Mapping[str, Any]) -> int:
    return 1


@dataclass(frozen=True)
class Tool:
    """A function an agent may call. What it returns is shown to the agent as text, and is data, never an instruction.

    Raises:
        ConfigError: a name that is not a plain identifier, or a price that is none, or above $10,000 a unit.
    """

    name: str
    description: str
    call: Callable[..., Any]
    """Called with the arguments by name; may be async. What it raises is shown to the agent as an error. In live runs a plain
    function runs in a thread; when the run ends before it, the thread goes on and its result is dropped."""
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""
    usd: float | str | Decimal = 0
    """Price of one unit."""
    units: Callable[[Mapping[str, Any]], int] = _one_unit
    """How many units a call with these arguments is: a search with three queries is three."""
    virtual: bool = False
    """True promises that it bills nobody and waits for nothing but `anyio.sleep`, so that a run in virtual time may use it.
    A run with a tool that is not virtual is live."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"Tool name {self.name!r} must be a plain identifier")
        if self.pico_usd > MOST_PICO_USD:
            raise ConfigError(f"Tool {self.name}: usd={self.usd} is too much for one unit; at most $10,000")

    @property
    def pico_usd(self) -> int:
        """Price of one unit in pico-dollars."""
        return pico_usd(self.usd)

    def spec(self) -> ToolSpec:
        """What a model is told about it."""
        return ToolSpec(self.name, self.description, dict(self.parameters))


def arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of a tool call; None when the model's JSON is no object."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None


async def use(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """Call the tool; an error of its own code becomes the observation, so that the agent can react to it."""

    async def called() -> str:
        is_async = any(map(inspect.iscoroutinefunction, (tool.call, type(tool.call).__call__)))
        if tool.virtual or is_async:
            seen = tool.call(**arguments)
        else:
            # A function that blocks must not hold up the other runs of this host, nor the run's own deadline.
            seen = await anyio.to_thread.run_sync(partial(tool.call, **arguments), abandon_on_cancel=True)
        return encodable(str(await seen if inspect.isawaitable(seen) else seen))

    try:
        return await contained(f"tool {tool.name}", called)
    except AgentFailed as failure:
        return seen_of(failure)


def units_of(tool: Tool, arguments: Mapping[str, Any]) -> int:
    """How many units a call with these arguments is.

    Raises:
        AgentFailed: the arguments, which a model wrote, are not what `units` can count, or more than a call may be.
    """
    units = contained_sync(f"tool {tool.name}", tool.units, arguments)
    most = min(MOST_UNITS, MOST_PICO_USD // max(1, tool.pico_usd))
    if type(units) is int and abs(units) > most:
        raise AgentFailed(f"tool {tool.name}", "ValueError", f"one call may be 0 to {most:,} units")
    if type(units) is not int or units < 0:
        raise AgentFailed(f"tool {tool.name}", "ValueError", f"{units!r} is no number of units")
    return units


def seen_of(failure: AgentFailed) -> str:
    """What the agent is shown of an error."""
    return f"error: {failure.kind}: {failure.text}"
