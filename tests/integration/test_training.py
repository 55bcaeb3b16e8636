"""Training: the order of an epoch, the computation of a step, determinism and compilation."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters
from compilations import compiled
from flax import nnx

from tuner.files.checkpoints import Checkpoint, decode_checkpoint, encode_checkpoint, pack_state
from tuner.gan import training
from tuner.gan.sampling import all_finite
from tuner.gan.state import GanState, init_state, networks
from tuner.gan.step import _STEP, StepLosses, train_step
from tuner.gan.training import epoch_order, normalise, quantise, train_epoch
from tuner.spec.traits import SCHEDULED
from tuner.trial import Hyperparameters, Program, TrialConfig

COUNT = 40
IMAGES = jax.device_put(np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 1), np.uint8))
# Most tests share two programs, to compile little. No other file has latents of 9 numbers, so these
# programs compile here.
PLAIN = Program("dcgan", "dcgan", 2, 9, (32, 32, 1), 8, "minimax", "sgd", "sgd", 1, False)
FULL = Program("dcgan", "dcgan", 2, 9, (32, 32, 1), 4, "non_saturating", "adam", "adam", 2, True)
# R3GAN's recipe, with everything that a schedule can change.
RECIPE = FULL._replace(
    d_steps=1,
    schedule="cosine",
    penalties=("r1", "r2"),
    augment=("color",),
    scheduled=SCHEDULED,
    augment_some=True,
    batch_size=8,
)
ADAPTIVE = PLAIN._replace(augment=("color",), augment_some=True, augment_adapts=True)
ITERATIONS = 5  # per epoch, of any program
NUMBERS = hyperparameters(
    generator_learning_rate=2e-3,
    discriminator_learning_rate=1e-3,
    generator_beta2=0.9,
    discriminator_beta2=0.9,
    momentum=0.5,
    ema_decay=0.26,
    r1=0.05,
    r2=0.05,
    r1_final=0.005,
    r2_final=0.005,
    beta2_final=0.99,
    ema_half_life_final=20.0,
    augment_probability=0.1,
    augment_probability_final=0.9,
    decay_images=64.0,  # 8 updates of the recipe
)
step = jax.jit(train_step, static_argnums=0)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(a: Any, b: Any) -> bool:
    """Whether two pytrees are bitwise equal."""
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def weights(state: GanState) -> Any:
    return state.generator, state.discriminator


def trained(
    program: Program, h: Hyperparameters = NUMBERS, seed: int = 0, epochs: int = 1
) -> tuple[GanState, StepLosses]:
    state = init_state(program, h, seed)
    for epoch in range(epochs):
        state, losses = train_epoch(program, state, h, IMAGES, None, epoch)
    return state, losses


class Run(NamedTuple):
    state: GanState
    losses: StepLosses
    compiled: list[str]


@functools.cache
def first_run(program: Program) -> Run:
    """The first training with the program, and the programs compiled for it."""
    with compiled() as names:
        state, losses = trained(program)
    return Run(state, losses, names)


@pytest.fixture(autouse=True, scope="module")
def first_runs() -> None:
    for program in (PLAIN, FULL):
        first_run(program)


@pytest.mark.parametrize(
    ("images", "batch_size", "d_steps", "expected"),
    [(40, 8, 1, 5), (40, 4, 2, 5), (60_000, 64, 1, 938), (5000, 64, 5, 16), (10, 64, 1, 1)],
)
def test_iterations_of_an_epoch_are_rounded_up(
    images: int, batch_size: int, d_steps: int, expected: int
) -> None:
    assert PLAIN._replace(batch_size=batch_size, d_steps=d_steps).iterations(images) == expected


@pytest.mark.parametrize(
    ("batch_size", "d_steps", "count"), [(8, 1, 40), (4, 2, 40), (7, 1, 40), (6, 3, 41), (16, 1, 5)]
)
def test_epochs_partition_an_endless_sequence_of_passes(
    batch_size: int, d_steps: int, count: int
) -> None:
    program = PLAIN._replace(batch_size=batch_size, d_steps=d_steps)
    key = jax.random.key(1)
    windows = [np.asarray(epoch_order(program, count, key, epoch)) for epoch in range(6)]
    for window in windows:
        assert window.shape == (program.iterations(count), d_steps, batch_size)
    sequence = np.concatenate([window.ravel() for window in windows])
    passes = [sequence[i : i + count] for i in range(0, len(sequence), count)]
    for whole in passes[:-1]:
        np.testing.assert_array_equal(np.sort(whole), np.arange(count))
    last = passes[-1]
    assert len(set(last.tolist())) == len(last)
    assert set(last.tolist()) <= set(range(count))
    assert not any(np.array_equal(passes[0], other) for other in passes[1:])


def test_the_order_follows_from_the_key() -> None:
    first, again, other = (
        np.asarray(epoch_order(PLAIN, COUNT, jax.random.key(seed), 3)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_bytes_survive_the_round_trip() -> None:
    grey = np.arange(256, dtype=np.uint8)
    scaled = normalise(jnp.asarray(grey))
    assert scaled.dtype == np.float32
    assert (float(scaled[0]), float(scaled[255])) == (-1.0, 1.0)
    np.testing.assert_array_equal(quantise(scaled), grey)
    assert quantise(scaled).dtype == np.uint8


def test_quantise_rounds_and_clips() -> None:
    x = np.array([-1.5, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 0.3 / 127.5, 1 - 0.6 / 127.5, 1.5])
    np.testing.assert_array_equal(quantise(jnp.float32(x)), [0, 0, 1, 128, 254, 255])


def test_only_equal_seeds_train_identically() -> None:
    state, losses, _ = first_run(FULL)
    again, again_losses = trained(FULL)
    assert equal((weights(state), state.ema, losses), (weights(again), again.ema, again_losses))
    other, _ = trained(FULL, seed=1)
    for mine, theirs in zip(leaves(weights(state)), leaves(weights(other)), strict=True):
        assert not np.array_equal(mine, theirs)
    assert int(state.step) == ITERATIONS
    assert bool(all_finite(state))


def test_epochs_differ_from_each_other() -> None:
    starts = [init_state(PLAIN, NUMBERS, 0) for _ in range(2)]
    first, second = (
        train_epoch(PLAIN, state, NUMBERS, IMAGES, None, epoch)[1]
        for epoch, state in enumerate(starts)
    )
    assert float(first.d_loss) != float(second.d_loss)


def test_numbers_never_recompile_and_programs_compile_once() -> None:
    for program in (PLAIN, FULL, RECIPE):
        first = first_run(program).compiled
        assert sum("train" in name for name in first) == 1, first
        with compiled() as names:
            for i in range(1, 4):
                trained(program, Hyperparameters(*[0.1 * i] * len(NUMBERS)), seed=i, epochs=2)
        assert names == []


def test_long_trials_unroll_iterations_and_compute_the_same() -> None:
    program = PLAIN._replace(batch_size=10)
    assert program.iterations(COUNT) == 4
    runs = []
    for epochs in (249, 250):
        with compiled() as names:
            state = init_state(program, NUMBERS, 0)
            state, losses = train_epoch(program, state, NUMBERS, IMAGES, None, 0, epochs)
        runs.append((weights(state), losses))
        assert sum("train" in name for name in names) == 1, "each has a program of its own"
    for short, long in zip(*map(leaves, runs), strict=True):
        np.testing.assert_allclose(long, short, rtol=1e-4, atol=1e-6)


def test_an_epoch_on_an_accelerator_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is one rolled loop, with the generator's weights packed into one array."""
    before = first_run(FULL)
    monkeypatch.setattr(training, "_scan_plan", lambda iterations, epochs: (iterations, False))
    state, losses = trained(FULL)
    found, expected = ((weights(s), s.ema, n) for s, n in ((state, losses), before[:2]))
    for mine, theirs in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    assert set(pack_state(state)) == set(pack_state(before.state)), "as in a checkpoint"


