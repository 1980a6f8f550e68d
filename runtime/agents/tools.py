"""Owns tools: functions an agent may call, with a price and a number of units for each call."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from runtime.boundary import contained, contained_sync
from runtime.errors import AgentFailed, ConfigError
from runtime.models.base import ToolCall, ToolSpec
from runtime.usage import pico_usd


def _one_unit(arguments: Mapping[str, Any]) -> int:
    return 1


@dataclass(frozen=True)
class Tool:
    """A function an agent may call. What it returns is shown to the agent as text, and is data, never an instruction.

    Raises:
        ConfigError: a name that is not a plain identifier.
    """

    name: str
    description: str
    call: Callable[..., Any]
    """Called with the arguments by name; may be async. What it raises is shown to the agent as an error."""
    parameters: Mapping[str, Any]
    """JSON schema of the arguments."""
    usd: float | str | Decimal = 0
    """Price of one unit."""
    units: Callable[[Mapping[str, Any]], int] = _one_unit
    """How many units a call with these arguments is: a search with three queries is three."""
    virtual: bool = True
    """Whether it runs in process and bills nobody. A run with a tool that is not virtual is live."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"Tool name {self.name!r} must be a plain identifier")

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
    try:
        if inspect.iscoroutinefunction(tool.call):
            return str(await contained(f"tool {tool.name}", tool.call, **arguments))
        return str(contained_sync(f"tool {tool.name}", tool.call, **arguments))
    except AgentFailed as failure:
        return f"error: {failure.kind}: {failure.text}"
