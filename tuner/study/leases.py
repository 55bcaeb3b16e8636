"""Who owns which trial: leases as they are looked for, taken, renewed and given back."""

from collections.abc import Collection
from typing import NamedTuple

from optuna.trial import TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tuner.study import tables
from tuner.study.processes import Process, has_died
from tuner.study.storage import Lease

STRAY_SECONDS = 600.0  # a running trial that no worker of ours made is left alone this long

_ours = tables.leases.c


class Taken(NamedTuple):
    """A trial whose lease was taken."""

    trial_id: int
    token: int
    epoch: int  # the last one reported
    takeovers: int  # since then


_TAKEN = (_ours.trial_id, _ours.token, _ours.epoch, _ours.takeovers)


def held_unknown(
    session: Session, study_id: int, worker: str, known: Collection[int]
) -> Taken | None:
    """A trial that is leased to the worker without its knowledge: the answer was lost."""
    query = select(*_TAKEN).where(
        _ours.study_id == study_id,
        _ours.worker == worker,
        _ours.status == "held",
        _ours.trial_id.not_in(known),
    )
    row = session.execute(query.limit(1)).one_or_none()
    return None if row is None else Taken(*row)


def take(
    session: Session, study_id: int, lease: Lease, dead: Collection[str], *, expired: bool
) -> Taken | None:
    """Take over a trial that was given back, or whose worker is among the ``dead``, or, if
    ``expired`` may be taken, whose lease ran out. A token one higher shuts the old owner out."""
    free = _ours.status == "free"
    ran_out = [_ours.expires_at < tables.db_now()] if expired else []
    lost = and_(_ours.status == "held", or_(_ours.worker.in_(dead), *ran_out))
    available = and_(_ours.study_id == study_id, or_(free, lost))
    first = (
        select(_ours.trial_id)
        .where(available)
        .order_by(_ours.expires_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = session.execute(
        update(tables.leases)
        .where(_ours.trial_id == first.scalar_subquery(), available)
        .values(
            status="held",
            worker=lease.worker,
            token=_ours.token + 1,
            expires_at=tables.db_now() + lease.seconds,
            takeovers=_ours.takeovers + case((_ours.status == "held", 1), else_=0),
        )
        .returning(*_TAKEN)
    ).one_or_none()
    return None if row is None else Taken(*row)


def dead_workers(session: Session, study_id: int, me: str) -> list[str]:
    """Workers with leases that were processes of this machine, and are no more."""
    who = tables.workers.c
    query = (
        select(who.worker, who.host, who.place, who.pid, who.pid_since)
        .join(tables.leases, _ours.worker == who.worker)
        .where(_ours.study_id == study_id, _ours.status == "held", who.worker != me)
        .distinct()
    )
    return [worker for worker, *process in session.execute(query) if has_died(Process(*process))]


def lease_strays(session: Session, study_id: int) -> None:
    """Give running trials that have no lease one that nobody renews: they were made by another
    program than ours, and may be taken over once it has had time to end them."""
    trials, epochs = tables.optuna_trials.c, tables.epochs.c
    reported = select(func.count()).where(epochs.trial_id == trials.trial_id).scalar_subquery()
    strays = select(
        trials.trial_id,
        trials.study_id,
        literal("held"),
        literal(0),
        tables.db_now() + STRAY_SECONDS,
        reported,
        literal(0),
    ).where(
        trials.study_id == study_id,
        trials.state == TrialState.RUNNING,
        ~select(_ours.trial_id).where(_ours.trial_id == trials.trial_id).exists(),
    )
    names = ["trial_id", "study_id", "status", "token", "expires_at", "epoch", "takeovers"]
    postgres = session.get_bind().dialect.name == "postgresql"
    insert = postgresql.insert if postgres else sqlite.insert
    lease = insert(tables.leases).from_select(names, strays)
    session.execute(lease.on_conflict_do_nothing())  # another worker saw it, too


def renew(connection: Connection, leases: dict[int, Lease]) -> set[int]:
    """Prolong the leases; returns the trials that are still held under them."""
    kept = set()
    for trial_id, lease in leases.items():
        row = connection.execute(
            update(tables.leases)
            .where(*_held_under(trial_id, lease))
            .values(expires_at=tables.db_now() + lease.seconds)
            .returning(_ours.trial_id)
        ).one_or_none()
        kept |= {trial_id} if row else set()
    return kept


def give_back(connection: Connection, trial_id: int, lease: Lease) -> None:
    """Let another worker take the trial at once, if the lease still holds."""
    connection.execute(
        update(tables.leases)
        .where(*_held_under(trial_id, lease))
        .values(status="free", worker=None, expires_at=tables.db_now())
    )


def _held_under(trial_id: int, lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        _ours.trial_id == trial_id,
        _ours.worker == lease.worker,
        _ours.token == lease.token,
        _ours.status == "held",
    )


def status(session: Session, trial_id: int, lease: Lease) -> str | None:
    """What became of a lease: held, done; None once it is another's."""
    query = select(_ours.status).where(
        _ours.trial_id == trial_id, _ours.worker == lease.worker, _ours.token == lease.token
    )
    found = session.execute(query).scalar_one_or_none()
    return None if found is None else str(found)