def test_initial_states_and_orders_compile_once_per_network_structure() -> None:
    first_run(PLAIN)
    other = PLAIN._replace(batch_size=5, loss="hinge", d_steps=2, penalties=("r1",))
    with compiled() as names:
        state = init_state(other, NUMBERS, 0)
        epoch_order(other, COUNT, state.key, 3)
    assert names == []
    assert equal(weights(state), weights(init_state(PLAIN, NUMBERS, 0)))


def test_resuming_equals_uninterrupted_training() -> None:
    """Bitwise, and without recompilation."""
    for program in (PLAIN, FULL, RECIPE):
        config = TrialConfig(program, NUMBERS, 0, 2)
        state = trained(program)[0]
        packed = pack_state(state)
        before = {name: x.copy() for name, x in packed.items()}
        # train_epoch donates the state.
        straight, losses = train_epoch(program, state, NUMBERS, IMAGES, None, 1)
        assert equal(packed, before)
        data = encode_checkpoint(config, Checkpoint(1, packed, None))
        found = decode_checkpoint(config, data, "here")
        with compiled() as names:
            resumed, again = train_epoch(program, found.state, NUMBERS, IMAGES, None, found.epoch)
        assert equal(pack_state(resumed), pack_state(straight))
        assert equal(again, losses)
        assert names == []


