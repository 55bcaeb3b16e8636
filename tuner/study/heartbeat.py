"""The heartbeat thread of a worker: renews its leases, notices requests to stop or to wait, and
stores what the worker is doing."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, select, update

from tuner.errors import StorageError
from tuner.phases import PhaseClock
from tuner.study import leases, preparation, tables
from tuner.study.store import StudyStore

TICK = 0.25  # seconds between checks of what the worker is doing
# Minimum seconds between writes outside of heartbeats: of a new activity, and of the end of one.
RAREST, RAREST_WITHOUT = 1.0, 5.0


class Heartbeat:
    """Beats four times per lease period, until stopped; stores new activities in between.

    Shares the storage's few connections with the worker's main thread, since the server may have no
    free ones.
    """

    def __init__(
        self,
        store: StudyStore,
        worker: str,
        seconds: float,
        register: Callable[[], None],
        clock: PhaseClock,
    ) -> None:
        """Renew the leases that the storage holds. ``register`` adds the worker's row again if
        the database lacks it, as after a restore. ``clock`` has the worker's current activity."""
        self._address, self._engine = store.database.address, store.database.rdb.engine
        self._study, self._held = store.key, store.database.rdb.held
        self._worker, self._seconds, self._register = worker, seconds, register
        self._activities, self._doing = clock, clock.lasting_activity
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.hung: set[int] = set()  # trials whose leases are no longer renewed
        self.preparing = False  # whether to renew the right to prepare as well
        self.stop_before: float | None = None  # time of a stop request from before it joined
        self.stop_requested = False  # since the worker joined
        self.on_hold = False  # whether the study is
        self.last_trouble: float | None = None  # time.monotonic() of the last failure
        self.last_beat: float | None = None  # time.time() of the last one that was stored
        self._clock: tuple[float, float] | None = None  # the database's, and time.monotonic()
        # "refused": another worker had the lease, or the trial was just ending.
        self.renewals = Counter(renewed=0, refused=0, failed=0)  # of leases

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=min(self._seconds, 10.0))

    def _run(self) -> None:
        interval = self._seconds / 4
        written = beaten = time.monotonic()
        while not self._ended.wait(min(TICK, interval)):
            now, doing = time.monotonic(), self._activities.lasting_activity
            with suppress(StorageError):
                if now >= beaten + interval:
                    beaten = written = now
                    self.beat()
                elif doing != self._doing and now >= written + (
                    RAREST if doing else RAREST_WITHOUT
                ):
                    written = now
                    self._store_activity()

    def beat(self) -> None:
        """Beat once. StorageError if the database is unavailable; the next beat may succeed."""
        held = {trial: lease for trial, lease in self._held.items() if trial not in self.hung}
        try:
            with self._address.errors():
                with self._engine.begin() as connection:
                    known = self._record_beat(connection)
                    kept = leases.renew(connection, held) if known else set()
                if not known:
                    self._register()
        except StorageError:
            self.last_trouble = time.monotonic()
            self.renewals.update(failed=len(held))
            raise
        self.last_beat = time.time()
        self.renewals.update(renewed=len(kept), refused=len(held) - len(kept))

    def _record_beat(self, connection: Connection) -> bool:
        """Store the time; returns whether the database has the worker and its study."""
        workers, studies = tables.workers, tables.studies
        seen_at = connection.execute(
            update(workers)
            .where(workers.c.worker == self._worker, self._study.exists())
            .values(seen_at=tables.db_now(), **self._activity())
            .returning(workers.c.seen_at)
        ).scalar_one_or_none()
        if self.preparing:
            preparation.renew(connection, self._study, self._worker, self._seconds)
        if seen_at is None:
            return False
        self.compare_clocks(seen_at)
        query = select(studies.c.stop_at, studies.c.on_hold_since).where(self._study.row())
        for stop_at, on_hold_since in connection.execute(query):
            self.on_hold = on_hold_since is not None
            # Compared only for equality: the database's clock may have been changed since.
            if stop_at is not None and stop_at != self.stop_before:
                self.stop_requested = True
        return True

    def _store_activity(self) -> None:
        mine = update(tables.workers).where(tables.workers.c.worker == self._worker)
        with self._address.errors(), self._engine.begin() as connection:
            connection.execute(mine.values(self._activity()))

    def _activity(self) -> dict[str, Any]:
        """The columns for what the worker is doing."""
        self._doing = doing = self._activities.lasting_activity
        if doing is None:
            return {"doing": None, "doing_since": None}
        since = tables.db_now() - self._activities.elapsed(doing)
        return {"doing": doing.what, "doing_since": since}

    def compare_clocks(self, now: float) -> None:
        """Record the database's time. After a clock change, expired leases mean nothing until
        their owners have had time to renew them."""
        here = time.monotonic()
        if self._clock is not None:
            then, then_here = self._clock
            if abs((now - then) - (here - then_here)) > self._seconds / 4:
                self.last_trouble = here
        self._clock = now, here

    @property
    def latest_now(self) -> float:
        """The latest time that the database's clock can show unless it was set forward."""
        assert self._clock is not None, "known since the worker joined"
        return self._clock[0] + time.monotonic() - self._clock[1] + self._seconds / 4
