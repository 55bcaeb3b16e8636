"""Stop requests: by signals, by ``tuner stop``, or by a time limit.

Python runs signal handlers in the main thread, between two bytecode instructions: not while XLA
compiles, nor while the thread waits for the device, the database or a lock. Therefore every signal
also wakes a thread (``signal.set_wakeup_fd``), which responds and, if necessary, ends the process.
The default response is to exit at once.
"""

import fcntl
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import NoReturn, ParamSpec

GRACE = 25.0  # seconds from a stop request until an unfinished epoch is abandoned
AT_ONCE = 0.6  # seconds for releasing trials when the process exits at once
PRECOMPILER = "precompiler"  # name of the thread that compiles for later trials
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"
FINISHING = "finishing the epoch, then stopping; a second signal stops at once"
LEFT = "stopped at once; the same command resumes the study"
BY = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP (a closed terminal)",
}
TIME_LIMIT, STOP_COMMAND = "the time limit (--max-time)", "tuner stop"

Respond = Callable[[int], None]
P = ParamSpec("P")


class Stop:
    """A request to stop after the current epoch, and its time."""

    def __init__(self, seconds: float | None = None, *, signal_code: int = 0) -> None:
        """The stop is requested automatically after ``seconds``, if given.

        ``signal_code`` is the exit code of a process that a signal stopped.
        """
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._since: float | None = None
        self._reason: str | None = None
        self._signal_code = signal_code
        self.by_signal = False
        self.has_something_to_finish = False

    @property
    def since(self) -> float | None:
        """``time.monotonic()`` of the request; None if there is none."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return self._deadline if self._since is None and late else self._since

    @property
    def requested(self) -> bool:
        return self.since is not None

    @property
    def reason(self) -> str | None:
        """The reason for the stop request, if known."""
        return self._reason or (TIME_LIMIT if self.requested and self._since is None else None)

    @property
    def exit_code(self) -> int:
        """Exit code of a process that stopped as requested."""
        return self._signal_code if self.by_signal else 0

    def request(self, reason: str | None = None, *, by_signal: bool = False) -> None:
        self._reason = self.reason or reason
        if self._since is None or by_signal:
            self._since = time.monotonic()
        self.by_signal |= by_signal

    def wait(self, seconds: float) -> None:
        """Sleep until ``seconds`` have passed or a stop is requested."""
        end = time.monotonic() + seconds
        while not self.requested and time.monotonic() < end:
            time.sleep(min(0.1, seconds))


def call_within(
    seconds: float, function: Callable[P, object], *args: P.args, **options: P.kwargs
) -> None:
    """Call a function in a thread and wait at most ``seconds`` for it; ignore its errors."""

    def call() -> None:
        with suppress(Exception):
            function(*args, **options)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def end_process(code: int, line: str = "", reset: str = SHOW_CURSOR) -> NoReturn:
    """End the process whatever its main thread is doing, with a ``line`` on stderr.

    Writes ``reset`` to a terminal first. No clean-up runs: it would wait for threads and crash
    inside XLA.
    """

    def say() -> None:
        if os.isatty(1):
            os.write(1, reset.encode())
        if line:
            new_line = "\n" if os.isatty(2) else ""  # after ^C or a live view
            os.write(2, f"{new_line}tuner: {line}\n".encode())

    try:
        call_within(0.2, say)  # a terminal may be paused, a pipe full
    finally:
        os._exit(code)


def exit_process(code: int) -> NoReturn:
    """Exit; at once, without cleaning up, if a thread still compiles for later trials.

    The interpreter would wait for XLA's compiler or crash in it.
    """
    if any(thread.name == PRECOMPILER for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    gc.freeze()  # the interpreter would spend a second on collecting what ends anyway
    sys.exit(code)


def exit_by_signal(number: int) -> NoReturn:
    """Exit at once with the exit code that shells use for the signal."""
    end_process(128 + number, "interrupted")


class _SignalListener:
    """Owns the thread that responds to signals."""

    def __init__(self) -> None:
        self.respond: Respond = exit_by_signal
        self._responds = False
        # nohup ignores SIGHUP; a Slurm job ignores SIGTERM, which it passes on as SIGINT. SIGINT
        # is ignored by processes that a shell script starts in the background, but obeyed here.
        ignored = {n for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN} - {signal.SIGINT}
        self._handled = [n for n in SIGNALS if n not in ignored]
        ends = os.pipe()
        # From 3 on: a closed standard stream leaves its number free, and other code writes to it.
        self._read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends)
        for end in ends:
            os.close(end)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        for number in self._handled:  # only signals with a handler wake the thread
            signal.signal(number, self._give_thread_time)

    def _listen(self) -> None:
        while True:
            self._responds = False
            numbers = os.read(self._read, 64)
            self._responds = True
            for number in numbers:
                if number in self._handled:
                    self.respond(number)

    def _give_thread_time(self, number: int, frame: FrameType | None) -> None:
        """Give the thread time to run: some C code runs handlers while it holds the GIL."""
        time.sleep(0.05)
        for _ in range(100):
            if not self._responds:
                return
            time.sleep(0.01)


_listener: _SignalListener | None = None


def exit_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end the process at once, except within ``responding``.

    SIGTERM and SIGHUP stay ignored if the process started so.
    """
    global _listener
    if _listener is None and threading.current_thread() is threading.main_thread():
        _listener = _SignalListener()


