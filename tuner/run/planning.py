"""Estimate a study's programs, memory and cost without training."""

import bisect
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from tuner.data import Announce, silent
from tuner.environment import DEFAULT_OPTIONS, MachineOptions, program_cache
from tuner.gan.sampling import generation_flops
from tuner.gan.state import abstract_state, size_of
from tuner.gan.training import iteration_flops, iteration_seconds, training_memory
from tuner.metrics.extractors import extraction_flops
from tuner.run.constraints import excluded, is_allowed
from tuner.run.custom_networks import import_allowed
from tuner.run.device_memory import device_memory, image_memory
from tuner.run.sharing import load_published_extractor
from tuner.run.startup import load_checked
from tuner.spec.branches import SWITCHES, branches, program_count
from tuner.spec.parameters import Value, largest_value, values_of
from tuner.spec.study import StudySpec
from tuner.spec.trial import TrialSection
from tuner.study.samplers import make_sampler
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo, Hyperparameters, Program
from tuner.xla import keep_compiled

TIME_LIMIT = 45.0  # seconds that measuring memory may take


def plan(
    spec: StudySpec, options: MachineOptions = DEFAULT_OPTIONS, announce: Announce = silent
) -> dict[str, Any]:
    """Count programs and images; give parameters, memory (bytes) and FLOPs of the largest program,
    and if the budget has hours, the seconds of its epochs.

    Loads the images and compiles the largest program; its memory is None if that takes too long.
    InputError if the study can't be run.
    """
    make_sampler(spec)
    images, dataset = load_checked(spec, options, announce)
    load_published_extractor(spec, options.weights)  # to check the file
    program = largest_program(spec, dataset)
    size, weights = images.images.nbytes, size_of(program)
    flops_per_image = generation_flops(program) + extraction_flops(
        spec.metrics.features, program.image_shape
    )
    announce(
        "measuring the memory of training the largest program: compiling it takes at most "
        f"{TIME_LIMIT:g} s"
    )
    count, limits = len(images.images), spec.budget.limits
    memory = measured_memory(program, count, spec.study.epochs, options.allow)
    flops = iteration_flops(program) * program.iterations(count)
    evaluation = spec.metrics.samples * flops_per_image  # the rest is negligible
    seconds = None
    if {"device_hours", "wall_hours"} & limits.keys():
        announce(f"timing the largest program, which takes at most {TIME_LIMIT:g} s")
        seconds = measured_seconds(program, options.allow)
    return {
        "programs": program_count(spec.trial),
        "images": len(images.images),
        "image_shape": images.shape,
        "largest": program._asdict(),
        "excluded": excluded(spec, dataset)._asdict(),
        "generator_parameters": weights.generator,
        "discriminator_parameters": weights.discriminator,
        "state_bytes": _state_bytes(program),
        "activation_bytes": memory,
        "image_bytes": size if size <= image_memory() else 0,  # otherwise they are streamed
        "device_bytes": device_memory(),
        "training_flops": flops,
        "evaluation_flops": evaluation,
        # Evaluation is assumed to run at the speed of training.
        "epoch_seconds": seconds
        and seconds * program.iterations(count) * (1 + evaluation / (flops * spec.metrics.every)),
        "device": jax.devices()[0].platform,
    }


def _state_bytes(program: Program) -> int:
    """The size of a training state, without its random key."""
    state = abstract_state(program)
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if leaf is not state.key
    )


def measured_memory(
    program: Program,
    count: int,
    epochs: int,
    allow: Sequence[str] = (),
    seconds: float = TIME_LIMIT,
) -> int | None:
    """Return ``training_memory`` in bytes, for ``count`` images; None after ``seconds``."""
    found = _measured_in_subprocess(["memory", program, count, epochs, list(allow)], seconds)
    return None if found is None else int(found)


def measured_seconds(
    program: Program, allow: Sequence[str] = (), seconds: float = TIME_LIMIT
) -> float | None:
    """The seconds that an iteration takes; None if measuring takes more than ``seconds``."""
    return _measured_in_subprocess(["time", program, 0, 0, list(allow)], seconds)


def _measured_in_subprocess(request: list[Any], seconds: float) -> float | None:
    """Measure in a separate process, because XLA's compiler can't be interrupted; None if it fails
    or takes more than ``seconds``."""
    # -P: files in the working directory must not shadow libraries.
    command = [sys.executable, "-P", "-c", f"from {__name__} import _measure; _measure()"]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    text = json.dumps(request)
    try:
        done = subprocess.run(
            command, input=text, env=environment, capture_output=True, text=True, timeout=seconds
        )
        return float(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None


def _measure() -> None:
    """Print the memory in bytes or the time in seconds; runs in the separate process."""
    what, fields, count, epochs, allow = json.load(sys.stdin)
    program = Program._make(tuple(v) if isinstance(v, list) else v for v in fields)
    import_allowed([program.generator, program.discriminator], allow)
    keep_compiled(program_cache(), silent)
    if what == "memory":
        sys.stdout.write(str(training_memory(program, count, epochs)))
    else:
        # As arrays, like a trial's; their values do not affect the time.
        numbers = jax.device_put([np.float32(0.1)] * len(Hyperparameters._fields))
        sys.stdout.write(str(iteration_seconds(program, Hyperparameters(*numbers))))


def largest_program(spec: StudySpec, dataset: DatasetInfo) -> Program:
    """The program with every structural setting at its largest that ``[constraint]`` allows."""
    trials = [branch.trial for branch in branches(spec.trial)]
    largest = [_with_networks(spec, trial, dataset) for trial in trials]
    allowed = [p for trial in trials for p in _allowed(spec, trial, dataset)]
    return max(allowed or largest, key=lambda p: p.width**2 * p.batch_size * p.d_steps)


def _allowed(spec: StudySpec, trial: TrialSection, dataset: DatasetInfo) -> Iterator[Program]:
    """For each pair of networks, the largest program within the constraint, if any: the widest at
    the largest latent dimension, else at the smallest."""
    kinds = [values_of(setting) or [] for setting in (trial.generator, trial.discriminator)]
    latents, widths = (sorted(values_of(s) or []) for s in (trial.latent_dim, trial.width))
    for generator, discriminator in itertools.product(*kinds):
        for latent in dict.fromkeys((latents[-1], latents[0])):
            networks = {"generator": generator, "discriminator": discriminator}
            at = functools.partial(
                _with_networks, spec, trial, dataset, latent_dim=latent, **networks
            )
            # Sizes grow with the width, so the allowed widths come first.
            count = bisect.bisect(
                widths, False, key=lambda width: not is_allowed(spec, at(width=width))
            )
            if count:
                yield at(width=widths[count - 1])
                break


def _with_networks(
    spec: StudySpec, trial: TrialSection, dataset: DatasetInfo, **networks: Value
) -> Program:
    """The program of a branch with these settings, and all others at their largest."""
    names = ("width", "latent_dim", "batch_size", "d_steps", *SWITCHES)
    point = {name: (values_of(s) or [0.0])[0] for name, s in trial.searched().items()}
    point |= {name: largest_value(getattr(trial, name)) for name in names}
    if "adam" in (values_of(trial.optimizer) or []):  # it stores two moments per weight
        point["optimizer"] = "adam"
    branch_spec = spec.model_copy(update={"trial": trial})
    return trial_config(branch_spec, point | networks, 0, dataset).program
