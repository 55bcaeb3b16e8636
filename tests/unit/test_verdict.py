"""The verdict on a trial after an epoch, as a table."""

import math
from typing import Any

import pytest
from builders import epoch

from tuner.policies import (
    DiscriminatorAucGuard,
    GuardSection,
    LossRatioGuard,
    VarianceRatioGuard,
)
from tuner.study.verdict import Complete, Continue, Prune, Verdict, verdict
from tuner.trial import EpochReport

EPOCHS = 10


def ratios(*values: float | None, first: int = 1) -> list[EpochReport]:
    """Epochs with these loss ratios, the first of them the ``first``."""
    return [epoch(first + i, loss_ratio=value) for i, value in enumerate(values)]


def guard(**options: Any) -> GuardSection:
    """A guard of the loss ratio, from 0.1 to 10, and of nothing else."""
    defaults: dict[str, Any] = {"low": 0.1, "high": 10.0, "patience": 2, "grace_steps": 0}
    return GuardSection(
        loss_ratio=LossRatioGuard(**(defaults | options)),
        variance_ratio=VarianceRatioGuard(enabled=False),
    )


HIGH = "guard: loss_ratio 30 above 10 for 2 epochs in a row"
LOW = "guard: loss_ratio 0.05 below 0.1 for 2 epochs in a row"


@pytest.mark.parametrize(
    ("options", "history", "expected"),
    [
        ({}, ratios(1), Continue()),
        ({}, ratios(20), Continue()),
        ({}, ratios(20, 30), Prune(HIGH)),
        ({}, ratios(0.01, 0.05), Prune(LOW)),
        ({}, ratios(20, 0.05), Prune(LOW)),
        ({}, ratios(20, 1), Continue()),
        ({}, ratios(20, 1, 20), Continue()),
        ({}, ratios(20, 1, 20, 30), Prune(HIGH)),
        ({}, ratios(0.1, 0.1), Continue()),
        ({}, ratios(10, 10), Continue()),
        ({}, ratios(20, None), Continue()),
        ({}, ratios(20, None, 20), Continue()),
        ({}, ratios(None, None), Continue()),
        ({"low": None}, ratios(0.01, 0.01), Continue()),
        ({"high": None}, ratios(20, 20), Continue()),
        ({"enabled": False}, ratios(20, 30), Continue()),
        ({"patience": 1}, ratios(30), Prune("guard: loss_ratio 30 above 10 for an epoch")),
        ({"patience": 1}, ratios(30, 1), Continue()),
        ({"patience": 3}, ratios(30, 30), Continue()),
        (
            {"patience": 3},
            ratios(30, 30, 30),
            Prune("guard: loss_ratio 30 above 10 for 3 epochs in a row"),
        ),
        # An epoch has 1,000 steps: the first ones are within the grace.
        ({"grace_steps": 1001}, ratios(20, 30), Continue()),
        ({"grace_steps": 1001}, ratios(20, 20, 30), Prune(HIGH)),
        ({"grace_steps": 1000}, ratios(20, 30), Prune(HIGH)),
        # The guard's word stands on the last epoch too; it comes before completion.
        ({}, ratios(20, 30, first=EPOCHS - 1), Prune(HIGH)),
        ({}, ratios(1, 1, first=EPOCHS - 1), Complete()),
        ({}, ratios(20, first=EPOCHS), Complete()),
    ],
)
def test_loss_ratio(options: dict[str, Any], history: list[EpochReport], expected: Verdict) -> None:
    assert verdict(guard(**options), history, EPOCHS, pruner_says_stop=False) == expected


@pytest.mark.parametrize(
    ("limits", "values", "expected"),
    [
        (
            {"variance_ratio": VarianceRatioGuard(grace_steps=0)},
            {"variance_ratio": 0.01},
            Prune("guard: variance_ratio 0.01 below 0.05 for 2 epochs in a row"),
        ),
        ({"variance_ratio": VarianceRatioGuard(grace_steps=0)}, {"variance_ratio": 9}, Continue()),
        (
            {"d_auc": DiscriminatorAucGuard(enabled=True)},
            {"d_auc": 1.0},
            Prune("guard: d_auc 1 above 0.9999 for 2 epochs in a row"),
        ),
        ({}, {"d_auc": 1.0}, Continue()),
        (
            {},
            {"loss_ratio": 1e-4},
            Prune("guard: loss_ratio 0.0001 below 0.001 for 2 epochs in a row"),
        ),
    ],
)
def test_every_guarded_quantity(
    limits: dict[str, Any], values: dict[str, Any], expected: Verdict
) -> None:
    history = [epoch(n, **values) for n in (1, 2)]
    assert verdict(GuardSection(**limits), history, EPOCHS, pruner_says_stop=False) == expected


