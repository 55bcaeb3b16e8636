"""The disk under the artifact folder is full for a while."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from processes import machines, steady, wait_until
from rows import Rows
from safetensors.numpy import load


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.getuid() != 0:
        pytest.skip("only root can make a small disk")
    mounted = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], timeout=10, check=True)


def fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_ends_the_worker_and_no_trial(
    small_disk: Path, tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    with machines(tmp_path, environment, "here") as [here]:
        (here.folder / "s.toml").write_text(steady(digits, trials=1))
        here.does("create", "s.toml", "--artifacts", str(small_disk))
        rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")
        worker = here.start("worker", "s")
        worker.says("trial 0 epoch 2/")

        def ended() -> bool:
            fill(small_disk / "filler")  # again: old checkpoints are removed
            return not worker.alive

        wait_until(ended, "the worker's end")
        assert worker.ends() == 1, worker
        [checkpoints] = small_disk.glob("s-*/checkpoints/trial-00000")
        assert worker.errors.startswith(f"tuner: {checkpoints}/epoch-")
        assert worker.errors.endswith("can't be written: No space left on device\n")
        assert worker.errors.count("\n") == 1
        kept = [path for path in small_disk.rglob("*") if path.is_file()]
        assert not any(path.name.endswith(".part") for path in kept)
        whole = [load(path.read_bytes()) for path in kept if path.suffix == ".safetensors"]
        assert len(whole) >= 3  # two measures and a checkpoint
        lease = rows.leases()[0]
        assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "free", 0)

        (small_disk / "filler").unlink()
        again = here.start("worker", "s")
        again.says(f"trial 0 goes on after epoch {lease.epoch}")
        again.says(f"trial 0 epoch {lease.epoch + 1}/")
        rows.end()
        assert again.ends() == 0, again
        assert again.errors == ""
        rows.assert_ended(total=1)
        assert not checkpoints.exists()
        assert [path.name for path in small_disk.glob("s-*/trial-*")] == [
            "trial-00000-2.safetensors"
        ]
