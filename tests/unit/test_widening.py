"""``--workers-per-device auto``: what is measured, and when another worker is added."""

from collections.abc import Sequence

import pytest

from tuner.run.widening import EPOCHS, MAX_PER_GPU, Widening, should_widen


@pytest.mark.parametrize(
    ("rates", "wider"),
    [
        ([], True),
        ([1.0], True),  # one worker per GPU has nothing to compare with
        ([1.0, 2.0], True),
        ([1.0, 1.1], True),
        ([1.0, 1.09], False),
        ([1.0, 0.5], False),
        ([1.0, 2.0, 2.1], False),  # only the last step counts
        ([1.0, 2.0, 2.3], True),
    ],
)
def test_another_worker_is_added_as_long_as_the_last_one_gained_a_tenth(
    rates: Sequence[float], wider: bool
) -> None:
    assert should_widen(rates) == wider


def test_at_most_twelve_workers_share_a_gpu() -> None:
    rates = [float(workers) ** 2 for workers in range(1, MAX_PER_GPU + 1)]
    assert should_widen(rates[:-1])
    assert not should_widen(rates)


def report(widening: Widening, worker: int, *seconds: float) -> None:
    for each in seconds:
        widening.epoch(worker, each)


def test_the_rate_is_that_of_all_workers_together() -> None:
    widening = Widening(2)
    report(widening, 0, 100)  # compiles
    report(widening, 1, 100)
    report(widening, 0, 100)  # began before the measurement
    report(widening, 1, 100)
    report(widening, 0, *[0.5] * EPOCHS)
    assert not widening.measured()
    report(widening, 1, *[0.25] * EPOCHS)
    assert widening.measured()
    assert widening.rates == [2 + 4]
    assert widening.finding() == "1 worker per GPU: 6 epochs/s"


def test_no_epoch_counts_before_all_workers_have_begun() -> None:
    widening = Widening(2)
    report(widening, 0, *[0.5] * 20)
    report(widening, 1, 100, *[0.25] * (EPOCHS + 1))
    assert not widening.measured()
    report(widening, 0, *[1] * (EPOCHS + 1))
    assert widening.measured()
    assert widening.rates == [1 + 4]


def test_a_worker_that_waits_for_a_trial_ends_the_measurements() -> None:
    widening = Widening(2)
    report(widening, 0, *[0.5] * 100)
    assert not widening.measured()


def test_each_measurement_begins_again_and_is_compared_with_the_one_before() -> None:
    widening = Widening(1)
    report(widening, 0, *[0.5] * (EPOCHS + 2))
    assert widening.measured()
    widening.begin(2)
    report(widening, 0, *[1] * 9)
    report(widening, 1, 1)
    assert not widening.measured()
    for worker in (0, 1):
        report(widening, worker, *[0.8] * (EPOCHS + 1))
    assert widening.measured()
    assert widening.rates == pytest.approx([2, 2.5])
    assert widening.finding() == "2 workers per GPU: 2.5 epochs/s, +25%"
