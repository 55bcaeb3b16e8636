"""Replay of pruners over recorded curves, by hand and against Optuna's own loop."""

import random
from typing import Any

import optuna
import pytest
from builders import epoch, spec_of

from tuner.errors import InputError
from tuner.spec import pruners
from tuner.spec.pruners import PrunerSpec
from tuner.spec.study import StudySpec
from tuner.study.curves import Correlation, Curve, curves_of, rank_correlations, winner_of
from tuner.study.records import TrialRecord
from tuner.study.replay import parse_pruner, pruner_text, replay
from tuner.study.samplers import make_pruner
from tuner.study.simulation import simulate


def curve(trial: int, *values: float, state: str = "COMPLETE") -> Curve:
    """A recorded trial whose epoch n takes n seconds."""
    numbered = dict(enumerate(values, 1))
    return Curve(trial, state, numbered, {number: float(number) for number in numbered})


def study_of(epochs: int, **study: Any) -> StudySpec:
    lines = "\n".join(f"{name} = {value!r}" for name, value in study.items())
    return spec_of(f"[study]\nname = 's'\nepochs = {epochs}\n{lines}")


def random_curves(count: int, epochs: int) -> list[Curve]:
    draw = random.Random(7)
    levels = [draw.uniform(10, 100) for _ in range(count)]
    return [
        curve(i, *(level / n + draw.uniform(0, 9) for n in range(1, epochs + 1)))
        for i, level in enumerate(levels)
    ]


@pytest.mark.parametrize(
    ("objective", "keeps_best", "values"),
    [
        ("fid", True, {1: 5.0, 3: 5.0, 4: 3.0}),
        ("fid", False, {1: 5.0, 3: 7.0, 4: 3.0}),
        ("kid", True, {4: 0.25}),
    ],
)
def test_a_curve_holds_the_values_reported_to_optuna(
    objective: str, keeps_best: bool, values: dict[int, float]
) -> None:
    unmeasured = epoch(2, None, evaluate_seconds=0.0)
    reports = (epoch(1, 5.0), unmeasured, epoch(3, 7.0), epoch(4, 3.0, kid=0.25))
    record = TrialRecord(6, "COMPLETE", {}, 3.0, reports, None, None, {})
    [found] = curves_of([record], objective, keeps_best)
    assert found == Curve(6, "COMPLETE", values, {1: 5.0, 2: 4.0, 3: 5.0, 4: 5.0})
    assert (found.whole, found.final) == (True, values[4])


def test_a_curve_without_values_is_incomplete() -> None:
    records = [TrialRecord(i, "COMPLETE", {}, 1.0, (epoch(1),), None, None, {}) for i in (0, 1)]
    assert not any(found.whole for found in curves_of(records, "kid", True))
    assert winner_of(curves_of(records, "kid", True)) is None


def test_the_winner_is_complete_and_the_first_of_equals() -> None:
    curves = [curve(0, 3), curve(1, 2), curve(2, 2), curve(3, 1, state="PRUNED")]
    assert winner_of(curves) == curves[1]


def test_rank_correlations_match_those_by_hand() -> None:
    """In epoch 2, two equal values share a rank."""
    curves = [
        curve(0, 1, 1, 7, 10),
        curve(1, 2, 1, 7, 30),
        curve(2, 3, 2, 7, 20),
        curve(3, 4, 3, 7, 40),
        curve(4, 99, 99, state="PRUNED"),
        curve(5, 99, 99, state="FAIL"),
    ]
    first, second, third, last = rank_correlations(curves)
    assert first == pytest.approx((1, 4, 0.8, 4 / 6))
    assert second == pytest.approx((2, 4, 3 / 22.5**0.5, 3 / 30**0.5))
    assert third == Correlation(3, 4, None, None)  # all values are equal
    assert last == pytest.approx((4, 4, 1, 1))
    opposite = [curve(0, 1, 3), curve(1, 2, 2), curve(2, 3, 1)]
    assert rank_correlations(opposite)[0] == pytest.approx((1, 3, -1, -1))


def test_two_trials_have_no_rank_correlation() -> None:
    assert rank_correlations([curve(0, 1), curve(1, 2)]) == [Correlation(1, 2, None, None)]
    assert rank_correlations([curve(0, 1, state="PRUNED")]) == []


