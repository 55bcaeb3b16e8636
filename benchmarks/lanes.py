"""Packed lanes: several trials of one program, trained at once by one compiled program.

    python benchmarks/lanes.py --width 16

Prints trial-epochs per second with each number of slots, next to tuner's own training of one trial.
This measures the gain of packing on a device; tuner itself trains one trial at a time.

A slot holds the state of a trial, and is refilled at a traced index, so nothing is compiled again.
Two forms of the iteration compute the same:

- ``vmapped`` is ``vmap(train_step)``. Its weight gradients become forward convolutions whose
  filters are as large as images, for which a GPU has no fast kernels.
- ``stacked`` takes the gradient outside of the vmap, of the sum of all slots' losses. Its weight
  gradients are those of grouped convolutions. On a CPU, XLA computes these for all pairs of groups
  and drops most, so a NaN in one slot reaches the others.

In both, the discriminator's strided convolutions are 3x3 convolutions of 2x2 blocks of pixels.
"""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from default_trial import (
    LONG,
    alternate,
    default_numbers,
    default_program,
    epoch_of,
    random_images,
)
from flax import nnx
from jax import Array, lax

from tuner.gan import dcgan
from tuner.gan.layers import Conv
from tuner.gan.networks import DISCRIMINATORS
from tuner.gan.state import GanState, Variables, init_state
from tuner.gan.step import (
    _STEP,
    Batch,
    StepLosses,
    _apply_gradients,
    _average,
    _discriminator_loss,
    _generator_loss,
    _StepContext,
    train_step,
)
from tuner.gan.training import _scan_plan, epoch_order, normalise
from tuner.trial import Hyperparameters, Program, TrialConfig
from tuner.xla import jit

Step = Callable[[GanState, Hyperparameters, Array], tuple[GanState, StepLosses]]


class FoldedConv(Conv):
    """A 5x5 convolution of stride 2, computed as a 3x3 convolution of 2x2 blocks of pixels.

    Its parameters are those of the convolution that it is made from.
    """

    def __init__(self, conv: Conv) -> None:
        self.kernel, self.bias, self.norm = conv.kernel, nnx.data(conv.bias), nnx.data(conv.norm)
        self.stride, self.groups = conv.stride, conv.groups

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.kernel[...]
        if self.norm is not None:
            kernel = self.norm(kernel, train=train)
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            _space_to_depth(x), _folded_kernel(kernel), (1, 1), "SAME", dimension_numbers=layout
        )
        return y if self.bias is None else y + self.bias[...]


def _space_to_depth(x: Array) -> Array:
    """(batch, 2 h, 2 w, channels) -> (batch, h, w, 2 * 2 * channels)."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, -1)


def _folded_kernel(kernel: Array) -> Array:
    """(5, 5, inputs, outputs), stride 2 -> (3, 3, 4 * inputs, outputs) for stride 1.

    SAME padding at stride 2 pads 1 before, so output q sees input pixel 2 q + t - 1 with tap t.
    Pixel r of block q + d thus has tap t = 2 d + r + 1, for d = -1, 0, 1; tap -1 is zero.
    """
    *_, inputs, outputs = kernel.shape
    padded = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    blocks = padded.reshape(3, 2, 3, 2, inputs, outputs)  # by (d + 1, r) along each axis
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(3, 3, 4 * inputs, outputs)


class FoldedDiscriminator(dcgan.Discriminator):
    """The DCGAN's discriminator: the same parameters, and the same logits up to rounding."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        super().__init__(program, rngs=rngs)
        for i in range(1, self.stages + 1):
            setattr(self, f"conv{i}", FoldedConv(getattr(self, f"conv{i}")))


DISCRIMINATORS["folded dcgan"] = FoldedDiscriminator


def packed(program: Program) -> Program:
    """The program of a lane's slots, whose states are those of ``program``."""
    if program.discriminator != "dcgan" or program.classes or program.flips:
        raise ValueError("lanes train the dcgan without labels and flips only")
    if program.loss == "wasserstein" or program.augment_adapts:
        raise ValueError("lanes neither clip weights nor adapt augmentation")
    return program._replace(discriminator="folded dcgan")


