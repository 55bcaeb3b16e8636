"""The workers of a study as other processes see them, and the detection of dead ones.

A trial whose worker has died on the same machine is taken over before its lease expires.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, exists, func, insert, select
from sqlalchemy.orm import Session

from tuner.environment import MACHINE_VARIABLE, slurm_job, variable
from tuner.study import rows, tables
from tuner.study.rows import printable
from tuner.version import __version__

LOST_SHOWN = 600.0  # seconds for which a lost worker without a trial is still listed


class Process(NamedTuple):
    """Identifies a process, across containers and despite reused process ids."""

    host: str  # for display
    place: str  # the scope of ``pid``; '' if unknown
    pid: int
    since: str


class WorkerRecord(NamedTuple):
    """A worker of the study."""

    worker: str
    host: str
    pid: int
    device: str
    alive: bool
    seen: float  # seconds since its last heartbeat, by the database's clock
    trial: int | None
    epoch: int | None  # the last one reported of that trial
    job: str | None = None  # id of the Slurm job that it runs in
    doing: str | None = None  # such as "compiling"; None if lost, or nothing has lasted for a while
    doing_seconds: float | None = None  # for how long, by the database's clock


_who = tables.workers.c
_PROCESS = (_who.host, _who.place, _who.pid, _who.pid_since)


def read_workers(connection: Connection, study_id: int, lease_seconds: float) -> list[WorkerRecord]:
    """List the workers that have joined and not left, in the order in which they joined.

    Lost workers are listed for ten minutes, or until another worker takes their trial over. A
    worker whose process has died on this machine counts as lost at once.
    """
    lease, trials = tables.leases.c, tables.optuna_trials.c
    # A heartbeat in the future dates from before the clock was set back; it ages all the same.
    age = func.abs(tables.db_now() - _who.seen_at)
    more = _who.job, _who.doing, tables.db_now() - _who.doing_since
    query = (
        select(_who.worker, _who.device, age, trials.number, lease.epoch, *more, *_PROCESS)
        .select_from(tables.workers)
        .outerjoin(tables.leases, (lease.worker == _who.worker) & (lease.status == "held"))
        .outerjoin(tables.optuna_trials, trials.trial_id == lease.trial_id)
        .where(_who.study_id == study_id, _who.left_at.is_(None))
        .order_by(_who.joined_at, trials.number)
    )
    workers = []
    for worker, device, seen, trial, epoch, job, what, lasting, *which in connection.execute(query):
        host, place, pid, since = which
        seen, pid = rows.finite(seen), rows.whole(pid)
        if seen is None or pid is None or not (seen < LOST_SHOWN or trial is not None):
            continue
        process = Process(printable(str(host)), str(place), pid, str(since))
        alive = seen < lease_seconds and not has_died(process)
        known = (printable(str(worker)), process.host, pid, printable(str(device)))
        numbers = rows.whole(trial), rows.whole(epoch)
        activity = (rows.text(what), rows.finite(lasting)) if alive else (None, None)
        workers.append(WorkerRecord(*known, alive, seen, *numbers, rows.text(job), *activity))
    return workers


def has_reported(connection: Connection, study_id: int, job: str) -> bool:
    """Whether a worker in this Slurm job has reported an epoch."""
    reported = exists().where(tables.epochs.c.worker == _who.worker)
    query = select(_who.worker).where(_who.study_id == study_id, _who.job == job, reported)
    return connection.execute(query.limit(1)).first() is not None


def insert_worker(session: Session, study_id: int, worker: str, device: str) -> float:
    """Add this process to the study's workers; returns the database's time."""
    process, job = this_process(), slurm_job()
    joined = session.execute(
        insert(tables.workers)
        .values(
            worker=worker,
            study_id=study_id,
            host=printable(process.host),
            place=process.place,
            pid=process.pid,
            pid_since=process.since,
            device=printable(device),
            tuner_version=__version__,
            job=job and printable(job),
            joined_at=tables.db_now(),
            seen_at=tables.db_now(),
        )
        .returning(_who.seen_at)
    )
    now: float = joined.scalar_one()
    return now


def dead_among(
    session: Session | Connection, column: Column[str], *where: ColumnElement[bool]
) -> list[str]:
    """The workers named in a column that were processes of this machine and have died."""
    query = select(_who.worker, *_PROCESS).join(column.table, column == _who.worker).where(*where)
    found = session.execute(query.distinct())
    return [worker for worker, *process in found if has_died(Process(*process))]


def describe_worker(session: Session, worker: str) -> str:
    """Where a worker runs and when it was last seen: ``north:4711, last seen 45 s ago``."""
    query = select(_who.host, _who.pid, tables.db_now() - _who.seen_at)
    row = session.execute(query.where(_who.worker == worker)).one_or_none()
    if row is None:
        return f"worker {printable(worker)}"
    host, pid, age = row
    seen = rows.finite(age)
    ago = "" if seen is None else f", last seen {max(0.0, seen):.0f} s ago"
    return f"{printable(str(host))}:{pid}{ago}"


def this_process() -> Process:
    """Identify the calling process."""
    name = variable(MACHINE_VARIABLE)
    return Process(name or platform.node(), _place(name), os.getpid(), _since(os.getpid()))


def has_died(process: Process) -> bool:
    """Whether a process of this machine is certainly dead; False if unknown."""
    if not process.place or process.place != _place(variable(MACHINE_VARIABLE)):
        return False
    return _since(process.pid) != process.since


def _place(name: str | None) -> str:
    """Identify this boot of this machine or container, within which process ids are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{name or ''}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _since(pid: int) -> str:
    """The start of the process in ticks since boot; '' if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
