"""Owns what a call consumed and what that costs: Usage, Price and the conversion of dollars to integers.

Inside Ostrom money is an integer number of pico-dollars (10^-12 $): prices such as 5e-9 $ a token stay exact and int64
holds 9.2 million dollars. None means unknown and is never taken for zero.
"""

from dataclasses import dataclass
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_CEILING, Context, Decimal
from typing import NamedTuple

from runtime.errors import ConfigError

PICO = 10**12
MOST_USD = 10**15
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""Never rounds; the caller's own decimal context may."""


def pico_usd(usd: float | int | str | Decimal) -> int:
    """Convert dollars to pico-dollars, rounding up; floats are read as they print (0.4 is four tenths).

    Raises:
        ConfigError: the amount is negative, no number, or above 10^15 dollars.
    """
    try:
        amount = Decimal(str(usd))
    except ArithmeticError:
        raise ConfigError(f"{usd!r} is not an amount of dollars") from None
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"{usd!r} is not an amount of dollars: it must be finite and not negative")
    if amount > MOST_USD:
        raise ConfigError(f"{usd!r} is not an amount of dollars: more than {MOST_USD:,} cannot be counted")
    return int(amount.scaleb(12, _EXACT).to_integral_value(ROUND_CEILING, _EXACT))


class Usage(NamedTuple):
    """What one call consumed, or at most will consume."""

    input_tokens: int
    """Prompt tokens, cached ones included."""
    output_tokens: int
    """Thinking and visible tokens together."""
    cached_tokens: int = 0
    """Those of the prompt tokens that the endpoint read from its cache."""

    @property
    def tokens(self) -> int:
        """Input and output together: what a token budget counts."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """Integer prices in pico-dollars."""

    input_pico: int = 0
    """Per prompt token."""
    output_pico: int = 0
    """Per generated token."""
    call_pico: int = 0
    """Per call, whatever its length."""
    cached_pico: int | None = None
    """Per cached prompt token; None: cached tokens cost what others cost."""

    @classmethod
    def per_million(
        cls,
        input_usd: float | str | Decimal,
        output_usd: float | str | Decimal,
        cached_usd: float | str | Decimal | None = None,
    ) -> "Price":
        """Build a price from dollars per million tokens, rounded up to a whole pico-dollar per token."""

        def per_token(usd: float | str | Decimal) -> int:
            return -(-pico_usd(usd) // 1_000_000)

        return cls(
            per_token(input_usd),
            per_token(output_usd),
            0,
            None if cached_usd is None else per_token(cached_usd),
        )

    def cost(self, usage: Usage) -> int:
        """Pico-dollars of one call with this usage."""
        cached = 0 if self.cached_pico is None else usage.cached_tokens
        return (
            (usage.input_tokens - cached) * self.input_pico
            + cached * (self.cached_pico or 0)
            + usage.output_tokens * self.output_pico
            + self.call_pico
        )

    def ceiling(self, usage: Usage) -> int:
        """Pico-dollars of one call at the dearest tier: what a reservation holds."""
        dearest = max(self.input_pico, self.cached_pico or 0)
        return usage.input_tokens * dearest + usage.output_tokens * self.output_pico + self.call_pico
