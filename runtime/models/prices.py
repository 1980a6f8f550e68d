"""Owns the reading of the price list that genai-prices brings along: dollars per million tokens, and context windows.

The list is the one that was installed; nothing is fetched, and a price in the catalogue always wins over it.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from importlib.metadata import version as version_of
from typing import Any, NamedTuple

from runtime.models.spec import PriceTier

_DISTRIBUTION = "genai-prices"


class Listed(NamedTuple):
    """What the list says about a model. Prices are in dollars per million tokens."""

    input_usd: Decimal | None
    """None, with output_usd, where the list has no price by the token, or one by the call on top of it."""
    output_usd: Decimal | None
    cached_usd: Decimal | None
    """None where cached prompt tokens cost what others cost."""
    cache_write_usd: Decimal | None
    tiers: tuple[PriceTier, ...]
    """Other prices for long prompts."""
    window_tokens: int | None


@cache
def version() -> str:
    """The price list and its version, for the record of what a run was priced by."""
    return f"{_DISTRIBUTION} {version_of(_DISTRIBUTION)}"


def look_up(endpoint: str, model: str, window_tokens: int | None, today: date) -> Listed | None:
    """Find a model, by the endpoint's own prices where the list knows the endpoint, else by those of the model's maker.

    Where prices change with the hour, the highest counts, and thoughts cost what they cost where that is more than the
    reply: nothing here reads a clock, and a spend in dollars is stated too high rather than too low.

    Args:
        endpoint: its base URL.
        model: the id of the model at the endpoint.
        window_tokens: the longest prompt that will be sent; None takes the model's whole window.
        today: tells old prices from new ones and from those announced for later.

    Returns:
        None for a model that is not listed.
    """
    found = _entry(endpoint, model)
    if found is None:
        return None
    window = window_tokens or found.context_window
    tables = _in_force(found.prices, today)
    base = _rates(tables, 0)
    if base is None or any(table.requests_kcount is not None for table in tables):
        return Listed(None, None, None, None, (), found.context_window)
    tiers: list[_Rates] = []
    for start in _starts(tables):
        # No prompt is as long as the window, since a reply must fit in too.
        rates = _rates(tables, start) if window is None or start < window else None
        if rates is not None and rates[1:] != (tiers[-1] if tiers else base)[1:]:
            tiers.append(rates)
    return Listed(*base[1:], tuple(_tier(rates) for rates in tiers), found.context_window)


def _entry(endpoint: str, model: str) -> Any:
    from genai_prices.data_snapshot import get_snapshot

    for url in (endpoint, None):
        try:
            return get_snapshot().find_provider_model(model, None, None, url)[1]
        except LookupError:
            continue
    return None


def _in_force(prices: Any, today: date) -> list[Any]:
    """All tables that hold at some hour of the day: the newest that has begun, and the hourly ones that go before it."""
    from genai_prices.types import StartDateConstraint, TimeOfDateConstraint

    if not isinstance(prices, list):
        return [prices]
    found: list[Any] = []
    midnight = datetime.combine(today, time(), UTC)
    for entry in reversed(prices):
        if isinstance(entry.constraint, TimeOfDateConstraint):
            found.append(entry.prices)
        elif not isinstance(entry.constraint, StartDateConstraint) or entry.constraint.active(midnight):
            return [*found, entry.prices]
    return [*found, *(entry.prices for entry in prices[:1])]


class _Rates(NamedTuple):
    above_tokens: int
    input_usd: Decimal
    output_usd: Decimal
    cached_usd: Decimal | None
    cache_write_usd: Decimal | None


def _rates(tables: Iterable[Any], above_tokens: int) -> _Rates | None:
    """What prompts of more than so many tokens cost; None where a table has no price by the token."""
    tables = list(tables)
    read = _highest(tables, above_tokens, "input_mtok")
    write = _highest(tables, above_tokens, "output_mtok", "output_reasoning_mtok")
    if read is None or write is None:
        return None
    # Writing for longer than usual is dearer still, but happens on request only, and none of ours asks for it.
    caches = [_highest(tables, above_tokens, key) for key in ("cache_read_mtok", "cache_write_mtok")]
    return _Rates(above_tokens, read, write, *caches)


def _starts(tables: Iterable[Any]) -> list[int]:
    from genai_prices.types import TieredPrices

    prices = [price for table in tables for price in vars(table).values()]
    return sorted({tier.start for price in prices if isinstance(price, TieredPrices) for tier in price.tiers})


def _highest(tables: Iterable[Any], above_tokens: int, plain: str, *others: str) -> Decimal | None:
    """The dearest of the named prices over all tables; None where no table has the first of them."""
    tables = list(tables)
    if all(getattr(table, plain) is None for table in tables):
        return None
    found = [getattr(table, key) for table in tables for key in (plain, *others)]
    return max(_at(price, above_tokens) for price in found if price is not None)


def _at(price: Any, above_tokens: int) -> Decimal:
    """What a price is for prompts of one token more than this: a tier begins behind its start."""
    from genai_prices.types import TieredPrices

    if not isinstance(price, TieredPrices):
        return Decimal(price)
    begun = [tier for tier in price.tiers if tier.start <= above_tokens]
    return begun[-1].price if begun else price.base


def _tier(rates: _Rates) -> PriceTier:
    return PriceTier(**rates._asdict())
