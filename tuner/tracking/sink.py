"""``TrackingSink``: log a worker's trials to the trackers of the study file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tuner.environment import tensorboard_folder
from tuner.epoch_report import EpochReport
from tuner.errors import TunerError
from tuner.study.claims import Claim
from tuner.study.sinks import Ending
from tuner.study.store import StudyStore
from tuner.study.verdict import STATES
from tuner.tracking.feed import Feed
from tuner.tracking.runs import TrackedTrial, begin, check_installed, unmeasured

EXIT_WAIT = 10.0  # maximum seconds that a worker's exit waits for its trackers


def check_trackers(trackers: tuple[str, ...]) -> None:
    """InputError if a tracker can't be used on this machine: its package is missing, or its folder
    is not a folder."""
    check_installed(trackers)
    if "tensorboard" in trackers:
        tensorboard_folder()


class TrackingSink:
    """A ``TrialSink`` that passes trials to trackers, each on its own thread."""

    def __init__(self, store: StudyStore, announce: Callable[[str], None]) -> None:
        self._store, self._announce = store, announce
        self._feeds: dict[str, Feed | None] = {}  # None: this machine can't use the tracker

    def started(self, claim: Claim) -> None:
        store = self._store
        trial = TrackedTrial(store.name, store.folder, claim.number, claim.params, claim.confirms)
        for name in store.spec.tracking.to:  # which may have been edited
            if name not in self._feeds:
                self._feeds[name] = self._open(name)
        for feed in self._used():
            feed.started(trial, claim.history)

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        for feed in self._used():
            feed.epoch(claim.number, report)

    def picture(self, number: int, epoch: int, png: bytes) -> None:
        """Pass on the sample grid of an epoch of a trial. Thread-safe."""
        for feed in self._used():
            feed.picture(number, epoch, png)

    def ended(self, claim: Claim, ending: Ending) -> None:
        state = STATES.get(type(ending))
        values = unmeasured(getattr(ending, "objectives", {}))
        for feed in self._used():
            feed.ended(claim.number, state, getattr(ending, "reason", None), values)

    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def close(self) -> None:
        """Wait a short time for the trackers to finish."""
        until = time.monotonic() + EXIT_WAIT
        for feed in self._feeds.values():
            if feed is not None:
                feed.close(max(0.0, until - time.monotonic()))

    def _used(self) -> list[Feed]:
        feeds = dict(self._feeds)
        used = [feeds.get(name) for name in self._store.spec.tracking.to]
        return [feed for feed in used if feed is not None]

    def _open(self, name: str) -> Feed | None:
        try:
            check_trackers((name,))
        except TunerError as error:
            self._announce(f"{error}; training continues without {name}")
            return None
        return Feed(name, partial(begin, name), self._announce)


@contextmanager
def tracking(store: StudyStore, announce: Callable[[str], None]) -> Iterator[TrackingSink]:
    """A sink for the study's trackers, which finishes them at the end. InputError if this machine
    can't use one of them."""
    check_trackers(store.spec.tracking.to)
    sink = TrackingSink(store, announce)
    try:
        yield sink
    finally:
        sink.close()
