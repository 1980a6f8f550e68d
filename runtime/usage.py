"""Owns what a call consumed and what that costs: Usage, Price, its tiers, and the conversion of dollars to integers.

Inside Ostrom money is an integer number of pico-dollars (10^-12 $): prices such as 5e-9 $ a token stay exact and int64
holds 9.2 million dollars. None means unknown and is never taken for zero.
"""

from collections.abc import Sequence
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
    """Prompt tokens, those from or for a cache included."""
    output_tokens: int
    """Thinking and visible tokens together."""
    cached_tokens: int = 0
    """Those of the prompt tokens that the endpoint read from its cache."""
    cache_write_tokens: int = 0
    """Those of the prompt tokens that the endpoint wrote into its cache."""
    reasoning_tokens: int = 0
    """Those of the output tokens that were thought and not shown, as far as the endpoint says."""

    @property
    def tokens(self) -> int:
        """Input and output together: what a token budget counts."""
        return self.input_tokens + self.output_tokens


def pico_per_token(usd_per_million: float | str | Decimal) -> int:
    """Pico-dollars per token, rounded up, of a price in dollars per million tokens.

    Raises:
        ConfigError: no amount of dollars.
    """
    return -(-pico_usd(usd_per_million) // 1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """Integer prices in pico-dollars, the same for every call."""

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
        cached = None if cached_usd is None else pico_per_token(cached_usd)
        return Price(pico_per_token(input_usd), pico_per_token(output_usd), 0, cached)

    def cost(self, usage: Usage) -> int:
        """Pico-dollars of one call with this usage: what is settled."""
        cached = 0 if self.cached_pico is None else usage.cached_tokens
        return (
            (usage.input_tokens - cached) * self.input_pico
            + cached * (self.cached_pico or 0)
            + usage.output_tokens * self.output_pico
            + self.call_pico
        )

    def ceiling(self, usage: Usage) -> int:
        """The most that a call of at most this usage can cost, whatever the cache does: what a reservation holds."""
        dearest = max(self.input_pico, self.cached_pico or 0)
        return usage.input_tokens * dearest + usage.output_tokens * self.output_pico + self.call_pico

    def at(self, input_tokens: int) -> "Price":
        """The flat price that covers every call with a prompt of at most so many tokens."""
        return self


class Tier(NamedTuple):
    """What tokens cost in calls whose prompt has more than `above_tokens` tokens: all of the call's tokens."""

    above_tokens: int
    input_pico: int
    output_pico: int
    cached_pico: int | None = None
    """None: tokens from the cache cost what others cost."""
    cache_write_pico: int | None = None
    """None: tokens for the cache cost what others cost."""


@dataclass(frozen=True, slots=True)
class TieredPrice(Price):
    """A price that depends on the length of the prompt, or on what is written into a cache.

    Its plain fields are the dearest of all tiers, so that whoever reserves by them reserves enough; `at` is tighter.
    """

    tiers: tuple[Tier, ...] = ()
    """By rising `above_tokens`; the first begins at 0."""

    @classmethod
    def of(cls, tiers: Sequence[Tier]) -> "TieredPrice":
        """Build the price from its tiers, in any order.

        Raises:
            ConfigError: no tier begins at 0, or two begin at the same length.
        """
        ordered = tuple(sorted(tiers, key=lambda tier: tier.above_tokens))
        starts = [tier.above_tokens for tier in ordered]
        if not ordered or starts[0] != 0 or len(set(starts)) < len(starts):
            raise ConfigError("tiers of a price must begin at different lengths of the prompt, the first at 0")
        return cls(max(map(_dearest, ordered)), max(tier.output_pico for tier in ordered), tiers=ordered)

    def cost(self, usage: Usage) -> int:
        """Pico-dollars of one call with this usage, at the tier its prompt falls into."""
        tier = next(tier for tier in reversed(self.tiers) if tier.above_tokens < max(1, usage.input_tokens))
        read = tier.input_pico if tier.cached_pico is None else tier.cached_pico
        write = tier.input_pico if tier.cache_write_pico is None else tier.cache_write_pico
        plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        prompt = plain * tier.input_pico + usage.cached_tokens * read + usage.cache_write_tokens * write
        return prompt + usage.output_tokens * tier.output_pico + self.call_pico

    def ceiling(self, usage: Usage) -> int:
        """The most that a call of at most this usage can cost: the dearest tier a prompt of this length can fall into."""
        price = self.at(usage.input_tokens)
        return usage.input_tokens * price.input_pico + usage.output_tokens * price.output_pico + self.call_pico

    def at(self, input_tokens: int) -> Price:
        """The flat price that covers every call with a prompt of at most so many tokens."""
        within = [tier for tier in self.tiers if tier.above_tokens < max(1, input_tokens)]
        return Price(max(map(_dearest, within)), max(tier.output_pico for tier in within), self.call_pico)


def _dearest(tier: Tier) -> int:
    return max(tier.input_pico, tier.cached_pico or 0, tier.cache_write_pico or 0)
