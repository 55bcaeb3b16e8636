"""The share of a GPU and of the CPU's cores for each of several workers."""

import re
from pathlib import Path

import pytest

from tuner.run import gpus
from tuner.run.gpus import memory_share, share, unused_gpu, warning_of_unused


@pytest.mark.parametrize(("workers", "fraction"), [(2, "0.3750"), (3, "0.2500"), (12, "0.0625")])
def test_workers_divide_the_memory_that_jax_takes(workers: int, fraction: str) -> None:
    assert share({}, workers, threads=4) == {
        "XLA_CLIENT_MEM_FRACTION": fraction,
        "PJRT_NPROC": "4",
        "OMP_NUM_THREADS": "4",
    }


@pytest.mark.parametrize("workers", range(1, 49))
def test_the_shares_together_fit(workers: int) -> None:
    fraction = float(share({}, workers, threads=1)["XLA_CLIENT_MEM_FRACTION"])
    assert 0.74 < workers * fraction < 0.76


@pytest.mark.parametrize(
    "chosen",
    [
        {"XLA_CLIENT_MEM_FRACTION": "0.2"},
        {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".2"},
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        {"XLA_PYTHON_CLIENT_PREALLOCATE": "0"},
    ],
)
def test_memory_is_not_divided_if_the_user_has_chosen(chosen: dict[str, str]) -> None:
    assert memory_share(chosen, 2) is None
    assert set(share(chosen, 2, threads=1)) == {"PJRT_NPROC", "OMP_NUM_THREADS"}


def test_memory_is_divided_if_variables_are_empty_or_have_the_default_value() -> None:
    assert memory_share({"XLA_CLIENT_MEM_FRACTION": ""}, 3) == 0.25
    assert memory_share({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, 3) == 0.25


def test_a_number_of_threads_that_the_user_has_set_is_kept() -> None:
    assert "OMP_NUM_THREADS" not in share({"OMP_NUM_THREADS": "7"}, 2, threads=1)


def test_a_gpu_is_found_by_its_driver(tmp_path: Path) -> None:
    assert unused_gpu(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert unused_gpu(tmp_path) == "AMD"
    (tmp_path / "dev/nvidia0").touch()
    assert unused_gpu(tmp_path) == "NVIDIA"
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 26\n")
    assert unused_gpu(tmp_path) == "NVIDIA H200"


@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({}, "to use it, install JAX for it: .*pip install .*cuda12"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "to use it, unset CUDA_VISIBLE_DEVICES"),
        ({"JAX_PLATFORMS": "cpu"}, "to use it, unset JAX_PLATFORMS=cpu"),
    ],
)
def test_an_unused_gpu_is_warned_of(
    variables: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpus, "unused_gpu", lambda: None)
    assert warning_of_unused("cpu (x86_64)") is None
    monkeypatch.setattr(gpus, "unused_gpu", lambda: "NVIDIA H200")
    found = warning_of_unused("cpu (x86_64)")
    assert found is not None
    assert found.startswith("warning: JAX uses cpu (x86_64), not this machine's GPU (NVIDIA H200);")
    assert re.search(advice, found)
