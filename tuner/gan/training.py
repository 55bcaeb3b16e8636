"""One trial as pure functions on pytrees: initialise, train an epoch, generate, judge with D.

All randomness comes from the trial's key and the step number, so a trial's numbers depend neither
on who runs it nor on when.

Training is compiled once per ``Program``. On an accelerator an epoch is one rolled scan. On a CPU
it is a Python loop over short, fully unrolled scans: XLA's CPU backend runs the gradient of a
convolution inside a rolled loop on a slow path, ten times slower and more.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array, lax

from tuner.gan.losses import LOSSES
from tuner.gan.state import GanState, Variables, abstract_state, make_optimizers, networks
from tuner.trial import Hyperparameters, Program
from tuner.xla import abstract, flops_of, jit

_ORDER, _STEP = 1, 2  # what the trial's key is folded with; 0 is for initial weights
_LONGEST_UNROLL = 4


class EpochLosses(NamedTuple):
    """Means over an epoch's iterations, scalars. The last two are what the loss ratio compares."""

    d_loss: Array
    g_loss: Array
    d_adversarial: Array
    g_measure: Array


def train_epoch(
    program: Program,
    state: GanState,
    hyperparameters: Hyperparameters,
    images: Array,
    epoch: int,
) -> tuple[GanState, EpochLosses]:
    """Train through one epoch (counted from 0) of ``images``, uint8 (n, h, w, c), on the device.

    ``state`` is consumed: its buffers are reused for the state returned.
    """
    iterations = program.iterations(len(images))
    order = epoch_order(program, len(images), state.key, epoch)
    per_call, unroll = _scan_plan(iterations)
    totals = EpochLosses(*jnp.zeros(4))
    for start in range(0, iterations, per_call):
        state, totals = _train_steps(
            program, state, totals, hyperparameters, images, order, start, per_call, unroll
        )
    return state, EpochLosses(*(total / iterations for total in totals))


def _scan_plan(iterations: int) -> tuple[int, bool]:
    """Iterations per compiled call, and whether the scan over them is unrolled."""
    if jax.default_backend() != "cpu":
        return iterations, False
    return max(k for k in range(1, _LONGEST_UNROLL + 1) if iterations % k == 0), True


def epoch_order(program: Program, count: int, key: Array, epoch: int) -> Array:
    """Which images an epoch (counted from 0) visits: int32 (iterations, d_steps, batch_size).

    Epochs cut one endless sequence of shuffled passes over the images into equal lengths, so no
    image is left out because a batch size does not divide their number.
    """
    length = program.iterations(count) * program.d_steps * program.batch_size
    first_pass, offset = divmod(epoch * length, count)
    order: Array = _order_window(program, count, key, first_pass, offset)
    return order


