"""The content of a study's notifications, and claims that let exactly one process send each.

What the last notification of an event reported is an attribute of the Optuna study. A process
replaces it in a transaction that locks the study, and only then sends the notification: if the
process dies in between, the notification is lost, never sent twice.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from tuner.study import rows, tables
from tuner.study.database import Database
from tuner.study.objectives import cost
from tuner.study.records import TrialRecord, record_of
from tuner.study.store import StudyStore
from tuner.study.workers import read_workers

SENT = "tuner:notified:"  # prefix of the attributes, before the event
THROTTLE = 3600.0  # seconds between two notifications of failed trials
_ours = tables.study_attributes


class Stall(NamedTuple):
    """No worker runs a study that has trials left."""

    since: float  # when a worker was last seen, by the database's clock
    seconds: float  # elapsed since then
    left: int  # trials


def claim_end(store: StudyStore) -> str | None:
    """Why the study has ended; None unless it has, and this caller should report it.

    A study can end several times: its total or its budget may be raised in between.
    """
    reason = store.budget().reason
    if store.remaining() <= 0:
        mark: Any = ["trials", len(store.ended())]
        reason = store.ended_reason or "all of its trials have ended"
    elif reason is not None:
        mark = ["budget", *store.spec.budget.limits.values()]
    else:
        return None
    return reason if _claim(store, "ended", lambda sent, now: _mark_if_new(sent, mark)) else None


def claim_best(store: StudyStore) -> TrialRecord | None:
    """The best trial; None unless it is a new one, and this caller should report it."""
    best = store.best_so_far()
    if best is None or best.value is None:
        return None
    value, name = best.value, store.spec.metrics.objective

    def improved(sent: Any, now: float) -> Any:
        earlier = rows.finite(sent)
        is_better = earlier is None or cost(name, value) < cost(name, earlier)
        return value if is_better else None

    return best if _claim(store, "best", improved) else None


def claim_failure(store: StudyStore) -> tuple[int, TrialRecord] | None:
    """The number of trials that have failed, and the last of them; None unless more have failed
    than were reported, the last report is an hour old, and this caller should report them. Trials
    that a user removed from the queue are not counted."""
    with store.database.errors():
        trials = store.study.get_trials(deepcopy=False)
    failed = [record for t in trials if (record := record_of(t, ())).state == "FAIL"]
    failed = [record for record in failed if not record.was_excluded]
    count = len(failed)

    def due(sent: Any, now: float) -> Any:
        match sent:
            case [int(reported), int() | float() as at]:
                later = count > reported and not 0 <= now - at < THROTTLE
                return [count, now] if later else None
        return [count, now] if count else None

    return (count, failed[-1]) if _claim(store, "failed", due) else None


def claim_stall(store: StudyStore, stall: Stall) -> bool:
    """Whether this caller should report the stall."""
    mark = round(stall.since, 3)
    return _claim(store, "stalled", lambda sent, now: _mark_if_new(sent, mark))


def stall_of(store: StudyStore) -> Stall | None:
    """The stall of a study; None if a worker is running, none ever was, a user stopped the workers
    or put the study on hold, or nothing is left to run."""
    store.refresh()
    seconds, workers = store.spec.study.lease_seconds, tables.workers.c
    ended = func.coalesce(workers.left_at, workers.seen_at)
    query = (
        select(
            func.max(ended), func.max(workers.joined_at), tables.db_now(), tables.studies.c.stop_at
        )
        .select_from(tables.workers)
        .join(tables.studies, tables.studies.c.study_id == workers.study_id)
        .where(store.key.row())
        .group_by(tables.studies.c.stop_at)
    )
    with store.database.reading() as connection:
        row = connection.execute(query).one_or_none()
        alive = any(w.alive for w in read_workers(connection, store.study_id, seconds))
    if row is None or alive or store.on_hold:
        return None
    since, joined, now, stopped = map(rows.finite, row)
    if since is None or joined is None or now is None or (stopped or 0.0) > joined:
        return None
    left = 0 if store.budget().reason is not None else store.remaining()
    return Stall(since, max(0.0, now - since), left) if left > 0 else None


def studies_wanting(database: Database, event: str) -> list[str]:
    """The names of the studies whose file mentions the event."""
    ours, theirs = tables.studies.c, tables.optuna_studies.c
    query = (
        select(theirs.study_name)
        .join(tables.studies, ours.study_id == theirs.study_id)
        .where(ours.spec.contains(f'"{event}"', autoescape=True))
    )
    with database.reading() as connection:
        named = {str(name) for name in connection.execute(query).scalars()}
    return [name for name in database.study_names() if name in named]


def _mark_if_new(sent: Any, mark: Any) -> Any:
    return None if sent == mark else mark


def _claim(store: StudyStore, event: str, decide: Callable[[Any, float], Any]) -> bool:
    """Replace what was reported last by what ``decide`` returns for it and the current time; False
    if that is None: another process has sent it, or there is nothing to send."""
    key = f"{SENT}{event}"
    with store.database.errors(), store.database.rdb.engine.begin() as connection:
        # Rows are locked in the same order as by a worker that begins a trial.
        theirs = tables.optuna_studies.c.study_id
        connection.execute(select(theirs).where(theirs == store.study_id).with_for_update())
        store.key.lock(connection)
        new = decide(_sent(connection, store, key), _now(connection))
        if new is None:
            return False
        tables.write_attributes(connection, _ours.c.study_id, store.study_id, {key: new})
    return True


def _sent(connection: Connection, store: StudyStore, key: str) -> Any:
    query = select(_ours.c.value_json).where(_ours.c.study_id == store.study_id, _ours.c.key == key)
    value = connection.execute(query).scalar_one_or_none()
    return None if value is None else rows.attribute(value)


def _now(connection: Connection) -> float:
    now: float = connection.execute(select(tables.db_now())).scalar_one()
    return now
