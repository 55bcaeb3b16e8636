"""A full disk under the artifact folder."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from disks import mounted
from processes import machines, unpruned_study, wait_until
from rows import Rows
from safetensors.numpy import load


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "-o", "size=8m"):
        yield tmp_path / "disk"


def fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_ends_the_worker_but_not_its_trial(
    small_disk: Path, tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    with machines(tmp_path, environment, "here") as [here]:
        (here.folder / "s.toml").write_text(unpruned_study(digits, trials=1))
        here.succeeds("create", "s.toml", "--artifacts", str(small_disk))
        rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")
        worker = here.start("worker", "s")
        worker.wait_for("trial 0 epoch 2/")

        def has_exited() -> bool:
            fill(small_disk / "filler")  # repeatedly, because removing checkpoints frees space
            return not worker.alive

        wait_until(has_exited, "the worker exits")
        assert worker.wait() == 1, worker
        [checkpoints] = small_disk.glob("s-*/checkpoints/trial-00000")
        assert worker.errors.startswith(f"tuner: {checkpoints}/epoch-")
        assert worker.errors.endswith("can't be written: No space left on device\n")
        assert worker.errors.count("\n") == 1
        files = [path for path in small_disk.rglob("*") if path.is_file()]
        assert not any(path.name.endswith(".part") for path in files)
        whole = [load(path.read_bytes()) for path in files if path.suffix == ".safetensors"]
        assert len(whole) >= 3  # the extractor, the reference statistics and a checkpoint
        lease = rows.leases()[0]
        assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "free", 0)

        (small_disk / "filler").unlink()
        successor = here.start("worker", "s")
        successor.wait_for(f"trial 0 continues after epoch {lease.epoch}")
        successor.wait_for(f"trial 0 epoch {lease.epoch + 1}/")
        rows.request_prune()
        assert successor.wait() == 0, successor
        assert successor.errors == ""
        rows.assert_finished(total=1)
        assert not checkpoints.exists()
        assert [path.name for path in small_disk.glob("s-*/trial-*")] == [
            "trial-00000-2.safetensors"
        ]
