"""What people do to a study while workers run it: enqueue, retry, prune, delete."""

import tomllib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import optuna
from optuna.trial import TrialState
from sqlalchemy import func, select, update

from tuner.coherence import point_problems
from tuner.combinations import kind_of
from tuner.conditions import named, plain_params
from tuner.errors import InputError
from tuner.settings import Value
from tuner.study import tables
from tuner.study.storage import COUNTED
from tuner.study.store import BASELINE, SEED_OF, StudyStore


def parse_point(store: StudyStore, words: Sequence[str]) -> dict[str, Value]:
    """Parameters from words like ``batch_size=64``; InputError lists all that are wrong."""
    point: dict[str, Value] = {}
    places: dict[str, int] = {}  # of the words: problems are listed in their order
    problems = []
    for place, word in enumerate(words):
        name, equals, text = word.partition("=")
        if equals:
            point[name], places[name] = _value(text), place
        else:
            problems.append((place, f"found {word!r}, expected key=value"))
    for name, text in point_problems(store.spec, point):
        whole = name not in places
        problems.append((len(words), text) if whole else (places[name], f"{name}: {text}"))
    if problems:
        raise InputError("\n".join(text for _, text in sorted(problems, key=itemgetter(0))))
    return {name: kind_of(name).check(value) for name, value in point.items()}


def _value(text: str) -> Any:
    """A number where TOML would read one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def enqueue(store: StudyStore, point: dict[str, Value], attributes: dict[str, Any]) -> int:
    """Have ``point`` tried next, with ``attributes`` on its trial; returns the study's total,
    which is raised where it leaves no room for all that is queued."""
    with store.database.errors():
        store.study.enqueue_trial(named(store.spec.trial, point), user_attrs=attributes)
        trials = tables.optuna_trials.c
        states = (*COUNTED, TrialState.WAITING)
        query = select(func.count()).where(
            trials.study_id == store.study_id, trials.state.in_(states)
        )
        with store.database.rdb.engine.connect() as connection:
            wanted: int = connection.execute(query).scalar_one()
    store.raise_total(wanted)
    return store.total


def retry(store: StudyStore, number: int, *, exactly: bool = False) -> int:
    """Queue a trial that has ended again, as a new trial; ``exactly``, with the same random numbers
    too. Returns the study's total.

    InputError for a trial that is not there, or has not ended.
    """
    found = store.trial(number)
    if found.state == "RUNNING":
        raise InputError(
            f"study {store.name!r}: found trial {number} running, expected one that has ended"
        )
    with store.database.errors():
        trials = {trial.number: trial for trial in store.study.get_trials(deepcopy=False)}
    trial = trials[number]
    point = plain_params(trial.system_attrs.get("fixed_params", {}) | trial.params)
    kept = {k: v for k, v in trial.user_attrs.items() if k == BASELINE}
    if exactly:
        kept[SEED_OF] = trial.user_attrs.get(SEED_OF, number)
    return enqueue(store, point, kept)


def request_prune(store: StudyStore, number: int, reason: str) -> None:
    """Have a running trial pruned at its next epoch. InputError for one that is not running."""
    found = store.trial(number)
    ours, trials = tables.leases, tables.optuna_trials.c
    mine = select(trials.trial_id).where(trials.study_id == store.study_id, trials.number == number)
    with store.database.errors(), store.database.rdb.engine.begin() as connection:
        asked = connection.execute(
            update(ours)
            .where(ours.c.trial_id == mine.scalar_subquery(), ours.c.status != "done")
            .values(prune_reason=reason)
            .returning(ours.c.trial_id)
        ).one_or_none()
    if asked is None:
        running = found.state == "RUNNING"
        expected = "one that a worker of tuner's runs" if running else "a running one"
        raise InputError(
            f"study {store.name!r}: found trial {number} {found.state}, expected {expected}"
        )


def delete(store: StudyStore) -> None:
    """Remove the study and all its rows from the database; its files are the caller's."""
    with store.database.errors():
        optuna.delete_study(storage=store.database.rdb, study_name=store.name)
