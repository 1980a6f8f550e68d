"""Owns the reading of the price list that genai-prices brings along: dollars per million tokens, and context windows.

The list is the one that was installed; nothing is fetched, and a price in the catalogue always wins over it.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple


class Listed(NamedTuple):
    """What the list says about a model. Prices are in dollars per million tokens."""

    input_usd: Decimal | None
    """None, with output_usd, where the list has no price by the token, or one by the call on top of it."""
    output_usd: Decimal | None
    cached_usd: Decimal | None
    """None where cached prompt tokens cost what others cost."""
    window_tokens: int | None


def look_up(endpoint: str, model: str, window_tokens: int | None, today: date) -> Listed | None:
    """Find a model, by the endpoint's own prices where the list knows the endpoint, else by those of the model's maker.

    Each price is the highest that can apply on that day: over the tiers for long prompts that fit into the window, over
    the hours of the day, over writing to the cache. One price serves reservation and settlement, and a reservation must
    cover the dearest; so where such tiers exist, a spend in dollars is stated too high rather than too low.

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
    read = _highest(tables, window, "input_mtok", "cache_write_mtok")
    write = _highest(tables, window, "output_mtok", "output_reasoning_mtok")
    if read is None or write is None or any(table.requests_kcount is not None for table in tables):
        return Listed(None, None, None, found.context_window)
    return Listed(read, write, _highest(tables, window, "cache_read_mtok"), found.context_window)


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


def _highest(tables: Iterable[Any], window_tokens: int | None, plain: str, *others: str) -> Decimal | None:
    """The dearest of the named prices over all tables and tiers; None where no table has the plain one."""
    tables = list(tables)
    if all(getattr(table, plain) is None for table in tables):
        return None
    found = [getattr(table, key) for table in tables for key in (plain, *others)]
    return max(rate for price in found if price is not None for rate in _rates(price, window_tokens))


def _rates(price: Any, window_tokens: int | None) -> list[Decimal]:
    from genai_prices.types import TieredPrices

    if not isinstance(price, TieredPrices):
        return [price]
    # A tier begins at a prompt of `start` tokens; no prompt is as long as the window, since a reply must fit in too.
    return [price.base, *(t.price for t in price.tiers if window_tokens is None or t.start < window_tokens)]
