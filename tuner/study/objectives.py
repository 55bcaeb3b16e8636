"""Trials with several objectives: their values, and their Pareto front. Pure.

All values of a trial belong to one generator, the one that is kept: that of the epoch that the
first objective chooses.
"""

from collections.abc import Mapping, Sequence

from tuner.epoch_report import History
from tuner.spec.constraint import Size
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord, best_of


def objective_values(
    spec: StudySpec, history: History, size: Size | None = None
) -> dict[str, float] | None:
    """The value of each objective for a trial with these reports and, if it is an objective, this
    size; None if one is missing.

    ``seconds`` are those of training up to the epoch that the other values come from.
    """
    metrics = spec.metrics
    epoch = history.scored_epoch(metrics.objective, spec.study.value)
    if not epoch:
        return None
    found: dict[str, float | None] = {}
    for name in metrics.names:
        if name == "seconds":
            found[name] = History(history[:epoch]).train_seconds
        elif name == "parameters":
            found[name] = None if size is None else size.total
        else:
            found[name] = history[epoch - 1].value(name)
    known = {name: value for name, value in found.items() if value is not None}
    return known if len(known) == len(found) else None


def dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether ``one`` is at least as good in all objectives, and better in some."""
    pairs = [(cost(name, one[name]), cost(name, other[name])) for name in one]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def cost(name: str, value: float) -> float:
    """The value of an objective, so that lower is better."""
    return -value if ALL_OBJECTIVES[name].higher else value


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that no other one dominates, by the first objective, the best first.

    Trials with equal values are all part of it. With one objective, only the best trial.
    """
    complete = [t for t in trials if t.state == "COMPLETE" and t.objectives and not t.confirms]
    if not complete:
        best = best_of(trials)
        return [best] if best else []
    # A trial is dominated only by trials that come before it in this order.
    front: list[TrialRecord] = []
    for trial in sorted(complete, key=lambda t: [cost(*pair) for pair in t.objectives.items()]):
        if not any(dominates(other.objectives, trial.objectives) for other in front):
            front.append(trial)
    return front
