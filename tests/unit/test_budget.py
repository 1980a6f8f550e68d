"""Limits and money: dollars become integers exactly, and a limit that would limit nothing is refused."""

from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.budget import Budget, usd_text
from runtime.errors import ConfigError
from runtime.usage import PICO, Price, Usage, pico_usd

amounts = st.decimals(0, 10**15, allow_nan=False, allow_infinity=False)
tokens = st.integers(0, 10**9)
prices = st.integers(0, 10**9)


@given(amounts)
def test_dollars_become_pico_dollars_exactly_and_round_up(usd: Decimal) -> None:
    assert pico_usd(usd) == pico_usd(str(usd)) == ceil(Fraction(usd) * PICO)


@given(amounts)
def test_the_callers_own_decimal_precision_changes_nothing(usd: Decimal) -> None:
    with localcontext() as narrow:
        narrow.prec = 2
        found = pico_usd(usd)

    assert found == ceil(Fraction(usd) * PICO)


@pytest.mark.parametrize(
    ("usd", "pico"),
    [
        (0.4, 400_000_000_000),
        (0.1 + 0.2, 300_000_000_001),  # prints as 0.30000000000000004
        ("0.000000005", 5_000),
        ("1e-12", 1),
        ("0.9e-12", 1),
        ("1e-999999", 1),
        (0, 0),
        ("-0", 0),
        (10**15, 10**27),
    ],
)
def test_dollars_are_read_as_they_print(usd: Any, pico: int) -> None:
    assert pico_usd(usd) == pico


@pytest.mark.parametrize(
    "usd", [-0.01, "-1e-999999", float("nan"), "sNaN", float("inf"), "1e16", "1e999999999", "ten", "", None, True, [1]]
)
def test_what_is_no_amount_of_dollars_is_refused(usd: Any) -> None:
    with pytest.raises(ConfigError, match="is not an amount of dollars"):
        pico_usd(usd)


@given(st.integers(0, 10**20))
def test_an_amount_is_printed_so_that_it_reads_back(pico: int) -> None:
    text = usd_text(pico)

    assert pico_usd(text) == pico
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"tool_calls": {}},
        {"tool_calls": {"search": None}},
        {"tool_calls": {"search": 3, "other": None}},
        *[{"tokens": value} for value in (-1, 2.5, "7", True, 2**63 + 1)],
        *[{"calls": value} for value in (-1, 2.5, "7", True, 2**63 + 1)],
        *[{"tool_calls": value} for value in (-1, 2.5, "7", True, 2**63 + 1, {"search": -1}, {"search": 0.5})],
        {"tokens": 2.5, "tool_calls": {"tokens": 3}},
        *[{"usd": value} for value in (-1, "x", float("nan"))],
        *[{"seconds": value} for value in (0, -1, float("nan"), float("inf"))],
    ],
    ids=str,
)
def test_a_limit_that_cannot_be_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"Budget|dollars"):
        Budget(**limits)


def test_limits_stand_in_the_order_of_their_dimensions() -> None:
    budget = Budget(tokens=5, usd="0.5", calls=7, tool_calls={"search": 2, "look": 1})

    assert dict(zip(budget.dimensions, budget.caps, strict=True)) == {
        "tokens": 5,
        "pico_usd": PICO // 2,
        "calls": 7,
        "tool_calls": None,
        "tool_calls.look": 1,
        "tool_calls.search": 2,
    }
    assert Budget(tool_calls=3).caps == (None, None, None, 3)


def test_a_budget_describes_itself() -> None:
    budget = Budget(tokens=50_000, usd="0.40", calls=3, tool_calls=30, seconds=120)

    assert budget.describe() == "50,000 tokens, $0.4, 3 calls, 30 tool calls, 120 s"
    assert Budget(tool_calls={"search": 2}).describe() == "2 × search"


@given(
    st.builds(Price, prices, prices, prices, st.none() | prices),
    st.tuples(tokens, tokens).map(lambda pair: Usage(max(pair), 5, min(pair))),
)
def test_a_hold_covers_every_way_a_prompt_may_be_billed(price: Price, usage: Usage) -> None:
    """Cached tokens may be cheaper or, where writing to the cache costs, dearer."""
    assert 0 <= price.cost(usage) <= price.ceiling(usage)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_price_per_million_never_loses_a_fraction(input_usd: int, output_usd: int) -> None:
    price = Price.per_million(Decimal(input_usd) / 10**9, Decimal(output_usd) / 10**9)

    assert (price.input_pico, price.output_pico) == (ceil(Fraction(input_usd, 1000)), ceil(Fraction(output_usd, 1000)))