def test_epoch_losses_and_average_follow_from_the_steps() -> None:
    """The average's decay is warmed up: min(decay, (1 + t) / (10 + t))."""
    state = init_state(FULL, NUMBERS, 0)
    reals = normalise(IMAGES[epoch_order(FULL, COUNT, state.key, 0)])
    average = leaves(state.generator)
    found: list[StepLosses] = []
    for t, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.26, 0.26]):
        state, losses = step(FULL, state, NUMBERS, reals[t])
        new = leaves(state.generator)
        average = [decay * a + (1 - decay) * b for a, b in zip(average, new, strict=True)]
        found.append(losses)
    epoch_state, epoch_losses, _ = first_run(FULL)
    for name in StepLosses._fields:
        values = [float(getattr(losses, name)) for losses in found]
        assert float(getattr(epoch_losses, name)) == pytest.approx(np.mean(values), rel=1e-4)
        assert len(set(values)) == ITERATIONS
    for ours, expected in zip(leaves(state.ema), average, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)
    for ours, expected in zip(leaves(epoch_state.ema), average, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=1e-4)
    assert first_run(PLAIN).state.ema is None


def count_of(optimizer: Any) -> int:
    (count,) = (int(leaf) for leaf in jax.tree.leaves(optimizer) if leaf.dtype == jnp.int32)
    return count


def test_the_discriminator_is_updated_d_steps_times() -> None:
    state = first_run(FULL).state
    assert count_of(state.discriminator_optimizer) == 2 * ITERATIONS
    assert count_of(state.generator_optimizer) == ITERATIONS


@pytest.mark.parametrize("program", [PLAIN, FULL])
@pytest.mark.parametrize("idle", ["generator", "discriminator"])
def test_a_learning_rate_of_0_leaves_its_network_and_no_other(program: Program, idle: str) -> None:
    h = NUMBERS._replace(**{f"{idle}_learning_rate": 0.0})
    busy = "discriminator" if idle == "generator" else "generator"
    start, (end, _) = init_state(program, h, 0), trained(program, h)
    assert equal(getattr(start, idle), getattr(end, idle))
    assert not equal(getattr(start, busy), getattr(end, busy))


@pytest.mark.parametrize(("logit", "expected"), [(100.0, 0.8), (-100.0, 0.0)])
def test_augmentation_adapts_to_the_logits_of_real_images(logit: float, expected: float) -> None:
    """D does not learn here; it takes everything for real, or nothing. Eight updates of eight
    images: two changes of 4 * 8 / 80."""
    h = hyperparameters(
        discriminator_learning_rate=0.0, augment_target=0.6, augment_images=80.0, dropout=0.0
    )
    state = init_state(ADAPTIVE, h, 0)
    d = jax.tree.map_with_path(
        lambda path, x: jnp.full_like(x, logit if "bias" in str(path) and x.shape == (1,) else 0.0),
        state.discriminator,
    )
    state = state._replace(discriminator=d)
    reals = normalise(IMAGES[:8])[None]
    for _ in range(8):
        state, _ = step(ADAPTIVE, state, h, reals)
    assert state.adaptive is not None
    assert float(state.adaptive.probability) == pytest.approx(expected)


def test_a_probability_that_has_not_risen_is_a_fixed_one_of_0() -> None:
    fixed = ADAPTIVE._replace(augment_adapts=False)
    h = NUMBERS._replace(augment_probability=0.0, augment_target=0.6, augment_images=1e30)
    assert equal(weights(trained(ADAPTIVE, h)[0]), weights(trained(fixed, h)[0]))


def test_dropout_and_clipping_apply_only_on_request() -> None:
    plain, _ = trained(PLAIN, NUMBERS._replace(dropout=0.0))
    assert not equal(weights(plain), weights(first_run(PLAIN).state))
    clipping = PLAIN._replace(clips=True)
    loose, _ = trained(clipping, NUMBERS._replace(clip_norm=1e9))
    assert equal(weights(loose), weights(first_run(PLAIN).state))
    tight, _ = trained(clipping, NUMBERS._replace(clip_norm=1e-3, momentum=0.0))
    start = init_state(PLAIN, NUMBERS, 0)
    for network, rate in (("generator", 2e-3), ("discriminator", 1e-3)):
        pairs = zip(leaves(getattr(start, network)), leaves(getattr(tight, network)), strict=True)
        moved = np.sqrt(sum(np.square(np.float64(a) - b).sum() for a, b in pairs))
        assert 0 < moved <= ITERATIONS * rate * 1e-3 + 1e-6


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_noticed_and_persist(network: str, value: float) -> None:
    state = init_state(PLAIN, NUMBERS, 0)
    assert bool(all_finite(state))
    values, structure = jax.tree.flatten(getattr(state, network))
    values[0] = values[0].at[(0,) * values[0].ndim].set(value)
    broken = state._replace(**{network: jax.tree.unflatten(structure, values)})
    assert not bool(all_finite(broken))
    after, losses = train_epoch(PLAIN, broken, NUMBERS, IMAGES, None, 0)
    assert not bool(all_finite(after))
    assert not np.isfinite(leaves(losses)).all()


