"""Leases, which state the worker that owns each trial: created, taken over, renewed, released."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from optuna.trial import TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from tuner.phases import UNCOUNTED, PhaseSeconds
from tuner.study import rows, tables
from tuner.study.records import Confirms
from tuner.study.tables import StudyKey
from tuner.study.workers import dead_among, describe_worker

MAX_REMAINING = 2 * 86_400.0  # seconds; a lease lasts a day at most
ORPHAN_SECONDS = 600.0  # that another program has to end a trial that it began

_leases = tables.leases.c


class Lease(NamedTuple):
    """A worker's right to write to a trial, for ``seconds`` from its last write or renewal."""

    worker: str
    token: int
    seconds: float

    def matches(self, trial_id: int) -> tuple[ColumnElement[bool], ...]:
        """Conditions under which a row of ``tuner_leases`` is this lease of the trial, and held."""
        return (
            _leases.trial_id == trial_id,
            _leases.worker == self.worker,
            _leases.token == self.token,
            _leases.status == "held",
        )


class Taken(NamedTuple):
    """A trial whose lease was taken."""

    trial_id: int
    token: int
    epoch: int  # the last one reported
    takeovers: int  # since then
    rung: int = 0  # the last one passed
    prune_reason: str | None = None  # of a request to prune it
    seconds: PhaseSeconds = UNCOUNTED  # on its earlier workers
    lost: str | None = None  # the worker that it was taken over from, if it did not give it back


_PHASES = tuple(_leases[name] for name in tables.PHASE_COLUMNS.values())
_TAKEN = (
    *(_leases.trial_id, _leases.token, _leases.epoch, _leases.takeovers),
    *(_leases.rung, _leases.prune_reason, *_PHASES),
)


def _taken(row: Sequence[Any] | None) -> Taken | None:
    if row is None:
        return None
    trial_id, token, epoch, takeovers, rung, reason, *seconds = row
    return Taken(trial_id, token, epoch, takeovers, rung, reason, rows.phase_seconds(seconds))


def create(
    session: Session,
    study_id: int,
    trial_id: int,
    lease: Lease,
    confirms: Confirms | None = None,
) -> None:
    """Lease a trial that is being created in this transaction, and may confirm another one."""
    if session.get_bind().dialect.name == "sqlite":
        # SQLite reuses the ids of deleted trials, and other programs delete trials without our
        # rows.
        for table in (tables.leases, tables.epochs):
            session.execute(delete(table).where(table.c.trial_id == trial_id))
    session.execute(
        insert(tables.leases).values(
            trial_id=trial_id,
            study_id=study_id,
            status="held",
            worker=lease.worker,
            token=lease.token,
            expires_at=tables.db_now() + lease.seconds,
            epoch=0,
            takeovers=0,
            confirms=confirms and confirms.trial,
            confirm_seed=confirms and confirms.seed,
        )
    )


def held_unknown(
    session: Session, study_id: int, worker: str, known: Collection[int]
) -> Taken | None:
    """Find a lease that the worker does not know it holds, because the answer was lost."""
    query = select(*_TAKEN).where(
        _leases.study_id == study_id,
        _leases.worker == worker,
        _leases.status == "held",
        _leases.trial_id.not_in(known),
    )
    return _taken(session.execute(query).first())


