"""Which process a worker is, and whether one that was on this machine has died.

Another worker on the same machine need not wait for a dead one's lease to run out.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple

from tuner.places import MACHINE_VARIABLE


class Process(NamedTuple):
    """A process, told from all others: those in other containers, and later ones of its id."""

    host: str  # for people
    place: str  # where ``pid`` means something; '' where that can't be told
    pid: int
    since: str


def this_process() -> Process:
    """The one that asks."""
    name = os.environ.get(MACHINE_VARIABLE)
    return Process(name or platform.node(), _place(name), os.getpid(), _since(os.getpid()))


def has_died(process: Process) -> bool:
    """Whether a process of this machine is surely gone. False where it can't be told."""
    here = _place(os.environ.get(MACHINE_VARIABLE))
    if not process.place or process.place != here:
        return False
    return _since(process.pid) != process.since


def _place(name: str | None) -> str:
    """This boot of this machine (or container): process ids are counted within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{name or ''}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _since(pid: int) -> str:
    """When the process started, in ticks since boot; '' where there is none, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
