"""What a study will need, found without training."""

from typing import Any

import jax
import numpy as np

from tuner.coherence import largest_value, program_count
from tuner.combinations import values_of
from tuner.conditions import branches
from tuner.data import Announce, load_images, silent
from tuner.gan.sampling import generation_flops
from tuner.gan.state import abstract_state
from tuner.gan.training import iteration_flops, training_memory
from tuner.metrics.features import extraction_flops
from tuner.places import NOWHERE_ELSE, Local
from tuner.run.lab import premises_of
from tuner.run.own_networks import admit, named_in, try_all
from tuner.run.sharing import inception
from tuner.run.sweep import check_data
from tuner.spec import StudySpec
from tuner.study.search import make_sampler
from tuner.study.space import trial_config
from tuner.trial import Premises, Program


def plan(
    spec: StudySpec, local: Local = NOWHERE_ELSE, announce: Announce = silent
) -> dict[str, Any]:
    """Programs, images, and the parameters (numbers) and memory (bytes) of the largest program.

    Loads the images, of which ``announce`` hears, and compiles that one program. InputError where
    the study can't be run.
    """
    make_sampler(spec)
    sources = admit(named_in(spec), local.allow)
    images = load_images(spec.data, local.data, announce)
    check_data(spec, images)
    inception(spec, local.weights)
    premises = premises_of(images, sources)
    try_all(spec, premises)
    program = largest_program(spec, premises)
    state = abstract_state(program)
    return {
        "programs": program_count(spec),
        "images": len(images.images),
        "image_shape": images.shape,
        "largest": program._asdict(),
        "generator_parameters": _count(state.generator),
        "discriminator_parameters": _count(state.discriminator),
        "state_bytes": _bytes([leaf for leaf in jax.tree.leaves(state) if leaf is not state.key]),
        "activation_bytes": training_memory(program, len(images.images)),
        "training_flops": iteration_flops(program) * program.iterations(len(images.images)),
        "evaluation_flops": _evaluation_flops(spec, program),
        "device": jax.devices()[0].platform,
    }


def largest_program(spec: StudySpec, premises: Premises) -> Program:
    """The program with every structural setting at its largest."""
    programs = [
        _largest(spec.model_copy(update={"trial": branch.trial}), premises)
        for branch in branches(spec.trial)
    ]
    return max(programs, key=lambda p: p.width**2 * p.batch_size * p.d_steps)


def _largest(spec: StudySpec, premises: Premises) -> Program:
    """The same for a study without conditions."""
    names = ("width", "latent_dim", "batch_size", "d_steps", "ema_decay")
    largest = {name: largest_value(getattr(spec.trial, name)) for name in names}
    first = {name: (values_of(s) or [0.0])[0] for name, s in spec.trial.searched().items()}
    if "adam" in (values_of(spec.trial.optimizer) or []):  # it keeps two numbers per weight
        largest["optimizer"] = "adam"
    return trial_config(spec, first | largest, 0, premises).program


def _evaluation_flops(spec: StudySpec, program: Program) -> float:
    """Of generating, and of extracting features; what follows is little beside them."""
    metrics = spec.metrics
    an_image = extraction_flops(metrics.features, program.image_shape)
    return metrics.samples * (generation_flops(program) + an_image)


def _count(tree: Any) -> int:
    return int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(tree)))


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size * np.dtype(leaf.dtype).itemsize for leaf in leaves)