def test_ranks_use_the_trials_measured_at_an_epoch() -> None:
    curves = [curve(0, 1, 3), curve(1, 2, 1), curve(2, 3, 2), curve(3, 4, 9)]
    del curves[3].values[1]
    assert [found.trials for found in rank_correlations(curves)] == [3, 4]
    assert rank_correlations(curves)[0].spearman == pytest.approx(-0.5)


MEDIAN = pruners.MedianPruner(n_startup_trials=2)


def test_a_median_pruner_prunes_as_by_hand() -> None:
    curves = [
        curve(0, 4, 3, 2),
        curve(1, 8, 6, 4),
        curve(2, 7, 1, 9),  # 7 is above the median of 4 and 8
        curve(3, 5, 5, 5),  # its best, 5, is above the median of 3 and 6
        curve(5, 6, 4, 1),  # 6 and 4 are not above 6 and 4.5
        curve(6, 5.5, state="PRUNED"),  # 5.5 is not above 6, the median of 4, 8 and 6
        curve(7, 9, 9, state="FAIL"),  # but 9 is
        curve(8, 6, 4, 9),  # the last epoch is too late to prune
    ]
    assert simulate(curves, MEDIAN, study_of(3)).ends == {2: 1, 3: 2, 7: 1}
    found = replay(curves, MEDIAN, study_of(3))
    assert (found.epochs_recorded, found.epochs_trained) == (21, 17)
    assert found.epochs_saved == pytest.approx(4 / 21)
    assert found.seconds_saved == pytest.approx(10 / 40)
    assert (found.orders, found.trials_pruned) == (1, 3)
    assert (found.winner_lost, found.regret, found.relative_regret) == (0, 0, 0)


def test_a_late_winner_is_lost() -> None:
    curves = [curve(0, 4, 3, 2), curve(1, 8, 6, 4), curve(2, 9, 9, 1.5)]
    found = replay(curves, MEDIAN, study_of(3))
    assert (found.winner_lost, found.nobody_survived) == (1, 0)
    assert found.regret == 0.5
    assert found.relative_regret == pytest.approx(1 / 3)
    # It is lost if it comes last, in a third of the orders.
    many = replay(curves, MEDIAN, study_of(3), 301)
    assert 70 < many.winner_lost < 130
    assert many.regret == pytest.approx(0.5 * many.winner_lost / 301)
    assert many == replay(curves, MEDIAN, study_of(3), 301)
    assert many != replay(curves, MEDIAN, study_of(3, seed=1), 301)


def test_losing_one_of_equal_winners_is_no_regret() -> None:
    curves = [curve(0, 2, 2), curve(1, 2, 2), curve(2, 9, 2), curve(3, 9, 0)]
    found = replay([*curves[:2], curves[2]], MEDIAN, study_of(2))
    assert (found.trials_pruned, found.winner_lost, found.regret) == (1, 0, 0)
    zero = replay(curves, MEDIAN, study_of(2))
    assert (zero.winner_lost, zero.regret, zero.relative_regret) == (1, 2, None)


def test_all_trials_may_be_pruned() -> None:
    curves = [curve(0, 4, 3, 2), curve(1, 5, 3, 1)]
    curves += [curve(2, 9, state="PRUNED"), curve(3, 0.5, state="PRUNED")]
    found = replay(curves, pruners.ThresholdPruner(upper=3.5), study_of(3), 4)
    assert (found.winner_lost, found.nobody_survived) == (4, 4)
    assert (found.regret, found.relative_regret) == (None, None)
    assert found.epochs_trained == 4


def test_replay_needs_a_complete_curve() -> None:
    with pytest.raises(ValueError, match="no curve reaches the last epoch"):
        replay([curve(0, 1, state="PRUNED")], MEDIAN, study_of(3))


def test_unmeasured_epochs_count_as_trained() -> None:
    spec = spec_of("[study]\nepochs = 8\n[metrics]\nevery = 2")
    curves = [curve(0, *[5] * 8), curve(1, *[4] * 3, *[9] * 5)]
    for one in curves:
        for number in (1, 3, 5, 7):
            del one.values[number]
    halving = pruners.SuccessiveHalvingPruner()  # rungs after 2 and 6 epochs
    assert simulate(curves, halving, spec).ends == {1: 6}
    found = replay(curves, halving, spec)
    assert (found.epochs_recorded, found.epochs_trained) == (16, 14)


