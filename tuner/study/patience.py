"""Trying again while a database or an artifact store is away."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tuner.errors import StorageError

T = TypeVar("T")

LIMIT = 600.0  # seconds for which a worker outlives its database
LONGEST_PAUSE = 2.0


class Patience:
    """Repeats what failed for a passing reason, with growing, random pauses."""

    def __init__(self, announce: Callable[[str], None], limit: float = LIMIT) -> None:
        self._announce, self._limit = announce, limit
        self.last_trouble: float | None = None  # time.monotonic() of the last failure
        self.retries = 0

    def __call__(self, attempt: Callable[[], T]) -> T:
        """What ``attempt``, which must be safe to repeat, returns in the end.

        StorageError where its failure will not pass, or has not within the limit.
        """
        began = time.monotonic()
        failures = 0
        while True:
            try:
                result = attempt()
            except StorageError as error:
                if not error.transient:
                    raise
                self.last_trouble = time.monotonic()
                if self.last_trouble - began > self._limit:
                    raise StorageError(f"{error}; gave up after {self._limit:g} s") from error
                if failures == 0:
                    self._announce(f"{error}; trying again for up to {self._limit:g} s")
                time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, 0.1 * 2**failures))
                failures += 1
                self.retries += 1
            else:
                if failures:
                    self._announce("it answers again")
                return result
