"""Every architecture trains for two iterations, with losses, penalties and regularisers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import numbers

from tuner.gan.state import GanState, abstract_state
from tuner.gan.step import train_step
from tuner.spec import CONDITIONAL, NETWORKS, OWN_NORMS
from tuner.trial import Hyperparameters, Program

BATCH, CLASSES = 4, 3
NUMBERS = numbers(gradient_penalty=1.0, r1=0.1, r2=0.1, instance_noise=0.1, total_images=100.0)
# Between them: every penalty, norm and regulariser.
CHANGES: dict[str, dict[str, Any]] = {
    "dcgan": {
        "loss": "relativistic",
        "penalties": ("r1", "r2"),
        "discriminator_norm": "layer",
        "augment": ("color", "translation", "cutout"),
        "flips": True,
        "instance_noise": True,
    },
    "sndcgan": {"loss": "hinge", "precision": "bfloat16"},
    "resnet": {
        "loss": "wasserstein_gp",
        "penalties": ("gradient_penalty",),
        "discriminator_norm": "layer",
    },
    "infogan": {"loss": "gradient_normalized", "discriminator_norm": "none", "ema": True},
    "r3gan": {"loss": "relativistic", "penalties": ("r1", "r2"), "precision": "bfloat16"},
}


def program(name: str) -> Program:
    plain = Program(
        *(name, name, 1, 8, (32, 32, 3), BATCH, "minimax", "adam", "adam", 1, False),
        *OWN_NORMS[name],
        classes=CLASSES if name in CONDITIONAL else 0,
    )
    return plain._replace(**CHANGES[name])


def begun(at: Program) -> GanState:
    """Random weights: as good as the networks' own, which take longer to compile."""
    random = np.random.default_rng(1)

    def some(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.float32(random.normal(0.0, 0.3, x.shape)), tree)

    like = abstract_state(at)
    generator = some(like.generator)
    return GanState(
        generator=generator,
        discriminator=some(like.discriminator),
        discriminator_statistics=some(like.discriminator_statistics),
        generator_optimizer=jax.tree.map(jnp.zeros_like, like.generator_optimizer),
        discriminator_optimizer=jax.tree.map(jnp.zeros_like, like.discriminator_optimizer),
        ema=generator if at.ema else None,
        key=jax.random.key(0),
        step=jnp.int32(0),
    )


@functools.cache
def trained(name: str) -> tuple[GanState, GanState, Any]:
    """The state before and after two iterations, and the second one's losses."""
    at = program(name)
    h = Hyperparameters(*map(jnp.float32, NUMBERS))
    step: Any = jax.jit(
        functools.partial(train_step, at),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    random = np.random.default_rng(0)
    shape = (at.d_steps, BATCH)
    reals = jnp.float32(random.uniform(-1, 1, (*shape, 32, 32, 3)))
    labels = jnp.int32(random.integers(0, CLASSES, shape)) if at.classes else None
    start = begun(at)
    state, _ = step(start, h, reals, labels)
    state, losses = step(state, h, reals, labels)
    return start, state, losses


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_are_finite_and_both_networks_learn(name: str) -> None:
    start, end, losses = trained(name)
    assert all(np.isfinite(x) for x in losses)
    for network in ("generator", "discriminator"):
        before, after = (jax.tree.leaves(getattr(state, network)) for state in (start, end))
        assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in after)
        changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        assert np.mean(changed) > 0.8, changed  # not those that a norm makes idle


def test_penalties_are_part_of_what_d_minimises_and_not_of_its_standing() -> None:
    for name in ("dcgan", "resnet", "r3gan"):
        _, _, losses = trained(name)
        assert float(losses.d_loss) > float(losses.d_adversarial)
    _, _, losses = trained("infogan")
    assert float(losses.d_loss) == float(losses.d_adversarial)


def test_a_spectral_norm_s_vectors_go_along() -> None:
    start, end, _ = trained("sndcgan")
    before, after = (jax.tree.leaves(s.discriminator_statistics) for s in (start, end))
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert len(same) > 5
    assert sum(same) <= 1  # that of the last layer, which has one row


def test_normalised_logits_are_within_bounds() -> None:
    """From -1 to 1, and so is D's loss between those of a sure answer and a wrong one."""
    _, _, losses = trained("infogan")
    least, most = 2 * np.log1p(np.exp(-1)), 2 * np.log1p(np.exp(1))
    assert least < float(losses.d_adversarial) < most