@pytest.mark.parametrize("number", [1, 4, EPOCHS])
@pytest.mark.parametrize("pruner_says_stop", [True, False])
def test_not_finite_ends_it_at_once(number: int, pruner_says_stop: bool) -> None:
    lenient = GuardSection(
        loss_ratio=LossRatioGuard(enabled=False), variance_ratio=VarianceRatioGuard(enabled=False)
    )
    history = [epoch(n) for n in range(1, number)]
    history.append(epoch(number, None, finite=False, loss_ratio=math.nan, g_loss=None))
    found = verdict(lenient, history, EPOCHS, pruner_says_stop)
    assert found == Prune(f"not finite in epoch {number}")


@pytest.mark.parametrize(
    ("number", "pruner_says_stop", "expected"),
    [
        (1, False, Continue()),
        (EPOCHS - 1, False, Continue()),
        (EPOCHS, False, Complete("all epochs trained")),
        (EPOCHS, True, Complete("all epochs trained")),
    ],
)
def test_the_last_epoch_completes(number: int, pruner_says_stop: bool, expected: Verdict) -> None:
    history = [epoch(n) for n in range(1, number + 1)]
    assert verdict(GuardSection(), history, EPOCHS, pruner_says_stop) == expected


@pytest.mark.parametrize("number", [1, 3, EPOCHS - 1])
def test_the_pruners_word_counts_before_the_last_epoch(number: int) -> None:
    history = [epoch(n, 123.456) for n in range(1, number + 1)]
    found = verdict(GuardSection(), history, EPOCHS, pruner_says_stop=True)
    assert found == Prune(f"not good enough by epoch {number}, says the pruner")


def test_a_persons_wish_is_honoured_at_once_but_for_numbers_that_are_none() -> None:
    """It comes before the guard's word and the pruner's, and on the last epoch, too."""
    healthy = [epoch(n) for n in range(1, EPOCHS + 1)]
    for history in (healthy[:1], healthy, ratios(20, 30)):
        for says_stop in (True, False):
            assert verdict(guard(), history, EPOCHS, says_stop, "enough") == Prune("enough")
    lost = [epoch(1, None, finite=False)]
    assert verdict(guard(), lost, EPOCHS, False, "enough") == Prune("not finite in epoch 1")


def test_the_guard_comes_before_the_pruner() -> None:
    assert verdict(guard(), ratios(20, 30), EPOCHS, pruner_says_stop=True) == Prune(HIGH)


def test_a_study_of_one_epoch() -> None:
    assert verdict(GuardSection(), [epoch(1)], 1, pruner_says_stop=True) == Complete()


def test_epochs_that_are_not_evaluated_are_passed_over() -> None:
    limits = guard_of_images()
    history = [
        epoch(n, None if n % 2 else 50.0, variance_ratio=None if n % 2 else 0.01)
        for n in range(1, 6)
    ]
    assert verdict(limits, history[:2], 9, pruner_says_stop=False) == Continue()
    assert verdict(limits, history[:3], 9, pruner_says_stop=False) == Continue()
    found = verdict(limits, history[:4], 9, pruner_says_stop=False)
    assert found == Prune("guard: variance_ratio 0.01 below 0.05 for 2 evaluations in a row")
    assert verdict(limits, history, 9, pruner_says_stop=False) == Continue()  # nothing new is known


def test_classes_that_are_missing() -> None:
    history = [epoch(n, class_coverage=0.2) for n in (1, 2)]
    found = verdict(guard_of_images(), history, 9, pruner_says_stop=False)
    assert found == Prune("guard: class_coverage 0.2 below 0.25 for 2 epochs in a row")
    some = [epoch(n, class_coverage=0.3) for n in (1, 2)]
    assert verdict(guard_of_images(), some, 9, pruner_says_stop=False) == Continue()


def guard_of_images() -> GuardSection:
    return GuardSection(variance_ratio=VarianceRatioGuard(grace_steps=0))
