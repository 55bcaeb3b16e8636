"""The rule for ending a search early."""

import pytest
from builders import RANGES, spec_of
from trials import record

from tuner.study.records import TrialRecord
from tuner.study.stopping import Stopped, noise_near_best, stall


def trials(*values: float | None) -> list[Stopped]:
    """Trials that ended at 0, 1, 2, ... seconds with these values; None for pruned ones."""
    return [Stopped(float(at), at, value) for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "noise", "found"),
    [
        ([], 0.0, None),
        ([5.0, 6.0], 0.0, None),  # one without an improvement
        ([5.0, 6.0, 7.0], 0.0, (2, 0)),
        ([5.0, None, None], 0.0, (2, 0)),
        ([5.0, 6.0, 4.0], 0.0, None),
        ([5.0, 6.0, 4.0, 5.0, 5.0, 5.0], 0.0, (3, 2)),
        ([None, None, None], 0.0, None),  # no trial is complete yet
        ([None, None, 5.0, None], 0.0, None),
        ([5.0, 5.0, 5.0], 0.0, (2, 0)),
        # Smaller than the noise, improvements do not count.
        ([5.0, 4.5, 4.2], 1.0, (2, 0)),
        # Until together they are larger: 3.9 is compared with 5.
        ([5.0, 4.5, 3.9, 4.0], 1.0, None),
        ([5.0, 4.0, 4.0], 1.0, (2, 0)),  # as large is not larger
    ],
)
def test_a_search_stalls(
    values: list[float | None], noise: float, found: tuple[int, int] | None
) -> None:
    stalled = stall(2, trials(*values), noise)
    assert (stalled and (stalled.trials, stalled.best.number)) == found


def test_trials_count_in_the_order_in_which_they_ended() -> None:
    ended = [Stopped(3.0, 0, 4.0), Stopped(1.0, 1, 5.0), Stopped(2.0, 2, 6.0)]
    assert stall(2, ended) is None
    assert stall(2, [ended[0]._replace(at=0.0), *ended[1:]]) is not None


def test_trials_before_the_total_was_raised_do_not_count() -> None:
    ended = trials(5.0, 6.0, 6.0, 6.0, 6.0)
    assert stall(2, ended, since=3.0) is None
    stalled = stall(2, ended, since=2.0)
    assert stalled is not None
    assert (stalled.trials, stalled.best.value) == (2, 5.0)


def test_noise_is_that_of_repeated_configurations_or_of_good_neighbours() -> None:
    spec = spec_of(RANGES)

    def at(number: int, beta1: float, value: float, state: str = "COMPLETE") -> TrialRecord:
        return record(number, state, value=value, params={"learning_rate": 1e-3, "beta1": beta1})

    good = [at(0, 0.10, 20.0), at(1, 0.11, 22.0)]
    bad = [at(2, 0.80, 300.0), at(3, 0.81, 200.0)]
    assert noise_near_best(spec, [*good, *bad]) == pytest.approx(2**0.5)
    repeated = [*good, *bad, at(4, 0.5, 50.0), at(5, 0.5, 56.0)]
    assert noise_near_best(spec, repeated) == pytest.approx(18**0.5)
    assert noise_near_best(spec, []) == 0.0
    pruned = [at(0, 0.5, 20.0, "PRUNED"), at(1, 0.5, 30.0, "PRUNED")]
    assert noise_near_best(spec, pruned) == 0.0
