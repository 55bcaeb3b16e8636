"""Which process a worker is, and whether one that was on this machine has died."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.study.processes import has_died, this_process

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
TELL = [sys.executable, "-c", "from tuner.study.processes import *; print(*this_process())"]


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNER_MACHINE", raising=False)


def test_this_process_is_alive() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.host
    assert not has_died(me)
    assert this_process() == me


def test_a_killed_process_has_died_even_while_its_corpse_is_there() -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        me = this_process()
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        other = me._replace(pid=process.pid, since=stat.rpartition(")")[2].split()[19])
        assert not has_died(other)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet buried
        assert has_died(other)
    assert has_died(other)


def test_a_later_process_of_the_same_id_is_another() -> None:
    me = this_process()
    assert has_died(me._replace(since="1"))


def test_a_child_is_told_from_its_parent() -> None:
    told = subprocess.run(TELL, capture_output=True, text=True, check=True).stdout.split()
    me = this_process()
    assert told[1] == me.place
    assert told[2:] != [str(me.pid), me.since]


def test_nothing_is_known_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of other containers, whose process ids mean something else."""
    gone = this_process()._replace(since="1")
    assert has_died(gone)
    assert not has_died(gone._replace(place=""))
    assert not has_died(gone._replace(place="/another-boot/4026531836"))
    monkeypatch.setenv("TUNER_MACHINE", "named")
    assert not has_died(gone)
    named = this_process()
    assert named.host == "named"
    assert has_died(named._replace(since="1"))
    monkeypatch.delenv("TUNER_MACHINE")
    assert not has_died(named._replace(since="1"))


def test_containers_of_a_name_and_kernel_are_told_apart() -> None:
    """They share the boot, but not the space of process ids."""
    command = ["unshare", "--pid", "--fork", *TELL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"can't make a space of process ids here: {done.stderr.strip()}")
    assert done.stdout.split()[1] != this_process().place
