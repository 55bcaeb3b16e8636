"""Watching a study that runs: ``tuner status NAME --watch``."""

import signal
import time

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tuner.cli.main import out
from tuner.errors import InputError, StorageError
from tuner.study.present import Observer, Present
from tuner.study.store import StudyStore
from tuner.views.numbers import duration
from tuner.views.watching import present_view

EVERY = 2.0  # seconds, unless told otherwise
SHORTEST, LONGEST = 0.2, 3600.0
FRAME = 14  # lines of a screen that are not for workers, at most
SILENCE = 5.0  # seconds that a reading may take before it is said that it does


def watch(store: StudyStore, every: float) -> None:
    """Show the study, read anew after every so many seconds, until it has ended and none of its
    workers lives, or until Ctrl-C, which is no failure. A database that is away is waited for."""
    watched = Watched(store, every)
    # SIGTERM, too, or it would leave the terminal as it is drawn upon.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if out.is_terminal and not out.is_dumb_terminal:
            _live(watched)
        else:
            _lines(watched)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def check_every(every: float) -> None:
    """InputError for what is no pause to make between two readings."""
    if not SHORTEST <= every <= LONGEST:  # nor is nan
        expected = f"{SHORTEST:g} to {LONGEST:g} seconds"
        raise InputError(f"--every: found {every:g}, expected {expected}")


class Watched:
    """What was last read of a study, and why there is nothing newer. A thread of rich's draws it
    while it is read: so it tells of a database that does not answer."""

    def __init__(self, store: StudyStore, every: float) -> None:
        self.store, self.every = store, every
        self._observer = Observer(store)
        self._present: Present | None = None
        self._read_at = time.monotonic()
        self.trouble: str | None = None

    @property
    def ended(self) -> bool:
        return self._present is not None and self._present.ended

    def read(self) -> None:
        """StorageError where what fails won't pass."""
        try:
            self._present = self._observer.look()
        except StorageError as error:
            if not error.transient:
                raise
            self.trouble = str(error)
        else:
            self._read_at, self.trouble = time.monotonic(), None

    def whole(self) -> RenderableType:
        """All that is known, under the time of day."""
        return self._under(f"{time.strftime('%H:%M:%S')} study {self.store.name}")

    def picture(self) -> RenderableType:
        """As much as fits on a terminal's screen, under whether it is up to date."""
        about = f"{time.strftime('%H:%M:%S')} study {self.store.name}, read every {self.every:g}s"
        why = self.trouble
        if why is None and self._age > self.every + SILENCE:
            why = f"{self.store.database.place}: waiting for the database's answer"
        top = Text(f"{about}; Ctrl-C leaves")
        if why is not None:
            known = f"what is shown was known {duration(self._age)} ago; trying again"
            top.append(f"\n{why}; {known}", style="bold red")
        return self._under(top, most=max(1, out.height - FRAME))

    def _under(self, top: RenderableType, most: int | None = None) -> RenderableType:
        if self._present is None:
            return top
        return Group(top, present_view(self._present, self.store.spec, self._age, most))

    @property
    def _age(self) -> float:
        return time.monotonic() - self._read_at


def _live(watched: Watched) -> None:
    """In place, on a screen of its own, which survives that the terminal changes its size; what
    was shown last stays when it is gone."""
    watched.read()
    try:
        if not watched.ended:
            with Live(console=out, screen=True, get_renderable=watched.picture):
                while not watched.ended:
                    time.sleep(watched.every)
                    watched.read()
    finally:
        out.print(watched.whole())


def _lines(watched: Watched) -> None:
    """One below the other, for logs."""
    while True:
        watched.read()
        if watched.trouble is None:
            out.print(watched.whole(), "")
        else:
            out.print(
                f"{time.strftime('%H:%M:%S')} {watched.trouble}; trying again\n", soft_wrap=True
            )
        if watched.ended:
            return
        time.sleep(watched.every)
