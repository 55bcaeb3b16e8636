"""Phases of a worker's time, and the clock that counts them for each trial."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import NamedTuple


class Phase(StrEnum):
    """What a worker's main thread is doing. Columns, labels and views derive from these values."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    COMPILATION = "compilation"  # in any other phase, with reading the cache
    DATABASE = "database"
    FILES = "files"  # checkpoints, generators, pictures: while training is blocked on them
    WAITING = "waiting"  # for a trial to claim; for an unavailable database or store
    OTHER = "other"  # the sampler, output, plots


# What the thread is doing in a phase, unless a block gives a closer description.
ACTIVITIES = {
    Phase.TRAINING: "training",
    Phase.EVALUATION: "evaluating",
    Phase.COMPILATION: "compiling",
    Phase.DATABASE: "waiting for the database",
    Phase.FILES: "storing files",
    Phase.WAITING: "waiting",
    Phase.OTHER: "",  # nothing to show
}


class Activity(NamedTuple):
    """What a worker's main thread is doing."""

    what: str
    since: float  # when it began, by the clock's ``now``


LASTING = 0.4  # seconds; shorter activities are not shown

PhaseSeconds = Mapping[Phase, float]
UNCOUNTED: PhaseSeconds = dict.fromkeys(Phase, 0.0)


class PhaseClock:
    """Seconds that one thread spends in each phase, in total and for its current trial.

    A phase within another one interrupts it, so every moment counts once. The clock counts in the
    thread that made it. Others may read it; they see the seconds up to the last change of phase,
    and the activity of this moment.
    """

    def __init__(
        self,
        compiled: Callable[[], float] = lambda: 0.0,
        now: Callable[[], float] = time.perf_counter,
        compiling_since: Callable[[int], float | None] = lambda thread: None,
    ) -> None:
        """``compiled`` returns the seconds that the calling thread has spent compiling;
        ``compiling_since`` when the thread with this identifier began to compile, if any."""
        self._thread = threading.get_ident()
        self._compiling_since = compiling_since
        self._compiled, self._compiled_before = compiled, compiled()
        self._now, self._since, self._phase = now, now(), Phase.OTHER
        self._activity = Activity(ACTIVITIES[self._phase], self._since)
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._assigned = dict(self._seconds)  # the part of them that counts for a trial
        self._earlier = dict(self._seconds)  # the trial's seconds minus those of this clock

    @contextmanager
    def phase(self, phase: Phase, what: str | None = None) -> Iterator[None]:
        """Count the block as ``phase``; ``what`` describes it more closely than the phase does."""
        outer, activity = self._phase, self._activity
        self.switch(phase, what)
        try:
            yield
        finally:
            self._count()
            self._phase, self._activity = outer, activity

    def switch(self, phase: Phase, what: str | None = None) -> None:
        """Count what follows as ``phase``, until the block around it ends."""
        self._count()
        self._phase, what = phase, what or ACTIVITIES[phase]
        if what != self._activity.what:
            self._activity = Activity(what, self._since)

    @property
    def activity(self) -> Activity:
        """What the thread is doing at this moment. Thread-safe."""
        activity, compiling = self._activity, self._compiling_since(self._thread)
        if compiling is None or activity.what not in ACTIVITIES.values():
            return activity
        return Activity(ACTIVITIES[Phase.COMPILATION], compiling)

    @property
    def lasting_activity(self) -> Activity | None:
        """The activity if it has lasted for ``LASTING`` seconds and has a name, else None.
        Thread-safe."""
        activity = self.activity
        return activity if activity.what and self.elapsed(activity) >= LASTING else None

    def elapsed(self, activity: Activity) -> float:
        """The seconds since the activity began."""
        return self._now() - activity.since

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
        """Exclude the time so far from the next trial's."""
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