@contextmanager
def responding(respond: Respond) -> Iterator[None]:
    """Call ``respond`` from a thread for signals in the block.

    Does nothing unless ``exit_on_signals`` was called: signals then belong to the host program.
    """
    if _listener is None:
        yield
        return
    before, _listener.respond = _listener.respond, respond
    try:
        yield
    finally:
        _listener.respond = before


@contextmanager
def _handling(
    numbers: Iterable[signal.Signals], handle: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Call ``handle`` in the main thread for these signals in the block."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupting(reset: str = "") -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first signal in the block.

    If the main thread is stuck, the process ends a second later with exit code 0, after writing
    ``reset`` to the terminal.
    """
    heard, over, raised = threading.Event(), threading.Event(), threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        heard.wait(0.5)  # if the block ended first, the thread would end the process
        if not raised.is_set():
            raised.set()
            raise KeyboardInterrupt

    def respond(number: int) -> None:
        heard.set()
        if not over.wait(0.8):
            end_process(0, reset=reset + SHOW_CURSOR)

    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with responding(respond), _handling(numbers, handle):
        try:
            yield
        finally:
            over.set()


def _name_of(number: int) -> str:
    return BY[signal.Signals(number)]


def finishing(number: int, what: str = FINISHING) -> str:
    """A line on what a worker does after its first signal, with the signal's name."""
    return f"{_name_of(number)}: {what}"


def stop_on_signals(
    stop: Stop, announce: Callable[[str], None], release: Callable[[], object]
) -> AbstractContextManager[None]:
    """Request a stop at the first signal; release trials and exit with code 1 at the second.

    While there is nothing to finish, the process exits at the first signal, with its exit code. All
    of this happens in a thread, whatever the main thread is doing.
    """

    def respond(number: int) -> None:
        if stop.has_something_to_finish and not stop.by_signal:
            stop.request(_name_of(number), by_signal=True)
            call_within(AT_ONCE, announce, finishing(number))
            return
        call_within(AT_ONCE, release)
        end_process(1 if stop.by_signal else 128 + number, LEFT)

    return responding(respond)


@contextmanager
def stop_on_ctrl_c(stop: Stop, announce: Callable[[str], None]) -> Iterator[None]:
    """Request a stop at the first SIGINT or SIGTERM; raise KeyboardInterrupt at the second.

    For a process that must not end, such as a notebook's kernel. While there is nothing to finish,
    the first signal raises. Does nothing outside the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    at_once = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal at_once
        at_once = stop.by_signal or not stop.has_something_to_finish
        stop.request(_name_of(number), by_signal=True)
        if at_once:
            raise KeyboardInterrupt
        announce(finishing(number))

    with _handling((signal.SIGINT, signal.SIGTERM), handle):
        yield
    if at_once:  # C++ callbacks and destructors swallow exceptions
        raise KeyboardInterrupt