def take(
    session: Session, study: StudyKey, lease: Lease, dead: Collection[str], latest: float | None
) -> Taken | None:
    """Take over a trial that was released, whose worker is ``dead``, or whose lease has expired;
    also a paused trial that is to be pruned.

    The token is raised by one, which fences off the previous owner. Values that no worker writes
    would block a trial forever: an unknown status counts as released, an expiry too far ahead as
    expired.

    ``latest`` is the latest time that the database's clock can show. No lease counts as expired if
    ``latest`` is None, or if the clock is ahead of it: then the clock was set forward, and the
    owners have not had time to renew their leases.
    """
    available = _available(study, dead, latest)
    owners = dict(session.execute(select(_leases.trial_id, _leases.worker).where(available)).all())
    if not owners:
        return None
    # Not one of those just read: without locks, other workers would choose the same.
    first = (
        select(_leases.trial_id)
        .where(available)
        .order_by(_leases.expires_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    taken = _take(session, lease, _leases.trial_id == first.scalar_subquery(), available)
    if taken is None or (owner := owners.get(taken.trial_id)) is None:
        return taken
    return taken._replace(lost=describe_worker(session, owner))


def _take(
    session: Session, lease: Lease, *where: ColumnElement[bool], **values: Any
) -> Taken | None:
    """Make the worker the trial's next owner, and set ``values``."""
    taken = update(tables.leases).where(*where)
    taken = taken.values(
        status="held",
        worker=lease.worker,
        token=_leases.token + 1,
        expires_at=tables.db_now() + lease.seconds,
        takeovers=_leases.takeovers + case((_leases.status == "held", 1), else_=0),
        **values,
    )
    return _taken(session.execute(taken.returning(*_TAKEN)).one_or_none())


def promote(session: Session, study: StudyKey, lease: Lease, trial_id: int) -> Taken | None:
    """Take a paused trial, which passes its rung now; None if another worker has taken it."""
    paused = (_leases.trial_id == trial_id, _leases.status == "paused", study.exists())
    return _take(session, lease, *paused, rung=_leases.epoch, checkpoint_bytes=None)


def resume_paused(session: Session, study: StudyKey, lease: Lease) -> Taken | None:
    """Take a paused trial of a study whose pruner no longer pauses any."""
    paused = (_leases.study_id == study.study_id, _leases.status == "paused", study.exists())
    first = select(_leases.trial_id).where(*paused).order_by(_leases.trial_id).limit(1)
    first = first.with_for_update(skip_locked=True)
    here = _leases.trial_id == first.scalar_subquery()
    return _take(session, lease, here, *paused, checkpoint_bytes=None)


def _available(study: StudyKey, dead: Collection[str], latest: float | None) -> ColumnElement[bool]:
    """The condition under which ``take`` takes over a trial."""
    free = or_(
        _leases.status.not_in(("held", "paused", "done")),
        and_(_leases.status == "paused", _leases.prune_reason.is_not(None)),
    )
    now = tables.db_now()
    over = or_(_leases.expires_at < now, _leases.expires_at > now + MAX_REMAINING)
    expired = [] if latest is None else [and_(over, now <= latest)]
    lost = and_(_leases.status == "held", or_(_leases.worker.in_(dead), *expired))
    return and_(_leases.study_id == study.study_id, study.exists(), or_(free, lost))


def left_behind(
    session: Session | Connection,
    study: StudyKey,
    dead: Collection[str],
    latest: float | None,
    limit: int,
) -> list[int]:
    """The first trials that ``take`` would take over, at most ``limit``."""
    query = select(_leases.trial_id).where(_available(study, dead, latest))
    return list(session.execute(query.order_by(_leases.expires_at).limit(limit)).scalars())


def statuses(connection: Connection, study: StudyKey) -> dict[int, str]:
    """The status of each lease of the study's trials that have not ended, by trial id."""
    query = select(_leases.trial_id, _leases.status)
    query = query.where(
        _leases.study_id == study.study_id, study.exists(), _leases.status != "done"
    )
    return dict(connection.execute(query).all())


def dead_workers(session: Session | Connection, study_id: int) -> list[str]:
    """The workers that hold leases but were processes of this machine and have died."""
    held = (_leases.study_id == study_id, _leases.status == "held")
    return dead_among(session, _leases.worker, *held)


def lease_orphans(session: Session, study: StudyKey) -> None:
    """Create leases without a worker for running trials that have none, for a later takeover.

    Another program began them, and has ``ORPHAN_SECONDS`` to end them. A running trial whose lease
    is done was restarted by another program, and is free at once.
    """
    trials, epochs = tables.optuna_trials.c, tables.epochs.c
    running = select(trials.trial_id).where(
        trials.study_id == study.study_id, trials.state == TrialState.RUNNING
    )
    again = (_leases.status == "done") & _leases.trial_id.in_(running)
    session.execute(update(tables.leases).where(again, study.exists()).values(status="free"))
    reported = select(func.count()).where(epochs.trial_id == trials.trial_id).scalar_subquery()
    orphans = select(
        trials.trial_id,
        trials.study_id,
        literal("held"),
        literal(0),
        tables.db_now() + ORPHAN_SECONDS,
        reported,
        literal(0),
    ).where(
        trials.study_id == study.study_id,
        study.exists(),
        trials.state == TrialState.RUNNING,
        ~select(_leases.trial_id).where(_leases.trial_id == trials.trial_id).exists(),
    )
    names = ["trial_id", "study_id", "status", "token", "expires_at", "epoch", "takeovers"]
    new = tables.insert_into(session, tables.leases).from_select(names, orphans)
    session.execute(new.on_conflict_do_nothing())  # another worker may lease them at the same time


def shorten(session: Session, study: StudyKey, seconds: float) -> None:
    """Shorten leases to the longest that a worker can take; living owners renew theirs in time.

    Longer ones were written before the database's clock was set back.
    """
    longest = tables.db_now() + case((_leases.worker.is_(None), ORPHAN_SECONDS), else_=seconds)
    session.execute(
        update(tables.leases)
        .where(_leases.study_id == study.study_id, study.exists())
        .where(_leases.status == "held", _leases.expires_at > longest)
        .values(expires_at=longest)
    )


def renew(connection: Connection, leases: dict[int, Lease]) -> set[int]:
    """Extend the leases; returns the trials that are still held under them."""
    kept = set[int]()
    for trial_id, lease in leases.items():
        later = update(tables.leases).values(expires_at=tables.db_now() + lease.seconds)
        renewed = later.where(*lease.matches(trial_id)).returning(_leases.trial_id)
        kept.update(connection.execute(renewed).scalars())
    return kept


def release(
    connection: Connection,
    trial_id: int,
    lease: Lease,
    seconds: PhaseSeconds,
    *,
    hung: bool = False,
) -> int | None:
    """Let another worker take the trial, which took these ``seconds`` so far, at once; returns the
    last epoch reported, or None if the lease is no longer held. ``hung`` counts as a takeover, as
    if the worker had died."""
    row = connection.execute(
        update(tables.leases)
        .where(*lease.matches(trial_id))
        .values(
            status="free",
            worker=None,
            expires_at=tables.db_now(),
            takeovers=_leases.takeovers + int(hung),
            **tables.phase_values(seconds),
        )
        .returning(_leases.epoch)
    ).one_or_none()
    return None if row is None else int(row.epoch)


def add_last_seconds(
    connection: Connection, trial_id: int, lease: Lease, seconds: PhaseSeconds
) -> None:
    """Store the seconds of a trial that ended under this lease, with those since its end."""
    ended = (*lease.matches(trial_id)[:-1], _leases.status == "done")
    connection.execute(update(tables.leases).where(*ended).values(tables.phase_values(seconds)))


def status(session: Session, trial_id: int, lease: Lease) -> str | None:
    """The status of a lease, held, paused or done; None if another worker has it now."""
    query = select(_leases.status).where(
        _leases.trial_id == trial_id, _leases.worker == lease.worker, _leases.token == lease.token
    )
    found: str | None = session.execute(query).scalar_one_or_none()
    return found
