"""What becomes of a trial after an epoch. Pure: history in, verdict out."""

from collections.abc import Sequence
from typing import NamedTuple

from tuner.policies import GuardLimits, GuardSection
from tuner.trial import EpochReport


class Continue(NamedTuple):
    """Train another epoch."""


class Complete(NamedTuple):
    """The last epoch is done."""

    reason: str = "all epochs trained"


class Prune(NamedTuple):
    """The hyperparameters were bad."""

    reason: str


class Fail(NamedTuple):
    """The software or the machine failed."""

    reason: str


Verdict = Continue | Complete | Prune | Fail


def verdict(
    guard: GuardSection,
    history: Sequence[EpochReport],
    epochs: int,
    pruner_says_stop: bool,
    wish: str | None = None,
) -> Verdict:
    """Judge a trial by all its reports so far, in order, the newest last.

    Numbers that are not finite end a trial at once, and so does a person's ``wish``; a guarded
    quantity once it has been out of bounds for its patience; the pruner's word comes after them,
    and counts only before the last epoch: there is nothing left to save then.
    """
    last = history[-1]
    if not last.finite:
        return Prune(f"not finite in epoch {last.epoch}")
    if wish is not None:
        return Prune(wish)
    for name, limits in guard:
        reason = _out_of_bounds(name, limits, history)
        if reason:
            return Prune(reason)
    if last.epoch >= epochs:
        return Complete()
    if pruner_says_stop:
        return Prune(f"not good enough by epoch {last.epoch}, says the pruner")
    return Continue()


def _out_of_bounds(name: str, limits: GuardLimits, history: Sequence[EpochReport]) -> str | None:
    looked_at = history if name == "loss_ratio" else [r for r in history if r.fid is not None]
    newest = looked_at[-limits.patience :]
    if not limits.enabled or len(newest) < limits.patience or newest[-1] is not history[-1]:
        return None
    streak = [_violation(limits, r, getattr(r, name)) for r in newest]
    if not all(streak):
        return None
    apart = newest[-1].epoch - newest[0].epoch >= limits.patience
    times = "evaluations" if apart else "epochs"
    epochs = f"{limits.patience} {times} in a row" if limits.patience > 1 else "an epoch"
    return f"guard: {name} {getattr(history[-1], name):.3g} {streak[-1]} for {epochs}"


def _violation(limits: GuardLimits, report: EpochReport, value: float | None) -> str | None:
    """``below 0.05`` or ``above 100``; None within bounds, without a value, in the grace time."""
    if value is None or report.steps < limits.grace_steps:
        return None
    if limits.low is not None and value < limits.low:
        return f"below {limits.low:g}"
    if limits.high is not None and value > limits.high:
        return f"above {limits.high:g}"
    return None
