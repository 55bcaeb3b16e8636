"""Every architecture trains for two iterations, with losses, penalties and regularisers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters

from tuner.gan.state import GanState, abstract_state
from tuner.gan.step import train_step
from tuner.spec.traits import CONDITIONAL, NETWORKS
from tuner.trial import Hyperparameters, Program

BATCH, CLASSES = 4, 3
NUMBERS = hyperparameters(
    gradient_penalty=1.0, r1=0.1, r2=0.1, instance_noise=0.1, total_images=100.0
)
# Together they cover every penalty, norm and regulariser.
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
        *NETWORKS[name].norms,
        classes=CLASSES if name in CONDITIONAL else 0,
    )
    return plain._replace(**CHANGES.get(name, {}))


def random_state(at: Program) -> GanState:
    """A state of random weights; the networks' own initialisation takes longer to compile."""
    random = np.random.default_rng(1)

    def random_like(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.float32(random.normal(0.0, 0.3, x.shape)), tree)

    like = abstract_state(at)
    generator = random_like(like.generator)
    return GanState(
        generator=generator,
        discriminator=random_like(like.discriminator),
        discriminator_statistics=random_like(like.discriminator_statistics),
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
    start = random_state(at)
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
        assert np.mean(changed) > 0.8, changed  # parameters followed by a norm may have no effect


def test_penalties_add_to_ds_loss_but_not_to_the_loss_ratio() -> None:
    for name in ("dcgan", "resnet", "r3gan"):
        _, _, losses = trained(name)
        assert float(losses.d_loss) > float(losses.d_adversarial)
    _, _, losses = trained("infogan")
    assert float(losses.d_loss) == float(losses.d_adversarial)


def test_spectral_norm_vectors_are_updated() -> None:
    start, end, _ = trained("sndcgan")
    before, after = (jax.tree.leaves(s.discriminator_statistics) for s in (start, end))
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert len(same) > 5
    assert sum(same) <= 1  # of the last layer, which has one row


def test_normalised_logits_are_within_bounds() -> None:
    """Logits are within -1 and 1, so D's loss is between those of the two extremes."""
    _, _, losses = trained("infogan")
    least, most = 2 * np.log1p(np.exp(-1)), 2 * np.log1p(np.exp(1))
    assert least < float(losses.d_adversarial) < most
