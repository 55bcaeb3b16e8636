"""How much each searched parameter matters for the value of complete trials, by Optuna's fANOVA."""

from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.conditions import branches, named, plain
from tuner.errors import InputError
from tuner.spec import StudySpec
from tuner.study.space import distributions
from tuner.study.store import TrialRecord

FEWEST = 5  # complete trials; a forest grown on fewer says nothing


class Importances(NamedTuple):
    """Shares of the values' variance, which add up to one, the largest first; empty for fewer than
    ``FEWEST`` trials. ``left_out`` are the parameters that not all of the ``trials`` have."""

    shares: dict[str, float]
    trials: int
    left_out: tuple[str, ...]


def importances(spec: StudySpec, trials: Sequence[TrialRecord]) -> Importances:
    """Of each parameter that all complete trials have: the share of the variance of a random
    forest's predictions that it explains alone (Hutter, Hoos and Leyton-Brown 2014).

    Equal trials give equal shares. InputError where scikit-learn is not installed.
    """
    complete = [_frozen(spec, trial) for trial in trials if trial.state == "COMPLETE"]
    if len(complete) < FEWEST:
        return Importances({}, len(complete), ())
    try:
        evaluator = FanovaImportanceEvaluator(seed=spec.study.seed)
    except ImportError:
        raise InputError(
            "parameter importances: found no scikit-learn, expected the extra report: "
            "pip install 'tuner[report]'"
        ) from None
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.add_trials(complete)
    found = get_param_importances(study, evaluator=evaluator)
    shares = {plain(name): float(share) for name, share in found.items()}
    return Importances(shares, len(complete), _left_out(spec, set(shares)))


def _frozen(spec: StudySpec, trial: TrialRecord) -> FrozenTrial:
    params = named(spec.trial, trial.params)
    space = distributions(spec, params)
    known = {name: value for name, value in params.items() if name in space}
    return create_trial(
        state=TrialState.COMPLETE,
        value=trial.value,
        params=known,
        distributions={name: space[name] for name in known},
    )


def _left_out(spec: StudySpec, known: set[str]) -> tuple[str, ...]:
    parts = [(*branch.given, *branch.searched()) for branch in branches(spec.trial)]
    names = dict.fromkeys(plain(name) for part in parts for name in part)
    return tuple(name for name in names if name not in known)
