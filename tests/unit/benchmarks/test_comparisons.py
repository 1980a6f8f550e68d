"""What the comparisons promise: common tasks and seeds only, corrected per budget, and a headline that does not boast."""

from collections.abc import Callable

import polars as pl
import pytest

from benchmarks.comparisons import compare, compare_with_single, headline
from benchmarks.statistics import holm
from benchmarks.tables import POOLED, Arm, cells

Make = Callable[..., pl.DataFrame]
SINGLE, STAR = Arm("Single(fill)", "small"), Arm("Star(4)", "small")


def duel(make_trials: Make, star: pl.Expr, single: pl.Expr, n_tasks: int = 10) -> pl.DataFrame:
    """Two arms, one budget, one family, whose outcomes are given."""
    trials = make_trials(("Single(fill)", "Star(4)"), ("small",), ("$0.0004",), ("companies",), n_tasks, 2)
    return trials.with_columns(correct=pl.when(pl.col("topology") == "Star(4)").then(star).otherwise(single))


ALWAYS, NEVER = pl.lit(value=True), pl.lit(value=False)


def test_an_arm_is_held_against_single_of_the_same_model_family_and_budget(trials: pl.DataFrame) -> None:
    seen = compare_with_single(trials)

    assert seen.height == 4 * 3 * 2 * 3
    assert (seen["model"] == seen["against_model"]).all()
    assert set(seen["against_topology"]) == {"Single(fill)"}
    assert list(dict.fromkeys(seen["family"])) == ["companies", "craft", POOLED]


def test_a_difference_is_that_of_the_means(trials: pl.DataFrame) -> None:
    row = compare(trials, [(STAR, SINGLE)]).filter(family="craft", budget="$0.0012").row(0, named=True)
    means = [
        trials.filter(family="craft", budget="$0.0012", topology=t, model=m)["correct"].mean()
        for t, m in (STAR, SINGLE)
    ]

    assert row["difference"] == pytest.approx(means[0] - means[1])  # type: ignore[operator]
    assert row["low"] < row["difference"] < row["high"]
    assert (row["pairs"], row["tasks"]) == (16, 8)


def test_only_common_tasks_and_seeds_count(make_trials: Make) -> None:
    trials = duel(make_trials, ALWAYS, NEVER)
    torn = trials.filter((pl.col("topology") != "Star(4)") | (pl.col("task") != "companies-003"))
    doubled = pl.concat([torn, torn.head(5)])
    row = compare(doubled, [(STAR, SINGLE)]).row(0, named=True)

    assert (row["pairs"], row["tasks"], row["wins"], row["losses"]) == (18, 9, 18, 0)


def test_arms_without_common_trials_are_not_compared(make_trials: Make) -> None:
    trials = duel(make_trials, ALWAYS, NEVER)

    assert compare(trials, [(STAR, Arm("Mesh(3)", "small"))]).is_empty()
    assert compare(
        trials.filter((pl.col("topology") == "Star(4)") == (pl.col("seed") == 0)), [(STAR, SINGLE)]
    ).is_empty()
    assert compare_with_single(trials.filter(topology="Star(4)")).is_empty()


def test_the_correction_runs_over_one_budget_of_one_family(trials: pl.DataFrame) -> None:
    for _, group in compare_with_single(trials).group_by("family", "budget"):
        assert group["p_holm"].to_list() == pytest.approx(holm(group["p"].to_list()))


def test_spend_is_compared_on_the_same_pairs(make_trials: Make) -> None:
    twice = pl.when(pl.col("topology") == "Star(4)").then(2_000).otherwise(1_000)
    trials = duel(make_trials, ALWAYS, NEVER)

    assert compare(trials.with_columns(pico_usd=twice), [(STAR, SINGLE)])["spend_ratio"].to_list() == [2.0]
    assert compare(trials.with_columns(pico_usd=0), [(STAR, SINGLE)])["spend_ratio"].to_list() == [None]


def test_the_order_of_trials_changes_nothing(trials: pl.DataFrame) -> None:
    shuffled = trials.sample(fraction=1.0, shuffle=True, seed=5)

    assert compare_with_single(shuffled).equals(compare_with_single(trials))
    assert headline(shuffled, cells(shuffled)).equals(headline(trials, cells(trials)))


def test_the_headline_names_a_team_that_beats_the_single_agent(make_trials: Make) -> None:
    trials = duel(make_trials, ALWAYS, NEVER)
    row = headline(trials, cells(trials)).row(0, named=True)

    assert (row["topology"], row["single_model"], row["beats"]) == ("Star(4)", "small", True)
    assert row["difference"] == 1.0
    assert row["difference_low"] > 0


def test_the_headline_does_not_call_chance_a_win(make_trials: Make) -> None:
    trials = duel(
        make_trials, pl.col("task") != "companies-000", pl.col("task").str.slice(-1).is_in(["1", "2", "3"]).not_()
    )
    slight = duel(make_trials, ALWAYS, pl.col("task") != "companies-000")

    assert headline(trials, cells(trials))["topology"].to_list() == ["Star(4)"]
    row = headline(slight, cells(slight)).row(0, named=True)
    assert (row["topology"], row["beats"]) == ("Star(4)", False)
    assert row["difference"] == pytest.approx(0.1)


def test_the_best_arm_pays_for_being_picked_from_many(trials: pl.DataFrame) -> None:
    best = headline(trials, cells(trials)).filter(family=POOLED, budget="$0.0004").row(0, named=True)
    pair = (Arm(best["topology"], best["model"]), Arm("Single(fill)", best["single_model"]))
    plain = compare(trials, [pair]).filter(family=POOLED, budget="$0.0004").row(0, named=True)

    assert best["picked_from"] == 12
    assert best["difference"] == plain["difference"]
    assert best["difference_low"] < plain["low"]


def test_a_single_agent_may_be_the_best(make_trials: Make) -> None:
    trials = duel(make_trials, NEVER, ALWAYS)
    row = headline(trials, cells(trials)).row(0, named=True)

    assert (row["topology"], row["single_success"], row["difference"], row["beats"]) == (
        "Single(fill)",
        1.0,
        None,
        False,
    )


def test_without_a_single_agent_nothing_is_claimed(make_trials: Make) -> None:
    trials = duel(make_trials, ALWAYS, NEVER).filter(topology="Star(4)")
    row = headline(trials, cells(trials)).row(0, named=True)

    assert (row["topology"], row["single_model"], row["difference"], row["beats"]) == ("Star(4)", None, None, False)


def test_equal_success_goes_to_the_cheaper_arm(make_trials: Make) -> None:
    cheaper = pl.when(pl.col("topology") == "Star(4)").then(1_000).otherwise(2_000)
    trials = duel(make_trials, ALWAYS, ALWAYS).with_columns(pico_usd=cheaper)

    assert headline(trials, cells(trials))["topology"].to_list() == ["Star(4)"]
