"""Compile training for an NVIDIA H100 on a machine without a GPU, and count what an iteration does.

    pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION  # of the JAX
    JAX_PLATFORMS=cpu python benchmarks/gpu_programs.py                 # some configurations
    JAX_PLATFORMS=cpu python benchmarks/gpu_programs.py studies/*.toml  # a study's largest program

For each: kernels and library calls that an iteration launches, scatters among them, the largest
filter, and the memory of temporaries. Ends with exit code 1 if a budget is exceeded, or the memory
that JAX takes of the device by default. Needs neither a GPU nor NVIDIA's libraries; use a separate
environment, since JAX looks for a GPU where the plugin is installed (``make gpu-check`` uses one).
``h100.txtpb`` describes the device. Autotuning needs the device itself, so other kernels may be
chosen there. ``tests/integration/test_gpu_programs.py`` checks the budgets of the small programs.
"""

import functools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from tuner.gan import training
from tuner.gan.state import abstract_state
from tuner.gan.step import StepLosses
from tuner.run.planning import largest_program
from tuner.spec.loading import load_spec, parse_spec
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo, Hyperparameters, Program
from tuner.xla import OPTIONS, abstract

TARGET = Path(__file__).with_name("h100.txtpb")
MEMORY = 0.75 * 84_942_979_072 / 2**20  # MiB; JAX takes three quarters of the device's by default
LAUNCHED = ("fusion", "custom-call", "copy", "sort", "scatter", "dot", "convolution", "reduce")
IMAGES = 60_000


class Budget(NamedTuple):
    """The most that an iteration may launch, the largest filter, the most MiB of temporaries."""

    launches: int
    filter: int = 5
    mebibytes: float = MEMORY


CONFIGURATIONS: dict[str, tuple[dict[str, Any], DatasetInfo, Budget]] = {
    "dcgan, width 16": ({"width": 16}, DatasetInfo((32, 32, 1), IMAGES), Budget(130)),
    "dcgan, conditional": (
        {"width": 16, "conditional": "on"},
        DatasetInfo((32, 32, 1), IMAGES, 10),
        Budget(140),
    ),
    "dcgan, width 64": ({"width": 64}, DatasetInfo((32, 32, 1), IMAGES), Budget(130)),
    "resnet, conditional": (
        {"generator": "resnet", "discriminator": "resnet", "loss": "hinge", "conditional": "on"},
        DatasetInfo((32, 32, 3), IMAGES, 10),
        Budget(700),
    ),
}


class Found(NamedTuple):
    """What one compiled epoch consists of."""

    launches: int  # per iteration
    scatters: int
    filter: int
    mebibytes: float  # of temporaries

    def problems(self, budget: Budget) -> list[str]:
        """Lines that say which budget is exceeded."""
        found = []
        if self.launches > budget.launches:
            found.append(f"found {self.launches} launches, expected at most {budget.launches}")
        if self.scatters:
            found.append(f"found {self.scatters} scatters, expected none")
        if self.filter > budget.filter:
            found.append(f"found a filter of {self.filter}, expected at most {budget.filter}")
        if self.mebibytes > budget.mebibytes:
            text = f"{self.mebibytes:.0f} MiB of temporaries, expected at most"
            found.append(f"found {text} {budget.mebibytes:.0f}")
        return found


def configured(name: str) -> tuple[Program, int, Budget]:
    """A configuration's program, number of images and budget, or those of a study file."""
    if name in CONFIGURATIONS:
        trial, dataset, budget = CONFIGURATIONS[name]
        spec = parse_spec({"trial": trial}, "gpu")
        return trial_config(spec, {}, 0, dataset).program, dataset.images, budget
    spec = load_spec(name)
    channels = 3 if spec.data.source == "folder" else 1
    dataset = DatasetInfo((spec.data.size, spec.data.size, channels), IMAGES, 10)
    return largest_program(spec, dataset), IMAGES, Budget(sys.maxsize)


def on_gpu(shapes: Any) -> Any:
    """Abstract arrays on the H100."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=TARGET.read_text(), topology="1x1x1"
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    placed: Any = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    return jax.tree.map(lambda x: placed(x.shape, x.dtype), shapes)


def compile_epoch(program: Program, count: int) -> Any:
    """An epoch of training on ``count`` images, compiled for the H100."""
    iterations, number = program.iterations(count), abstract((), jnp.float32)
    arguments = on_gpu(
        (
            abstract_state(program),
            StepLosses(*[number] * 4),
            Hyperparameters(*[number] * len(Hyperparameters._fields)),
            abstract((count, *program.image_shape), jnp.uint8),
            abstract((count,), jnp.int32) if program.classes else None,
            abstract((iterations, program.d_steps, program.batch_size), jnp.int32),
            abstract((), jnp.int32),
        )
    )
    train = training._train_steps
    jitted = jax.jit(train._function, static_argnums=(0, 8, 9), donate_argnums=(1, 2))
    lowered = jitted.lower(program, *arguments, iterations, False)
    return lowered.compile(compiler_options=OPTIONS["gpu"])


def computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation of an HLO module."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if begin := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            name = begin[1]
            found[name] = []
        elif name and line.startswith("  "):
            found[name].append(line.strip())
    return found


def inspect(compiled: Any) -> Found:
    text = compiled.as_text()
    bodies = computations(text)
    loops = re.findall(r"body=%?([\w.\-]+)", text)
    body = max((bodies[name] for name in loops), key=len)
    operations = Counter[str]()
    filters = [1]
    for line in body:
        if operation := re.search(r"= .*? ([\w\-]+)\(", line):
            operations[operation[1]] += 1
        if window := re.search(r"window=\{size=(\d+)x(\d+)", line):
            filters += map(int, window.groups())
    return Found(
        launches=sum(operations[name] for name in LAUNCHED),
        scatters=len(re.findall(r"= \S+ scatter\(", text)),
        filter=max(filters),
        mebibytes=compiled.memory_analysis().temp_size_in_bytes / 2**20,
    )


def main() -> None:
    failed = False
    print("| configuration | launches | scatters | largest filter | temporaries, MiB |")
    print("|---|---|---|---|---|")
    for name in sys.argv[1:] or CONFIGURATIONS:
        program, images, budget = configured(name)
        found = inspect(compile_epoch(program, images))
        print(
            f"| {name} | {found.launches} | {found.scatters} | {found.filter} | "
            f"{found.mebibytes:.0f} |",
            flush=True,
        )
        for problem in found.problems(budget):
            failed = True
            print(f"{name}: {problem}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
