"""Intervals, races and seed noise, compared with SciPy, R and simulations."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from confirm import MEANS, compare
from scipy import stats

from tuner.study.racing import (
    Left,
    Runs,
    difference,
    interval,
    noise,
    probability_best,
    race,
)

# Student's (1908) sleep data; R's t.test documents both tests on it.
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
SEEDS = 5
LOW = (50.0, 55.0, 52.0, 49.0, 51.0)
MIDDLE = (58.0, 60.0, 56.0, 59.0, 57.0)


def runs(values: Sequence[float | None], first: int = 0) -> Runs:
    """Runs with these values, from the seed of index ``first`` on."""
    return dict(enumerate(values, first))


def test_interval_is_that_of_scipy() -> None:
    found = interval(LOW, 0.9)
    expected = stats.t.interval(0.9, 4, np.mean(LOW), stats.sem(LOW))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.mean, found.deviation, found.n) == pytest.approx((51.4, np.std(LOW, ddof=1), 5))


def test_one_value_has_no_interval() -> None:
    assert interval([3.0]) == (3.0, None, None, None, 1)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_run_without_finite_value_makes_mean_infinite(bad: float | None) -> None:
    assert interval([1.0, bad, 2.0]) == (math.inf, None, None, None, 3)


def test_no_runs_have_no_mean() -> None:
    assert math.isnan(interval([]).mean)
    assert math.isnan(difference({}, runs(LOW)).mean)


def test_paired_difference_is_that_of_r() -> None:
    found = difference(runs(DRUG_1), runs(DRUG_2))
    assert found == pytest.approx((-1.58, -2.4598858, -0.7001142, 10, True))
    expected = stats.ttest_rel(DRUG_1, DRUG_2).confidence_interval()
    assert found[1:3] == pytest.approx(tuple(expected))


def test_unpaired_difference_is_that_of_r() -> None:
    found = difference(runs(DRUG_1), runs(DRUG_2, first=10))
    assert found == pytest.approx((-1.58, -3.3654832, 0.2054832, 20, False))
    expected = stats.ttest_ind(DRUG_1, DRUG_2, equal_var=False).confidence_interval()
    assert found[1:3] == pytest.approx(tuple(expected))


def test_difference_uses_shared_seeds_only() -> None:
    assert difference(runs(LOW), runs(MIDDLE[:3])) == difference(runs(LOW[:3]), runs(MIDDLE[:3]))


def test_difference_of_a_single_shared_seed_is_unpaired() -> None:
    found = difference(runs(LOW), runs(MIDDLE, first=4))
    assert not found.paired
    assert found.low is not None
    assert difference(runs(LOW), runs(MIDDLE, first=3)).paired
    assert difference(runs(LOW), {0: 58.0}) == pytest.approx((-6.6, None, None, 6, False))


def test_difference_to_diverged_runs_is_infinite() -> None:
    diverged = runs([50.0, None, 52.0])
    assert difference(diverged, runs(LOW)) == (math.inf, None, None, 3, True)
    assert difference(runs(LOW), diverged).mean == -math.inf
    assert math.isnan(difference(diverged, diverged).mean)


def test_race_applies_welch_s_test_at_its_share_of_the_level() -> None:
    """Two configurations, five seeds: four tests."""
    p = stats.ttest_ind(MIDDLE[:3], LOW[:3], equal_var=False, alternative="greater").pvalue
    both = {"low": runs(LOW[:3]), "middle": runs(MIDDLE[:3])}
    assert race(both, SEEDS, confidence=1 - 4 * p * 0.99).racing == ("low", "middle")
    found = race(both, SEEDS, confidence=1 - 4 * p * 1.01)
    assert found.racing == ("low",)
    reason = f"mean 5.67 above that of low (adjusted p = {4 * p:.2g})"
    assert found.left == {"middle": Left(3, reason)}


def test_race_shares_its_level_among_rivals() -> None:
    values = {"low": runs(LOW), "middle": runs(MIDDLE)}
    level = (
        1.01
        * 4
        * min(
            stats.ttest_ind(MIDDLE[:n], LOW[:n], equal_var=False, alternative="greater").pvalue
            for n in range(2, 6)
        )
    )
    assert race(values, SEEDS, 1 - level).racing == ("low",)
    more = values | {"a copy of low": runs(LOW)}
    assert race(more, SEEDS, 1 - level).racing == ("low", "middle", "a copy of low")
    assert race(more, SEEDS, 1 - 2 * level).racing == ("low", "a copy of low")


def test_race_waits_for_the_slowest() -> None:
    values = {"low": runs(LOW), "middle": runs(MIDDLE[:1]), "high": {}}
    assert race(values, SEEDS).rounds == 0
    assert race(values | {"high": {0: 200.0, 2: 201.0}}, SEEDS).rounds == 1
    assert race({}, SEEDS) == ((), {}, 0)


def test_race_does_not_wait_for_those_that_left() -> None:
    values = {"low": runs(LOW), "middle": runs(MIDDLE), "high": runs([200.0, 201.0])}
    found = race(values, SEEDS)
    assert found.left["high"].seeds == 2
    assert found.rounds == SEEDS


def test_diverged_configuration_leaves_however_good_its_other_values() -> None:
    values = {"good": runs(LOW), "unstable": runs([1.0, None, 1.0])}
    expected = Left(2, "no finite value with 1 of 2 seeds")
    assert race(values, SEEDS).left == {"unstable": expected}


def test_diverged_configuration_beats_none_in_the_round_it_leaves() -> None:
    values = {"good": runs(LOW), "unstable": runs([1.0, 1.1, None])}
    assert race(values, SEEDS).racing == ("good",)


def test_race_ends_after_its_last_round() -> None:
    assert race({"low": runs(LOW), "middle": runs(MIDDLE)}, 2).rounds == 2


def test_equally_unstable_configurations_compare_by_finite_values() -> None:
    values = {"low": runs([None, *LOW]), "high": runs([math.nan, *(v + 100 for v in LOW)])}
    found = race(values, SEEDS + 1)
    assert found.racing == ("low",)
    assert found.left["high"].seeds == 3


def test_values_without_noise_are_compared_exactly() -> None:
    values = {"a": runs([1.0, 1.0]), "b": runs([1.0, 1.0]), "c": runs([2.0, 2.0])}
    assert race(values, SEEDS).racing == ("a", "b")
    assert probability_best(values) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.0}, abs=1e-3)


def test_probability_best_is_that_of_draws_from_the_posteriors() -> None:
    values = {"low": LOW, "near": (52.0, 55.0, 51.0), "wide": (49.0, 61.0)}
    random = np.random.default_rng(0)
    draws = [
        np.mean(v) + stats.sem(v) * random.standard_t(len(v) - 1, 400_000) for v in values.values()
    ]
    expected = np.bincount(np.argmin(draws, axis=0)) / 400_000
    found = probability_best({name: runs(v) for name, v in values.items()})
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=0.004)


def test_probability_of_the_better_of_two_is_exact_where_the_posterior_is_known() -> None:
    """With equal variances and many seeds the difference of two posteriors is about normal."""
    random = np.random.default_rng(0).standard_normal(1000)
    z = (random - random.mean()) / random.std(ddof=1)
    found = probability_best({"a": runs(z.tolist()), "b": runs((z + 0.05).tolist())})
    assert found["a"] == pytest.approx(stats.norm.cdf(0.05 / math.sqrt(2 / 1000)), abs=0.001)


def test_single_values_borrow_the_pooled_noise() -> None:
    """Of LOW and MIDDLE: with eight degrees of freedom."""
    pooled = math.sqrt((np.var(LOW, ddof=1) + np.var(MIDDLE, ddof=1)) / 2)
    random = np.random.default_rng(0)
    draws = [
        *(np.mean(v) + stats.sem(v) * random.standard_t(4, 400_000) for v in (LOW, MIDDLE)),
        51.0 + pooled * random.standard_t(8, 400_000),
    ]
    expected = np.bincount(np.argmin(draws, axis=0)) / 400_000
    found = probability_best({"low": runs(LOW), "middle": runs(MIDDLE), "one": runs([51.0])})
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=0.004)
    assert probability_best({"one": runs([50.0]), "other": runs([51.0])}) == {}


def test_diverged_configuration_is_not_the_best() -> None:
    values = {"high": runs(MIDDLE), "unstable": runs([1.0, None, 1.0]), "none": {}}
    assert probability_best(values) == {"high": 1.0, "unstable": 0.0, "none": 0.0}
    del values["high"]
    assert probability_best(values) == {"unstable": 1.0, "none": 0.0}


def test_pooled_noise_is_that_of_analysis_of_variance() -> None:
    groups = [(1.0, 3.0), (10.0, 11.0, 12.0), (5.0,)]
    values = [value for group in groups for value in group]
    found = noise(groups, values)
    squares = sum((len(g) - 1) * np.var(g, ddof=1) for g in groups[:2])
    assert found[:2] == pytest.approx((math.sqrt(squares / 3), 3))
    assert found.share == pytest.approx(squares / 3 / np.var(values, ddof=1))
    assert found[3:] == (None, 0, None)


def test_seeds_explain_at_most_everything() -> None:
    assert noise([(0.0, 10.0)], [4.0, 5.0, 6.0]).share == 1
    assert noise([(0.0, 10.0)], [5.0, 5.0]).share is None


def test_noise_without_repeated_runs_is_unknown() -> None:
    assert noise([(1.0,), (2.0, math.nan)], [1.0, 2.0]) == (None, 0, None, None, 0, None)
    assert noise([], []) == (None, 0, None, None, 0, None)


def test_neighbours_count_each_pair_once() -> None:
    """0 and 0.1 are each other's neighbours, and so are 0.9 and 1; that of 0.3 is 0.1."""
    values = [1.0, 3.0, 4.0, math.inf, 8.0, 8.0]
    points = [[0.0], [0.1], [0.3], [0.5], [0.9], [1.0]]
    found = noise([], values, points)
    assert (found.bound, found.pairs) == pytest.approx((math.sqrt((4 + 1 + 0) / 3 / 2), 3))


