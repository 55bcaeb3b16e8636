"""Simulated workers, by hand and against the algorithm of ``asha`` written out for one worker."""

import random
from collections.abc import Callable

import pytest
from builders import spec_of

from tuner.spec.pruners import AshaPruner, MedianPruner, NoPruner
from tuner.spec.study import StudySpec
from tuner.study.curves import Curve
from tuner.study.rungs import Ladder
from tuner.study.simulation import TrainedEpoch, simulate

HALVES = AshaPruner(reduction_factor=2)


def curve(trial: int, *values: float, state: str = "COMPLETE", seconds: float = 1.0) -> Curve:
    numbered = dict(enumerate(values, 1))
    return Curve(trial, state, numbered, dict.fromkeys(numbered, seconds))


def study_of(epochs: int) -> StudySpec:
    return spec_of(f"[study]\nname = 's'\nepochs = {epochs}")


def test_one_worker_pauses_and_promotes_as_by_hand() -> None:
    """Rungs are after epochs 1 and 2 of 3; one in two passes."""
    curves = [curve(7, 5, 4, 3), curve(8, 6, 5, 2), curve(9, 4, 3.5, 3.2), curve(3, 9, 9, 1)]
    found = simulate(curves, HALVES, study_of(3))
    assert found.epochs == [
        TrainedEpoch(7, 1, 1.0),  # pauses: nothing to compare with
        TrainedEpoch(8, 1, 2.0),  # pauses; trial 7 is the better of two
        TrainedEpoch(7, 2, 3.0),  # pauses: alone at the second rung
        TrainedEpoch(9, 1, 4.0),  # passes as the best of three
        TrainedEpoch(9, 2, 5.0),  # passes as the better of two
        TrainedEpoch(9, 3, 6.0),
        TrainedEpoch(3, 1, 7.0),  # pauses; trials 7 and 9 are still the best two of four
    ]
    assert found.ends == {7: 2, 8: 1, 3: 1}


def test_the_first_paused_trial_is_promoted_if_none_is_complete() -> None:
    curves = [curve(0, 5, 5, 5, 5), curve(1, 4, 4, 4, state="PRUNED")]
    found = simulate(curves, AshaPruner(), study_of(4))  # rungs after 1 and 3 epochs
    # Trial 1 comes first, and at epoch 3 again, but was recorded no further. Then comes trial 0.
    assert [one[:2] for one in found.epochs] == [
        *[(0, 1), (1, 1), (1, 2), (1, 3)],
        *[(0, 2), (0, 3), (0, 4)],
    ]
    assert found.ends == {}


def test_a_curve_that_ended_at_a_rung_can_be_paused_there() -> None:
    curves = [curve(0, 5, 5, 5), curve(1, 6, state="PRUNED"), curve(2, 4, 4, 4)]
    found = simulate(curves, HALVES, study_of(3))
    assert [one[:2] for one in found.epochs] == [
        *[(0, 1), (1, 1), (0, 2), (2, 1)],
        *[(2, 2), (2, 3)],
    ]
    assert found.ends == {0: 2, 1: 1}


def test_two_workers_see_what_has_been_reported_by_then() -> None:
    """Trial 1 is slow: its first epoch ends when three other trials have ended theirs."""
    curves = [
        *[curve(0, 5, 5, 5), curve(1, 4, 4, 4, seconds=2.5)],
        *[curve(2, 6, 6, 6), curve(3, 7, 7, 7)],
    ]
    found = simulate(curves, HALVES, study_of(3), workers=2)
    assert found.epochs == [
        TrainedEpoch(0, 1, 1.0),
        TrainedEpoch(2, 1, 2.0),  # the first of two is promoted
        TrainedEpoch(1, 1, 2.5),  # passes
        TrainedEpoch(0, 2, 3.0),
        TrainedEpoch(3, 1, 4.0),
        TrainedEpoch(1, 2, 5.0),  # passes as the better of two; the other worker has waited
        TrainedEpoch(1, 3, 7.5),
    ]
    assert found.ends == {0: 2, 2: 1, 3: 1}


def test_workers_share_the_time() -> None:
    curves = [curve(number, 3, 2, 1) for number in range(4)]
    for workers, seconds in ((1, 12), (2, 6), (4, 3), (9, 3)):
        found = simulate(curves, NoPruner(), study_of(3), workers)
        assert (len(found.epochs), found.epochs[-1].end, found.ends) == (12, seconds, {})


def test_a_pruner_of_optuna_compares_with_the_trials_that_are_over() -> None:
    pruner = MedianPruner(n_startup_trials=1)
    curves = [curve(0, 1, 1, 1), curve(1, 9, 9, 9, seconds=1.6)]
    assert simulate(curves, pruner, study_of(3), workers=1).ends == {1: 1}
    # At 3.2 s the first trial is complete.
    assert simulate(curves, pruner, study_of(3), workers=2).ends == {1: 2}


def transcribed(
    curves: list[Curve], rungs: Callable[[int], tuple[int, ...]], eta: int, epochs: int
) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """The promotion type of ASHA on one worker: the trained epochs, and those paused at the end.

    Trials with the same rungs are compared.
    """
    trained: list[tuple[int, int]] = []
    reached: list[tuple[tuple[int, ...], int, float, int]] = []
    paused: dict[int, int] = {}
    at = [0] * len(curves)
    best, new = float("inf"), 0  # best value of a complete trial

    def passes(number: int, epoch: int) -> bool:
        rung = sorted(row[2:] for row in reached if row[:2] == (rungs(number), epoch))
        return number in [row[1] for row in rung[: len(rung) // eta]]

    def order(number: int) -> tuple[int, float, int]:
        return -paused[number], curves[number].values[paused[number]], number

    while True:
        promotable = [number for number in paused if passes(number, paused[number])]
        if promotable:
            number = min(promotable, key=order)
        elif new < len(curves):
            number, new = new, new + 1
        elif better := [n for n in paused if curves[n].values[paused[n]] < best]:
            number = min(better, key=order)
        else:
            return trained, paused
        paused.pop(number, None)
        while at[number] < len(curves[number].values) and number not in paused:
            at[number] += 1
            epoch = at[number]
            trained.append((number, epoch))
            if epoch in rungs(number):
                value = curves[number].values[epoch]
                reached.append((rungs(number), epoch, value, number))
                if not passes(number, epoch):
                    paused[number] = epoch
        if at[number] == epochs:
            best = min(best, curves[number].values[epochs])


@pytest.mark.parametrize("brackets", [1, 2, 3])
@pytest.mark.parametrize("eta", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_one_worker_follows_the_written_out_algorithm(seed: int, eta: int, brackets: int) -> None:
    draw, epochs = random.Random(seed), 9
    levels = [draw.uniform(10, 60) for _ in range(20)]
    curves = [
        curve(n, *(level + 100 / epoch + draw.randint(0, 9) for epoch in range(1, epochs + 1)))
        for n, level in enumerate(levels)
    ]
    for number in draw.sample(range(20), 4):
        values = list(curves[number].values.values())
        curves[number] = curve(number, *values[: draw.randint(1, 5)], state="PRUNED")
    pruner, spec = AshaPruner(reduction_factor=eta, brackets=brackets), study_of(epochs)
    trained, ends = transcribed(curves, Ladder.of(spec, pruner).rungs_of, eta, epochs)
    found = simulate(curves, pruner, spec)
    assert [one[:2] for one in found.epochs] == trained
    assert found.ends == ends
    assert len(trained) < 130
