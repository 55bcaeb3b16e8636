"""How many sample grids the HTML report holds."""

import pytest

from tuner.cli import report
from tuner.views.html_report import Grid

EPOCHS, TRIALS = 12, 5
BEST = 7


@pytest.mark.parametrize(
    ("megabytes", "kept"), [(0.1, EPOCHS), (0.5, 6), (1.6, 2), (2.5, 1), (6.4, 1)]
)
def test_large_pictures_are_shown_for_fewer_epochs(megabytes: float, kept: int) -> None:
    """Of images of 256 pixels, a grid of 36 takes 6.4 MB."""
    png = bytes(int(megabytes * 1e6))
    samples = {n: [Grid("", png, epoch) for epoch in range(1, 1 + EPOCHS)] for n in range(TRIALS)}
    fitting = report._fitting(samples, dict.fromkeys(samples, BEST))
    for grids in fitting.values():
        assert BEST in [grid.epoch for grid in grids]
        assert kept <= len(grids) <= kept + 1
    if kept > 1:
        assert sum(len(g.address) for grids in fitting.values() for g in grids) <= report.MAX_BYTES


def test_without_a_best_epoch_the_last_grid_stays() -> None:
    grids = [Grid("", bytes(15_000_000), epoch) for epoch in (1, 2)]
    assert [grid.epoch for grid in report._fitting({0: grids}, {0: None})[0]] == [2]
