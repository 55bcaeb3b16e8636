"""The epochs ahead of studies with rungs, compared with simulated ones."""

import pytest

from tuner.study.forecast import Standing, epochs_ahead
from tuner.study.rungs import Ladder

NINE = Ladder((1, 3), 3)  # with trials of 9 epochs


@pytest.mark.parametrize(
    ("standings", "to_begin", "expected"),
    [
        # Nine trials reach epoch 1, three epoch 3, one epoch 9.
        ({}, 9, 9 * 1 + 3 * 2 + 1 * 6),
        # One of two must be promoted twice, as no trial would be complete.
        ({}, 2, 2 * 1 + 2 + 6),
        ({Standing(0, 1, "PAUSED"): 6, Standing(0, 3, "PAUSED"): 3}, 0, 6),
        # One in training up to epoch 3; two more are promotable, then one of the three.
        ({Standing(0, 1, "PAUSED"): 8, Standing(0, 2, "RUNNING"): 1}, 0, 1 + 2 * 2 + 6),
        # Of three that passed the second rung, all go on, though one would be enough.
        ({Standing(0, 1, "PAUSED"): 6, Standing(0, 5, "RUNNING"): 3}, 0, 3 * 4),
        # Ended ones are not promoted, and one is complete.
        ({Standing(0, 1, "PRUNED"): 8, Standing(0, 9, "COMPLETE"): 1}, 0, 0),
        # They count among the n at their rung.
        ({Standing(0, 1, "PRUNED"): 2, Standing(0, 9, "COMPLETE"): 1}, 6, 6 + 2 * 2),
    ],
)
def test_the_best_third_passes_each_rung(
    standings: dict[Standing, int], to_begin: int, expected: int
) -> None:
    assert epochs_ahead(NINE, 9, standings, to_begin) == expected


def test_each_bracket_has_its_own_rungs() -> None:
    ladder = Ladder((1, 3), 3, brackets=3)
    numbers = [ladder.bracket(number) for number in range(20)]
    first, second, third = map(numbers.count, range(3))
    expected = first + first // 3 * 2 + first // 9 * 6
    expected += second * 3 + second // 3 * 6
    assert epochs_ahead(ladder, 9, {}, 20) == expected + third * 9
