"""The clock that counts a worker's time by phase."""

import threading
import time
from contextlib import suppress

import pytest

from tuner.errors import StorageError
from tuner.phases import UNCOUNTED, Activity, Phase, PhaseClock
from tuner.study.retrying import Retrier

NOTHING = dict(UNCOUNTED)


class Times:
    """A time that passes when told to, part of it compiling."""

    def __init__(self) -> None:
        self.now, self.compiled = 100.0, 7.0
        self.clock = PhaseClock(lambda: self.compiled, lambda: self.now)

    def passes(self, seconds: float, compiling: float = 0.0) -> None:
        self.now += seconds
        self.compiled += compiling

    def counted(self) -> dict[Phase, float]:
        """The phases that have taken time."""
        return {phase: s for phase, s in self.clock.seconds().items() if s}


@pytest.fixture
def times() -> Times:
    return Times()


def test_every_moment_counts_in_the_innermost_phase(times: Times) -> None:
    times.passes(1)
    with times.clock.phase(Phase.DATABASE):
        times.passes(2)
        with times.clock.phase(Phase.FILES):
            times.passes(4)
        times.passes(8)
    times.passes(16)
    assert times.counted() == {Phase.OTHER: 17, Phase.DATABASE: 10, Phase.FILES: 4}


def test_a_phase_that_fails_is_left(times: Times) -> None:
    with suppress(ZeroDivisionError), times.clock.phase(Phase.DATABASE):
        times.passes(2)
        raise ZeroDivisionError
    times.passes(1)
    assert times.counted() == {Phase.OTHER: 1, Phase.DATABASE: 2}


def test_compilation_interrupts_any_phase(times: Times) -> None:
    with times.clock.phase(Phase.TRAINING):
        times.passes(10, compiling=4)
        times.clock.switch(Phase.EVALUATION)
        times.passes(5, compiling=2)
    times.passes(3, compiling=1)
    found = {Phase.TRAINING: 6, Phase.EVALUATION: 3, Phase.COMPILATION: 7, Phase.OTHER: 2}
    assert times.counted() == found


def test_the_activity_lasts_through_phases_within_it_of_the_same_name(times: Times) -> None:
    clock = times.clock
    assert clock.activity.what == ""
    with clock.phase(Phase.FILES, "loading the checkpoint"):
        times.passes(2)
        with clock.phase(Phase.WAITING, "loading the checkpoint"):
            times.passes(3)
            assert clock.activity == Activity("loading the checkpoint", 100)
        with clock.phase(Phase.DATABASE):
            times.passes(0.3)
            assert clock.activity == Activity("waiting for the database", 105)
            assert clock.lasting_activity is None  # it may be over soon
            times.passes(0.3)
            assert clock.lasting_activity == clock.activity
        assert clock.activity == Activity("loading the checkpoint", 100)
    clock.switch(Phase.EVALUATION)
    assert clock.activity == Activity("evaluating", 105.6)


def test_compiling_is_an_activity_unless_a_closer_description_is_known() -> None:
    since: dict[int, float] = {}
    clock = PhaseClock(now=lambda: 100.0, compiling_since=since.get)
    with clock.phase(Phase.TRAINING):
        assert clock.activity.what == "training"
        since[threading.get_ident()] = 58.0
        assert clock.activity == Activity("compiling", 58.0)
        assert clock.elapsed(clock.activity) == 42.0
        with clock.phase(Phase.OTHER, "extracting features"):
            assert clock.activity.what == "extracting features"


def test_another_thread_reads_the_seconds_up_to_the_last_change_of_phase(times: Times) -> None:
    times.passes(1)
    found = []
    with times.clock.phase(Phase.TRAINING):
        times.passes(2)
        thread = threading.Thread(target=lambda: found.append(times.clock.of_trial()))
        thread.start()
        thread.join()
    assert found == [NOTHING | {Phase.OTHER: 1}]
    assert times.counted() == {Phase.OTHER: 1, Phase.TRAINING: 2}


def test_a_trial_has_its_earlier_seconds_and_those_since_the_previous_trial(times: Times) -> None:
    times.passes(1)
    times.clock.skip()
    times.passes(2)
    times.clock.begin_trial()
    with times.clock.phase(Phase.TRAINING):
        times.passes(4)
    first = times.clock.of_trial()
    assert first == NOTHING | {Phase.OTHER: 2, Phase.TRAINING: 4}
    with times.clock.phase(Phase.WAITING):
        times.passes(8)
    times.clock.begin_trial(NOTHING | {Phase.FILES: 16, Phase.TRAINING: 32})
    with times.clock.phase(Phase.TRAINING):
        times.passes(64)
    second = {Phase.FILES: 16, Phase.TRAINING: 96, Phase.WAITING: 8}
    assert times.clock.of_trial() == NOTHING | second
    times.clock.begin_trial(first)
    assert times.clock.of_trial() == first


def test_failed_attempts_and_pauses_count_as_waiting(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        times.passes(seconds)

    def attempt() -> None:
        times.passes(10)
        if len(pauses) < 3:
            raise StorageError("bucket: it is away", transient=True)

    monkeypatch.setattr("tuner.study.retrying.time.sleep", sleep)
    Retrier(lambda text: None, clock=times.clock, phase=Phase.FILES)(attempt)
    waiting = pytest.approx(30 + sum(pauses))
    assert times.counted() == {Phase.FILES: 10, Phase.WAITING: waiting}


def test_the_activity_says_what_a_worker_waits_for(
    times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    activities = []

    def attempt() -> None:
        activities.append(times.clock.activity)
        if len(activities) < 4:
            raise StorageError("away", transient=True)

    monkeypatch.setattr(time, "sleep", lambda seconds: times.passes(10))
    retrier = Retrier(lambda text: None, clock=times.clock, phase=Phase.FILES, what="loading")
    retrier(attempt)
    waiting = Activity("waiting for the artifact store", 100)
    assert activities == [Activity("loading", 100), waiting, waiting, waiting]
