"""Pruners replayed on recorded curves, and rank correlations: how early trials could be pruned.

Nothing is trained. Limits of a replay: after other prunings, an adaptive sampler would have chosen
other trials; trials of parallel workers see less of each other than trials in sequence; and a curve
that ended early is known only as far as it goes.
"""

import random
import statistics
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from tuner.errors import InputError
from tuner.spec.loading import parse_spec
from tuner.spec.search import PrunerSpec
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord
from tuner.study.samplers import make_pruner

FEWEST = 3  # trials; two always correlate perfectly, one way or the other


class Curve(NamedTuple):
    """A recorded trial: the values that Optuna got, and the seconds of training and evaluating.

    Both are by epoch; an epoch that was not measured has no value.
    """

    trial: int
    state: str  # RUNNING, PAUSED, COMPLETE, PRUNED, FAIL
    values: dict[int, float]
    seconds: dict[int, float]

    @property
    def whole(self) -> bool:
        """Whether it reaches the last epoch."""
        return self.state == "COMPLETE" and bool(self.values)

    @property
    def final(self) -> float:
        """The last value: the trial's, unless it is pruned earlier."""
        return self.values[max(self.values)]


class Correlation(NamedTuple):
    """How well the values after ``epoch`` rank ``trials`` whole trials; 1 is the final order.

    None for fewer than three trials, or if all values are the same.
    """

    epoch: int
    trials: int
    spearman: float | None  # rho
    kendall: float | None  # tau-b


class Outcome(NamedTuple):
    """The effect of a pruner over ``orders`` orders of the trials; shares are fractions of one.

    Survivors are whole curves that are not pruned. An order without a survivor counts as losing the
    winner and has no regret. Mean regrets are over the other orders; None if there are none.
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


def curves_of(trials: Sequence[TrialRecord], objective: str, keeps_best: bool) -> list[Curve]:
    """The learning curves of ``trials``: the ``objective`` or its best so far (``keeps_best``)."""
    curves = []
    for trial in trials:
        history = trial.history
        values = history.best_so_far(objective) if keeps_best else dict(history.measured(objective))
        seconds = {report.epoch: report.seconds for report in history}
        curves.append(Curve(trial.number, trial.state, values, seconds))
    return curves


def winner_of(curves: Sequence[Curve]) -> Curve | None:
    """The whole curve with the lowest final value, if there is one."""
    whole = [curve for curve in curves if curve.whole]
    return min(whole, key=lambda curve: (curve.final, curve.trial), default=None)


def rank_correlations(curves: Sequence[Curve]) -> list[Correlation]:
    """Correlate each epoch's values with the final ones, over the whole curves."""
    whole = [curve for curve in curves if curve.whole]
    return [_correlation(whole, e) for e in sorted({e for curve in whole for e in curve.values})]


def _correlation(whole: Sequence[Curve], epoch: int) -> Correlation:
    from scipy import stats  # takes as long to import as the whole command line

    pairs = [(curve.values[epoch], curve.final) for curve in whole if epoch in curve.values]
    if len(pairs) < FEWEST or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return Correlation(epoch, len(pairs), None, None)
    now, final = zip(*pairs, strict=True)
    rho, tau = stats.spearmanr(now, final).statistic, stats.kendalltau(now, final).statistic
    return Correlation(epoch, len(pairs), float(rho), float(tau))


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
    ends = [prunings(order, pruner, spec) for order in (curves, *shuffled)]
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


def prunings(curves: Sequence[Curve], pruner: PrunerSpec, spec: StudySpec) -> dict[int, int]:
    """The epochs after which trials are pruned, by their recorded numbers.

    The trials run one after another, as on a single worker, in an in-memory study that numbers them
    from 0. It has the recorded study's name, from which Hyperband derives its brackets.
    """
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name=spec.study.name)
    study.pruner = make_pruner(spec, pruner)
    ends = {}
    for curve in curves:
        trial_id = storage.create_new_trial(study._study_id)
        value = None
        for epoch, value in curve.values.items():
            storage.set_trial_intermediate_value(trial_id, epoch, value)
            # The pruner also sees the last epoch, to set its attributes, but can't prune then.
            if study.pruner.prune(study, storage.get_trial(trial_id)) and epoch < spec.study.epochs:
                ends[curve.trial] = epoch
                break
        survives = curve.whole and curve.trial not in ends
        state = TrialState.COMPLETE if survives else TrialState.PRUNED
        storage.set_trial_state_values(trial_id, state, None if value is None else [value])
    return ends