def test_repeated_points_are_their_own_neighbours() -> None:
    found = noise([], [1.0, 3.0, 10.0, 14.0, 5.0], [[0.5]] * 3 + [[0.7]] * 2)
    assert found.pairs in (2, 3)
    assert found.bound is not None


def test_neighbours_bound_the_noise_from_above() -> None:
    random = np.random.default_rng(0)
    points = random.random((400, 2))
    smooth = 20 * (points**2).sum(axis=1)
    values = smooth + random.standard_normal(400)
    found = noise([], values.tolist(), points.tolist())
    assert found.bound is not None
    assert 1 < found.bound < 1.3
    assert found.bound_share == pytest.approx(found.bound**2 / np.var(values, ddof=1))
    steep = noise([], (values + 200 * points[:, 0]).tolist(), points.tolist())
    assert steep.bound is not None
    assert steep.bound > 3


def test_race_beats_choosing_by_one_value_at_the_same_cost() -> None:
    """As simulated by benchmarks/confirm.py, with noise as large as the gap to the second best."""
    found = compare(1.0, 500)
    assert found.covered > 0.93
    assert found.race < found.lowest / 2 < found.one_seed / 2
    assert found.race < found.evenly
    assert len(MEANS) < found.trainings < len(MEANS) * SEEDS


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_race_rarely_throws_out_the_best(correlation: float) -> None:
    """The hardest case: all are equally good."""
    assert compare(1.0, 500, correlation=correlation, means=np.zeros(4)).eliminated <= 0.05