def vmapped(program: Program) -> Step:
    """The step of one trial, under vmap."""
    return jax.vmap(functools.partial(train_step, program))


def stacked(program: Program) -> Step:
    """The step with gradients of the sum of all slots' losses.

    No slot's loss depends on another slot's weights, so each slot gets the gradient of its own.
    """

    def keys_of(state: GanState) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
        return jax.random.split(key, 1 + program.d_steps)

    @jax.vmap
    def update_d(h: Hyperparameters, state: GanState, gradients: Variables) -> GanState:
        return _apply_gradients(
            _StepContext(program, h, state.step), "discriminator", state, gradients
        )

    @jax.vmap
    def update_g(h: Hyperparameters, state: GanState, gradients: Variables) -> GanState:
        context = _StepContext(program, h, state.step)
        state = _apply_gradients(context, "generator", state, gradients)
        ema = _average(context, state.ema, state.generator)
        return state._replace(ema=ema, step=state.step + 1)

    def step(states: GanState, h: Hyperparameters, reals: Array) -> tuple[GanState, StepLosses]:
        keys = jax.vmap(keys_of)(states)
        d_gradient = _outer_gradient(program, _discriminator_loss)
        g_gradient = _outer_gradient(program, _generator_loss)
        d_loss = d_adversarial = jnp.zeros(len(reals))
        for i in range(program.d_steps):
            (loss, ((adversarial, _), recorded)), gradients = d_gradient(
                states.discriminator, h, states, reals[:, i], keys[:, 1 + i]
            )
            states = update_d(h, states, gradients)._replace(discriminator_statistics=recorded)
            d_loss += loss / program.d_steps
            d_adversarial += adversarial / program.d_steps
        (g_loss, g_measure), gradients = g_gradient(
            states.generator, h, states, reals[:, -1], keys[:, 0]
        )
        states = update_g(h, states, gradients)
        return states, StepLosses(d_loss, g_loss, d_adversarial, g_measure)

    return step


def _outer_gradient(program: Program, loss_of: Callable[..., Any]) -> Callable[..., Any]:
    """A function of all slots' parameters, hyperparameters, states, real images and keys.

    It returns their losses (slots,) with auxiliary outputs, and the gradients.
    """

    @jax.vmap
    def losses(
        params: Variables, h: Hyperparameters, state: GanState, images: Array, key: Array
    ) -> Any:
        return loss_of(
            _StepContext(program, h, state.step), state, Batch(images, None), key, params
        )

    def total(*args: Any) -> Any:
        values, auxiliary = losses(*args)
        return values.sum(), (values, auxiliary)

    def gradient(*args: Any) -> Any:
        (_, found), gradients = jax.value_and_grad(total, has_aux=True)(*args)
        return found, gradients

    return gradient


FORMS: dict[str, Callable[[Program], Step]] = {"vmapped": vmapped, "stacked": stacked}


class Lane:
    """Slots with trials of one program, which may be at different epochs."""

    def __init__(
        self, configs: Sequence[TrialConfig], images: Array, form: str = "stacked"
    ) -> None:
        """Fill a slot with each of the trials. ``images`` are uint8 (n, h, w, c)."""
        (program,) = {config.program for config in configs}
        self._program, self._images, self._form = packed(program), images, form
        self._epochs = configs[0].epochs
        fresh = [self._fresh(config) for config in configs]
        self._slots = jax.tree.map(lambda *parts: jnp.stack(parts), *fresh)
        self._seeds, self._done = [config.seed for config in configs], [0] * len(configs)

    def _fresh(self, config: TrialConfig) -> tuple[GanState, Hyperparameters]:
        numbers = Hyperparameters(*map(jnp.float32, config.hyperparameters))
        return init_state(self._program, numbers, config.seed), numbers

    def refill(self, slot: int, config: TrialConfig) -> None:
        """Replace the trial of a slot by a new one of the same program."""
        self._slots = _insert(self._slots, jnp.int32(slot), self._fresh(config))
        self._seeds[slot], self._done[slot] = config.seed, 0

    def state(self, slot: int) -> GanState:
        """The state of the trial in a slot."""
        state: GanState = _extract(self._slots[0], jnp.int32(slot))
        return state

    def run_epoch(self) -> StepLosses:
        """Train every slot's next epoch; the mean losses, float32 (slots,) each."""
        count = len(self._images)
        iterations = self._program.iterations(count)
        order = np.stack(
            [
                np.asarray(epoch_order(self._program, count, jax.random.key(seed), epoch))
                for seed, epoch in zip(self._seeds, self._done, strict=True)
            ],
            axis=1,
        )
        states, h = self._slots
        totals = StepLosses(*jax.device_put([np.zeros(len(self._seeds), np.float32)] * 4))
        per_call, unroll = _scan_plan(iterations, self._epochs)
        device_order = jax.device_put(order)
        for start in range(0, iterations, per_call):
            states, totals = train_lane(
                *(self._form, self._program, states, totals, h, self._images),
                *(device_order, jnp.int32(start), per_call, unroll),
            )
        self._slots = states, h
        self._done = [epoch + 1 for epoch in self._done]
        return StepLosses(*(total / iterations for total in jax.device_get(totals)))


