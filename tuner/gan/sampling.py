"""Evaluate a generator: batch statistics, images from fixed latents, D's logits.

These functions compile once per network structure, not once per ``Program``: trials that differ in
batch size, loss or optimizer share them.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from numpy.typing import NDArray

from tuner.gan.state import GanState, Variables, abstract_generator, abstract_state, networks
from tuner.gan.training import quantise
from tuner.trial import Program
from tuner.xla import abstract, flops_of, jit

STATISTICS_LATENTS = 512
CHUNK = 256
_GOLDEN = 0.6180339887498949  # the fractional parts of its multiples fill 0..1 evenly


class Generator(NamedTuple):
    """A generator for evaluation: weights, and the batch statistics measured for them."""

    params: Variables
    statistics: Variables


class Latents(NamedTuple):
    """Noise (n, latent_dim), and classes (n,) for a conditional generator, on the host."""

    z: NDArray[np.float32]
    labels: NDArray[np.int32] | None = None


def fixed_latents(seed: int, count: int, latent_dim: int, shares: Sequence[float] = ()) -> Latents:
    """Standard normal noise, reproducible for a seed, count and length, and classes if any.

    ``shares`` are the fractions of the images in each class. Every run of consecutive latents has
    the classes in these proportions, as nearly as possible.
    """
    z = np.asarray(_normal(count, latent_dim, jax.random.key(seed)))
    if not len(shares):
        return Latents(z)
    limits = np.cumsum(shares)
    positions = (0.5 + _GOLDEN * np.arange(count)) % 1.0 * limits[-1]
    return Latents(z, np.searchsorted(limits, positions, side="right").astype(np.int32))


@functools.partial(jit, static_argnums=(0, 1), quick=True)
def _normal(count: int, latent_dim: int, key: Array) -> Array:
    return jax.random.normal(key, (count, latent_dim))


def even_shares(program: Program) -> Sequence[float]:
    """Equal shares for the program's classes; empty if it has none."""
    return [1 / program.classes] * program.classes if program.classes else []


def generator_of(
    program: Program, state: GanState, seed: int, shares: Sequence[float] = ()
) -> Generator:
    """The trial's generator, or its moving average if there is one, with measured statistics.

    The statistics come from one large batch of fixed latents. Running averages would lag behind the
    weights, and would not fit averaged weights at all.
    """
    params = state.generator if state.ema is None else state.ema
    graph, _, blank = networks(program)
    latents = fixed_latents(seed, STATISTICS_LATENTS, program.latent_dim, shares)
    return Generator(params, _measure_statistics(graph, params, blank, latents))


@functools.partial(jit, static_argnums=0)
def _measure_statistics(
    graph: nnx.GraphDef[Any], params: Variables, blank: Variables, latents: Latents
) -> Variables:
    with jax.default_matmul_precision("highest"):
        generator = nnx.merge(graph, params, blank, copy=True)
        generator(*latents, train=True)
    return nnx.state(generator, nnx.Not(nnx.Param))


class Chunk(NamedTuple):
    """Generated images of up to ``CHUNK`` latents, on the device; padded to ``CHUNK`` rows."""

    images: Array  # float32 in [-1, 1]
    pixels: Array  # uint8
    finite: Array  # bool, a scalar: whether all images are finite
    length: int  # without padding


def generate(program: Program, generator: Generator, latents: Latents) -> Iterator[Chunk]:
    """Generate images of ``latents`` in chunks. Nothing waits until a chunk's arrays are read."""
    graph = networks(program).generator
    for start in range(0, len(latents.z), CHUNK):
        some = jax.tree.map(operator.itemgetter(slice(start, start + CHUNK)), latents)
        yield Chunk(*_generate(graph, generator, jax.tree.map(padded, some)), len(some.z))


