"""A trial's state: two networks, two optimizers, and what they are made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.optimizers import make_optimizers
from tuner.trial import Hyperparameters, Program

Variables = nnx.State[Any, Any]  # the parameters, or the statistics, of a network

_INIT = 0  # what the trial's key is folded with: see training


class GanState(NamedTuple):
    """Everything that a trial needs to go on."""

    generator: Variables
    discriminator: Variables
    discriminator_statistics: Variables  # of batch norm, of spectral norm
    generator_optimizer: optax.OptState
    discriminator_optimizer: optax.OptState
    ema: Variables | None  # averaged generator, where the program keeps one
    key: Array
    step: Array  # int32, generator updates so far


class Networks(NamedTuple):
    """The static structure of a program's two networks, and the generator's unused statistics.

    The generator's are measured before it is evaluated: none are kept while it trains.
    """

    generator: nnx.GraphDef[Any]
    discriminator: nnx.GraphDef[Any]
    blank_statistics: Variables


@functools.cache
def networks(program: Program) -> Networks:
    """Found by tracing the constructors: nothing is computed and nothing allocated."""
    _, statistics = abstract_generator(program)
    return Networks(
        nnx.graphdef(_trace(GENERATORS[program.generator], program)),
        nnx.graphdef(_trace(DISCRIMINATORS[program.discriminator], program)),
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), statistics),
    )


def abstract_generator(program: Program) -> tuple[Variables, Variables]:
    """Shapes and types of the generator's parameters, and of its batch statistics."""
    network = _trace(GENERATORS[program.generator], program)
    return nnx.state(network, nnx.Param), nnx.state(network, nnx.Not(nnx.Param))


def _trace(kind: Callable[..., nnx.Module], program: Program) -> nnx.Module:
    network: nnx.Module = nnx.eval_shape(lambda: kind(program, rngs=nnx.Rngs(0)))
    return network


@functools.partial(jax.jit, static_argnames="program")
def _init_state(program: Program, hyperparameters: Hyperparameters, key: Array) -> GanState:
    g_key, d_key = jax.random.split(jax.random.fold_in(key, _INIT))
    generator = GENERATORS[program.generator](program, rngs=nnx.Rngs(g_key))
    discriminator = DISCRIMINATORS[program.discriminator](program, rngs=nnx.Rngs(d_key))
    g_params, d_params = nnx.state(generator, nnx.Param), nnx.state(discriminator, nnx.Param)
    g_optimizer, d_optimizer = make_optimizers(program, hyperparameters)
    return GanState(
        generator=g_params,
        discriminator=d_params,
        discriminator_statistics=nnx.state(discriminator, nnx.Not(nnx.Param)),
        generator_optimizer=g_optimizer.init(g_params),
        discriminator_optimizer=d_optimizer.init(d_params),
        ema=jax.tree.map(jnp.copy, g_params) if program.ema else None,
        key=key,
        step=jnp.int32(0),
    )


def init_state(program: Program, hyperparameters: Hyperparameters, seed: int) -> GanState:
    """Fresh networks and optimizers for the trial that ``seed`` names."""
    state: GanState = _init_state(program, hyperparameters, jax.random.key(seed))
    return state


def abstract_state(program: Program) -> GanState:
    """Shapes and types of the program's state; nothing is computed."""
    numbers = Hyperparameters(*[0.0] * len(Hyperparameters._fields))
    return cast(GanState, jax.eval_shape(lambda: init_state(program, numbers, 0)))
