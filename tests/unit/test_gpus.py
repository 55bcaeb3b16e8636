"""The share of a GPU and of the CPU's cores for each of several workers."""

import pytest

from tuner.run.gpus import memory_share, share


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
