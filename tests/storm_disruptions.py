"""Disruptions of the database or the disk that last for some seconds."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from postgres import Postgres

DISK_SIZE = "24m"


class Outage(NamedTuple):
    """The time of a disruption, in seconds since 1970."""

    began: float
    ended: float
    what: str = "restarts"


@dataclass
class Disruption:
    """A kind of disruption that starts ``count`` times in a storm."""

    what: str
    count: int
    lasts: tuple[float, float]  # shortest and longest duration in seconds
    begin: Callable[[], bool]  # False if it is impossible at the moment
    end: Callable[[], None]


class Disruptions:
    """Disruptions spread evenly over the storm, at most one at a time."""

    def __init__(self, disruptions: list[Disruption]) -> None:
        self.outages: list[Outage] = []
        self._left = {disruption.what: disruption.count for disruption in disruptions}
        self._disruptions = disruptions
        self._now: Disruption | None = None
        self._until = 0.0

    def advance(self, part: float, chance: Callable[[float, float], float]) -> None:
        """Begin or end a disruption if that is due after this ``part`` (0 to 1) of the storm."""
        if self._now is not None:
            if time.monotonic() > self._until:
                self.clear()
            return
        for disruption in self._disruptions:
            left = self._left[disruption.what]
            due = left > 0 and part >= (disruption.count - left + 0.5) / disruption.count
            began = time.time()
            if due and disruption.begin():
                self._now, self._until = disruption, time.monotonic() + chance(*disruption.lasts)
                self._left[disruption.what] -= 1
                self.outages.append(Outage(began, float("inf"), disruption.what))
                return

    def clear(self) -> None:
        """End the current disruption."""
        if self._now is not None:
            self._now.end()
            self._now = None
            self.outages[-1] = self.outages[-1]._replace(ended=time.time())


def restarts(server: Postgres, count: int, lasts: tuple[float, float]) -> Disruption:
    """Crashes of the server."""

    def begin() -> bool:
        server.stop("immediate")
        return True

    return Disruption("restarts", count, lasts, begin, server.start)


def frozen_server(server: Postgres, count: int, lasts: tuple[float, float]) -> Disruption:
    """Freezes of all processes of the server, which leave connections open."""

    def begin() -> bool:
        server.freeze()
        return True

    return Disruption("pauses", count, lasts, begin, server.thaw)


def locked_file(file: Path, count: int, lasts: tuple[float, float]) -> Disruption:
    """Another process holds the write lock of the SQLite file."""
    held: list[sqlite3.Connection] = []

    def begin() -> bool:
        connection = sqlite3.connect(file, timeout=0, isolation_level=None)
        with suppress(sqlite3.OperationalError):  # a worker holds it
            connection.execute("BEGIN IMMEDIATE")
            held.append(connection)
            return True
        connection.close()
        return False

    def end() -> None:
        connection = held.pop()
        connection.rollback()
        connection.close()

    return Disruption("pauses", count, lasts, begin, end)


def full_disk(folder: Path, count: int, lasts: tuple[float, float]) -> Disruption:
    """A file fills the disk."""
    filler = folder / "filler"

    def begin() -> bool:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        return True

    return Disruption("full disks", count, lasts, begin, filler.unlink)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk at ``folder``, whose files outlast it; yields False where that fails."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            kept = Path(shutil.copytree(folder, folder.with_name("kept")))
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            folder.rmdir()
            kept.rename(folder)
