"""Process identities, and detection of local workers that died."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.study.workers import has_died, this_process

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
PRINT_IDENTITY = [sys.executable, "-c", "from tuner.study.workers import *; print(*this_process())"]


@pytest.fixture(autouse=True)
def unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNER_MACHINE", raising=False)


def test_this_process_is_alive() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert me.host
    assert not has_died(me)
    assert this_process() == me


def test_a_killed_process_has_died_before_it_is_reaped() -> None:
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        me = this_process()
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        other = me._replace(pid=process.pid, since=stat.rpartition(")")[2].split()[19])
        assert not has_died(other)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet reaped
        assert has_died(other)
    assert has_died(other)


def test_a_reused_process_id_is_another_process() -> None:
    me = this_process()
    assert has_died(me._replace(since="1"))


def test_child_and_parent_have_different_identities() -> None:
    identity = subprocess.run(
        PRINT_IDENTITY, capture_output=True, text=True, check=True
    ).stdout.split()
    me = this_process()
    assert identity[1] == me.place
    assert identity[2:] != [str(me.pid), me.since]


def test_processes_of_other_machines_and_containers_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_containers_with_the_same_name_have_different_identities() -> None:
    """They share the boot id, but not the PID namespace."""
    command = ["unshare", "--pid", "--fork", *PRINT_IDENTITY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"can't create a PID namespace here: {done.stderr.strip()}")
    assert done.stdout.split()[1] != this_process().place
