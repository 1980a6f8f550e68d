"""The price list as it is read: tiers, hours, dates; and what prices make of a usage."""

from datetime import date, time
from decimal import Decimal
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from genai_prices.types import (
    ConditionalPrice,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st

from runtime import usage
from runtime.errors import ConfigError
from runtime.models import prices
from runtime.usage import Price, TieredPrice, Usage

HERE = "http://127.0.0.1:9/v1"
TODAY = date(2026, 11, 20)


def test_the_list_has_a_version() -> None:
    assert prices.version() == f"genai-prices {version('genai-prices')}"


# ---- the list


def tiered(base: str, *tiers: tuple[int, str]) -> TieredPrices:
    return TieredPrices(Decimal(base), [Tier(start, Decimal(price)) for start, price in tiers])


def listed(monkeypatch: pytest.MonkeyPatch, model_prices: object, context_window: int | None = 1_000) -> None:
    entry = SimpleNamespace(prices=model_prices, context_window=context_window)
    monkeypatch.setattr(prices, "_entry", lambda endpoint, model: entry)


def looked_up(window_tokens: int | None = None) -> list[list[str | None]]:
    """Dollars for input, output, cached and cache-written tokens as they print, then the same for each tier."""
    found = prices.look_up(HERE, "m", window_tokens, TODAY)
    assert found is not None
    tiers = [[t.input_usd, t.output_usd, t.cached_usd, t.cache_write_usd, t.above_tokens] for t in found.tiers]
    return [[None if usd is None else str(usd) for usd in row] for row in (found[:4], *tiers)]


def test_the_tiers_that_fit_into_the_window_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    long_prompts: dict[str, Any] = {"input_mtok": tiered("1", (200, "2"), (900, "4")), "output_mtok": Decimal(8)}
    listed(monkeypatch, ModelPrice(**long_prompts, cache_read_mtok=tiered("0.1", (200, "0.2"))))
    base, longer, longest = ["1", "8", "0.1", None], ["2", "8", "0.2", None, "200"], ["4", "8", "0.2", None, "900"]

    assert looked_up() == [base, longer, longest]
    assert looked_up(901) == [base, longer, longest]
    assert looked_up(900) == [base, longer]
    assert looked_up(200) == [base]


def test_a_tier_that_changes_nothing_here_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    listed(
        monkeypatch,
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2), input_audio_mtok=tiered("1", (100, "9"))),
    )

    assert looked_up() == [["1", "2", None, None]]


def test_the_cache_has_its_own_prices_and_reasoning_counts_where_it_is_dearer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"input_mtok": Decimal(4), "output_mtok": Decimal(8)}
    listed(monkeypatch, ModelPrice(**plain, cache_write_mtok=Decimal(5), output_reasoning_mtok=Decimal(6)))
    assert looked_up() == [["4", "8", None, "5"]]

    listed(monkeypatch, ModelPrice(**plain, cache_read_mtok=Decimal(1), output_reasoning_mtok=Decimal(9)))
    assert looked_up() == [["4", "9", "1", None]]


@pytest.mark.parametrize(
    "model_price",
    [
        ModelPrice(input_mtok=Decimal(1)),
        ModelPrice(output_mtok=Decimal(1)),
        ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(5)),
    ],
)
def test_a_price_that_is_not_by_the_token_alone_is_no_price(
    monkeypatch: pytest.MonkeyPatch, model_price: ModelPrice
) -> None:
    listed(monkeypatch, model_price)

    assert looked_up() == [[None, None, None, None]]


def test_the_price_in_force_on_the_day_counts_and_the_dearest_hour_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(dollars: int) -> ModelPrice:
        return ModelPrice(input_mtok=Decimal(dollars), output_mtok=Decimal(dollars))

    old, now, later = at(9), at(2), at(7)
    dated = [
        ConditionalPrice(prices=old),
        ConditionalPrice(StartDateConstraint(date(2026, 1, 1)), prices=now),
        ConditionalPrice(StartDateConstraint(date(2027, 1, 1)), prices=later),
    ]
    listed(monkeypatch, dated)
    assert looked_up() == [["2", "2", None, None]]

    peak = ConditionalPrice(TimeOfDateConstraint(time(8), time(16)), prices=at(3))
    listed(monkeypatch, [*dated, peak])
    assert looked_up() == [["3", "3", None, None]]

    listed(monkeypatch, dated[2:])
    assert looked_up() == [["7", "7", None, None]]  # one that begins later is better than none