@functools.partial(jax.jit, static_argnums=(0, 1))
def _order_window(
    program: Program, count: int, key: Array, first_pass: Array | int, offset: Array | int
) -> Array:
    shape = (program.iterations(count), program.d_steps, program.batch_size)
    length = shape[0] * shape[1] * shape[2]
    order_key = jax.random.fold_in(key, _ORDER)
    shuffled = [
        jax.random.permutation(jax.random.fold_in(order_key, first_pass + i), count)
        for i in range(2 + length // count)  # as many passes as a window of this length can touch
    ]
    return lax.dynamic_slice(jnp.concatenate(shuffled), (offset,), (length,)).reshape(shape)


@functools.partial(jit, static_argnums=(0, 7, 8), donate_argnums=(1, 2))
def _train_steps(
    program: Program,
    state: GanState,
    totals: EpochLosses,
    hyperparameters: Hyperparameters,
    images: Array,
    order: Array,
    start: Array | int,
    iterations: int,
    unroll: bool,
) -> tuple[GanState, EpochLosses]:
    def iterate(
        carry: tuple[GanState, EpochLosses], indices: Array
    ) -> tuple[tuple[GanState, EpochLosses], None]:
        state, totals = carry
        reals = normalise(images[indices])
        state, losses = train_step(program, state, hyperparameters, reals)
        return (state, jax.tree.map(jnp.add, totals, losses)), None

    batches = lax.dynamic_slice_in_dim(order, start, iterations)
    if iterations == 1:  # a loop of one turn stays a loop to XLA, whatever its unrolling
        return iterate((state, totals), batches[0])[0]
    carry, _ = lax.scan(iterate, (state, totals), batches, unroll=unroll)
    return carry


def normalise(images: Array) -> Array:
    """uint8 0..255 -> float32 -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def quantise(images: Array) -> Array:
    """float32 -1..1 -> uint8 0..255, to the nearest."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def train_step(
    program: Program, state: GanState, hyperparameters: Hyperparameters, reals: Array
) -> tuple[GanState, EpochLosses]:
    """One iteration: D on each real batch and a fresh fake one, then G on fresh latents.

    ``reals`` is float32 (d_steps, batch_size, h, w, c) in [-1, 1].
    """
    loss = LOSSES[program.loss]
    nets = networks(program)
    optimizers = make_optimizers(program, hyperparameters)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
    g_key, *d_keys = jax.random.split(key, 1 + program.d_steps)

    def generate_fakes(g_params: Variables, z_key: Array) -> Array:
        generator = nnx.merge(nets.generator, g_params, nets.blank_statistics, copy=True)
        z = jax.random.normal(z_key, (program.batch_size, program.latent_dim))
        images: Array = generator(z, train=True)
        return images

    def judge(d_params: Variables, images: Array, dropout_key: Array) -> Array:
        discriminator = nnx.merge(nets.discriminator, d_params, copy=True)
        logits: Array = discriminator(images, rate=hyperparameters.dropout, key=dropout_key)
        return logits

    def d_loss(d_params: Variables, real: Array, key: Array) -> Array:
        z_key, real_key, fake_key = jax.random.split(key, 3)
        fake = generate_fakes(state.generator, z_key)
        return loss.discriminator(judge(d_params, real, real_key), judge(d_params, fake, fake_key))

    def g_loss(g_params: Variables, d_params: Variables) -> tuple[Array, Array]:
        z_key, dropout_key = jax.random.split(g_key)
        logits = judge(d_params, generate_fakes(g_params, z_key), dropout_key)
        return loss.generator(logits), loss.generator_measure(logits)

    d_params, d_opt = state.discriminator, state.discriminator_optimizer
    d_total = jnp.float32(0)
    for i in range(program.d_steps):
        d_value, d_grads = jax.value_and_grad(d_loss)(d_params, reals[i], d_keys[i])
        d_params, d_opt = _update(optimizers[1], d_params, d_opt, d_grads)
        d_total += d_value / program.d_steps
    (g_value, g_measure), g_grads = jax.value_and_grad(g_loss, has_aux=True)(
        state.generator, d_params
    )
    g_params, g_opt = _update(optimizers[0], state.generator, state.generator_optimizer, g_grads)
    new_state = GanState(
        generator=g_params,
        discriminator=d_params,
        generator_optimizer=g_opt,
        discriminator_optimizer=d_opt,
        ema=_average(state.ema, g_params, hyperparameters.ema_decay, state.step),
        key=state.key,
        step=state.step + 1,
    )
    return new_state, EpochLosses(d_total, g_value, d_total, g_measure)


def _update(
    optimizer: optax.GradientTransformation, params: Any, state: optax.OptState, grads: Any
) -> tuple[Any, optax.OptState]:
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def _average(
    ema: Variables | None, params: Variables, decay: float | Array, step: Array
) -> Variables | None:
    """The exponential moving average, warmed up: decay min(decay, (1 + t) / (10 + t)) at step t."""
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    average: Variables = jax.tree.map(
        lambda old, new: decay * old + (1.0 - decay) * new, ema, params
    )
    return average


def iteration_flops(program: Program) -> float:
    """Floating-point operations of one iteration, as the compiler counts them."""
    number = abstract((), jnp.float32)
    reals = (program.d_steps, program.batch_size, *program.image_shape)
    lowered = jax.jit(train_step, static_argnums=0).lower(
        program,
        abstract_state(program),
        Hyperparameters(*[number] * len(Hyperparameters._fields)),
        abstract(reals, jnp.float32),
    )
    return flops_of(lowered)


def training_memory(program: Program, count: int) -> int:
    """Bytes that training on ``count`` images needs on this device beyond images and state."""
    per_call, unroll = _scan_plan(program.iterations(count))

    number = abstract((), jnp.float32)
    lowered = _train_steps.compiled.lower(
        program,
        abstract_state(program),
        EpochLosses(*[number] * 4),
        Hyperparameters(*[number] * len(Hyperparameters._fields)),
        abstract((count, *program.image_shape), jnp.uint8),
        abstract((program.iterations(count), program.d_steps, program.batch_size), jnp.int32),
        abstract((), jnp.int32),
        per_call,
        unroll,
    )
    return int(lowered.compile().memory_analysis().temp_size_in_bytes)
