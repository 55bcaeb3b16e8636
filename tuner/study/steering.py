"""Actions on a study while workers run it: enqueue, dequeue, retry, prune, delete."""

import tomllib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import func, select, update

from tuner import hints
from tuner.errors import InputError
from tuner.spec.branches import optuna_params, setting_params
from tuner.spec.parameters import Value
from tuner.spec.trial import kind_of
from tuner.spec.validation import point_problems
from tuner.study import tables
from tuner.study.queue import COUNTED, utc_now
from tuner.study.records import BASELINE, DEQUEUED, REASON, SEED_OF
from tuner.study.rows import printable
from tuner.study.store import StudyStore

LONGEST_WORD = 300  # characters of a parameter's name and value


def parse_point(store: StudyStore, words: Sequence[str]) -> dict[str, Value]:
    """Parse words like ``batch_size=64``; InputError lists all problems."""
    point: dict[str, Value] = {}
    places: dict[str, int] = {}  # of the words: problems are listed in their order
    problems = []
    for place, word in enumerate(words):
        name, equals, text = word.partition("=")
        if len(word) > LONGEST_WORD:
            text = f"found {len(word):,} characters, expected at most {LONGEST_WORD}"
            problems.append((place, f"{word[:20]}...: {text}"))
        elif name in point:
            problems.append((place, f"{name} is given twice"))
        elif equals:
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
    """Parse the text as a TOML value; if it is none, return the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def enqueue(store: StudyStore, point: dict[str, Value], attributes: dict[str, Any]) -> int:
    """Queue a trial at ``point`` with these ``attributes``; returns the study's total, which is
    raised if it leaves no room for the whole queue."""
    with store.database.errors():
        with store.database.rdb.transaction() as session:  # ended by Optuna's within it
            store.key.lock(session)
            store.study.enqueue_trial(optuna_params(store.spec.trial, point), user_attrs=attributes)
        trials = tables.optuna_trials.c
        states = (*COUNTED, TrialState.WAITING)
        query = select(func.count()).where(
            trials.study_id == store.study_id, trials.state.in_(states), tables.is_search()
        )
        with store.database.rdb.engine.connect() as connection:
            wanted: int = connection.execute(query).scalar_one()
    store.raise_total(wanted)
    return store.total


def dequeue(store: StudyStore, numbers: Sequence[int]) -> None:
    """Remove trials from the queue: they end as failed ones, which don't count towards the total.

    InputError if one of them is not queued; then none is removed.
    """
    trials, owners = tables.optuna_trials, tables.trial_attributes.c.trial_id
    mine = (trials.c.study_id == store.study_id) & trials.c.number.in_(numbers)
    query = select(trials.c.number, trials.c.trial_id, trials.c.state).where(mine)
    # Not deleted, because Optuna counts trials to number the next one.
    ended = {"state": TrialState.FAIL, "datetime_complete": utc_now()}
    with store.database.errors(), store.database.rdb.transaction() as session:
        store.key.lock(session)  # as workers do before they take a trial from the queue
        found = {number: (i, state) for number, i, state in session.execute(query)}
        waiting = [i for i, state in found.values() if state == TrialState.WAITING]
        if queued := len(waiting) == len(set(numbers)):
            session.execute(update(trials).where(trials.c.trial_id.in_(waiting)).values(ended))
            for trial_id in waiting:
                tables.write_attributes(session, owners, trial_id, {REASON: DEQUEUED})
    if not queued:
        states = {n: found[n][1].name.lower() if n in found else "unknown" for n in numbers}
        wrong = [f"trial {n} is {s}" for n, s in states.items() if s != "waiting"]
        raise InputError(
            f"study {store.name!r}: {', '.join(wrong)}; only queued trials can be removed, and "
            f"{hints.command('queue', store.name)} lists them"
        )


def check_new(store: StudyStore, point: dict[str, Value]) -> None:
    """InputError if a trial with these parameters is queued, running, complete or pruned."""
    with store.database.errors():
        trials = store.study.get_trials(deepcopy=False)
    for trial in trials:
        waits = trial.state == TrialState.WAITING
        params = trial.system_attrs.get("fixed_params", {}) if waits else trial.params
        if trial.state != TrialState.FAIL and setting_params(params) == point:
            how = "queued" if waits else trial.state.name.lower()
            raise InputError(
                f"study {store.name!r}: trial {trial.number} has these parameters and is {how}; "
                "to queue them again, add --again"
            )


def retry(store: StudyStore, number: int, *, exactly: bool = False) -> int:
    """Queue an ended trial again, as a new trial; ``exactly``: also with the same random numbers.
    Returns the study's total.

    InputError if there is no such trial or it has not ended.
    """
    found = store.trial(number)
    if not found.has_ended:
        state = "still running" if found.state == "RUNNING" else "paused"
        raise InputError(
            f"study {store.name!r}: trial {number} is {state}; retry it once it has ended"
        )
    with store.database.errors():
        trials = store.study.get_trials(deepcopy=False)
    trial = next(trial for trial in trials if trial.number == number)
    point = setting_params(trial.system_attrs.get("fixed_params", {}) | trial.params)
    kept = {k: v for k, v in trial.user_attrs.items() if k == BASELINE}
    if exactly:
        kept[SEED_OF] = trial.user_attrs.get(SEED_OF, number)
    return enqueue(store, point, kept)


def request_prune(store: StudyStore, number: int, reason: str) -> None:
    """Request that a running trial be pruned at its next epoch, or a paused one as soon as a worker
    is free; InputError if it is neither."""
    state = store.trial(number).state
    ours, trials = tables.leases, tables.optuna_trials.c
    mine = select(trials.trial_id).where(trials.study_id == store.study_id, trials.number == number)
    with store.database.errors(), store.database.rdb.engine.begin() as connection:
        requested = connection.execute(
            update(ours)
            .where(
                ours.c.trial_id == mine.scalar_subquery(),
                ours.c.status != "done",
                store.key.exists(),
            )
            .values(prune_reason=printable(reason))
            .returning(ours.c.trial_id)
        ).one_or_none()
    if requested is None:
        why = f"trial {number} is {state}; only running and paused trials can be pruned"
        if state == "RUNNING":
            why = f"trial {number} is run by another program; only that program can prune it"
        raise InputError(f"study {store.name!r}: {why}")


def delete(store: StudyStore) -> None:
    """Delete the study with all its rows. Its files are left to the caller."""
    rdb = store.database.rdb
    with store.database.errors(), rdb.transaction() as session:
        store.key.lock(session)
        rdb.delete_study(store.study_id)
