"""What the statistics promise: coverage, size and power on planted data, exact answers where they are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.statistics import holm, interval, paired
from runtime.errors import ConfigError

N_TASKS, N_SEEDS, N_SETS = 20, 3, 200
TASKS = [task for task in range(N_TASKS) for _ in range(N_SEEDS)]


def outcomes(rng: np.random.Generator, mean: float, alike: float = 0.3) -> NDArray[np.float64]:
    """0/1 outcomes of `TASKS` whose chances differ from task to task (beta, correlation `alike` within a task)."""
    weight = (1 - alike) / alike
    chances = rng.beta(mean * weight, (1 - mean) * weight, N_TASKS)
    return (rng.random((N_TASKS, N_SEEDS)) < chances[:, None]).astype(np.float64).ravel()


@pytest.mark.parametrize("mean", [0.15, 0.5, 0.8])
def test_the_interval_of_shares_covers_the_planted_mean(mean: float) -> None:
    rng = np.random.default_rng(1)
    seen = [interval(outcomes(rng, mean), TASKS) for _ in range(N_SETS)]

    assert 0.90 <= np.mean([one.low <= mean <= one.high for one in seen]) <= 0.99


def test_the_interval_of_few_tasks_much_alike_inside_still_covers() -> None:
    """Four tasks, most of them nearly always or nearly never solved: where a bootstrap over tasks fails."""
    rng = np.random.default_rng(6)
    tasks = [task for task in range(4) for _ in range(5)]
    chances = rng.beta(1 / 3, 1 / 3, (400, 4))
    sets = (rng.random((400, 4, 5)) < chances[:, :, None]).astype(np.float64).reshape(400, 20)
    seen = [interval(values, tasks) for values in sets]

    assert np.mean([one.low <= 0.5 <= one.high for one in seen]) >= 0.92


def test_the_interval_of_other_values_covers_the_planted_mean() -> None:
    rng = np.random.default_rng(2)
    sets = [np.repeat(rng.normal(5, 1, N_TASKS), N_SEEDS) + rng.normal(0, 1, len(TASKS)) for _ in range(N_SETS)]
    seen = [interval(values, TASKS) for values in sets]

    assert 0.90 <= np.mean([one.low <= 5 <= one.high for one in seen]) <= 0.99


def test_trials_of_one_task_count_less_than_trials_of_many() -> None:
    values = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0] * 5
    many = interval(values, list(range(30)))
    few = interval(values, [task for task in range(10) for _ in range(3)])

    assert few.high - few.low > many.high - many.low
    assert (few.n, few.clusters, few.method) == (30, 10, "wilson")


def test_tasks_more_alike_than_chance_earn_nothing() -> None:
    """Each task once right and once wrong: the tasks do not differ at all, yet the interval is that of 20 free trials."""
    seen = interval([1.0, 0.0] * 10, [task for task in range(10) for _ in range(2)])

    assert seen.high - seen.low > 0.4


def test_ten_tasks_all_solved_are_no_certainty() -> None:
    seen = interval(np.ones(30), [task for task in range(10) for _ in range(3)])

    assert (round(seen.low, 2), seen.high) == (0.72, 1.0)


def test_one_task_says_nearly_nothing() -> None:
    seen = interval([1.0, 1.0, 0.0], ["one"] * 3)

    assert seen.low < 0.2
    assert seen.high > 0.9


def test_equal_values_are_their_own_interval_and_one_cluster_knows_nothing() -> None:
    assert interval([2.5] * 4, [1, 1, 2, 2])[:3] == (2.5, 2.5, 2.5)
    assert interval([2.5, 3.5], [1, 1])[:3] == (3.0, -np.inf, np.inf)


def test_a_higher_level_is_wider() -> None:
    values = outcomes(np.random.default_rng(3), 0.5)

    assert interval(values, TASKS, 0.99).low < interval(values, TASKS).low


def test_values_without_clusters_are_refused() -> None:
    with pytest.raises(ConfigError, match="one cluster for each value"):
        interval([1.0, 0.0], ["a"])
    with pytest.raises(ConfigError, match="one cluster for each value"):
        interval([], [])
    with pytest.raises(ConfigError, match="both arms"):
        paired([1.0], [1.0, 0.0], ["a", "b"], 0)


def test_a_planted_difference_is_found_and_covered() -> None:
    rng = np.random.default_rng(4)
    sets = [(outcomes(rng, 0.5), rng.random(len(TASKS)) < 0.5) for _ in range(100)]
    seen = [paired(np.maximum(base, gain), base, TASKS, 0) for base, gain in sets]

    assert np.mean([one.p < 0.05 for one in seen]) > 0.9
    # Half of what was not solved is solved by the second arm: a quarter of all.
    assert np.mean([one.low <= 0.25 <= one.high for one in seen]) >= 0.9
    assert all(one.losses == 0 for one in seen)


def test_arms_that_do_not_differ_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(5)
    seen = [paired(outcomes(rng, 0.5), outcomes(rng, 0.5), TASKS, 0) for _ in range(N_SETS)]

    assert np.mean([one.p <= 0.05 for one in seen]) <= 0.09
    assert np.mean([one.low <= 0 <= one.high for one in seen]) >= 0.91


def test_the_p_value_of_few_tasks_is_exact() -> None:
    """Six tasks, all won: of 64 sign patterns only the one seen and its mirror image are as extreme."""
    seen = paired([1.0] * 6, [0.0] * 6, range(6), 0)

    assert seen.p == 2 / 64
    assert (seen.difference, seen.wins, seen.losses, seen.pairs, seen.clusters) == (1.0, 6, 0, 6, 6)


def test_random_signs_agree_with_the_exact_ones() -> None:
    tasks = range(13)
    a, b = [1.0] * 10 + [0.0] * 3, [0.0] * 10 + [1.0] * 3
    exact = 2 * sum(1 for bits in range(2**13) if bits.bit_count() >= 10) / 2**13

    assert paired(a, b, tasks, 7).p == pytest.approx(exact, abs=0.01)
    assert paired(a, b, tasks, 7).p == paired(a, b, tasks, 7).p


def test_arms_that_never_differ_still_have_an_interval() -> None:
    seen = paired([1.0, 0.0] * 10, [1.0, 0.0] * 10, range(20), 0)

    assert (seen.difference, seen.p) == (0.0, 1.0)
    assert seen.low < -0.05
    assert seen.high > 0.05


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
