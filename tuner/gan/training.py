"""Train a trial for an epoch, as a pure function on pytrees.

All randomness comes from the trial's key and the step number, so a trial's results do not depend
on the worker or the time at which it runs.

Training compiles once per ``Program``. On an accelerator an epoch is one rolled scan. On a CPU it
is a Python loop over single iterations, or over short, fully unrolled scans of them: in a rolled
loop XLA's CPU backend computes the gradient of a convolution on a path that is at least ten times
slower. Unrolled, an iteration takes 6% less time and the program twice as long to compile, so only
long trials are unrolled.
"""

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from tuner.gan.input_pipeline import Images, portion_lengths, portions
from tuner.gan.packing import Unpack, packed, unpacked
from tuner.gan.state import GanState, abstract_state, compile_initial_state, init_state
from tuner.gan.step import StepLosses, train_step
from tuner.trial import Hyperparameters, Program
from tuner.xla import abstract, flops_of, jit

_ORDER = 1  # folded into the trial's key; 0 is for initial weights, 2 for steps
_LONGEST_UNROLL = 4
_LONG_TRIAL = 1000  # iterations
_TIMED = 8  # iterations that are timed


class Epoch(NamedTuple):
    """An epoch of training that the device has begun."""

    state: GanState  # at its end
    totals: StepLosses  # summed over its iterations
    iterations: int

    def losses(self) -> StepLosses:
        """Wait for the end of the epoch; its mean losses."""
        return StepLosses(*(x / self.iterations for x in jax.device_get(self.totals)))


def train_epoch(
    program: Program,
    state: GanState,
    hyperparameters: Hyperparameters,
    images: Images,
    labels: Array | None,
    epoch: int,
    epochs: int = 1,
) -> tuple[GanState, StepLosses]:
    """Train for one ``epoch``, counted from 0, of ``epochs``; return the new state and mean losses.

    The arguments are those of ``begin_epoch``.
    """
    begun = begin_epoch(program, state, hyperparameters, images, labels, epoch, epochs)
    return begun.state, begun.losses()


def begin_epoch(
    program: Program,
    state: GanState,
    hyperparameters: Hyperparameters,
    images: Images,
    labels: Array | None,
    epoch: int,
    epochs: int = 1,
) -> Epoch:
    """Begin to train for one ``epoch``, counted from 0, of ``epochs``.

    An accelerator computes it while Python continues, unless the images are on the host.

    ``images`` are uint8 (n, h, w, c) on the device or on the host; ``labels``, int32 (n,), are
    needed if the program has classes. ``state`` is donated: its buffers are reused for the result.
    """
    iterations = program.iterations(len(images))
    order = epoch_order(program, len(images), state.key, epoch)
    per_call, unroll = _scan_plan(iterations, epochs)
    totals = StepLosses(*jax.device_put([np.float32(0)] * 4))
    for part in portions(images, labels, order, per_call if unroll else 1):
        length = min(per_call, len(part.order))
        for start in range(0, len(part.order), length):
            state, totals = _train_steps(
                program, state, totals, hyperparameters, *part, start, length, unroll
            )
    return Epoch(state, totals, iterations)


def _scan_plan(iterations: int, epochs: int) -> tuple[int, bool]:
    """The number of iterations per compiled call, and whether their scan is unrolled.

    It follows from the trial alone, since each plan rounds differently.
    """
    if jax.default_backend() != "cpu":
        return iterations, False
    longest = _LONGEST_UNROLL if iterations * epochs >= _LONG_TRIAL else 1
    return max(k for k in range(1, longest + 1) if iterations % k == 0), True


def epoch_order(program: Program, count: int, key: Array, epoch: int) -> Array:
    """The indices of the images of an epoch: int32 (iterations, d_steps, batch_size).

    Epochs, counted from 0, cut an endless sequence of shuffled passes over the images into equal
    lengths. No image is thus left out if the batch size does not divide the number of images.
    """
    length = program.iterations(count) * program.d_steps * program.batch_size
    first_pass, offset = divmod(epoch * length, count)
    passes = range(first_pass, first_pass - (-(offset + length) // count))
    shuffled = [np.asarray(_shuffled(count, key, number)) for number in passes]
    window = np.concatenate(shuffled)[offset : offset + length]
    order: Array = jax.device_put(window.reshape(-1, program.d_steps, program.batch_size))
    return order


@functools.partial(jit, static_argnums=0, quick=True)
def _shuffled(count: int, key: Array, number: Array | int) -> Array:
    """The order of the images in a pass: int32 (count,)."""
    key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), number)
    return jax.random.permutation(key, count)


