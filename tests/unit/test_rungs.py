"""Rungs, brackets and promotions, compared with the algorithm written out for lists."""

from collections import Counter
from typing import Any

import pytest
from builders import problems, spec_of
from hypothesis import given
from hypothesis import strategies as st

from tuner.spec.pruners import AshaPruner
from tuner.study.rungs import Ladder, Reached, Standings

STUDY = "[study]\nepochs = {epochs}\n[pruner]\nname = 'asha'\n{options}\n"


def ladder(epochs: int, options: str = "") -> Ladder:
    spec = spec_of(STUDY.format(epochs=epochs, options=options))
    assert isinstance(spec.pruner, AshaPruner)
    return Ladder.of(spec, spec.pruner)


def standings(*values: float, eta: int = 3, rungs: tuple[int, ...] = (1, 3)) -> Standings:
    """Trials 0, 1, ... with these values at the first rung."""
    reached = [Reached(number, rungs[0], value) for number, value in enumerate(values)]
    return Standings(Ladder(rungs, eta), reached)


@pytest.mark.parametrize(
    ("epochs", "options", "rungs"),
    [
        (9, "", (1, 3)),  # the last epoch is no rung
        (10, "", (1, 3, 9)),
        (6, "reduction_factor = 2", (1, 2, 4)),
        (27, "min_resource = 3", (3, 9)),
    ],
)
def test_rungs_are_before_the_last_epoch(epochs: int, options: str, rungs: tuple[int, ...]) -> None:
    assert ladder(epochs, options).rungs_of(0) == rungs


def test_rungs_begin_at_the_first_evaluation() -> None:
    spec = spec_of(STUDY.format(epochs=20, options="[metrics]\nevery = 2"))
    assert isinstance(spec.pruner, AshaPruner)
    assert Ladder.of(spec, spec.pruner).rungs_of(5) == (2, 6, 18)


def test_brackets_have_hyperbands_proportions() -> None:
    """With R = 81 and eta = 3, algorithm 1 of Li et al. 2018 begins ceil(5 * 3^s / (s + 1)) trials
    in the bracket with s rungs: 81, 34, 15, 8 and 5."""
    five = ladder(81, "brackets = 5")
    counts = Counter(five.bracket(number) for number in range(143))
    assert counts == {0: 81, 1: 34, 2: 15, 3: 8, 4: 5}
    assert five.rungs_of(0) == (1, 3, 9, 27)
    assert {five.bracket(n): five.rungs_of(n) for n in range(143)} == {
        0: (1, 3, 9, 27),
        1: (3, 9, 27),
        2: (9, 27),
        3: (27,),
        4: (),
    }
    # Any part of the sequence has about these proportions.
    first = Counter(five.bracket(number) for number in range(29))
    assert all(abs(first[b] - counts[b] * 29 / 143) <= 1 for b in counts)


@pytest.mark.parametrize(
    ("epochs", "options", "key", "problem"),
    [
        (9, "min_resource = 9", "min_resource", "the first rung is at epoch 9"),
        (9, "brackets = 4", "brackets", "found 4, expected at most 3: there are 2 rungs"),
        (9, "[metrics]\nevery = 2\n[pruner.x]", "x", "unknown key"),
        (18, "min_resource = 3\n[metrics]\nevery = 2", "min_resource", "between evaluations"),
    ],
)
def test_rungs_that_can_not_be_reached(epochs: int, options: str, key: str, problem: str) -> None:
    toml = STUDY.format(epochs=epochs, options=options)
    assert any(key in line and problem in line for line in problems(toml)), problems(toml)


def test_the_best_of_eta_trials_passes() -> None:
    assert [standings(5.0, 3.0).passes(n, 1) for n in range(2)] == [False, False]
    three = standings(5.0, 3.0, 9.0)
    assert [three.passes(n, 1) for n in range(3)] == [False, True, False]
    assert three.threshold(0, 1) == 3.0
    six = standings(5.0, 3.0, 9.0, 8.0, 7.0, 6.0)
    assert [six.passes(n, 1) for n in range(6)] == [True, True, False, False, False, False]


def test_of_equal_values_the_earlier_trial_passes() -> None:
    equal = standings(5.0, 5.0, 5.0)
    assert [equal.passes(n, 1) for n in range(3)] == [True, False, False]


