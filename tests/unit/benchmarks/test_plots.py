"""What the figures promise: the same bytes for the same cells, the label on their face, readable text, and no formulas."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import polars as pl
import pytest

from benchmarks.plots import by_budget, cost_quality
from benchmarks.tables import cells

Make = Callable[..., pl.DataFrame]


@pytest.fixture(scope="module")
def table(make_trials: Make) -> pl.DataFrame:
    return cells(make_trials(("Single(fill)", "Star(4)"), ("small", "large"), ("$0.0004", "$0.0012"), ("craft",), 4, 2))


@pytest.fixture(scope="module")
def figures(table: pl.DataFrame) -> list[str]:
    return [make(table, "simulated, matched")["craft"] for make in (cost_quality, by_budget)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def n_lines(svg: str, colour: str) -> int:
    """Lines of this colour that join points; a line of legend or whisker has other ends."""
    return len(re.findall(rf"clip-path[^>]*stroke-dasharray|clip-path[^>]*stroke: {colour}[^>]*stroke-width: 1.6", svg))


def test_a_figure_is_an_svg_that_says_what_it_rests_on(figures: list[str]) -> None:
    for svg in figures:
        assert svg.startswith("<svg")
        assert sum("(simulated, matched)" in text for text in texts(svg)) == 1


def test_the_same_cells_give_the_same_bytes(table: pl.DataFrame, figures: list[str]) -> None:
    assert cost_quality(table, "simulated, matched") == {"craft": figures[0]}
    assert not any("date" in svg for svg in figures)


def test_dollar_signs_are_text_and_no_formula(table: pl.DataFrame) -> None:
    renamed = table.with_columns(
        budget="$" + pl.col("budget") + " or $2$", model=pl.lit("$m$"), topology=pl.lit(r"$\frac$")
    )
    seen = texts(by_budget(renamed, "simulated")["craft"])

    assert r"$\frac$" in seen
    assert any("$$0.0004 or $2$" in text for text in seen)


def test_hostile_names_stay_text(table: pl.DataFrame) -> None:
    renamed = table.with_columns(topology=pl.lit("<script>alert(1)</script>\x1b[2J"))
    svg = cost_quality(renamed, "simulated")["craft"]

    assert "<script" not in svg
    assert "<script>alert(1)</script>[2J" in texts(svg)


def test_no_text_is_smaller_than_nine_points(figures: list[str]) -> None:
    for svg in figures:
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", svg)]
        assert sizes
        assert min(sizes) >= 9


def test_arms_of_recorded_runs_are_points(table: pl.DataFrame) -> None:
    label = "recorded, not matched"
    joined, apart = (cost_quality(table, label, joined=joined)["craft"] for joined in (True, False))

    assert any(label in text for text in texts(apart))
    assert "best arm up to that spend" in joined
    assert "best arm up to that spend" not in apart
    assert n_lines(joined, "#d55e00") > n_lines(apart, "#d55e00") == 0


def test_without_prices_spend_is_in_tokens(table: pl.DataFrame) -> None:
    free = cost_quality(table.with_columns(mean_usd=pl.lit(0.0)), "simulated")["craft"]

    assert "mean tokens a run" in texts(free)
    assert "mean dollars a run" not in texts(free)


def test_without_success_or_spend_there_is_nothing_to_draw(table: pl.DataFrame) -> None:
    unknown = table.with_columns(success=pl.lit(None, pl.Float64))

    assert cost_quality(unknown, "simulated") == by_budget(unknown, "simulated") == {}
    assert cost_quality(table.with_columns(mean_usd=0.0, mean_tokens=0.0), "simulated") == {}


def test_long_budgets_are_numbered_and_long_names_are_cut(table: pl.DataFrame) -> None:
    long = table.with_columns(
        budget=pl.col("budget") + ", 30 tool calls, 120 s" * 3, topology=pl.col("topology") + "x" * 90
    )
    seen = texts(by_budget(long, "simulated")["craft"])

    assert {"1", "2"} <= set(seen)
    assert any("1: $0.0004, 30 tool calls" in text for text in seen)
    assert any(text.endswith("…") for text in seen)