@functools.partial(jit, static_argnums=(0, 8, 9), donate_argnums=(1, 2))
def _train_steps(
    program: Program,
    state: GanState,
    totals: StepLosses,
    hyperparameters: Hyperparameters,
    images: Array,
    labels: Array | None,
    order: Array,
    start: Array | int,
    iterations: int,
    unroll: bool,
) -> tuple[GanState, StepLosses]:
    batches = lax.dynamic_slice_in_dim(order, start, iterations)
    unpack: Unpack | None = None

    def iterate(carry: tuple[GanState, Any], indices: Array) -> tuple[tuple[GanState, Any], None]:
        state, totals = carry
        reals = normalise(images[indices])
        classes = None if labels is None else labels[indices]
        state, losses = train_step(program, state, hyperparameters, reals, classes, unpack)
        found = losses if unpack is None else jnp.stack(losses)
        return (state, jax.tree.map(jnp.add, totals, found)), None

    if iterations == 1:  # XLA keeps a loop of one iteration, even if unrolled
        return iterate((state, totals), batches[0])[0]
    if unroll:
        return lax.scan(iterate, (state, totals), batches, unroll=True)[0]
    start_state, unpack = packed(state)
    end, sums = lax.scan(iterate, (start_state, jnp.stack(totals)), batches)[0]
    return unpacked(end, state), StepLosses(*sums)


def normalise(images: Any) -> Any:
    """uint8 0..255 -> float32 -1..1, of JAX on the device or of NumPy on the host."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def quantise(images: Array) -> Array:
    """float32 -1..1 -> uint8 0..255, rounded and clipped."""
    return jnp.clip(jnp.rint((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def iteration_flops(program: Program) -> float:
    """Floating-point operations of one iteration, as XLA counts them."""
    number = abstract((), jnp.float32)
    batches = (program.d_steps, program.batch_size)
    lowered = jax.jit(train_step, static_argnums=0).lower(
        program,
        abstract_state(program),
        Hyperparameters(*[number] * len(Hyperparameters._fields)),
        abstract((*batches, *program.image_shape), jnp.float32),
        abstract(batches, jnp.int32) if program.classes else None,
    )
    return flops_of(lowered)


def compile_training(program: Program, count: int, epochs: int, *, streamed: bool) -> None:
    """Compile the programs of ``init_state`` and ``begin_epoch`` for ``count`` images."""
    iterations = program.iterations(count)
    per_call, unroll = _scan_plan(iterations, epochs)
    lengths = {iterations}
    if streamed:
        size = program.d_steps * program.batch_size * math.prod(program.image_shape)
        lengths = set(portion_lengths(iterations, size, per_call if unroll else 1))
    for length in lengths:
        images = length * program.d_steps * program.batch_size if streamed else count
        _train_steps.compile(*_abstract_arguments(program, images, length, per_call, unroll))
    compile_initial_state(program)  # last, because a waiting trial can compile it meanwhile
    _shuffled.compile(count, abstract_state(program).key, 0)


def training_memory(program: Program, count: int, epochs: int) -> int:
    """Bytes of device memory for training on ``count`` images, without the images and the state."""
    iterations = program.iterations(count)
    arguments = _abstract_arguments(program, count, iterations, *_scan_plan(iterations, epochs))
    lowered = _train_steps.compiled.lower(*arguments)
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)


def iteration_seconds(program: Program, hyperparameters: Hyperparameters) -> float:
    """Seconds of an iteration on this device, averaged over a few; compiles the program."""
    count = _TIMED * program.d_steps * program.batch_size
    images = jnp.zeros((count, *program.image_shape), jnp.uint8)
    labels = jnp.zeros(count, jnp.int32) if program.classes else None
    state = init_state(program, hyperparameters, 0)
    began = 0.0
    for epoch in range(2):  # the first one compiles
        began = time.perf_counter()
        state, _ = train_epoch(program, state, hyperparameters, images, labels, epoch)
        jax.block_until_ready(state)
    return (time.perf_counter() - began) / program.iterations(count)


def _abstract_arguments(
    program: Program, count: int, iterations: int, per_call: int, unroll: bool
) -> tuple[Any, ...]:
    """Arguments of ``_train_steps`` for a portion of ``count`` images, without values."""
    number = abstract((), jnp.float32)
    return (
        program,
        abstract_state(program),
        StepLosses(*[number] * 4),
        Hyperparameters(*[number] * len(Hyperparameters._fields)),
        abstract((count, *program.image_shape), jnp.uint8),
        abstract((count,), jnp.int32) if program.classes else None,
        abstract((iterations, program.d_steps, program.batch_size), jnp.int32),
        0,
        min(per_call, iterations),
        unroll,
    )
