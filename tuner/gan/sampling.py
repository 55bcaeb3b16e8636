"""Looking at a generator: fresh batch statistics, images from fixed latents, D's opinion.

These are compiled once per network structure, not per ``Program``: trials that differ in batch
size, loss or optimizer share them.
"""

import functools
from collections.abc import Iterator, Sequence
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
_GOLDEN = 0.6180339887498949  # multiples of it, less their whole parts, fill 0..1 evenly


class Generator(NamedTuple):
    """A generator ready to be evaluated: weights, and batch statistics measured for them."""

    params: Variables
    statistics: Variables


class Latents(NamedTuple):
    """What a generator is given: noise (n, latent_dim), and classes (n,) where it is told them."""

    z: Array
    labels: Array | None = None


def fixed_latents(seed: int, count: int, latent_dim: int, shares: Sequence[float] = ()) -> Latents:
    """Standard normal noise, the same for the same seed, count and length, everywhere; and classes,
    where ``shares`` says how much of the images each makes up. So much it makes up of any stretch
    of the latents, as nearly as can be."""
    z = jax.random.normal(jax.random.key(seed), (count, latent_dim))
    if not len(shares):
        return Latents(z)
    limits = np.cumsum(shares)
    places = (0.5 + _GOLDEN * np.arange(count)) % 1.0 * limits[-1]
    return Latents(z, jnp.asarray(np.searchsorted(limits, places, side="right"), jnp.int32))


def even_shares(program: Program) -> Sequence[float]:
    """Of the program's classes: empty where it has none."""
    return [1 / program.classes] * program.classes if program.classes else []


def generator_of(
    program: Program, state: GanState, seed: int, shares: Sequence[float] = ()
) -> Generator:
    """The trial's generator (its average, where one is kept) with statistics measured for it.

    Running averages of batch statistics lag behind the weights, and never belong to averaged
    weights at all, so the statistics come from one large batch of fixed latents.
    """
    params = state.generator if state.ema is None else state.ema
    nets = networks(program)
    latents = fixed_latents(seed, STATISTICS_LATENTS, program.latent_dim, shares)
    blank = nets.blank_statistics
    return Generator(params, _measure_statistics(nets.generator, params, blank, latents))


@functools.partial(jit, static_argnums=0)
def _measure_statistics(
    graph: nnx.GraphDef[Any], params: Variables, blank: Variables, latents: Latents
) -> Variables:
    with jax.default_matmul_precision("highest"):
        generator = nnx.merge(graph, params, blank, copy=True)
        generator(*latents, train=True)
    return nnx.state(generator, nnx.Not(nnx.Param))


def generate(program: Program, generator: Generator, latents: Latents) -> Iterator[Array]:
    """Images in [-1, 1] for ``latents``, in chunks of at most ``CHUNK``."""
    graph = networks(program).generator
    for start in range(0, len(latents.z), CHUNK):
        here = slice(start, start + CHUNK)
        z, size = pad_chunk(latents.z[here])
        labels = None if latents.labels is None else pad_chunk(latents.labels[here])[0]
        yield _generate(graph, generator, Latents(z, labels))[:size]


@functools.partial(jit, static_argnums=0)
def _generate(graph: nnx.GraphDef[Any], generator: Generator, latents: Latents) -> Array:
    with jax.default_matmul_precision("highest"):
        images: Array = nnx.merge(graph, *generator, copy=True)(*latents, train=False)
    return images


def generation_flops(program: Program) -> float:
    """Floating-point operations to generate one image, as the compiler counts them."""
    labels = abstract((CHUNK,), jnp.int32) if program.classes else None
    latents = Latents(abstract((CHUNK, program.latent_dim), jnp.float32), labels)
    generator = Generator(*abstract_generator(program))
    graph = networks(program).generator
    return flops_of(_generate.compiled.lower(graph, generator, latents)) / CHUNK


def draw(program: Program, generator: Generator, latents: Latents) -> np.ndarray:
    """uint8 images (n, h, w, c) on the host."""
    chunks = [quantise(images) for images in generate(program, generator, latents)]
    return np.concatenate(jax.device_get(chunks))


def discriminate(
    program: Program, state: GanState, images: Array, labels: Array | None = None
) -> Array:
    """D's logits, as it judges while it trains but without dropout, for images in [-1, 1] or uint8,
    told their ``labels`` where the program has classes: (n,).

    Its norms go by the batch at hand, so real and generated images are to be given apart, as D is
    trained on them: what batch norm has recorded is of the last generated batch alone. Batches are
    of at most ``CHUNK`` images and as equal as can be. None is filled up with copies, and each has
    images from all over, however they are ordered: either would show in its statistics.
    """
    graph = networks(program).discriminator
    discriminator = state.discriminator, state.discriminator_statistics
    if images.dtype == jnp.uint8:
        images = normalise(images)
    batches = -(-len(images) // CHUNK)
    logits = jnp.zeros(len(images))
    for first in range(batches):
        here = slice(first, None, batches)
        told = None if labels is None else labels[here]
        logits = logits.at[here].set(_discriminate(graph, discriminator, images[here], told))
    return logits


@functools.partial(jit, static_argnums=0)
def _discriminate(
    graph: nnx.GraphDef[Any],
    discriminator: tuple[Variables, Variables],
    images: Array,
    labels: Array | None,
) -> Array:
    network = nnx.merge(graph, *discriminator, copy=True)  # what it records is of no use to anyone
    with jax.default_matmul_precision("highest"):
        logits: Array = network(images, labels, rate=jnp.float32(0), train=True)
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
