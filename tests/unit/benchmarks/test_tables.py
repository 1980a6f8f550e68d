"""What the tables promise: the same digest for the same trials, honest counts, and text that cannot steer a terminal."""

from collections.abc import Callable
from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from benchmarks.tables import (
    POOLED,
    TRIAL_COLUMNS,
    canonical,
    canonical_sha256,
    cells,
    count,
    dollars,
    frontier,
    percent,
    plain,
    signed,
    success,
    terminal_table,
)
from runtime.errors import ConfigError

Make = Callable[..., pl.DataFrame]


def small(make_trials: Make) -> pl.DataFrame:
    return make_trials(("Single(fill)", "Star(4)"), ("small",), ("$0.0004",), ("companies",), 4, 2)


def printed(cells: pl.DataFrame, label: str = "simulated, matched", width: int = 100) -> str:
    console = Console(width=width, record=True, force_terminal=True, color_system=None, file=StringIO())
    console.print(terminal_table(cells, label))
    return console.export_text()


def test_the_digest_does_not_depend_on_row_order_clock_or_further_columns(trials: pl.DataFrame) -> None:
    disturbed = trials.sample(fraction=1.0, shuffle=True, seed=3).with_columns(
        seconds=pl.lit(9.75), refusals=pl.lit(5), host=pl.lit("h2"), pid=pl.lit(17)
    )

    assert canonical_sha256(disturbed) == canonical_sha256(trials)
    assert canonical(disturbed).equals(canonical(trials))


@pytest.mark.parametrize(
    "change",
    [{"answer": "0"}, {"correct": None}, {"tokens": 1}, {"cap_seconds": 60.0}, {"prices": "00" * 32}, {"kind": "live"}],
)
def test_the_digest_depends_on_what_came_out(trials: pl.DataFrame, change: dict[str, object]) -> None:
    first = pl.int_range(pl.len()) == 0
    changed = trials.with_columns(
        pl.when(first).then(pl.lit(value, TRIAL_COLUMNS[name])).otherwise(name).alias(name)
        for name, value in change.items()
    )

    assert canonical_sha256(changed) != canonical_sha256(trials)


def test_a_column_of_nothing_has_the_digest_of_a_typed_column_of_nothing(trials: pl.DataFrame) -> None:
    typed = trials.with_columns(pl.col("cap_tokens").cast(pl.Int64))

    assert trials.schema["cap_tokens"] == pl.Null
    assert canonical_sha256(trials) == canonical_sha256(typed)


def test_missing_columns_are_named(trials: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"missing: seed, reason"):
        cells(trials.drop("reason", "seed"))
    with pytest.raises(ConfigError, match="no table without trials"):
        cells(trials.clear())


def test_each_cell_has_a_row_and_the_families_are_pooled_last(trials: pl.DataFrame) -> None:
    table = cells(trials)

    assert table.height == 5 * 3 * 2 * 3
    assert list(dict.fromkeys(table["family"])) == ["companies", "craft", POOLED]
    assert list(dict.fromkeys(table["topology"])) == ["Single(fill)", "Chain(3)", "Mesh(3)", "Star(4)", "Tree(2, 2)"]
    pooled = table.filter(family=POOLED, topology="Star(4)", model="large", budget="$0.0012").row(0, named=True)
    parts = trials.filter(topology="Star(4)", model="large", budget="$0.0012")
    assert pooled["n"] == parts.height
    assert pooled["tasks"] == 16
    assert pooled["success"] == parts["correct"].mean()
    assert pooled["low"] < pooled["success"] < pooled["high"]
    assert pooled["mean_usd"] == pytest.approx(parts["pico_usd"].mean() / 1e12)  # type: ignore[operator]


def test_one_family_is_not_pooled_with_itself(make_trials: Make) -> None:
    assert set(cells(small(make_trials))["family"]) == {"companies"}


def test_tasks_of_one_name_in_two_families_are_two(make_trials: Make) -> None:
    trials = make_trials(("Star(4)",), ("small",), ("$0.0004",), n_tasks=3, n_seeds=1)
    same = trials.with_columns(task=pl.col("task").str.tail(3))

    assert cells(same).filter(family=POOLED)["tasks"].to_list() == [6]


def test_sizes_sort_as_numbers(make_trials: Make) -> None:
    table = cells(make_trials(("Star(16)", "Star(2)", "Single(fill)", "Chain(3)"), ("small",), ("$0.0004",), n_tasks=2))

    assert list(dict.fromkeys(table["topology"])) == ["Single(fill)", "Chain(3)", "Star(2)", "Star(16)"]


def test_a_trial_without_a_verdict_counts_as_not_solved(make_trials: Make) -> None:
    trials = small(make_trials).with_columns(correct=pl.when(pl.col("seed") == 0).then(pl.lit(value=True)))

    assert cells(trials)["success"].to_list() == [0.5, 0.5]


