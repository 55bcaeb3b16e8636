"""Watch a database for studies without workers: when the last worker is killed, only another
process can notice."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tuner.errors import TunerError
from tuner.notify.messages import stalled_text
from tuner.notify.sender import Sender
from tuner.notify.sink import claimed_stall
from tuner.study.database import Database
from tuner.study.notices import studies_wanting
from tuner.study.store import StudyStore

EVERY = 60.0  # seconds between checks
STALLED = 600.0  # seconds without a worker; a requeued job may take a while to begin


@contextmanager
def watching_stalls(
    storage: str, sender: Sender | None, announce: Callable[[str], None]
) -> Iterator[None]:
    """Send notifications of studies without workers during the block, if there is a sender."""
    if sender is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        announced = ""
        while not ended.wait(EVERY):
            try:
                send_stalls(Database(storage), sender, announce)
            except TunerError as error:  # such as a database user without write access
                if announced != str(error):
                    announced = str(error)
                    announce(f"notifications: {error}")

    threading.Thread(target=watch, name="stalls", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        sender.close()


def send_stalls(database: Database, sender: Sender, announce: Callable[[str], None]) -> None:
    """Send one notification of every study that has had no worker for ``STALLED`` seconds."""
    try:
        for name in studies_wanting(database, "stalled"):
            store = StudyStore(database, name)
            if "stalled" not in store.spec.notify.on:
                continue
            stall = claimed_stall(store, STALLED)
            if stall is None:
                continue
            if (problem := sender.send(*stalled_text(store, stall))) is not None:
                announce(problem)
    finally:
        database.rdb.engine.dispose()
