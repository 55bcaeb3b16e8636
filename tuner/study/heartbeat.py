"""The thread that shows a worker's life: renews its leases, hears whether it is to stop."""

import threading
import time
from collections import Counter
from contextlib import suppress

from sqlalchemy import Connection, select, update

from tuner.errors import StorageError
from tuner.study import leases, tables
from tuner.study.connections import Address
from tuner.study.storage import Lease


class Heartbeat:
    """Beats four times in the life of a lease, over a connection of its own, until stopped."""

    def __init__(
        self, address: Address, study_id: int, worker: str, held: dict[int, Lease], seconds: float
    ) -> None:
        """Renews what is ``held`` at each beat: the storage's own dictionary."""
        self._address, self._study_id, self._worker = address, study_id, worker
        self._held, self._seconds = held, seconds
        self._engine = address.engine()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.preparing = False  # whether to renew the right to prepare, too
        self.stop_requested = False  # by a person, of all workers that had joined by then
        self.last_trouble: float | None = None  # time.monotonic() of the last failure
        self.last_beat: float | None = None  # time.time() of the last that reached the database
        # Refused: the lease was another's by then, or its trial was just ending.
        self.renewals = Counter(renewed=0, refused=0, failed=0)  # of leases

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=min(self._seconds, 10.0))
        self._engine.dispose()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds / 4):
            with suppress(StorageError):
                self.beat()

    def beat(self) -> None:
        """StorageError where the database is away: the next beat may find it again."""
        held = dict(self._held)
        try:
            with self._address.errors(), self._engine.begin() as connection:
                kept = self._renew(connection, held)
        except StorageError:
            self.last_trouble = time.monotonic()
            self.renewals.update(failed=len(held))
            raise
        self.last_beat = time.time()
        self.renewals.update(renewed=len(kept), refused=len(held) - len(kept))

    def _renew(self, connection: Connection, held: dict[int, Lease]) -> set[int]:
        """The trials whose leases were renewed, of those ``held``."""
        who, studies = tables.workers, tables.studies
        joined_at = connection.execute(
            update(who)
            .where(who.c.worker == self._worker)
            .values(seen_at=tables.db_now())
            .returning(who.c.joined_at)
        ).scalar_one_or_none()
        kept = leases.renew(connection, held)
        if self.preparing:
            connection.execute(
                update(studies)
                .where(studies.c.study_id == self._study_id, studies.c.preparer == self._worker)
                .values(preparer_until=tables.db_now() + self._seconds)
            )
        query = select(studies.c.stop_at).where(studies.c.study_id == self._study_id)
        stop_at = connection.execute(query).scalar_one_or_none()
        if joined_at is not None and stop_at is not None and stop_at > joined_at:
            self.stop_requested = True
        return kept

    def give_back_all(self) -> None:
        """Let other workers take all that is held, at once."""
        with self._address.errors(), self._engine.begin() as connection:
            for trial_id, lease in dict(self._held).items():
                leases.give_back(connection, trial_id, lease)
            who = tables.workers
            connection.execute(
                update(who).where(who.c.worker == self._worker).values(left_at=tables.db_now())
            )