# ---- prices of a usage

FLAT = Price(3, 10, 7, 1)
TIERED = TieredPrice.of(
    [usage.Tier(200, 6, 20, 2, 8), usage.Tier(0, 3, 10, 1, 4), usage.Tier(500, 5, 50)],
)


@pytest.mark.parametrize(
    ("price", "used", "pico"),
    [
        (FLAT, Usage(100, 10), 3 * 100 + 10 * 10 + 7),
        (FLAT, Usage(100, 10, 40), 3 * 60 + 1 * 40 + 10 * 10 + 7),
        (FLAT, Usage(100, 10, 40, 30), 3 * 60 + 1 * 40 + 10 * 10 + 7),
        (Price(3, 10), Usage(100, 10, 40), 3 * 100 + 10 * 10),
        (TIERED, Usage(0, 0), 0),
        (TIERED, Usage(0, 1), 10),
        (TIERED, Usage(200, 1), 200 * 3 + 10),
        (TIERED, Usage(201, 1), 201 * 6 + 20),
        (TIERED, Usage(201, 1, 100, 50), 51 * 6 + 100 * 2 + 50 * 8 + 20),
        (TIERED, Usage(501, 1, 100, 50), 501 * 5 + 50),
        (TIERED, Usage(100, 9, 0, 0, 9), 100 * 3 + 90),
    ],
)
def test_a_usage_costs_what_its_tier_says(price: Price, used: Usage, pico: int) -> None:
    assert price.cost(used) == pico


def test_the_plain_fields_of_tiers_are_the_dearest_of_all_so_that_old_ways_to_reserve_stay_safe() -> None:
    assert (TIERED.input_pico, TIERED.output_pico) == (8, 50)
    assert TIERED.at(200) == Price(4, 10)
    assert TIERED.at(201) == Price(8, 20)
    assert TIERED.at(501) == Price(8, 50)
    assert FLAT.at(10**6) is FLAT


@pytest.mark.parametrize("starts", [(), (1,), (0, 0), (0, 5, 5)])
def test_tiers_that_leave_a_length_open_or_name_one_twice_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="tiers of a price"):
        TieredPrice.of([usage.Tier(start, 1, 1) for start in starts])


rates = st.integers(0, 10**9)
maybe = st.none() | rates
flat_prices = st.builds(Price, rates, rates, rates, maybe)
tiered_prices = st.lists(st.tuples(st.integers(1, 300), rates, rates, maybe, maybe), unique_by=lambda t: t[0]).flatmap(
    lambda more: st.tuples(st.just(0), rates, rates, maybe, maybe).map(
        lambda base: TieredPrice.of([usage.Tier(*tier) for tier in (base, *more)])
    )
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt = draw(st.integers(0, 400))
    cached = draw(st.integers(0, prompt))
    return Usage(prompt, draw(st.integers(0, 400)), cached, draw(st.integers(0, prompt - cached)))


@given(flat_prices | tiered_prices, usages(), st.integers(0, 400), st.integers(0, 400))
def test_what_is_held_covers_what_any_smaller_usage_costs(price: Price, used: Usage, more: int, longer: int) -> None:
    """However the hold is put together: as a whole, as a line over the reply, or as a line at the length of the prompt."""
    prompt, output = used.input_tokens + more, used.output_tokens + longer
    tight = price.at(prompt)
    cost, fixed = price.cost(used), price.ceiling(Usage(prompt, 0))

    assert isinstance(cost, int)
    assert cost <= price.ceiling(Usage(prompt, output))
    assert cost <= fixed + output * price.output_pico
    assert cost <= fixed + output * tight.output_pico <= fixed + output * price.output_pico


@given(st.decimals(0, 10**6, places=7))
def test_a_price_per_token_is_rounded_up_and_by_less_than_a_pico_dollar(usd: Decimal) -> None:
    exact = usd * 10**6

    assert exact <= usage.pico_per_token(usd) < exact + 1
