"""Phases of a worker's time, and the clock that counts them for each trial."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum


class Phase(StrEnum):
    """What a worker's main thread is doing. Columns, labels and views derive from these values."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    COMPILATION = "compilation"  # in any other phase, with reading the cache
    DATABASE = "database"
    FILES = "files"  # checkpoints, generators, pictures: while training is held up by them
    WAITING = "waiting"  # for a trial to claim; for a database or store that is away
    OTHER = "other"  # the sampler, output, plots


PhaseSeconds = Mapping[Phase, float]
UNCOUNTED: PhaseSeconds = dict.fromkeys(Phase, 0.0)


class PhaseClock:
    """Seconds that one thread spends in each phase, in total and for its current trial.

    A phase within another one interrupts it, so every moment counts once. The clock counts in the
    thread that made it. Others may read it; they see the seconds up to the last change of phase.
    """

    def __init__(
        self,
        compiled: Callable[[], float] = lambda: 0.0,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``compiled`` returns the seconds that the calling thread has spent compiling."""
        self._thread = threading.get_ident()
        self._compiled, self._compiled_before = compiled, compiled()
        self._now, self._since, self._phase = now, now(), Phase.OTHER
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._assigned = dict(self._seconds)  # the part of them that counts for a trial
        self._earlier = dict(self._seconds)  # the trial's seconds minus those of this clock

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Count the block as ``phase``."""
        outer = self.switch(phase)
        try:
            yield
        finally:
            self.switch(outer)

    def switch(self, phase: Phase) -> Phase:
        """Count what follows as ``phase``, until the block around it ends; returns the phase so
        far."""
        self._count()
        before, self._phase = self._phase, phase
        return before

    def recount(self, phase: Phase) -> None:
        """Count the current block as ``phase`` instead, from the last change of phase on."""
        self._phase = phase

    def seconds(self) -> PhaseSeconds:
        """The seconds in each phase since the clock was made."""
        self._count()
        return dict(self._seconds)

    def begin_trial(self, stored: PhaseSeconds = UNCOUNTED) -> None:
        """Count for a trial with these seconds on earlier workers. The time since the last call of
        ``of_trial``, between the two trials, is part of it."""
        self._earlier = {phase: stored[phase] - self._assigned[phase] for phase in Phase}

    def skip(self) -> None:
        """Leave the time so far out of the next trial's."""
        self._assigned = dict(self.seconds())

    def of_trial(self) -> PhaseSeconds:
        """The seconds of the trial so far, over all of its workers."""
        self.skip()
        return {phase: self._earlier[phase] + self._assigned[phase] for phase in Phase}

    def _count(self) -> None:
        if threading.get_ident() != self._thread:
            return
        now, compiled = self._now(), self._compiled()
        compiling, self._compiled_before = compiled - self._compiled_before, compiled
        self._seconds[Phase.COMPILATION] += compiling
        self._seconds[self._phase] += now - self._since - compiling
        self._since = now
