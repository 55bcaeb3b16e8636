"""CUDA MPS for workers that share a GPU: a daemon is found or started, and stopped again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_mps
import pytest
from processes import is_running, wait_until

from tuner.run import mps
from tuner.run.mps import FOUND, PIPES, STARTED, TIME_SLICES, shared


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for the daemon's program is on PATH, and JAX has a stand-in for a GPU."""
    monkeypatch.setenv("PATH", fake_mps.install(tmp_path / "bin"))
    monkeypatch.setenv("PYTHONPATH", fake_mps.install_gpu(tmp_path / "python"))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv(PIPES, str(tmp_path / "nothing-here"))
    return os.environ["PATH"]


def log_of(variables: dict[str, str]) -> str:
    return Path(variables[mps.LOGS], "control.log").read_text()


def test_a_daemon_is_started_for_the_block_in_a_private_folder(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    said: list[str] = []
    with shared(["1", "2"], said.append) as variables:
        assert said == [STARTED]
        pid = fake_mps.daemon_of(variables[PIPES])
        assert is_running(pid)
        folder = Path(variables[PIPES]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        # With CUDA_VISIBLE_DEVICES it would number the GPUs from 0, other than its clients do.
        assert log_of(variables) == "devices all"
    wait_until(lambda: not is_running(pid), "the daemon ends")
    assert not folder.exists()


def test_the_daemon_sees_the_same_gpus_if_they_are_named_by_their_ids(installed: str) -> None:
    with shared(["GPU-1a", "MIG-2b"], lambda _: None) as variables:
        assert log_of(variables) == "devices GPU-1a,MIG-2b"


def test_a_running_daemon_is_used_and_left_alone(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with fake_mps.running_daemon(installed) as theirs:
        for name, value in theirs.items():
            monkeypatch.setenv(name, value)
        with shared(["0"], said.append) as variables:
            assert variables == {}
        assert is_running(fake_mps.daemon_of(theirs[PIPES]))
    assert said == [FOUND]


def test_without_the_program_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with shared(["0"], said.append) as variables:
        assert variables == {}
    assert said == [f"{TIME_SLICES}: nvidia-cuda-mps-control is not installed"]


def fail_to_start(patch: pytest.MonkeyPatch) -> str:
    patch.setenv("FAKE_MPS_FAILS", "1")
    return "MPS is not supported here"


def hide_the_gpu(patch: pytest.MonkeyPatch) -> str:
    patch.setenv("JAX_PLATFORMS", "cpu")
    return "JAX can't use a GPU through it: "


def remove_the_parent_folder(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(mps, "PARENT", "/not-there")
    return "[Errno 2] No such file or directory: '/not-there/tuner-mps-"


@pytest.mark.parametrize("broken", [fail_to_start, hide_the_gpu, remove_the_parent_folder])
def test_if_mps_does_not_work_workers_do_without_and_nothing_is_left(
    broken: Callable[[pytest.MonkeyPatch], str],
    installed: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(mps, "PARENT", str(tmp_path))
    reason = broken(monkeypatch)
    said: list[str] = []
    with shared(["0"], said.append) as variables:
        assert variables == {}
    assert len(said) == 1
    assert said[0].startswith(f"{TIME_SLICES}: {reason}")
    assert "\n" not in said[0]
    assert list(tmp_path.glob("tuner-mps-*")) == []


HOLD = """
import sys, time
from tuner.run.mps import PIPES, shared
with shared(["0"], lambda _: None) as variables:
    print(variables[PIPES], flush=True)
    time.sleep(100)
"""


def test_the_daemon_stops_if_its_owner_is_killed(installed: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        daemon = fake_mps.daemon_of(folder)
        assert is_running(daemon)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(daemon), "the daemon stops")
    wait_until(lambda: not folder.parent.exists(), "its folder is removed")
