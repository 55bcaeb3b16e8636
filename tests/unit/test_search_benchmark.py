"""What ``benchmarks/search.py`` measures on simulated studies, by hand."""

import math

import pytest
from search import FAMILIES, curve_of, family, measure, pruners, study

from tuner.spec.pruners import AshaPruner, NoPruner
from tuner.study.curves import rank_correlations
from tuner.study.replay import pruner_text
from tuner.study.simulation import simulate


def test_values_are_the_best_so_far_up_to_where_they_end() -> None:
    whole = curve_of(0, [9.0, None, 11.0, 7.0], [1.0, 2.0, 3.0, 4.0], 4)
    assert (whole.values, whole.state) == ({1: 9.0, 3: 9.0, 4: 7.0}, "COMPLETE")
    assert curve_of(0, [9.0, None], [1.0, 2.0], 4).state == "PRUNED"


def test_device_time_is_in_full_trials() -> None:
    """Two trials of 3 and 5 s: a full trial takes 4 s."""
    curves = [curve_of(0, [9.0, 8.0], [1.5, 1.5], 2), curve_of(1, [9.5, 6.05], [2.5, 2.5], 2)]
    curves.append(curve_of(2, [7.0, 6.0], [2.0, 2.0], 2))
    spec, pruner = study(2, 3), NoPruner()
    one = measure(curves, simulate(curves, pruner, spec, 1), 1)
    assert one == pytest.approx((2, 3, False, 0, 0.5))  # 6.05 is within 1% of 6
    # Trial 2 ends at 7 s; so long are two workers held.
    two = measure(curves, simulate(curves, pruner, spec, 2), 2)
    assert two == pytest.approx((2.5, 3.5, False, 0, math.inf))


def test_a_lost_best_trial_leaves_an_excess() -> None:
    curves = [curve_of(n, [9.0 + n, 8.0 - n], [1.0, 1.0], 2) for n in range(3)]
    found = measure(curves, simulate(curves, AshaPruner(), study(2, 3), 1), 1)
    # All pause after an epoch; the first is promoted.
    assert found == pytest.approx((math.inf, 2, True, 8 / 6 - 1, math.inf))


def test_families_differ_in_how_early_ranks_agree_with_the_final_ones() -> None:
    correlations = []
    for correlation in FAMILIES.values():
        curves = family(correlation, 81, seed=3)
        assert curves == family(correlation, 81, seed=3) != family(correlation, 81, seed=4)
        correlations.append(rank_correlations(curves)[0].spearman or 0.0)
    aligned, independent, crossing = correlations
    assert crossing < 0 < independent < 0.7 < aligned


def test_brackets_are_hyperbands() -> None:
    texts = [[pruner_text(pruner) for pruner in pruners(epochs)][5:] for epochs in (27, 9, 2)]
    assert texts == [
        ["asha:brackets=2", "asha:brackets=4"],
        ["asha:brackets=2", "asha:brackets=3"],
        ["asha:brackets=2"],
    ]
