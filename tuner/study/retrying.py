"""Retries while a database or an artifact store is unavailable."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tuner.errors import StorageError
from tuner.phases import ACTIVITIES, Phase, PhaseClock

T = TypeVar("T")

LIMIT = 600.0  # seconds for which a worker waits for its database
LONGEST_PAUSE = 2.0  # seconds
# A worker's activity between the first failure and the success.
AWAY = {
    Phase.DATABASE: "waiting for the database",
    Phase.FILES: "waiting for the artifact store",
}


class Retrier:
    """Repeats an attempt after transient failures, with growing, random pauses."""

    def __init__(
        self,
        announce: Callable[[str], None],
        limit: float = LIMIT,
        *,
        busy_only: bool = False,
        clock: PhaseClock | None = None,
        phase: Phase = Phase.DATABASE,
        what: str | None = None,
    ) -> None:
        """``limit`` is in seconds. ``busy_only`` is for a first connection, whose address may be
        wrong: retries only if the server answers that it is starting or has no free connection.
        The ``clock`` counts attempts as ``phase``, but those that fail, and pauses, as waiting;
        ``what`` describes the first attempt more closely.
        """
        self._announce, self._limit, self._busy_only = announce, limit, busy_only
        self._clock, self._phase, self._what = (
            clock or PhaseClock(),
            phase,
            what or ACTIVITIES[phase],
        )
        self.last_trouble: float | None = None  # time.monotonic() of the last failure
        self.retries = 0

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Return the result of ``attempt``, which must be safe to repeat.

        StorageError if it fails permanently, or still fails once the limit has passed.
        """
        began = time.monotonic()
        try:
            return self._timed(attempt, self._what)
        except StorageError as error:
            self._accept(error, began)
            self._announce(f"{error}; trying again for up to {self._limit:g} s")
        away = AWAY.get(self._phase, self._what)
        with self._clock.phase(Phase.WAITING, away):
            return self._repeat(attempt, away, began)

    def _repeat(self, attempt: Callable[[], T], away: str, began: float) -> T:
        failures = 0
        while True:
            time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, 0.1 * 2**failures))
            failures += 1
            self.retries += 1
            try:
                result = self._timed(attempt, away)
            except StorageError as error:
                self._accept(error, began)
            else:
                self._announce("recovered; continuing")
                return result

    def _accept(self, error: StorageError, began: float) -> None:
        """Raise the error unless another attempt may succeed."""
        if not (error.busy if self._busy_only else error.transient):
            raise error
        self.last_trouble = time.monotonic()
        if self.last_trouble - began > self._limit:
            raise StorageError(f"{error}; gave up after {self._limit:g} s") from error

    def _timed(self, attempt: Callable[[], T], what: str) -> T:
        with self._clock.phase(self._phase, what):
            try:
                return attempt()
            except StorageError:
                self._clock.recount(Phase.WAITING)
                raise