def test_values_that_are_not_at_a_rung_do_not_count() -> None:
    found = Standings(Ladder((2, 4), 2), [Reached(0, 1, 1.0), Reached(0, 2, 9.0)])
    assert not found.passes(0, 1)
    assert found.threshold(0, 2) is None


def test_trials_compete_within_their_bracket() -> None:
    two = Ladder((1, 2), 2, 2)
    brackets = [two.bracket(number) for number in range(6)]
    assert set(brackets) == {0, 1}
    values = [Reached(n, 2, 10.0 + n) for n in range(6)]
    found = Standings(two, values)
    for bracket in (0, 1):
        numbers = [n for n in range(6) if brackets[n] == bracket]
        passing = [n for n in numbers if found.passes(n, 2)]
        assert passing == numbers[: len(numbers) // 2]


def test_promotions_prefer_higher_rungs_then_lower_values() -> None:
    values = [Reached(n, 1, 10.0 - n) for n in range(9)]
    values += [Reached(n, 3, 20.0 + n) for n in (6, 7, 8)]
    found = Standings(Ladder((1, 3, 9), 3), values)
    assert found.promotable({6: 3, 7: 3, 8: 3, 5: 1, 4: 1}) == [6]
    assert found.promotable({8: 1, 7: 1, 6: 3, 0: 1}) == [6, 8, 7]
    assert found.ranked({0: 1, 8: 1, 7: 3, 6: 3}) == [6, 7, 8, 0]


def test_with_nothing_else_to_do_the_first_paused_trial_is_promoted() -> None:
    values = [Reached(n, 1, 10.0 - n) for n in range(5)] + [Reached(4, 3, 20.0)]
    found = Standings(Ladder((1, 3), 3), values)
    assert found.promoted_last({3: 1, 4: 3, 0: 1}, best=None) == 4
    assert found.promoted_last({3: 1, 4: 3, 0: 1}, best=7.0) is None
    assert found.promoted_last({}, best=None) is None
    # Only the best of five passes the first rung, and it is promoted in any case.
    assert found.promoted_last({4: 1, 3: 1}, best=0.0) == 4


def test_a_paused_trial_that_beats_the_complete_ones_is_promoted_at_the_end() -> None:
    values = [Reached(n, 1, 10.0 - n) for n in range(5)] + [Reached(4, 3, 20.0)]
    found = Standings(Ladder((1, 3), 3), values)
    assert found.promoted_last({3: 1, 2: 1, 4: 3}, best=7.5) == 3  # with the value 7
    assert found.promoted_last({3: 1, 2: 1, 4: 3}, best=20.5) == 4  # at the highest rung
    assert found.promoted_last({2: 1}, best=8.0) is None  # its value is no lower
    assert found.promoted_last({9: 1}, best=8.0) is None  # it has no value


def test_a_maximised_objective_is_compared_the_other_way_round() -> None:
    ladder = Ladder((1, 3), 2, higher=True)
    found = Standings(ladder, [Reached(n, 1, n / 10) for n in range(6)])
    assert [n for n in range(6) if found.passes(n, 1)] == [3, 4, 5]
    assert found.threshold(0, 1) == 0.3
    assert found.ranked(dict.fromkeys(range(6), 1)) == [5, 4, 3, 2, 1, 0]
    assert found.why_paused(2, 1) == "0.2, 0.3 needed"
    assert found.promoted_last({2: 1, 1: 1}, best=0.15) == 2
    assert found.promoted_last({2: 1, 1: 1}, best=0.25) is None


@given(
    values=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=40),
    eta=st.integers(2, 5),
)
def test_the_passing_trials_are_the_best_nth(values: list[float], eta: int) -> None:
    found = standings(*values, eta=eta)
    order = sorted(range(len(values)), key=lambda n: (values[n], n))
    best = set(order[: len(values) // eta])
    assert {n for n in range(len(values)) if found.passes(n, 1)} == best
    assert set(found.promotable(dict.fromkeys(range(len(values)), 1))) == best


def test_reasons_name_the_value_needed() -> None:
    assert standings(5.0, 3.0, 9.0).why_paused(2, 1) == "9, 3 needed"
    few: Any = standings(5.0, 3.0)
    assert few.why_paused(0, 1) == "5, 2 of 3 trials needed for a comparison"
