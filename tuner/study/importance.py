"""Importance of each searched parameter for reaching good values, by Optuna's PED-ANOVA."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.spec.branches import optuna_params, setting_name
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord
from tuner.study.space import distributions, why_outside_space

MIN_TRIALS = 5  # complete trials; importances from fewer are noise
# The best trials are compared with all: at least this share and this many of them, at most half.
TOP_SHARE, TOP_TRIALS = 0.2, 10


class Importances(NamedTuple):
    """Importances that add up to one, largest first; ``missing`` says why there are none."""

    shares: dict[str, float]  # by parameter, as the study file names it
    trials: int  # the number that they are computed from
    missing: str | None = None


def importances(spec: StudySpec, trials: Sequence[TrialRecord]) -> Importances:
    """Compare the distribution of each parameter among the best complete trials with that among
    all of them: the Pearson divergence (Watanabe, Bansal and Hutter 2023).

    A parameter that only some trials have counts by how often those are among the best. Equal
    trials give equal importances.
    """
    usable = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    complete = [
        _frozen(spec, t)
        for t in usable
        if why_outside_space(spec, optuna_params(spec.trial, t.params)) is None
    ]
    count = len(complete)
    if count < MIN_TRIALS:
        needed = f"at least {MIN_TRIALS} complete trials are needed"
        return Importances({}, count, f"{needed}, and {count} of {len(trials)} are complete")
    if len({trial.value for trial in complete}) == 1:
        return Importances({}, count, f"all {count} complete trials have the same value")
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.add_trials(complete)
    quantile = min(0.5, max(TOP_SHARE, TOP_TRIALS / count))
    # Imported here by Optuna, with pandas and scikit-learn if they are installed: half a second.
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, if many trials share the lowest value
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Importances({name: float(share) for name, share in found.items()}, count)


def _frozen(spec: StudySpec, trial: TrialRecord) -> FrozenTrial:
    """The trial for Optuna, under the study file's names: a setting that is searched in several
    branches is one parameter, with a different range in each."""
    space = distributions(spec, optuna_params(spec.trial, trial.params))
    space = {setting_name(name): distribution for name, distribution in space.items()}
    params = {name: value for name, value in trial.params.items() if name in space}
    return create_trial(
        state=TrialState.COMPLETE,
        value=trial.cost,
        params=params,
        distributions={name: space[name] for name in params},
    )
