"""Pruners replayed on recorded curves: the training that they would have saved, and the regret.

Nothing is trained. Limits of a replay: with a different pruner, an adaptive sampler would have
chosen different trials; trials on parallel workers see fewer results of each other than trials in
sequence; and a curve that ended early is known only up to its end.
"""

import random
import statistics
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from tuner.errors import InputError
from tuner.spec.loading import parse_spec
from tuner.spec.pruners import PrunerSpec
from tuner.spec.study import StudySpec
from tuner.study.curves import Curve, winner_of
from tuner.study.simulation import simulate


class Outcome(NamedTuple):
    """The effect of a pruner over ``orders`` orders of the trials; shares are fractions of one.

    Trials that asha leaves paused count as pruned. Survivors are whole curves that are not pruned.
    An order without a survivor counts as losing the winner and has no regret. Mean regrets are over
    the other orders; None if there are none.
    """

    pruner: str
    orders: int
    epochs_recorded: int
    epochs_trained: float  # mean
    epochs_saved: float  # mean share
    seconds_saved: float  # mean share
    trials_pruned: float  # mean, of those whose curves ended early too
    winner_lost: int  # orders in which the best whole trial is pruned
    nobody_survived: int  # orders without a survivor
    regret: float | None  # mean of the best survivor's value, less the winner's
    relative_regret: float | None  # the same over the winner's value; None where that is 0


def parse_pruner(text: str, spec: StudySpec) -> PrunerSpec:
    """Parse ``NAME`` or ``NAME:key=value,key=value``; values as in a study file.

    InputError lists all problems, including those with the study of ``spec``.
    """
    name, _, options = text.partition(":")
    try:
        table = tomllib.loads(f"options = {{ {options} }}")["options"]
    except tomllib.TOMLDecodeError:
        raise InputError(
            f"--pruner {text}: found {options!r}, expected key=value,key=value"
        ) from None
    sections = {"study": spec.study.model_dump(), "metrics": spec.metrics.model_dump()}
    return parse_spec(sections | {"pruner": table | {"name": name}}, f"--pruner {text}").pruner


def pruner_text(pruner: Any) -> str:
    """The pruner in the form that ``parse_pruner`` reads, without options at their defaults."""
    options = _changed(pruner)
    return f"{pruner.name}:{','.join(options)}" if options else str(pruner.name)


def _changed(pruner: Any) -> list[str]:
    changed = pruner.model_dump(exclude_defaults=True)
    if changed.pop("wrapped", None) is not None:
        inner = ", ".join([f"name='{pruner.wrapped.name}'", *_changed(pruner.wrapped)])
        changed["wrapped"] = f"{{{inner}}}"
    return [f"{key}={value}" for key, value in changed.items()]


def replay(
    curves: Sequence[Curve], pruner: PrunerSpec, spec: StudySpec, orders: int = 1
) -> Outcome:
    """Apply ``pruner`` to the trials of a study of ``spec``, one after another: in recorded order,
    and in ``orders - 1`` random orders drawn from the study's seed.

    ValueError if there is no whole curve.
    """
    winner = winner_of(curves)
    if winner is None:
        raise ValueError("no curve reaches the last epoch")
    draw = random.Random(spec.study.seed)
    shuffled = [draw.sample(curves, len(curves)) for _ in range(orders - 1)]
    ends = [simulate(order, pruner, spec).ends for order in (curves, *shuffled)]
    alive = [[c.final for c in curves if c.whole and c.trial not in end] for end in ends]
    regrets = [min(finals) - winner.final for finals in alive if finals]
    regret = statistics.fmean(regrets) if regrets else None
    recorded, trained = _trained(curves, {}), [_trained(curves, end) for end in ends]
    epochs_trained = statistics.fmean(map(len, trained))
    recorded_seconds, spent = sum(recorded), statistics.fmean(map(sum, trained))
    return Outcome(
        pruner=pruner_text(pruner),
        orders=orders,
        epochs_recorded=len(recorded),
        epochs_trained=epochs_trained,
        epochs_saved=1 - epochs_trained / len(recorded),
        seconds_saved=1 - spent / recorded_seconds if recorded_seconds else 0.0,
        trials_pruned=statistics.fmean(map(len, ends)),
        winner_lost=sum(winner.trial in end for end in ends),
        nobody_survived=orders - len(regrets),
        regret=regret,
        relative_regret=regret / abs(winner.final) if regret is not None and winner.final else None,
    )


def _trained(curves: Sequence[Curve], ends: dict[int, int]) -> list[float]:
    """The seconds of every epoch that is trained if trials are pruned at ``ends``."""
    return [
        seconds
        for curve in curves
        for epoch, seconds in curve.seconds.items()
        if epoch <= ends.get(curve.trial, epoch)
    ]
