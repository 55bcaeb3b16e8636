"""The state of a trial: two networks and two optimizers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.optimizers import make_optimizer
from tuner.spec.constraint import Size
from tuner.trial import Hyperparameters, Program
from tuner.xla import abstract, jit

Variables = nnx.State[Any, Any]  # the parameters, or the statistics, of a network

_INIT = 0  # folded into the trial's key: see training


class AdaptiveAugmentation(NamedTuple):
    """The probability of augmentation, and the signs that decide its next change."""

    probability: Array
    signs: Array  # the mean sign of D's logits, summed over updates since the last change


class GanState(NamedTuple):
    """Everything that is needed to continue a trial."""

    generator: Variables
    discriminator: Variables
    discriminator_statistics: Variables  # of batch norm and spectral norm
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState
    ema: Variables | None  # the generator's moving average, if the program keeps one
    key: Array
    step: Array  # int32, generator updates so far
    adaptive: AdaptiveAugmentation | None = None  # if the program adapts it


class Networks(NamedTuple):
    """The static structure of a program's networks, and blank statistics of the generator.

    The generator's statistics are measured before each evaluation, not kept in training.
    """

    generator: nnx.GraphDef[Any]
    discriminator: nnx.GraphDef[Any]
    blank_statistics: Variables


@functools.cache
def networks(program: Program) -> Networks:
    """Trace the constructors, without computing anything on a device."""
    generator = _trace(GENERATORS[program.generator], program)
    statistics = nnx.state(generator, nnx.Not(nnx.Param))
    return Networks(
        nnx.graphdef(generator),
        nnx.graphdef(_trace(DISCRIMINATORS[program.discriminator], program)),
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), statistics),
    )


def abstract_generator(program: Program) -> tuple[Variables, Variables]:
    """Shapes and types of the generator's parameters, and of its batch statistics."""
    network = _trace(GENERATORS[program.generator], program)
    return nnx.state(network, nnx.Param), nnx.state(network, nnx.Not(nnx.Param))


@functools.cache
def _trace(kind: Callable[..., nnx.Module], program: Program) -> nnx.Module:
    network: nnx.Module = nnx.eval_shape(lambda: kind(program, rngs=nnx.Rngs(0)))
    return network


@functools.partial(jit, static_argnums=0, quick=True)
def _init_state(program: Program, hyperparameters: Hyperparameters, key: Array) -> GanState:
    g_key, d_key = jax.random.split(jax.random.fold_in(key, _INIT))
    generator = GENERATORS[program.generator](program, rngs=nnx.Rngs(g_key))
    discriminator = DISCRIMINATORS[program.discriminator](program, rngs=nnx.Rngs(d_key))
    g_params, d_params = nnx.state(generator, nnx.Param), nnx.state(discriminator, nnx.Param)
    optimizer = functools.partial(make_optimizer, program, hyperparameters)
    return GanState(
        generator=g_params,
        discriminator=d_params,
        discriminator_statistics=nnx.state(discriminator, nnx.Not(nnx.Param)),
        generator_optimizer=optimizer("generator").init(g_params),
        discriminator_optimizer=optimizer("discriminator").init(d_params),
        ema=jax.tree.map(jnp.copy, g_params) if program.ema else None,
        key=key,
        step=jnp.int32(0),
        adaptive=AdaptiveAugmentation(*jnp.zeros(2)) if program.augment_adapts else None,
    )


def init_state(program: Program, hyperparameters: Hyperparameters, seed: int) -> GanState:
    """Initialise networks and optimizers from the trial's ``seed``."""
    return _init_state(_structure(program), hyperparameters, jax.random.key(seed))


def _structure(program: Program) -> Program:
    """The part of a program that its initial state depends on, so that more trials share it.

    A custom network may depend on the whole program.
    """
    if program.sources:
        return program
    plain = Program._field_defaults
    kept = ("generator_norm", "discriminator_norm", "classes", "augment_adapts")
    rest = {name: value for name, value in plain.items() if name not in kept}
    return program._replace(batch_size=1, loss="", d_steps=1, **rest)


def compile_initial_state(program: Program) -> None:
    """Compile the program that ``init_state`` runs."""
    jax.random.key(0)
    _init_state.compile(*_abstract_arguments(program))


def abstract_state(program: Program) -> GanState:
    """Shapes and types of the program's state; nothing is computed."""
    found: GanState = _init_state.compiled.eval_shape(*_abstract_arguments(program))
    return found


def size_of(program: Program) -> Size:
    """Count the weights of the program's networks; nothing is computed."""
    # By structure, like the initial state, so that programs with the same networks are traced once.
    return _size_of(_structure(program))


@functools.cache
def _size_of(program: Program) -> Size:
    traced = (
        _trace(GENERATORS[program.generator], program),
        _trace(DISCRIMINATORS[program.discriminator], program),
    )
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
        for network in traced
    ]
    return Size(*counts)


def _abstract_arguments(program: Program) -> tuple[Program, Hyperparameters, Any]:
    number = abstract((), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    numbers = Hyperparameters(*[number] * len(Hyperparameters._fields))
    return _structure(program), numbers, key