def plain_adam(
    params: list[np.ndarray], gradients: list[list[np.ndarray]], rate: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters after these gradients, and the running mean of the gradients."""
    mean = square = [np.zeros(x.shape) for x in params]
    for t, gradient in enumerate(gradients, 1):
        mean = [0.5 * m + 0.5 * g for m, g in zip(mean, gradient, strict=True)]
        square = [0.9 * s + 0.1 * np.square(g) for s, g in zip(square, gradient, strict=True)]
        moves = [
            m / (1 - 0.5**t) / (np.sqrt(s / (1 - 0.9**t)) + 1e-7)
            for m, s in zip(mean, square, strict=True)
        ]
        params = [x - rate * move for x, move in zip(params, moves, strict=True)]
    return params, mean


def test_a_step_matches_one_computed_by_hand() -> None:
    """Without dropout: two D updates on fakes of the old G, then a G update against the new D."""
    h = NUMBERS._replace(dropout=0.0)
    state = init_state(FULL, h, 3)
    reals = normalise(IMAGES[:8]).reshape(2, 4, 32, 32, 1)
    new, losses = step(FULL, state, h, reals)

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), _STEP), 0)
    g_key, *d_keys = jax.random.split(key, 3)
    latents = [
        jax.random.normal(jax.random.split(key, parts)[0], (4, 9))
        for key, parts in ((g_key, 2), (d_keys[0], 3), (d_keys[1], 3))
    ]
    nets = networks(FULL)
    structures = [jax.tree.structure(params) for params in weights(state)]

    def probability(d_params: list[Any], g_params: list[Any] | None, x: Any) -> Any:
        """D's probability for images ``x``, or for G's images of latents ``x`` if it is given."""
        if g_params is not None:
            filled = jax.tree.unflatten(structures[0], g_params)
            x = nnx.merge(nets.generator, filled, nets.blank_statistics, copy=True)(x, train=True)
        discriminator = nnx.merge(
            nets.discriminator, jax.tree.unflatten(structures[1], d_params), copy=True
        )
        return 1 / (1 + jnp.exp(-discriminator(x, rate=0.0, key=None, train=False)))

    @jax.jit
    @jax.value_and_grad
    def d_loss(d_params: list[Any], g_params: list[Any], real: Any, z: Any) -> Any:
        real_part = jnp.log(probability(d_params, None, real)).mean()
        return -real_part - jnp.log(1 - probability(d_params, g_params, z)).mean()

    @jax.jit
    @jax.value_and_grad
    def g_loss(g_params: list[Any], d_params: list[Any], z: Any) -> Any:
        return -jnp.log(probability(d_params, g_params, z)).mean()

    g_params, d_params = leaves(state.generator), leaves(state.discriminator)
    first = d_params
    d_values, d_gradients = [], []
    for real, z in zip(reals, latents[1:], strict=True):
        value, gradient = d_loss(d_params, g_params, real, z)
        d_values.append(float(value))
        d_gradients.append(leaves(gradient))
        d_params, d_mean = plain_adam(first, d_gradients, h.discriminator_learning_rate)
        d_params = [x.astype(np.float32) for x in d_params]
    g_value, gradient = g_loss(g_params, d_params, latents[0])
    g_after, g_mean = plain_adam(g_params, [leaves(gradient)], h.generator_learning_rate)

    assert float(losses.d_loss) == pytest.approx(np.mean(d_values), rel=1e-5)
    assert float(losses.g_loss) == pytest.approx(float(g_value), rel=1e-5)
    assert float(losses.g_measure) == pytest.approx(float(g_value), rel=1e-5)
    compare(state.discriminator, new.discriminator, d_params, h.discriminator_learning_rate)
    compare(state.generator, new.generator, g_after, h.generator_learning_rate)
    for optimizer, mean in (
        (new.discriminator_optimizer, d_mean),
        (new.generator_optimizer, g_mean),
    ):
        means = [x for x in leaves(optimizer) if x.ndim][: len(mean)]  # Adam's mu come first
        for found, expected in zip(means, mean, strict=True):
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=atol)
    assert int(new.step) == 1


def compare(start: Any, found: Any, expected: list[np.ndarray], rate: float) -> None:
    """Compare parameters after a step of Adam.

    A step is about as large as the rate even where the gradient is little more than rounding error,
    so 1% of the parameters may be off by more than a thousandth of the rate.
    """
    pairs = zip(leaves(found), expected, strict=True)
    off = np.concatenate([np.abs(a - b).ravel() for a, b in pairs]) / rate
    moves = zip(leaves(found), leaves(start), strict=True)
    assert np.median(np.concatenate([np.abs(a - b).ravel() for a, b in moves])) > 0.1 * rate
    assert (off > 1e-3).mean() < 0.01
    assert off.max() < 0.1