def optuna_prunings(curves: list[Curve], pruner: PrunerSpec, epochs: int) -> dict[int, int]:
    """The epochs at which Optuna prunes trials that report these curves."""
    ends = {}

    def objective(trial: optuna.Trial) -> float:
        for number, value in curves[trial.number].values.items():
            trial.report(value, number)
            if number < epochs and trial.should_prune():
                ends[trial.number] = number
                raise optuna.TrialPruned
        if not curves[trial.number].whole:
            raise optuna.TrialPruned
        return value

    study = optuna.create_study(pruner=make_pruner(study_of(epochs), pruner), study_name="s")
    study.optimize(objective, n_trials=len(curves))
    return ends


@pytest.mark.parametrize(
    "pruner",
    [
        pruners.MedianPruner(n_startup_trials=3),
        pruners.PercentilePruner(percentile=60.0, n_warmup_steps=2, interval_steps=2),
        pruners.SuccessiveHalvingPruner(),
        pruners.SuccessiveHalvingPruner(reduction_factor=2, bootstrap_count=1),
        pruners.HyperbandPruner(),
        pruners.PatientPruner(patience=0, wrapped=pruners.MedianPruner(n_startup_trials=1)),
    ],
    ids=pruner_text,
)
def test_replay_prunes_like_optunas_own_loop(pruner: PrunerSpec) -> None:
    curves = random_curves(24, 9)
    for i in (3, 8, 15):  # pruned when they were recorded
        curves[i] = curve(i, *list(curves[i].values.values())[:2], state="PRUNED")
    expected = optuna_prunings(curves, pruner, 9)
    assert simulate(curves, pruner, study_of(9)).ends == expected
    assert 0 < len(expected) < 24


@pytest.mark.parametrize(
    ("text", "pruner"),
    [
        ("none", pruners.NoPruner()),
        ("median", pruners.MedianPruner()),
        (
            "successive_halving:min_resource=2,reduction_factor=4",
            pruners.SuccessiveHalvingPruner(reduction_factor=4, min_resource=2),
        ),
        ("percentile:percentile=12.5", pruners.PercentilePruner(percentile=12.5)),
        (
            "patient:patience=1,wrapped={name='median', n_min_trials=2}",
            pruners.PatientPruner(patience=1, wrapped=pruners.MedianPruner(n_min_trials=2)),
        ),
    ],
)
def test_pruner_arguments_round_trip(text: str, pruner: PrunerSpec) -> None:
    assert parse_pruner(text, study_of(20, value="last")) == pruner
    assert pruner_text(pruner) == text


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("medain", ["pruner.name: found 'medain', expected one of .*did you mean 'median'"]),
        ("", ["pruner.name: found '', expected one of none, asha"]),
        ("median:", []),
        ("median:n_startup_trials", ["found 'n_startup_trials', expected key=value,key=value"]),
        ("median:n_warmup_steps=x", ["found 'n_warmup_steps=x', expected key=value,key=value"]),
        ("median:n_warmup_steps=1.5", ["pruner.n_warmup_steps: 1.5 is not a whole number"]),
        ("median:n_warmup=1", [r"pruner.n_warmup: unknown key \(did you mean"]),
        (
            "hyperband:reduction_factor=1,bootstrap_count=-1",
            [
                "pruner.reduction_factor: found 1, expected at least 2",
                "pruner.bootstrap_count: found -1, expected at least 0",
            ],
        ),
        (
            "hyperband:min_resource=9",
            ["pruner.min_resource: .*two rungs take 27 epochs .* trials have 10"],
        ),
        ("median:n_startup_trials=20", ["pruner.n_startup_trials: found 20, .* 20 trials"]),
        ("patient", ["pruner.name: the best value so far never gets worse"]),
        ("threshold", ["pruner.upper: neither lower nor upper is set"]),
    ],
)
def test_all_problems_of_a_pruner_are_reported(text: str, problems: list[str]) -> None:
    if not problems:
        parse_pruner(text, study_of(10))
        return
    pattern = "\n".join(f"--pruner {text}: {problem}.*" for problem in problems)
    with pytest.raises(InputError, match=f"^{pattern}$"):
        parse_pruner(text, study_of(10))
