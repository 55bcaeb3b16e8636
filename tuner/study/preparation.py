"""The right to prepare the files that all workers of a study share: one worker has it at a time."""

from sqlalchemy import Connection, or_, update
from sqlalchemy.orm import Session

from tuner.study import tables
from tuner.study.tables import StudyKey
from tuner.study.workers import dead_among

_studies = tables.studies.c


def acquire(session: Session, study: StudyKey, worker: str, seconds: float) -> bool:
    """Take the right to prepare for ``seconds``; returns whether the worker has it now.

    It can be taken if it is free, expired, this worker's own, or a dead worker's.
    """
    until = tables.db_now() + seconds
    free = or_(
        _studies.preparer.is_(None),
        _studies.preparer == worker,
        _studies.preparer.in_(dead_among(session, _studies.preparer, study.row())),
        _studies.preparer_until < tables.db_now(),
    )
    # A later time was written before the database's clock was set back.
    later = update(tables.studies).where(study.row(), _studies.preparer_until > until)
    session.execute(later.values(preparer_until=until))
    taken = update(tables.studies).where(study.row(), free)
    taken = taken.values(preparer=worker, preparer_until=until)
    return session.execute(taken.returning(_studies.study_id)).one_or_none() is not None


def renew(connection: Connection, study: StudyKey, worker: str, seconds: float) -> None:
    """Keep the right to prepare for another ``seconds``, if the worker still has it."""
    mine = update(tables.studies).where(study.row(), _studies.preparer == worker)
    connection.execute(mine.values(preparer_until=tables.db_now() + seconds))


def release(connection: Session | Connection, study: StudyKey, worker: str) -> None:
    """Give up the right to prepare, if the worker still has it."""
    mine = update(tables.studies).where(study.row(), _studies.preparer == worker)
    connection.execute(mine.values(preparer=None, preparer_until=None))
