"""Verdicts on trials after an epoch: guard, pruner, completion."""

import math
from typing import Any

import pytest
from builders import epoch

from tuner.epoch_report import EpochReport
from tuner.spec.guard import DiscriminatorAucGuard, GuardSection, LossRatioGuard, VarianceRatioGuard
from tuner.study.verdict import (
    Complete,
    Continue,
    Pause,
    Prune,
    Verdict,
    collapse_signs,
    verdict,
)

EPOCHS = 10
PRUNED, PAUSED = Prune("pruned by median at epoch 1"), Pause("paused at epoch 1")  # early ends


def ratios(*values: float | None, first: int = 1) -> list[EpochReport]:
    """Reports with these loss ratios, from epoch ``first`` on."""
    return [epoch(first + i, loss_ratio=value) for i, value in enumerate(values)]


def guard(**options: Any) -> GuardSection:
    """A guard of the loss ratio alone, by default from 0.1 to 10."""
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
        # An epoch has 1,000 steps.
        ({"grace_steps": 1001}, ratios(20, 30), Continue()),
        ({"grace_steps": 1001}, ratios(20, 20, 30), Prune(HIGH)),
        ({"grace_steps": 1000}, ratios(20, 30), Prune(HIGH)),
        # In the last epoch, the guard precedes completion.
        ({}, ratios(20, 30, first=EPOCHS - 1), Prune(HIGH)),
        ({}, ratios(1, 1, first=EPOCHS - 1), Complete()),
        ({}, ratios(20, first=EPOCHS), Complete()),
    ],
)
def test_the_loss_ratio_is_guarded(
    options: dict[str, Any], history: list[EpochReport], expected: Verdict
) -> None:
    assert verdict(guard(**options), history, EPOCHS, early=None) == expected


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
def test_every_quantity_is_guarded(
    limits: dict[str, Any], values: dict[str, Any], expected: Verdict
) -> None:
    history = [epoch(n, **values) for n in (1, 2)]
    assert verdict(GuardSection(**limits), history, EPOCHS, early=None) == expected


@pytest.mark.parametrize("number", [1, 4, EPOCHS])
@pytest.mark.parametrize("early", [PRUNED, PAUSED, None])
def test_values_that_are_not_finite_prune_at_once(number: int, early: Pause | Prune | None) -> None:
    lenient = GuardSection(
        loss_ratio=LossRatioGuard(enabled=False), variance_ratio=VarianceRatioGuard(enabled=False)
    )
    history = [epoch(n) for n in range(1, number)]
    history.append(epoch(number, None, finite=False, loss_ratio=math.nan, g_loss=None))
    found = verdict(lenient, history, EPOCHS, early)
    assert found == Prune(f"non-finite values in epoch {number}")


@pytest.mark.parametrize(
    ("number", "early", "expected"),
    [
        (1, None, Continue()),
        (EPOCHS - 1, None, Continue()),
        (EPOCHS, None, Complete("all epochs trained")),
        (EPOCHS, PRUNED, Complete("all epochs trained")),
        (EPOCHS, PAUSED, Complete("all epochs trained")),
    ],
)
def test_the_last_epoch_completes(
    number: int, early: Pause | Prune | None, expected: Verdict
) -> None:
    history = [epoch(n) for n in range(1, number + 1)]
    assert verdict(GuardSection(), history, EPOCHS, early) == expected


@pytest.mark.parametrize("early", [PRUNED, PAUSED])
@pytest.mark.parametrize("number", [1, 3, EPOCHS - 1])
def test_the_pruner_decides_before_the_last_epoch(number: int, early: Pause | Prune) -> None:
    history = [epoch(n, 123.456) for n in range(1, number + 1)]
    assert verdict(GuardSection(), history, EPOCHS, early) == early


def test_a_prune_request_comes_first_unless_values_are_not_finite() -> None:
    """It precedes the guard and the pruner, also in the last epoch."""
    healthy = [epoch(n) for n in range(1, EPOCHS + 1)]
    for history in (healthy[:1], healthy, ratios(20, 30)):
        for early in (PRUNED, PAUSED, None):
            assert verdict(guard(), history, EPOCHS, early, "enough") == Prune("enough")
    lost = [epoch(1, None, finite=False)]
    assert verdict(guard(), lost, EPOCHS, None, "enough") == Prune("non-finite values in epoch 1")


def test_the_guard_comes_before_the_pruner() -> None:
    assert verdict(guard(), ratios(20, 30), EPOCHS, early=PRUNED) == Prune(HIGH)


def test_a_trial_of_one_epoch_completes() -> None:
    assert verdict(GuardSection(), [epoch(1)], 1, early=PRUNED) == Complete()


