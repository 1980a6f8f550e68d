"""Owns Budget, the limits a user states, and the integer vector of dimensions that the ledger counts in."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from runtime.errors import ConfigError
from runtime.usage import PICO, pico_usd

BASE_DIMENSIONS = ("tokens", "pico_usd", "calls", "tool_calls")
TOKENS, PICO_USD, CALLS, TOOL_CALLS = range(4)
MOST = 2**63

Amounts = tuple[int, ...]
"""One integer per dimension, in the order of `Budget.dimensions`."""
Caps = tuple[int | None, ...]
"""Like Amounts; None where there is no limit."""


@dataclass(frozen=True)
class Budget:
    """Limits shared by everything a run does. At least one is given; None means no limit.

    Raises:
        ConfigError: no limit at all, a limit that is negative, not whole or above 2^63, a named tool without a cap.
    """

    tokens: int | None = None
    """Prompt and generated tokens of all model calls."""
    usd: float | str | Decimal | None = None
    """Dollars of all model and tool calls; converted once, exactly, as they print."""
    calls: int | None = None
    """Model calls."""
    tool_calls: int | Mapping[str, int] | None = None
    """Units of tool calls: one number for all tools, or a cap for each named tool."""
    seconds: float | None = None
    """A deadline for the run: virtual seconds in virtual runs, active monotonic seconds in live ones. Of a live run that was
    killed counts what its journal proves: the time up to its last entry."""

    def __post_init__(self) -> None:
        if all(v is None for v in (self.tokens, self.usd, self.calls, self.tool_calls, self.seconds)):
            raise ConfigError("a Budget needs at least one of tokens, usd, calls, tool_calls, seconds")
        tools = self.tool_calls if isinstance(self.tool_calls, Mapping) else {"tool_calls": self.tool_calls}
        if isinstance(self.tool_calls, Mapping) and (not tools or None in tools.values()):
            raise ConfigError(f"Budget: tool_calls={dict(tools)} must give each of one or more tools a cap")
        for name, value in (("tokens", self.tokens), ("calls", self.calls), *tools.items()):
            if value is not None and not (type(value) is int and 0 <= value <= MOST):
                raise ConfigError(f"Budget: {name}={value!r} must be a whole number, from 0 to 2^63")
        if self.usd is not None:
            pico_usd(self.usd)
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise ConfigError(f"Budget: seconds={self.seconds!r} must be more than 0")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions this budget is counted in: the four base ones, then one for each capped tool."""
        if isinstance(self.tool_calls, Mapping):
            return BASE_DIMENSIONS + tuple(f"tool_calls.{tool}" for tool in sorted(self.tool_calls))
        return BASE_DIMENSIONS

    @property
    def caps(self) -> Caps:
        """The limits in integer units, in the order of `dimensions`."""
        usd = None if self.usd is None else pico_usd(self.usd)
        if isinstance(self.tool_calls, Mapping):
            by_tool = tuple(self.tool_calls[tool] for tool in sorted(self.tool_calls))
            return (self.tokens, usd, self.calls, None, *by_tool)
        return (self.tokens, usd, self.calls, self.tool_calls)

    def describe(self) -> str:
        """Short text such as `$0.40, 30 tool calls`, as tables and plots show it."""
        parts = []
        if self.tokens is not None:
            parts.append(f"{self.tokens:,} tokens")
        if self.usd is not None:
            parts.append(f"${Decimal(str(self.usd)).normalize():f}")
        if self.calls is not None:
            parts.append(f"{self.calls} calls")
        if isinstance(self.tool_calls, Mapping):
            parts.extend(f"{n} × {tool}" for tool, n in sorted(self.tool_calls.items()))
        elif self.tool_calls is not None:
            parts.append(f"{self.tool_calls} tool calls")
        if self.seconds is not None:
            parts.append(f"{self.seconds:g} s")
        return ", ".join(parts)


def usd_text(pico: int) -> str:
    """Dollars of an integer amount, with as many digits as it needs, at least two decimals."""
    amount = (Decimal(pico) / PICO).normalize()
    digits = max(2, -int(amount.as_tuple().exponent)) if amount else 2
    return f"{amount:.{digits}f}"