def test_without_checkers_there_is_no_success(make_trials: Make) -> None:
    table = cells(small(make_trials).with_columns(correct=pl.lit(None, pl.Boolean)))

    assert table["success"].to_list() == [None, None]
    assert table["n"].to_list() == [8, 8]
    assert frontier(table).is_empty()
    assert "–" in printed(table)


def test_shares_and_overspend_are_counted(make_trials: Make) -> None:
    trials = small(make_trials).with_columns(
        status=pl.lit("completed"), pico_usd=pl.lit(300_000_000), calls=pl.lit(9), cap_calls=pl.lit(10)
    )
    first, second = ((pl.col("task") == f"companies-00{i}") & (pl.col("seed") == 0) for i in (0, 1))
    trials = trials.with_columns(
        status=pl.when(first).then(pl.lit("exhausted")).when(second).then(pl.lit("cancelled")).otherwise("status"),
        over_tokens=pl.when(first).then(7).when(second).then(3).otherwise(0),
    )
    row = cells(trials).row(0, named=True)

    assert (row["exhausted"], row["deadline"], row["failed"]) == (0.125, 0.0, 0.125)
    assert (row["over_trials"], row["over_tokens_max"], row["over_tokens_total"]) == (2, 7, 10)
    assert row["unspent"] == pytest.approx(0.1), "calls are nearer to their end than dollars"


def test_a_run_that_went_on_after_a_refusal_counts_as_refused_and_not_as_exhausted(make_trials: Make) -> None:
    mended, ended = ((pl.col("task") == f"companies-00{i}") & (pl.col("seed") == 0) for i in (0, 1))
    trials = small(make_trials).with_columns(
        status=pl.when(ended).then(pl.lit("exhausted")).otherwise(pl.lit("completed")),
        refusals=pl.when(mended).then(3).when(ended).then(1).otherwise(0),
    )
    row = cells(trials).row(0, named=True)
    [head] = [line for line in printed(cells(trials)).splitlines() if "unspent" in line]

    assert (row["refused"], row["exhausted"]) == (0.25, 0.125)
    assert "refused" in head
    assert "exhausted" not in head, "there is room for one of the two"


def test_a_table_of_trials_from_before_a_column_is_told_how_it_is_written_anew(trials: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"missing: refusals; .*ostrom sweep.*--fork"):
        cells(trials.drop("refusals"))


def test_without_caps_nothing_is_unspent(make_trials: Make) -> None:
    trials = small(make_trials).with_columns(cap_pico_usd=None, cap_tool_calls=0)

    assert cells(trials)["unspent"].to_list() == [None, None]


def test_the_frontier_holds_what_no_other_arm_beats() -> None:
    table = pl.DataFrame(
        {
            "family": ["f"] * 4,
            "topology": ["cheap", "dear", "beaten", "tied"],
            "model": "m",
            "budget_rank": 0,
            "budget": "$1",
            "mean_usd": [0.1, 0.3, 0.4, 0.1],
            "mean_tokens": [1.0, 1.0, 1.0, 1.0],
            "success": [0.5, 0.8, 0.8, 0.5],
            "low": 0.0,
            "high": 1.0,
        }
    )

    assert frontier(table)["efficient"].to_list() == [True, True, False, True]
    free = table.with_columns(mean_usd=pl.lit(0.0))
    assert frontier(free)["efficient"].to_list() == [False, True, True, False], "by tokens when nothing costs"


def test_the_terminal_table_says_what_it_rests_on_and_fits(trials: pl.DataFrame) -> None:
    text = printed(cells(trials))

    assert text.count("(simulated, matched)") == 2 * 3
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text


def test_what_a_model_wrote_is_no_markup_and_no_escape_sequence(make_trials: Make) -> None:
    hostile = "[red]Star\x1b[2J\x9b(4)\x07[/red]"
    table = cells(small(make_trials).with_columns(topology=pl.lit(hostile), family=pl.lit("fam\x1b]0;x\x07ily")))
    text = printed(table, "simulated\x1b[31m", 140)

    assert "[red]Star[2J(4)[/red]" in text
    assert not {"\x1b", "\x9b", "\x07"} & set(text)


def test_numbers_are_written_for_people() -> None:
    assert success(0.624, 0.5511, 1.0) == ".62 [.55, 1.00]"
    assert success(None, None, None) == "–"
    assert [signed(value) for value in (0.07, -0.124, 0.0, -0.004, None)] == ["+.07", "−.12", "+.00", "+.00", "–"]
    assert [dollars(value) for value in (0.00031, 0.0000012345, 0.9999, 1234.5, 0.0)] == [
        "$0.000310",
        "$0.00000123",
        "$1.00",
        "$1,234.50",
        "$0",
    ]
    assert [percent(value) for value in (0.0, 0.001, 0.126, 1.0, None)] == ["0 %", "<1 %", "13 %", "100 %", "–"]
    assert count(12345.6) == "12,346"
    assert plain("a\nb\x00\x1b[1m\x85c") == "a b[1mc"
