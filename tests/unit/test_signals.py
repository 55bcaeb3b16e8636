"""Asking a worker to stop: by signals, by a limit of time; and how long that may take."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tuner.errors import InputError, InterruptError
from tuner.run.signals import Stop, parse_duration, stop_on_signals


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("8h", 28_800),
        ("2d", 172_800),
        ("1h30m", 5400),
        ("1h30m5s", 5405),
        ("1d1s", 86_401),
        ("0", 0),
        ("090s", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "-1", "1.5h", "1e3", "30m1h", "1h 30m", "90 s", "1w", "1h30x", "h", "1hh"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="expected one like 90s, 30m or 1h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_stop_is_requested_by_a_person_or_by_time() -> None:
    stop = Stop()
    assert not stop.requested
    stop.request()
    assert stop.requested
    assert not stop.by_signal
    stop = Stop(seconds=0.1)
    assert not stop.requested
    time.sleep(0.15)
    assert stop.requested


def test_a_clock_that_is_set_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(seconds=60)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert not stop.requested


def test_waiting_ends_when_there_is_something_to_stop_for() -> None:
    stop = Stop()
    began = time.monotonic()
    stop.wait(0.05)
    assert 0.05 <= time.monotonic() - began < 5
    threading.Timer(0.1, stop.request).start()
    stop.wait(60)
    assert time.monotonic() - began < 10
    stop.wait(60)
    assert time.monotonic() - began < 10


def test_the_first_signal_asks_and_the_second_leaves() -> None:
    stop, said = Stop(), list[str]()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop.has_something_to_finish = True

    def interrupted() -> None:
        with stop_on_signals(stop, said.append, lambda: None):
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
            assert stop.by_signal
            assert said == ["finishing the epoch, then stopping; once more to leave at once"]
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InterruptError):
        interrupted()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    timers = [found for found in threading.enumerate() if isinstance(found, threading.Timer)]
    for timer in timers:
        timer.join(10)  # cancelled: it need not run to its end
        assert not timer.is_alive()


def test_with_nothing_to_finish_the_first_signal_leaves() -> None:
    stop = Stop()
    with pytest.raises(InterruptError), stop_on_signals(stop, print, lambda: None):
        signal.raise_signal(signal.SIGINT)
    assert not stop.by_signal


def test_leaving_at_once_outlives_code_that_loses_exceptions(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As C++ does that calls Python back; and nobody hears of what came in its midst."""
    stop, reached, hook = Stop(), list[bool](), sys.unraisablehook

    class Connection:
        def __del__(self) -> None:
            logging.getLogger("pool").error("before")
            signal.raise_signal(signal.SIGINT)

    def interrupted() -> None:
        with stop_on_signals(stop, print, lambda: None):
            Connection()  # Python loses what a destructor raises
            logging.getLogger("pool").error("after")
            reached.append(stop.requested)

    with pytest.raises(InterruptError):
        interrupted()
    assert reached == [True]
    logging.getLogger("pool").error("again")
    assert caplog.messages == ["before", "again"]
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook == hook


def test_libraries_that_catch_exceptions_do_not_catch_the_one_that_leaves() -> None:
    def interrupted() -> None:
        with stop_on_signals(Stop(), print, lambda: None), suppress(Exception):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("it was caught")

    with pytest.raises(InterruptError):
        interrupted()


def test_elsewhere_than_in_the_main_thread_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def work() -> None:
        with stop_on_signals(Stop(), print, lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


ABANDON = """
import signal, sys, threading, time
join = threading.Thread.join  # what takes seconds otherwise takes less here
threading.Thread.join = lambda self, timeout=None: join(self, timeout and timeout / 20)
from tuner.run.signals import Stop, stop_on_signals
stop = Stop()
def abandon():
    print("given back", flush=True)
    if sys.argv[1] == "hangs":
        time.sleep(60)
with stop_on_signals(stop, lambda text: print(text, flush=True), abandon, grace=0.2):
    stop.has_something_to_finish = True
    signal.raise_signal(signal.SIGTERM)
    time.sleep(float(sys.argv[2]))
print("finished in time", flush=True)
time.sleep(0.5)
"""


def abandoning(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ABANDON, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_an_epoch_that_takes_too_long_is_abandoned_and_the_trial_given_back() -> None:
    began = time.monotonic()
    done = abandoning("returns", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "abandoning the epoch, unfinished after 0.2 s",
        "given back",
    ]
    assert time.monotonic() - began < 20


def test_a_database_that_is_away_does_not_hold_it_up() -> None:
    done = abandoning("hangs", "60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "given back"


def test_an_epoch_that_ends_in_time_is_not_abandoned() -> None:
    done = abandoning("returns", "0.05")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["finished in time"]
