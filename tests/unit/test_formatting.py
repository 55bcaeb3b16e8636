"""Numbers, durations, sizes and dates as text."""

import time

import pytest

from tuner.views.formatting import date_time, duration, evenly_spaced, number, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (2e-4, "0.0002"),
        (1.23456e-5, "1.235e-05"),
        (100.0, "100"),
    ],
)
def test_a_number_as_text(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (41.6, "42 s"),
        (59.6, "1 min 00 s"),
        (190, "3 min 10 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (12_345_678, "12.3 MB"),
        (1.5e9, "1.5 GB"),
    ],
)
def test_a_size_as_text(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "most", "found"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (3, 3, [0, 1, 2]),
        (4, 3, [0, 2, 3]),
        (101, 5, [0, 25, 50, 75, 100]),
        (3, 1, [2]),
        (3, 0, []),
    ],
)
def test_evenly_spaced_keeps_both_ends(count: int, most: int, found: list[int]) -> None:
    assert evenly_spaced(count, most) == found


def test_a_date_is_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-5:30")  # POSIX sign: east of Greenwich
    try:
        time.tzset()
        assert date_time(1e9) == "2001-09-09 07:16:40"
    finally:
        monkeypatch.undo()
        time.tzset()
