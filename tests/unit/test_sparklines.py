"""Sparklines of values over epochs."""

import math

import pytest

from tuner.views.trial_detail import BLOCKS, span, sparkline


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([None, None], "  "),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], BLOCKS),
        ([8.0, 1.0], "█▁"),
        ([3.0], "▅"),
        ([3.0, 3.0, 3.0], "▅▅▅"),
        ([5.0, None, 5.5, None, 6.0], "▁ ▅ █"),
        ([1.0, math.nan, 2.0, math.inf, -math.inf], "▁ █  "),
        ([-1.0, 0.0, 1.0], "▁▅█"),
        ([0.0, 0.0], "▅▅"),
        ([1.0, 10.0, 100.0], "▁▅█"),  # logarithmic; a linear scale has ▁▁█
        ([0.0, 10.0, 100.0], "▁▁█"),  # linear, because zero has no logarithm
        ([12.0, 60.0, 100.0], "▁▅█"),  # linear, within one decade
    ],
)
def test_a_block_for_each_value(values: list[float | None], line: str) -> None:
    assert sparkline(values, 20) == line


def test_long_lines_average_neighbours() -> None:
    assert sparkline([1.0, 3.0, 5.0, 7.0], 2) == "▁█"
    assert sparkline([None, None, 5.0, None, 6.0, None], 3) == " ▁█"
    line = sparkline([float(i) for i in range(1000)], 60)
    assert len(line) == 60
    assert list(line) == sorted(line, key=BLOCKS.index)
    assert set(line) == set(BLOCKS)


@pytest.mark.parametrize("width", range(1, 12))
def test_lines_fit_their_width(width: int) -> None:
    for count in range(12):
        line = sparkline([7.0] * count, width)
        assert line == "▅" * min(count, width)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None], "not measured"),
        ([50.123456, None, 90.0], "50.12 to 90"),
        ([5.0, math.nan, 90.0], "5 to 90, logarithmic"),
        ([-5.0, 90.0], "-5 to 90"),
    ],
)
def test_span(values: list[float | None], words: str) -> None:
    assert span(values) == words
