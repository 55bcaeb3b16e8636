"""Decide whether a trial continues after an epoch. Pure: history in, verdict out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tuner.epoch_report import EpochReport
from tuner.spec.guard import GuardLimits, GuardSection

# A generator below these counts as collapsed; the first two are also the guard's defaults.
MIN_COVERAGE, MIN_VARIANCE = 0.25, 0.05
MIN_ENTROPY, MIN_RECALL = 0.3, 0.01
MAX_COPIED = 0.15  # of the samples; see ``copying_sign``


class Continue(NamedTuple):
    """Train another epoch."""


class Complete(NamedTuple):
    """The last epoch is done."""

    reason: str = "all epochs trained"
    objectives: Mapping[str, float] = {}  # by name, in a study with several


class Pause(NamedTuple):
    """Not among the best at a rung, so far: the trial may be promoted later."""

    reason: str


class Prune(NamedTuple):
    """The hyperparameters were bad."""

    reason: str


class Fail(NamedTuple):
    """The software or the machine failed."""

    reason: str


Verdict = Continue | Complete | Pause | Prune | Fail
STATES = {Complete: "COMPLETE", Prune: "PRUNED", Fail: "FAIL"}  # of trials with these verdicts


def verdict(
    guard: GuardSection,
    history: Sequence[EpochReport],
    epochs: int,
    early: Pause | Prune | None,
    request: str | None = None,
    classes: int = 0,
) -> Verdict:
    """Judge a trial by all its reports so far, in order, the newest last.

    Non-finite numbers prune a trial at once; so does ``request``, the reason of a user's request to
    prune it. A guarded quantity prunes it once it has been out of bounds for its patience. Last
    comes ``early``, the pruner's decision; it counts only before the last epoch, in which pruning
    saves nothing. ``classes`` is the number of classes that the extractor finds in the data, 0 if
    it knows none.
    """
    last = history[-1]
    if not last.finite:
        return Prune(f"non-finite values in epoch {last.epoch}")
    if request is not None:
        return Prune(request)
    for name, limits in guard:
        reason = _out_of_bounds(name, limits, history, classes)
        if reason:
            return Prune(reason)
    if last.epoch >= epochs:
        return Complete()
    return early or Continue()


def _out_of_bounds(
    name: str, limits: GuardLimits, history: Sequence[EpochReport], classes: int
) -> str | None:
    relevant = history if name == "loss_ratio" else [r for r in history if r.fid is not None]
    newest = relevant[-limits.patience :]
    if not limits.enabled or len(newest) < limits.patience or newest[-1] is not history[-1]:
        return None
    least = limits.low
    if name == "class_coverage" and classes > 1 and least:
        least = max(least, 1.5 / classes)  # with few classes, a single one may reach the limit
    streak = [_violation(limits, least, r, getattr(r, name)) for r in newest]
    if not all(streak):
        return None
    apart = newest[-1].epoch - newest[0].epoch >= limits.patience
    times = "evaluations" if apart else "epochs"
    epochs = f"{limits.patience} {times} in a row" if limits.patience > 1 else "an epoch"
    return f"guard: {name} {getattr(history[-1], name):.3g} {streak[-1]} for {epochs}"


def _violation(
    limits: GuardLimits, low: float | None, report: EpochReport, value: float | None
) -> str | None:
    """``below 0.05`` or ``above 100``; None if in bounds, not measured, or in the grace period."""
    if value is None or report.steps < limits.grace_steps:
        return None
    if low is not None and value < low:
        return f"below {low:.3g}"
    if limits.high is not None and value > limits.high:
        return f"above {limits.high:g}"
    return None


def collapse_signs(measured: Mapping[str, Any], classes: int = 0) -> list[str]:
    """The measurements that show a collapsed generator, however low its FID; empty if none does.

    ``measured`` holds fields of an epoch report by name; ``classes`` is their number in the data, 0
    if unknown. A low class entropy shows a collapse even if many classes are generated.
    """
    signs = []
    coverage, entropy = measured.get("class_coverage"), measured.get("class_entropy")
    variance, recall = measured.get("variance_ratio"), measured.get("recall")
    least = max(MIN_COVERAGE, 1.5 / classes if classes > 1 else 0)
    if coverage is not None and (coverage < least or (entropy or 0) < MIN_ENTROPY):
        share = f"{round(coverage * classes)} of {classes}" if classes else f"{coverage:.0%} of the"
        uneven = "" if coverage < least or entropy is None else f", entropy {entropy:.2g}"
        signs.append(f"{share} classes generated{uneven}")
    if variance is not None and variance < MIN_VARIANCE:
        signs.append(f"variance ratio {variance:.3g}")
    if recall is not None and recall < MIN_RECALL:
        signs.append(f"recall {recall:.2g}")
    return signs


def missing_sign(measured: Mapping[str, Any], classes: int = 0) -> str | None:
    """The share of the data's ``classes`` (0 if unknown) that is not generated, as text; None if
    all are."""
    coverage = measured.get("class_coverage")
    if coverage is None or coverage >= 1:
        return None
    missing = 1 - coverage
    if classes:
        return f"{round(missing * classes)} of {classes} classes"
    return f"{100 * missing:.2g}% of the classes"


def copying_sign(measured: Mapping[str, Any]) -> str | None:
    """The measurement that shows that a generator copies training images; None if it does not.

    With 50 held-out images, the fewest allowed, the estimated share of copies among new images
    has a standard deviation of 0.03, a fifth of the limit.
    """
    copied = measured.get("copied")
    return f"{copied:.0%} of its samples" if copied is not None and copied > MAX_COPIED else None
