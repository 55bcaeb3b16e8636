"""``NotifySink``: sends a study's notifications while a worker runs it."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tuner.environment import NOTIFY_VARIABLE, RESTARTS_VARIABLE, variable
from tuner.epoch_report import EpochReport
from tuner.errors import StorageError
from tuner.notify import messages
from tuner.notify.sender import Sender, open_sender
from tuner.study import notices
from tuner.study.claims import Claim
from tuner.study.database import Database
from tuner.study.sinks import Ending
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune

EXIT_WAIT = 10.0  # maximum seconds that a worker's exit waits for its notifications
RETRY = 5.0  # seconds before another attempt while the database is unreachable
ATTEMPTS = 5


class NotifySink:
    """A ``TrialSink`` that sends due notifications whenever a trial has ended, from its own thread
    and over its own connections."""

    def __init__(self, store: StudyStore, sender: Sender, announce: Callable[[str], None]) -> None:
        self._address, self._name = store.database.address, store.name
        self._sender, self._announce = sender, announce
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for the last request
        self._store: StudyStore | None = None
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._thread.start()

    def started(self, claim: Claim) -> None:
        return None

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        return None

    def ended(self, claim: Claim, ending: Ending) -> None:
        if isinstance(ending, Complete | Prune | Fail):
            self._requests.put(False)

    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def close(self) -> None:
        """Send due notifications one last time, after the worker has left the study."""
        self._requests.put(True)
        self._thread.join(EXIT_WAIT / 2)
        self._sender.close()
        self._thread.join(EXIT_WAIT / 2)

    def _run(self) -> None:
        last, restarts = False, variable(RESTARTS_VARIABLE) is not None
        while not last:
            last = self._requests.get()
            with suppress(queue.Empty):  # one request covers all that are waiting
                while not last:
                    last = self._requests.get_nowait()
            self._try_to_send(last, leaving=last and not restarts)

    def _try_to_send(self, last: bool, *, leaving: bool) -> None:
        for attempt in range(ATTEMPTS):
            try:
                send_due(self._opened(), self._sender, self._announce, leaving=leaving)
                return
            except StorageError as error:
                if attempt == ATTEMPTS - 1 or last or not error.transient:
                    self._announce(f"notifications: {error}; training continues")
                    return
                time.sleep(RETRY)
            except Exception as error:  # a bug must not end the thread
                self._announce(f"notifications: {type(error).__name__}; training continues")
                return
            finally:
                if self._store is not None:  # a worker holds one connection only
                    self._store.database.rdb.engine.dispose()

    def _opened(self) -> StudyStore:
        """The study over connections of this thread."""
        if self._store is None:
            url = self._address.url.render_as_string(hide_password=False)
            self._store = StudyStore(Database(url), self._name)
        return self._store


def send_due(
    store: StudyStore, sender: Sender, announce: Callable[[str], None], *, leaving: bool = False
) -> None:
    """Send the notifications that are due, unless another process has sent them. ``leaving``: a
    worker has left the study, so there may be none left."""
    store.refresh()
    wanted = store.spec.notify.on

    def send(title: str, text: str) -> None:
        if (problem := sender.send(title, text)) is not None:
            announce(problem)

    if "best" in wanted and (best := notices.claim_best(store)) is not None:
        send(*messages.best_text(store, best))
    if "failed" in wanted and (failed := notices.claim_failure(store)) is not None:
        send(*messages.failed_text(store, *failed))
    if "ended" in wanted and (reason := notices.claim_end(store)) is not None:
        send(*messages.ended_text(store, reason))
    if leaving and "stalled" in wanted and (stall := claimed_stall(store)) is not None:
        send(*messages.stalled_text(store, stall))


def claimed_stall(store: StudyStore, seconds: float = 0.0) -> notices.Stall | None:
    """The stall of a study that has had no worker for ``seconds``, if this caller should report
    it."""
    stall = notices.stall_of(store)
    if stall is None or stall.seconds < seconds:
        return None
    return stall if notices.claim_stall(store, stall) else None


def send_due_once(store: StudyStore, announce: Callable[[str], None]) -> None:
    """Send the notifications that are due after a worker has left, if this machine has URLs."""
    sender = open_sender() if store.spec.notify.on else None
    if sender is not None:
        send_due(store, sender, announce, leaving=True)


@contextmanager
def notifying(store: StudyStore, announce: Callable[[str], None]) -> Iterator[list[NotifySink]]:
    """A sink for the study's notifications; none if the study file requests none, or this machine
    has no URLs. InputError if a URL can't be used."""
    sender = open_sender() if store.spec.notify.on else None
    if sender is None:
        if store.spec.notify.on:
            announce(f"{NOTIFY_VARIABLE} is not set: this worker sends no notifications")
        yield []
        return
    sink = NotifySink(store, sender, announce)
    try:
        yield [sink]
    finally:
        sink.close()