def padded(chunk: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row up to ``CHUNK`` rows, so that one compiled shape serves every call."""
    padding = [(0, CHUNK - len(chunk))] + [(0, 0)] * (chunk.ndim - 1)
    return np.pad(chunk, padding, mode="edge")


@functools.partial(jit, static_argnums=0)
def _generate(
    graph: nnx.GraphDef[Any], generator: Generator, latents: Latents
) -> tuple[Array, Array, Array]:
    with jax.default_matmul_precision("highest"):
        images: Array = nnx.merge(graph, *generator, copy=True)(*latents, train=False)
    images = _fusion_barrier(images)
    return images, quantise(images), jnp.isfinite(images).all()


def _fusion_barrier(images: Array) -> Array:
    """Keep the compiler from fusing the operations before with those after.

    A fused product and sum may be rounded once instead of twice.
    """
    barrier: Callable[[Array], Array] = lax.optimization_barrier
    return barrier(images)


def compile_evaluation(
    program: Program, samples: int, compared: Sequence[int], chunks: int
) -> None:
    """Compile the programs that an evaluation of a trial runs.

    An evaluation generates ``samples`` images, and passes sets of images to D, each in ``chunks``
    chunks; ``compared`` holds the sizes of the sets.
    """
    nets, state = networks(program), abstract_state(program)
    all_finite.compile(state)
    _normal.compile(STATISTICS_LATENTS, program.latent_dim, state.key)
    blank, latents = nets.blank_statistics, _abstract_latents(program, STATISTICS_LATENTS)
    _measure_statistics.compile(nets.generator, state.generator, blank, latents)
    _normal.compile(samples, program.latent_dim, state.key)
    generator = Generator(*abstract_generator(program))
    _generate.compile(nets.generator, generator, _abstract_latents(program, CHUNK))
    discriminator = state.discriminator, state.discriminator_statistics
    images = (abstract((CHUNK, *program.image_shape), jnp.float32),) * chunks
    for size in {len(some) for count in compared for some in _members(count)}:
        labels = _abstract_latents(program, size).labels
        members = abstract((size,), jnp.int32)
        _discriminate.compile(nets.discriminator, discriminator, images, members, labels)


def _abstract_latents(program: Program, count: int) -> Latents:
    labels = abstract((count,), jnp.int32) if program.classes else None
    return Latents(abstract((count, program.latent_dim), jnp.float32), labels)


def generation_flops(program: Program) -> float:
    """Floating-point operations to generate one image, as the compiler counts them."""
    generator, latents = Generator(*abstract_generator(program)), _abstract_latents(program, CHUNK)
    graph = networks(program).generator
    return flops_of(_generate.compiled.lower(graph, generator, latents)) / CHUNK


def draw(program: Program, generator: Generator, latents: Latents) -> NDArray[np.uint8]:
    """uint8 images (n, h, w, c) on the host."""
    chunks = generate(program, generator, latents)
    return np.concatenate([np.asarray(chunk.pixels)[: chunk.length] for chunk in chunks])


def discriminate(
    program: Program,
    state: GanState,
    chunks: Sequence[Any],
    count: int,
    labels: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """D's logits (n,) in training mode without dropout, for the first ``count`` images of chunks.

    The ``chunks`` are float32 images in [-1, 1], ``CHUNK`` each. ``labels`` (n,) are needed if the
    program has classes. D's norms use the statistics of the batch, so pass real and generated
    images separately, as in training. The recorded statistics are those of the last generated
    batch. Batches have at most ``CHUNK`` images and are as equal as possible. They are not padded,
    and each takes images evenly from the whole set, because padding and order would both affect the
    statistics.
    """
    graph = networks(program).discriminator
    discriminator = state.discriminator, state.discriminator_statistics
    members = _members(count)
    found = [
        _discriminate(
            graph, discriminator, tuple(chunks), some, None if labels is None else labels[some]
        )
        for some in members
    ]
    logits = np.empty(count, np.float32)
    logits[np.concatenate(members)] = np.concatenate(jax.device_get(found))
    return logits


def _members(count: int) -> list[NDArray[np.int32]]:
    """The images of each of D's batches: as many as possible, but at most ``CHUNK``."""
    batches, order = -(-count // CHUNK), np.arange(count, dtype=np.int32)
    return [order[first::batches] for first in range(batches)]


@functools.partial(jit, static_argnums=0)
def _discriminate(
    graph: nnx.GraphDef[Any],
    discriminator: tuple[Variables, Variables],
    chunks: Any,
    members: Any,
    labels: Any,
) -> Array:
    network = nnx.merge(graph, *discriminator, copy=True)  # a copy, so what it records is discarded
    images = _fusion_barrier(jnp.take(jnp.concatenate(chunks), members, axis=0, mode="clip"))
    with jax.default_matmul_precision("highest"):
        logits: Array = network(images, labels, rate=jnp.float32(0), key=None, train=True)
    return logits


@jit
def all_finite(state: GanState) -> Array:
    """Whether every weight of both networks is finite: a scalar bool."""
    leaves = jax.tree.leaves((state.generator, state.discriminator))
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
