"""Asking a worker to stop: by signals, by a person elsewhere, by a limit of time or trials."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tuner.errors import InputError, InterruptError

GRACE = 25.0  # seconds from the first signal until an unfinished epoch is abandoned


class Stop:
    """Whether, and since when, the worker is to leave after its epoch."""

    def __init__(self, seconds: float | None = None) -> None:
        """By itself after ``seconds``."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._requested = False
        self.by_signal = False
        self.at_once = False
        self.has_something_to_finish = False

    @property
    def requested(self) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline
        return self._requested or late

    def request(self) -> None:
        self._requested = True

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until there is something to stop for."""
        end = time.monotonic() + seconds
        while not self.requested and time.monotonic() < end:
            time.sleep(min(0.1, seconds))


class _AtOnce(BaseException):
    """Comes in the midst of whatever runs; no Exception, for others' code catches those."""


@contextmanager
def stop_on_signals(
    stop: Stop, announce: Callable[[str], None], abandon: Callable[[], None], grace: float = GRACE
) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks to stop at the epoch's end; where that takes longer than
    ``grace`` seconds, ``abandon`` is called from another thread and the process ends, with 0. A
    second signal ends the block with InterruptError, as does the first while there is nothing to
    finish. Others' code in whose midst it comes is not heard of any more.

    Elsewhere than in the main thread, where Python delivers no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    timer = threading.Timer(grace, _give_up, (stop, announce, abandon, grace))
    timer.daemon = True

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.by_signal or not stop.has_something_to_finish:
            stop.at_once = True
            stop.request()
            hush()
            raise _AtOnce
        stop.by_signal = True
        stop.request()
        timer.start()
        announce("finishing the epoch, then stopping; once more to leave at once")

    try:
        with _hushing() as hush, handling(handle):
            yield
    except BaseException:
        if not stop.at_once:
            raise
    finally:
        timer.cancel()
    if stop.at_once:  # even where C++ that called Python back lost what was raised
        raise InterruptError


@contextmanager
def handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM handled so in the block."""
    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


def _give_up(
    stop: Stop, announce: Callable[[str], None], abandon: Callable[[], None], grace: float
) -> None:
    announce(f"abandoning the epoch, unfinished after {grace:g} s")
    abandoning = threading.Thread(target=abandon, daemon=True)
    abandoning.start()
    abandoning.join(timeout=5)  # the database may be away
    os._exit(1 if stop.at_once else 0)


@contextmanager
def _hushing() -> Iterator[Callable[[], None]]:
    """Gives a function after which, in the block, nothing is logged or said of lost exceptions."""
    level, hook = logging.root.manager.disable, sys.unraisablehook

    def hush() -> None:
        logging.disable()
        sys.unraisablehook = lambda _: None

    try:
        yield hush
    finally:
        logging.disable(level)
        sys.unraisablehook = hook


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``30m``, ``8h``, ``1h30m``; InputError for anything else."""
    parts = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    if not text or parts is None:
        raise InputError(f"found the duration {text!r}, expected one like 90s, 30m or 1h30m")
    units = (86_400, 3600, 60, 1)
    return float(sum(int(n) * unit for n, unit in zip(parts.groups("0"), units, strict=True)))