@functools.partial(jax.jit, donate_argnums=0)
def _insert(slots: Any, slot: Array, one: Any) -> Any:
    return jax.tree.map(lambda stack, new: stack.at[slot].set(new), slots, one)


@jax.jit
def _extract(slots: Any, slot: Array) -> Any:
    return jax.tree.map(lambda stack: stack[slot], slots)


@functools.partial(jit, static_argnums=(0, 1, 8, 9), donate_argnums=(2, 3))
def train_lane(
    form: str,
    program: Program,
    states: GanState,
    totals: StepLosses,
    hyperparameters: Hyperparameters,
    images: Array,
    order: Array,
    start: Array,
    iterations: int,
    unroll: bool,
) -> tuple[GanState, StepLosses]:
    """Train all slots for some iterations of an epoch.

    ``order`` is int32 (iterations of the epoch, slots, d_steps, batch_size).
    """
    step = FORMS[form](program)

    def iterate(carry: Any, indices: Array) -> tuple[Any, None]:
        states, totals = carry
        states, losses = step(states, hyperparameters, normalise(images[indices]))
        return (states, jax.tree.map(jnp.add, totals, losses)), None

    batches = lax.dynamic_slice_in_dim(order, start, iterations)
    if iterations == 1:  # XLA keeps a loop of one iteration, even if unrolled
        carry: tuple[GanState, StepLosses] = iterate((states, totals), batches[0])[0]
        return carry
    carry, _ = lax.scan(iterate, (states, totals), batches, unroll=unroll)
    return carry


def measure(
    width: int, batch_size: int, images: int, slots: Sequence[int], rounds: int
) -> dict[int, float]:
    """Trial-epochs per second by number of slots; 0 is tuner's own training of one trial.

    Medians of ``rounds``. A number of slots that fails is printed and left out.
    """
    program, data = default_program(width, batch_size), jax.device_put(random_images(images))
    numbers = default_numbers(program, images)
    runs: dict[str, Callable[[], object]] = {"0": epoch_of(data, width, batch_size)}
    for k in slots:
        configs = [TrialConfig(program, numbers, seed, LONG) for seed in range(k)]
        lane = Lane(configs, data)
        try:
            lane.run_epoch()
        except Exception as error:  # of XLA, such as too little memory
            print(f"- width {width}, {k} slots: {str(error).splitlines()[0][:150]}", flush=True)
        else:
            runs[str(k)] = lane.run_epoch
    seconds = alternate(runs, rounds)
    return {int(k): max(1, int(k)) / statistics.median(found) for k, found in seconds.items()}


def main(width: int = 16, batch: int = 64, images: int = 4992, rounds: int = 5) -> None:
    found = measure(width, batch, images, (1, 4, 8), rounds)
    print("| slots | trial-epochs/s | ratio |\n| --- | --- | --- |")
    for k, speed in found.items():
        print(f"| {k or 'alone'} | {speed:.3g} | {speed / found[0]:.2f} |")


if __name__ == "__main__":
    import typer  # here, so that other benchmarks can do without it

    typer.run(main)