def test_the_guard_skips_epochs_without_an_evaluation() -> None:
    limits = image_guard()
    history = [
        epoch(n, None if n % 2 else 50.0, variance_ratio=None if n % 2 else 0.01)
        for n in range(1, 6)
    ]
    assert verdict(limits, history[:2], 9, early=None) == Continue()
    assert verdict(limits, history[:3], 9, early=None) == Continue()
    found = verdict(limits, history[:4], 9, early=None)
    assert found == Prune("guard: variance_ratio 0.01 below 0.05 for 2 evaluations in a row")
    assert verdict(limits, history, 9, early=None) == Continue()  # epoch 5 is not evaluated


def test_the_loss_ratio_is_guarded_in_every_epoch() -> None:
    history = [epoch(n, None, loss_ratio=30.0) for n in (1, 2)]
    assert verdict(guard(), history, EPOCHS, early=None) == Prune(HIGH)


def test_missing_classes_prune() -> None:
    history = [epoch(n, class_coverage=0.2) for n in (1, 2)]
    found = verdict(image_guard(), history, 9, early=None)
    assert found == Prune("guard: class_coverage 0.2 below 0.25 for 2 epochs in a row")
    some = [epoch(n, class_coverage=0.3) for n in (1, 2)]
    assert verdict(image_guard(), some, 9, early=None) == Continue()


def image_guard() -> GuardSection:
    return GuardSection(variance_ratio=VarianceRatioGuard(grace_steps=0))


@pytest.mark.parametrize(
    ("coverage", "classes", "pruned"),
    [
        *((1 / 2, 2, True), (1.0, 2, False), (1 / 3, 3, True), (2 / 3, 3, False)),
        *((1 / 4, 4, True), (2 / 4, 4, False), (1 / 5, 5, True), (2 / 5, 5, False)),
        *((1 / 3, 0, False), (2 / 10, 10, True), (3 / 10, 10, False), (1.0, 1, False)),
    ],
)
def test_a_single_class_always_prunes(coverage: float, classes: int, pruned: bool) -> None:
    history = [epoch(n, class_coverage=coverage) for n in (1, 2)]
    found = verdict(GuardSection(), history, 9, early=None, classes=classes)
    assert isinstance(found, Prune) == pruned
    assert ("guard: class_coverage" in getattr(found, "reason", "")) == pruned


def test_a_limit_of_0_disables_the_guard() -> None:
    history = [epoch(n, class_coverage=1 / 3) for n in (1, 2)]
    limits = GuardSection.model_validate({"class_coverage": {"low": 0.0}})
    assert verdict(limits, history, 9, early=None, classes=3) == Continue()


def test_signs_of_collapse_are_named() -> None:
    healthy = {"class_coverage": 1.0, "class_entropy": 0.9, "recall": 0.4, "variance_ratio": 0.9}
    assert collapse_signs(healthy, 3) == collapse_signs(epoch(1)._asdict()) == []
    assert collapse_signs(healthy | {"class_coverage": 1 / 3, "recall": 0.0}, 3) == [
        "1 of 3 classes generated",
        "recall 0",
    ]
    assert collapse_signs(healthy | {"class_coverage": 1 / 3, "class_entropy": 0.0}) == [
        "33% of the classes generated, entropy 0"
    ]
    assert collapse_signs(healthy | {"class_entropy": 0.125}, 3) == [
        "3 of 3 classes generated, entropy 0.12"
    ]
    assert collapse_signs(healthy | {"variance_ratio": 0.01}) == ["variance ratio 0.01"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [("class_coverage", 0.25), ("class_entropy", 0.3), ("variance_ratio", 0.05), ("recall", 0.01)],
)
@pytest.mark.parametrize("classes", [0, 8])
def test_collapse_below_the_documented_limits(name: str, limit: float, classes: int) -> None:
    healthy = {"class_coverage": 1.0, "class_entropy": 0.9, "recall": 0.4, "variance_ratio": 0.9}
    assert collapse_signs(healthy | {name: limit}, classes) == []
    assert len(collapse_signs(healthy | {name: math.nextafter(limit, 0)}, classes)) == 1


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_a_generator_of_one_class_has_collapsed(classes: int) -> None:
    one, two = ({"class_coverage": n / classes, "class_entropy": 0.9} for n in (1, 2))
    assert collapse_signs(one, classes) == [f"1 of {classes} classes generated"]
    assert collapse_signs(two, classes) == []
    assert collapse_signs({"class_coverage": 1.0, "class_entropy": 1.0}, 1) == []
