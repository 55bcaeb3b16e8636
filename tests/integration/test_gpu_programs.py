"""Training compiled for an NVIDIA H100 that is not there; ``make gpu-check`` runs these tests."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from gpu_programs import compiled, inspect, on_gpu

from tuner.xla import OPTIONS, QUICK_COMPILATION, _small_epoch, abstract

pytestmark = pytest.mark.skipif(
    find_spec("jax_cuda12_plugin") is None,
    reason="no compiler for CUDA is installed; make gpu-check installs one and runs these tests",
)


@pytest.mark.parametrize("name", ["dcgan, width 16", "dcgan, conditional"])
def test_training_keeps_its_budget(name: str) -> None:
    """Launches, scatters, filters, memory; benchmarks/gpu_programs.py has slower programs."""
    epoch, budget = compiled(name)
    found = inspect(epoch)
    assert found.launches > 50, "the loop of the epoch was not found"
    assert found.problems(budget) == []


def test_the_compiler_accepts_our_options() -> None:
    lowered = jax.jit(jnp.sort).lower(on_gpu(abstract((8,), jnp.float32)))
    ours: list[Any] = [OPTIONS["gpu"], QUICK_COMPILATION]
    for options in ours:
        assert lowered.compile(compiler_options=options).as_text()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_of_another_version"):
        lowered.compile(compiler_options={"xla_gpu_of_another_version": True})


@pytest.mark.parametrize("ours", [False, True])
def test_a_loop_of_convolutions_becomes_one_graph(ours: bool, tmp_path: Path) -> None:
    """With tuner's options, but not with XLA's own; workers test them on the same loop."""
    kernels, images = [abstract((3, 3, 8, 8), jnp.float32)] * 3, abstract((8, 8, 8, 8), jnp.float32)
    order = abstract((2, 4), jnp.int32)
    options = {"xla_dump_to": str(tmp_path), **(OPTIONS["gpu"] if ours else {})}
    jax.jit(_small_epoch).lower(*on_gpu((kernels, images, order))).compile(compiler_options=options)
    listing = max(tmp_path.glob("*thunk_sequence*.txt"), key=lambda path: len(path.name))
    launched = [line.split()[1] for line in listing.read_text().splitlines() if line[0].isdigit()]
    assert (launched == ["kCommandBuffer"]) == ours
    assert ours or "kWhile" in launched
