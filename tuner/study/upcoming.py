"""The trials that workers take next, in order: those without a worker, then the queue."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from tuner.spec.branches import setting_params
from tuner.study import leases
from tuner.study.claims import known_params
from tuner.study.records import BASELINE, SEED_OF, warm_start_of
from tuner.study.rows import printable
from tuner.study.store import StudyStore

MAX_LISTED = 10_000  # trials without a worker that are listed
ALWAYS = 1e12  # later than any time of the database's clock


class Upcoming(NamedTuple):
    """A trial that waits for a worker."""

    number: int
    origin: str  # why it waits, or what queued it
    queued: bool  # False if it has begun
    params: dict[str, Any]  # those known: the sampler chooses the others


def upcoming(store: StudyStore) -> list[Upcoming]:
    """The waiting trials, in the order in which workers take them. Paused trials are not included,
    since the pruner decides which of those continue."""
    with store.database.reading() as connection:
        dead = leases.dead_workers(connection, store.study_id)
        left = leases.left_behind(connection, store.key, dead, ALWAYS, MAX_LISTED)
        statuses = leases.statuses(connection, store.key)
    with store.database.errors():
        trials = store.study.get_trials(deepcopy=False)
    begun = {trial._trial_id: trial for trial in trials if trial.state == TrialState.RUNNING}
    queue = [trial for trial in trials if trial.state == TrialState.WAITING]
    queue.sort(key=lambda trial: trial.number)
    return [
        *(_upcoming(begun[i], _progress(begun[i], statuses.get(i))) for i in left if i in begun),
        *(_upcoming(trial, _origin(trial.user_attrs), queued=True) for trial in queue),
    ]


def _upcoming(trial: FrozenTrial, origin: str, *, queued: bool = False) -> Upcoming:
    params = setting_params(known_params(trial) or {})
    return Upcoming(trial.number, origin, queued, {printable(k): v for k, v in params.items()})


_WHY = {"held": "lost its worker", "paused": "paused, to be pruned"}  # by the lease's status


def _progress(trial: FrozenTrial, status: str | None) -> str:
    """Why a trial has no worker, and after which epoch that Optuna knows."""
    why = _WHY.get(status or "", "released")
    return why + (f" after epoch {trial.last_step}" if trial.last_step else "")


def _origin(attributes: Mapping[str, Any]) -> str:
    """The origin of a queued trial with these attributes."""
    if warm_start := warm_start_of(attributes):
        return f"warm start from {warm_start}"
    if attributes.get(BASELINE) is True:
        return "baseline"
    if isinstance(again := attributes.get(SEED_OF), int):
        return f"trial {again} again, same seed"
    return "enqueued"
