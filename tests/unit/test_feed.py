"""Trackers that fail, hang or are missing never hold up the training."""

import threading
import time
from collections.abc import Mapping, Sequence

import pytest
from tracked import FOLDER, pass_on, png, reports, study
from trials import PARAMS, claim_of

from tuner.errors import InputError
from tuner.study.sinks import Released
from tuner.study.verdict import Complete
from tuner.tracking import feed
from tuner.tracking.feed import MAX_PICTURES, MAX_TRIALS, Feed
from tuner.tracking.runs import Epoch, Run, TrackedTrial, check_installed, failure
from tuner.tracking.sink import TrackingSink

TRIAL = TrackedTrial("faces", FOLDER, 3, PARAMS)


class Tracker:
    """A tracker in memory, which can be made to fail or to hang."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.may_continue = threading.Event()
        self.may_continue.set()
        self.begun = 0
        self.epochs: dict[int, list[int]] = {}  # by trial
        self.pictures: list[int] = []
        self.ended: dict[int, tuple[str, str | None]] = {}

    def begin(self, trial: TrackedTrial) -> Run:
        self.begun += 1
        self.check()
        return MemoryRun(self, trial.number)

    def check(self) -> None:
        assert self.may_continue.wait(30)
        if self.failure is not None:
            raise self.failure


class MemoryRun:
    def __init__(self, tracker: Tracker, number: int) -> None:
        self._tracker, self._number = tracker, number
        self._epochs = tracker.epochs.setdefault(number, [])
        self.last_epoch: int | None = max(self._epochs, default=0)

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        self._tracker.check()
        self._epochs += [epoch.report.epoch for epoch in epochs]

    def picture(self, epoch: int, png: bytes) -> None:
        self._tracker.check()
        self._tracker.pictures.append(epoch)

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        self._tracker.check()
        self._tracker.ended[self._number] = state, reason

    def close(self) -> None:
        return None


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(feed, "RETRY", 0.02)
    return Tracker()


def feed_to(tracker: Tracker, announced: list[str]) -> Feed:
    return Feed("memory", tracker.begin, announced.append)


def run_trial(target: Feed, number: int, epochs: int) -> None:
    target.started(TRIAL._replace(number=number), ())
    for report in reports(epochs):
        target.epoch(number, report)
    target.ended(number, "COMPLETE", "all epochs trained")


def test_a_tracker_that_fails_is_announced_once_and_catches_up(tracker: Tracker) -> None:
    announced: list[str] = []
    tracker.failure = ConnectionError("the server is\n down")
    target = feed_to(tracker, announced)
    run_trial(target, 3, 3)
    run_trial(target, 4, 2)
    while tracker.begun < 3:
        time.sleep(0.01)
    tracker.failure = None
    while len(tracker.ended) < 2:
        time.sleep(0.01)
    assert tracker.epochs == {3: [1, 2, 3], 4: [1, 2]}
    assert announced == [
        "logging to memory failed: ConnectionError: the server is down; training continues, "
        "memory will be tried again"
    ]
    target.close(10)


def test_a_tracker_that_hangs_holds_nothing_up(tracker: Tracker) -> None:
    tracker.may_continue.clear()
    target = feed_to(tracker, [])
    began = time.monotonic()
    for number in range(2 * MAX_TRIALS):
        run_trial(target, number, 2)
    target.close(0.05)
    assert time.monotonic() - began < 5
    assert len(target._waiting) <= MAX_TRIALS  # what waits is bounded
    tracker.may_continue.set()


def test_a_failed_picture_is_left_out_and_the_epochs_are_not(tracker: Tracker) -> None:
    announced: list[str] = []
    target = feed_to(tracker, announced)
    target.started(TRIAL, ())
    target.epoch(3, reports(1)[0])
    while tracker.epochs.get(3) != [1]:
        time.sleep(0.01)
    tracker.failure = OSError("no space left")
    target.picture(3, 1, png())
    while not announced:
        time.sleep(0.01)
    tracker.failure = None
    run_trial(target, 4, 1)
    target.ended(3, "COMPLETE", None)
    while len(tracker.ended) < 2:
        time.sleep(0.01)
    assert tracker.pictures == []
    assert tracker.epochs == {3: [1], 4: [1]}
    target.close(10)


def test_a_picture_waits_for_its_epoch(tracker: Tracker) -> None:
    """The run of a lost trial must have nothing of an epoch that was never reported."""
    target = feed_to(tracker, [])
    target.started(TRIAL, ())
    for epoch in (1, 2):
        target.picture(3, epoch, png())
    target.epoch(3, reports(1)[0])
    target.ended(3, None, "another worker took it over")
    target.close(10)
    assert (tracker.epochs, tracker.pictures, tracker.ended) == ({3: [1]}, [1], {})


def test_waiting_pictures_are_bounded(tracker: Tracker) -> None:
    tracker.may_continue.clear()
    target = feed_to(tracker, [])
    target.started(TRIAL, ())
    for report in reports(3 * MAX_PICTURES):
        target.picture(3, report.epoch, png())
        target.epoch(3, report)
    tracker.may_continue.set()
    target.close(10)
    assert len(tracker.pictures) <= MAX_PICTURES + 1
    assert tracker.pictures[-1] == 3 * MAX_PICTURES


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        check_installed(["tensorboard"])
    line = str(caught.value)
    assert line.startswith("tracking.to: 'tensorboard' needs the package tensorboardX; install it")
    assert "tensorboard]" in line
    assert len(line.splitlines()) == 1


def test_a_tracker_that_an_edit_adds_is_used_from_the_next_trial(
    monkeypatch: pytest.MonkeyPatch, tracker: Tracker
) -> None:
    monkeypatch.setattr("tuner.tracking.sink.begin", lambda name, trial: tracker.begin(trial))
    store, announced = study(), list[str]()
    sink = TrackingSink(store, announced.append)
    sink.started(claim_of(1))
    store.spec = study("tensorboard").spec
    sink.epoch(claim_of(1), reports(1)[0])
    sink.ended(claim_of(1), Complete())
    sink.started(claim_of(2))
    sink.epoch(claim_of(2), reports(1)[0])
    sink.ended(claim_of(2), Released("stopped"))
    sink.close()
    assert tracker.epochs == {2: [1]}


def test_a_package_that_breaks_while_training_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, trial: TrackedTrial) -> Run:
        raise ImportError("No module named 'tensorboardX'")

    monkeypatch.setattr("tuner.tracking.sink.begin", broken)
    announced: list[str] = []
    pass_on(study("tensorboard"), claim_of(3), 2, Complete(), announced)
    [line] = announced
    assert line.startswith("logging to tensorboard failed: ImportError")


@pytest.mark.parametrize(
    "text",
    [
        "GET http://me:sesame@track.example/api failed",
        "login of me with sesame failed",
        "Bearer tok-12345 refused",
    ],
)
def test_failures_are_shown_without_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:sesame@track.example")
    monkeypatch.setenv("WANDB_API_KEY", "tok-12345")
    shown = failure(ValueError(text))
    assert "sesame" not in shown
    assert "tok-12345" not in shown
    assert len(failure(ValueError("x" * 5000))) < 400
