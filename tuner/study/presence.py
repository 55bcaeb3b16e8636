"""``WorkerPresence``: a worker's membership of a study, apart from its trials."""

import contextlib
import functools
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from sqlalchemy import select, update

from tuner.errors import StorageError, one_line
from tuner.phases import PhaseClock
from tuner.study import leases, preparation, tables
from tuner.study.claims import Claim
from tuner.study.heartbeat import Heartbeat
from tuner.study.leases import Lease
from tuner.study.records import HUNG
from tuner.study.retrying import LIMIT, Retrier
from tuner.study.store import StudyStore
from tuner.study.workers import insert_worker

P = ParamSpec("P")
S = TypeVar("S", bound="WorkerPresence")
T = TypeVar("T")


class WorkerStats(NamedTuple):
    """Statistics of a worker's use of the database, for monitoring."""

    retries: int  # after transient failures
    renewals: dict[str, int]  # of leases, by outcome: see Heartbeat
    last_beat: float | None  # time.time() of the last heartbeat that was stored


def persistent(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Repeat a method of ``WorkerPresence`` while the database is unavailable."""

    @functools.wraps(method)
    def persisting(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        return self._persist(functools.partial(method, self, *args, **options))

    return persisting


class WorkerPresence:
    """A worker that is registered and has a heartbeat. Not thread-safe, except where noted."""

    def __init__(
        self,
        store: StudyStore,
        machine: dict[str, str],
        announce: Callable[[str], None],
        retry_seconds: float = LIMIT,
        clock: PhaseClock | None = None,
    ) -> None:
        """``machine`` describes the hardware and libraries; ``retry_seconds`` is how long to wait
        for an unavailable database. ``clock`` counts the calling thread's time. InputError if
        another version of tuner created the study."""
        store.check_version()
        self.store, self.spec = store, store.spec
        self.worker = uuid.uuid4().hex[:12]
        self.machine, self._database = machine, store.database
        self.clock = clock or PhaseClock()
        self._storage = store.database.rdb
        self._storage.study, self._storage.clock = store.key, self.clock
        self._announce = announce
        self._retrier = Retrier(announce, retry_seconds, clock=self.clock)
        self._last: tuple[int, Lease] | None = None  # the trial claimed last
        self._seconds = self.spec.study.lease_seconds
        self._heart = Heartbeat(store, self.worker, self._seconds, self._register, self.clock)

    @contextlib.contextmanager
    def joined(self) -> Iterator[Self]:
        """Join the study until the block ends. Trials still held then are released if the
        database can be reached."""
        self._persist(self._register)
        self._storage.new_lease = Lease(self.worker, 1, self._seconds)
        self._heart.start()
        try:
            yield self
        finally:
            self.leave_at_once()
            self._heart.stop()
            self._storage.held.clear()
            self._storage.new_lease = None

    def _register(self) -> None:
        """Add the worker to the database, unless it is there.

        Runs on the main thread or the heartbeat's. KeyError if the study is gone.
        """
        workers = tables.workers
        with self._storage.transaction() as session:
            if session.execute(select(workers).where(workers.c.worker == self.worker)).first():
                return  # the answer to an earlier attempt was lost
            query = select(tables.studies.c.stop_at).where(self.store.key.row())
            study = session.execute(query).one_or_none()
            if study is None:
                raise KeyError("the study")
            self._heart.stop_before = study.stop_at
            device = self.machine.get("device", "")
            now = insert_worker(session, self.store.study_id, self.worker, device)
            self._heart.compare_clocks(now)
            self.store.key.lock(session)

    @property
    def stop_requested(self) -> bool:
        """Whether a stop of the study's workers was requested after this one joined."""
        return self._heart.stop_requested

    @property
    def on_hold(self) -> bool:
        """Whether the study was on hold at the last heartbeat or claim."""
        return self._heart.on_hold

    def _latest_now(self) -> float | None:
        """The latest time that the database's clock can show; None shortly after an outage of the
        database, in which no worker could renew its leases."""
        troubles = (self._retrier.last_trouble, self._heart.last_trouble)
        ages = [time.monotonic() - moment for moment in troubles if moment is not None]
        return self._heart.latest_now if min(ages, default=self._seconds) >= self._seconds else None

    def stats(self) -> WorkerStats:
        """Statistics for monitoring. Thread-safe."""
        heart = self._heart
        return WorkerStats(self._retrier.retries, dict(heart.renewals), heart.last_beat)

    def leave_at_once(self, *, hung: bool = False) -> None:
        """Give back all trials and the right to prepare, in one attempt. Thread-safe. ``hung``
        counts as if the worker had died."""
        workers, seconds = tables.workers, self.clock.of_trial()
        left = (
            update(workers).where(workers.c.worker == self.worker).values(left_at=tables.db_now())
        )
        with (
            contextlib.suppress(StorageError),
            self._database.errors(),
            self._storage.engine.begin() as connection,
        ):
            for trial_id, lease in dict(self._storage.held).items():
                leases.release(connection, trial_id, lease, seconds, hung=hung)
            if self._last is not None:
                leases.add_last_seconds(connection, *self._last, seconds)
            connection.execute(left)
            if self._heart.preparing:
                preparation.release(connection, self.store.key, self.worker)

    def give_up_hung(self, claim: Claim, what: str, stacks: str) -> None:
        """Stop renewing the lease of a trial that hung, give the trial back, and store where it
        hung, in one attempt. Thread-safe."""
        trial_id, study = claim.trial_id, self.store.key
        lease, masked = self._storage.held[trial_id], self._database.address.masked(stacks)
        self._heart.hung.add(trial_id)
        with (
            contextlib.suppress(StorageError),
            self._database.errors(),
            self._storage.engine.begin() as connection,
        ):
            seconds = self.clock.of_trial()
            reported = leases.release(connection, trial_id, lease, seconds, hung=True)
            if reported is not None and connection.execute(select(study.exists())).scalar_one():
                hang = {"reported": reported, "what": what, "stacks": masked}
                trials = tables.trial_attributes.c.trial_id
                tables.write_attributes(connection, trials, trial_id, {HUNG: hang})

    def describe_error(self, error: BaseException) -> tuple[str, str]:
        """Describe an unexpected error: one line and its traceback, with passwords masked."""
        masked = self._database.address.masked
        trace = "".join(traceback.format_exception(error))
        return one_line(error, masked), masked(trace)

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Repeat the attempt while the database is unavailable; failures become StorageError."""

        def once() -> T:
            with self._database.errors():
                return attempt()

        return self._retrier(once)

    # Preparing the files that workers share

    @persistent
    def may_prepare(self) -> bool:
        """Whether this worker may prepare the files that the study's workers share.

        It keeps the right as long as it is alive, until it calls ``prepared``.
        """
        with self._storage.transaction() as session:
            mine = preparation.acquire(session, self.store.key, self.worker, self._seconds)
        self._heart.preparing = mine
        return mine

    @persistent
    def prepared(self) -> None:
        """Give up the right: other workers then read the files, or make them if that failed."""
        self._heart.preparing = False
        with self._storage.transaction() as session:
            preparation.release(session, self.store.key, self.worker)
