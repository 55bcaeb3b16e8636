"""Compile training for an NVIDIA H100 without a GPU, and count an iteration's operations.

    pip install --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION  # of the JAX
    JAX_PLATFORMS=cpu python benchmarks/gpu_programs.py                 # some configurations
    JAX_PLATFORMS=cpu python benchmarks/gpu_programs.py studies/*.toml  # a study's largest program

For each: kernels and library calls that an iteration launches, scatters among them, the largest
filter, and the memory of temporaries. ``8 x`` is a lane of eight trials, whose iteration is one of
all eight (see ``lanes.py``). Ends with exit code 1 if a budget is exceeded, or the memory that JAX
takes of the device by default. Needs neither a GPU nor NVIDIA's libraries; use a separate
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
import lanes
from jax.experimental import topologies

from tuner.gan import training
from tuner.gan.state import GanState, abstract_state
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
    """Limits: launches per iteration, size of filters, MiB of temporaries."""

    launches: int
    filter: int = 5
    mebibytes: float = MEMORY


class Configuration(NamedTuple):
    """A program to compile, the number of trials that it trains at once, and its budget."""

    trial: dict[str, Any]
    dataset: DatasetInfo
    budget: Budget
    slots: int = 0  # of a lane; 0 for tuner's own training of one trial


GREY = DatasetInfo((32, 32, 1), IMAGES)
LABELLED = DatasetInfo((32, 32, 1), IMAGES, 10)
CONFIGURATIONS = {
    "dcgan, width 16": Configuration({"width": 16}, GREY, Budget(130)),
    "dcgan, conditional": Configuration({"width": 16, "conditional": "on"}, LABELLED, Budget(140)),
    "dcgan, width 64": Configuration({"width": 64}, GREY, Budget(130)),
    "8 x dcgan, width 16": Configuration({"width": 16}, GREY, Budget(150), 8),
    "8 x dcgan, width 64": Configuration({"width": 64}, GREY, Budget(150), 8),
    "resnet, conditional": Configuration(
        {"generator": "resnet", "discriminator": "resnet", "loss": "hinge", "conditional": "on"},
        DatasetInfo((32, 32, 3), IMAGES, 10),
        Budget(700),
    ),
}


class Found(NamedTuple):
    """Statistics of a compiled epoch."""

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


def compiled(name: str) -> tuple[Any, Budget]:
    """A configuration or a study file's largest program, compiled for the H100; its budget."""
    if name in CONFIGURATIONS:
        trial, dataset, budget, slots = CONFIGURATIONS[name]
        program = trial_config(parse_spec({"trial": trial}, "gpu"), {}, 0, dataset).program
        if slots:
            return compile_lane(program, dataset.images, slots), budget
        return compile_epoch(program, dataset.images), budget
    spec = load_spec(name)
    channels = 3 if spec.data.source == "folder" else 1
    dataset = DatasetInfo((spec.data.size, spec.data.size, channels), IMAGES, 10)
    return compile_epoch(largest_program(spec, dataset), IMAGES), Budget(sys.maxsize)


@functools.cache
def target() -> jax.sharding.SingleDeviceSharding:
    """The H100."""
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=TARGET.read_text(), topology="1x1x1"
    )
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def on_gpu(tree: Any, slots: int = 0) -> Any:
    """Abstract arrays on the H100, with a leading axis of ``slots`` if there are any."""
    sharding = target()
    placed: Any = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    return jax.tree.map(lambda x: placed((slots, *x.shape) if slots else x.shape, x.dtype), tree)


def trial_arrays(program: Program) -> tuple[GanState, StepLosses, Hyperparameters]:
    """The abstract state, totals and hyperparameters of a trial."""
    number = abstract((), jnp.float32)
    hyperparameters = Hyperparameters(*[number] * len(Hyperparameters._fields))
    return abstract_state(program), StepLosses(*[number] * 4), hyperparameters


def compile_epoch(program: Program, count: int) -> Any:
    """An epoch of training on ``count`` images, compiled for the H100."""
    iterations = program.iterations(count)
    arguments = on_gpu(
        (
            *trial_arrays(program),
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


def compile_lane(program: Program, count: int, slots: int) -> Any:
    """An epoch of a lane with ``slots`` trials, compiled for the H100."""
    program, iterations = lanes.packed(program), program.iterations(count)
    data = (
        abstract((count, *program.image_shape), jnp.uint8),
        abstract((iterations, slots, program.d_steps, program.batch_size), jnp.int32),
        abstract((), jnp.int32),
    )
    arguments = (*on_gpu(trial_arrays(program), slots), *on_gpu(data))
    train = lanes.train_lane
    jitted = jax.jit(train._function, static_argnums=(0, 1, 8, 9), donate_argnums=(2, 3))
    lowered = jitted.lower("stacked", program, *arguments, iterations, False)
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
        epoch, budget = compiled(name)
        found = inspect(epoch)
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
