"""Claims on trials: choose a trial's parameters, or refuse it."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tuner.epoch_report import EpochReport
from tuner.phases import Phase
from tuner.spec.branches import setting_params
from tuner.spec.pruners import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study import rows
from tuner.study.confirmation import FIRST_SEED
from tuner.study.edits import earlier_specs
from tuner.study.epochs import ownership_history
from tuner.study.leases import Taken
from tuner.study.promotion import Promoter
from tuner.study.records import MACHINE, SEED_OF, Confirms, confirms_of
from tuner.study.rows import UNREADABLE
from tuner.study.samplers import make_pruner, make_sampler
from tuner.study.screening import by_first_objective, screened
from tuner.study.space import distributions, trial_config, why_outside_space
from tuner.study.storage import Choice, FencedStorage
from tuner.study.store import StudyStore
from tuner.trial import DatasetInfo, TrialConfig


class Claim(NamedTuple):
    """A trial that this worker owns, and its reports so far."""

    trial_id: int
    number: int
    params: dict[str, Any]
    config: TrialConfig
    token: int = 1  # of its lease
    history: tuple[EpochReport, ...] = ()
    predecessor: str | None = None  # the worker and host that made the last of these reports
    rung: int = 0  # the last one passed
    confirms: Confirms | None = None
    prune_reason: str | None = None  # of a request to prune it
    lost: str | None = None  # the worker that had it last, if it was taken over from one


class Refusal(NamedTuple):
    """Why a trial can't be begun; with a traceback if the cause is unknown."""

    reason: str
    traceback: str | None = None


class Idle(enum.Enum):
    """Why there is no trial to claim."""

    WAIT = "other workers run the last trials, and may leave some behind"
    ENDED = "the study has all of its trials"
    ON_HOLD = "the study is on hold"
    SPENT = "the study's budget is spent"


class Search(NamedTuple):
    """How a study file samples and prunes."""

    spec: StudySpec
    study: optuna.Study  # as its sampler and pruner see it, with both
    judged: optuna.Study  # as the pruner sees it: only by the first objective
    promoter: Promoter | None  # if trials are paused at rungs

    @classmethod
    def of(cls, store: StudyStore, spec: StudySpec) -> Self:
        study = screened(store.study, spec)
        study.sampler, study.pruner = make_sampler(spec), make_pruner(spec)
        judged = by_first_objective(store.study, spec) if spec.metrics.several else study
        asha = spec.pruner if isinstance(spec.pruner, AshaPruner) else None
        promoter = None if asha is None else Promoter(store.key, spec, asha)
        return cls(spec, study, judged, promoter)


def make_claim(
    store: StudyStore, search: Search, taken: Taken, dataset: DatasetInfo, machine: dict[str, str]
) -> Claim | Refusal | None:
    """Read a leased trial, and choose and store its parameters; None if it was ended elsewhere."""
    trial_id, storage = taken.trial_id, store.database.rdb
    trial = storage.get_trial(trial_id)
    if trial.state.is_finished():
        return None
    history = tuple(store.reports_of(trial_id))
    search = _search_for(store, search, trial)
    spec = search.spec
    problem = _problem_of(spec, trial, [report.epoch for report in history], taken.epoch)
    if problem is not None:
        return Refusal(problem)
    choices = _choose_params(search, storage, trial)
    storage.write_params(trial_id, choices, {MACHINE: machine})
    params = trial.params | {choice.name: choice.value for choice in choices}
    confirms = confirms_of(trial.user_attrs)
    seeded = trial.user_attrs.get(SEED_OF, trial.number)
    if confirms is not None:
        seeded = FIRST_SEED + confirms.seed
    predecessor = None
    if history and (owners := ownership_history(store, trial.number)):
        last = owners[-1]
        predecessor = f"worker {last.worker} on {last.host or 'an unknown host'}"
    return Claim(
        trial_id=trial_id,
        number=trial.number,
        params=setting_params(params),
        config=trial_config(spec, params, seeded, dataset),
        token=taken.token,
        history=history,
        predecessor=predecessor,
        rung=taken.rung,
        confirms=confirms,
        prune_reason=taken.prune_reason,
        lost=taken.lost,
    )


def _search_for(store: StudyStore, search: Search, trial: FrozenTrial) -> Search:
    """The search that a trial belongs to: one from before an edit, if the trial was begun or queued
    with parameters that the edit has excluded."""
    known = known_params(trial)
    if known and why_outside_space(search.spec, known) is not None:
        for earlier in earlier_specs(store):
            if why_outside_space(earlier, known) is None:
                return Search.of(store, earlier)
    return search


def _problem_of(
    spec: StudySpec, trial: FrozenTrial, epochs: Sequence[int], last_epoch: int
) -> str | None:
    """Why a trial, which another program may have written, can't be run; None if it can.

    ``epochs`` are those with readable reports; ``last_epoch`` is the last one reported.
    """
    if UNREADABLE in trial.user_attrs:
        return f"its {trial.user_attrs[UNREADABLE]} can't be read"
    known = known_params(trial)
    if known is None:
        queued = str(trial.system_attrs["fixed_params"])
        return f"it is queued with {queued[:80]!r}, not with parameters"
    if (problem := why_outside_space(spec, known)) is not None:
        return problem
    seed_of = trial.user_attrs.get(SEED_OF, trial.number)
    if rows.whole(seed_of) is None:
        return f"it repeats trial {str(seed_of)[:80]!r}, which is not a trial number"
    if list(epochs) != list(range(1, len(epochs) + 1)) or len(epochs) != last_epoch:
        return f"of its {last_epoch} epochs, {len(epochs)} can be read"
    return None


def known_params(trial: FrozenTrial) -> dict[str, Any] | None:
    """The parameters that a trial was queued with or has; None if what was queued is unusable."""
    queued = trial.system_attrs.get("fixed_params", {})
    return queued | trial.params if isinstance(queued, dict) else None


def _choose_params(search: Search, storage: FencedStorage, trial: FrozenTrial) -> list[Choice]:
    """Choose the parameters that the trial lacks: from the point it was queued with, or by the
    study's sampler. Nothing is stored."""
    spec, study, params = search.spec, search.study, dict(trial.params)
    if not _missing(spec, params):
        return []
    # As Study.ask does: samplers then see this trial among the others.
    study._thread_local.cached_all_trials = None
    study.get_trials(deepcopy=False)
    suggesting = optuna.Trial(study, trial._trial_id)
    with (
        storage.clock.phase(Phase.OTHER, "choosing parameters"),
        storage.collected_params() as choices,
    ):
        while missing := _missing(spec, params):
            for name, distribution in missing.items():
                params[name] = suggesting._suggest(name, distribution)
    return choices


def _missing(spec: StudySpec, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """The parameters still to be chosen, given those chosen so far."""
    wanted = distributions(spec, params)
    return {name: wanted[name] for name in wanted if name not in params}
