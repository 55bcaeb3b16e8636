"""Looking at a generator: fresh batch statistics, images from fixed latents, D's opinion.

These are compiled once per network structure, not per ``Program``: trials that differ in batch
size, loss or optimizer share them.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tuner.gan.state import GanState, Variables, abstract_generator, networks
from tuner.gan.training import normalise, quantise
from tuner.trial import Program
from tuner.xla import abstract, flops_of, jit

STATISTICS_LATENTS = 512
CHUNK = 256


class Generator(NamedTuple):
    """A generator ready to be evaluated: weights, and batch statistics measured for them."""

    params: Variables
    statistics: Variables


def fixed_latents(seed: int, count: int, latent_dim: int) -> Array:
    """(count, latent_dim) standard normal; the same for the same three numbers, everywhere."""
    return jax.random.normal(jax.random.key(seed), (count, latent_dim))


def generator_of(program: Program, state: GanState, seed: int) -> Generator:
    """The trial's generator (its average, where one is kept) with statistics measured for it.

    Running averages of batch statistics lag behind the weights, and never belong to averaged
    weights at all, so the statistics come from one large batch of fixed latents.
    """
    params = state.generator if state.ema is None else state.ema
    nets = networks(program)
    z = fixed_latents(seed, STATISTICS_LATENTS, program.latent_dim)
    return Generator(params, _measure_statistics(nets.generator, params, nets.blank_statistics, z))


@functools.partial(jit, static_argnums=0)
def _measure_statistics(
    graph: nnx.GraphDef[Any], params: Variables, blank: Variables, z: Array
) -> Variables:
    with jax.default_matmul_precision("highest"):
        generator = nnx.merge(graph, params, blank, copy=True)
        generator(z, train=True)
    return nnx.state(generator, nnx.Not(nnx.Param))


def generate(program: Program, generator: Generator, latents: Array) -> Iterator[Array]:
    """Images in [-1, 1] for ``latents``, in chunks of at most ``CHUNK``."""
    graph = networks(program).generator
    for start in range(0, len(latents), CHUNK):
        chunk, size = pad_chunk(latents[start : start + CHUNK])
        yield _generate(graph, generator, chunk)[:size]


@functools.partial(jit, static_argnums=0)
def _generate(graph: nnx.GraphDef[Any], generator: Generator, z: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        images: Array = nnx.merge(graph, *generator, copy=True)(z, train=False)
    return images


def generation_flops(program: Program) -> float:
    """Floating-point operations to generate one image, as the compiler counts them."""
    z = abstract((CHUNK, program.latent_dim), jnp.float32)
    generator = Generator(*abstract_generator(program))
    graph = networks(program).generator
    return flops_of(_generate.compiled.lower(graph, generator, z)) / CHUNK


def draw(program: Program, generator: Generator, latents: Array) -> np.ndarray:
    """uint8 images (n, h, w, c) on the host."""
    chunks = [quantise(images) for images in generate(program, generator, latents)]
    return np.concatenate(jax.device_get(chunks))


def discriminate(program: Program, state: GanState, images: Array) -> Array:
    """D's logits, without dropout, for images in [-1, 1] or uint8: (n,)."""
    graph = networks(program).discriminator
    if images.dtype == jnp.uint8:
        images = normalise(images)
    logits = []
    for start in range(0, len(images), CHUNK):
        chunk, size = pad_chunk(images[start : start + CHUNK])
        logits.append(_discriminate(graph, state.discriminator, chunk)[:size])
    return jnp.concatenate(logits)


@functools.partial(jit, static_argnums=0)
def _discriminate(graph: nnx.GraphDef[Any], params: Variables, images: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        logits: Array = nnx.merge(graph, params, copy=True)(images, rate=jnp.float32(0))
    return logits


@jit
def all_finite(state: GanState) -> Array:
    """Whether every weight of both networks is a finite number: a scalar bool."""
    leaves = jax.tree.leaves((state.generator, state.discriminator))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def pad_chunk(chunk: Array) -> tuple[Array, int]:
    """Repeat the last row up to ``CHUNK`` rows, so that one compiled shape serves every call."""
    size = len(chunk)
    return jnp.pad(chunk, [(0, CHUNK - size)] + [(0, 0)] * (chunk.ndim - 1), mode="edge"), size
