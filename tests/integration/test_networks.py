"""The DCGAN: agreement with PyTorch, layer sizes and initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dcgan_weights import BATCH, CHANNELS, LATENT_DIM, SIZE, WIDTH, inputs, sample, weights
from flax import nnx
from jax import Array

from tuner.gan import state
from tuner.gan.losses import LOSSES
from tuner.gan.state import GanState, abstract_generator, abstract_state, init_state
from tuner.trial import Hyperparameters, Program

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "dcgan.npz")
INPUTS = inputs()
SHAPE = (SIZE, SIZE, CHANNELS)
PROGRAM = Program(
    *("dcgan", "dcgan", WIDTH, LATENT_DIM, SHAPE, BATCH, "non_saturating", "adam", "adam", 1, True)
)


def assert_close(found: Any, expected: Any) -> None:
    """Compare to 1e-5 of each value, or of the array's largest one."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def set_params(network: nnx.Module, values: Mapping[str, np.ndarray]) -> Any:
    """Set all parameters of ``network`` from ``values``."""
    assert len(jax.tree.leaves(nnx.state(network, nnx.Param))) == len(values)
    for name, value in values.items():
        layer, kind = name.split(".")
        variable = getattr(getattr(network, layer), kind)
        assert variable.shape == value.shape
        variable.set_value(jnp.asarray(value, jnp.float32))
    return network


@pytest.fixture(scope="module")
def fresh() -> GanState:
    return init_state(PROGRAM, Hyperparameters(*[0.1] * len(Hyperparameters._fields)), 5)


class Split(NamedTuple):
    """A generator and a discriminator with the golden weights."""

    g_graph: Any
    g_params: Any
    statistics: Any
    d_graph: Any
    d_params: Any

    def generate(self, g_params: Any, z: Any, statistics: Any = None) -> tuple[Array, Any]:
        """Images (in train mode unless ``statistics`` are given) and the recorded statistics."""
        blank = self.statistics if statistics is None else statistics
        generator = nnx.merge(self.g_graph, g_params, blank, copy=True)
        images = generator(jnp.float32(z), train=statistics is None)
        return images, nnx.state(generator, nnx.Not(nnx.Param))

    def discriminate(self, d_params: Any, images: Any, key: Array | None = None) -> Array:
        discriminator = nnx.merge(self.d_graph, d_params, copy=True)
        logits: Array = discriminator(images, rate=0.0, key=key, train=False)
        return logits


@pytest.fixture(scope="module")
def split(fresh: GanState) -> Split:
    nets = state.networks(PROGRAM)
    generator = nnx.merge(nets.generator, fresh.generator, nets.blank_statistics, copy=True)
    discriminator = nnx.merge(nets.discriminator, fresh.discriminator, copy=True)
    g, d = weights()
    return Split(
        *nnx.split(set_params(generator, g), nnx.Param, ...),
        *nnx.split(set_params(discriminator, d), nnx.Param),
    )


@pytest.fixture(scope="module")
def fake(split: Split) -> Array:
    images: Array = jax.jit(split.generate)(split.g_params, INPUTS.z)[0]
    return images


def test_generator_with_batch_statistics_matches_pytorch(fake: Array) -> None:
    assert_close(fake[:4], GOLDEN["fake"])


def test_generator_with_recorded_statistics_matches_pytorch(split: Split) -> None:
    generate = jax.jit(split.generate)
    _, recorded = generate(split.g_params, INPUTS.other_z)
    assert_close(generate(split.g_params, INPUTS.z, recorded)[0][:2], GOLDEN["fake_recorded"])
    for layer in ("norm1", "norm2", "norm3"):
        for kind in ("mean", "variance"):
            assert_close(array_of(recorded, layer, kind), GOLDEN[f"recorded/{layer}.{kind}"])


def test_discriminator_matches_pytorch(split: Split, fake: Array) -> None:
    discriminate = jax.jit(split.discriminate)
    assert_close(discriminate(split.d_params, jnp.float32(INPUTS.reals)), GOLDEN["real_logits"])
    with_key = discriminate(split.d_params, fake, jax.random.key(0))  # dropout at rate 0
    assert_close(with_key, GOLDEN["fake_logits"])


def array_of(params: Any, layer: str, kind: str) -> np.ndarray:
    return np.asarray(params[layer][kind][...])


def compare_gradients(prefix: str, found: Any, names: Mapping[str, Any]) -> None:
    for name in names:
        gradient = array_of(found, *name.split("."))
        assert_close(sample(gradient), GOLDEN[f"{prefix}/{name}"])
        assert_close(np.linalg.norm(gradient), GOLDEN[f"{prefix}/{name}/norm"])


def test_discriminator_loss_and_gradient_match_pytorch(split: Split, fake: Array) -> None:
    @jax.jit
    @jax.value_and_grad
    def loss(d_params: Any) -> Array:
        real = split.discriminate(d_params, jnp.float32(INPUTS.reals))
        return LOSSES["minimax"].discriminator(real, split.discriminate(d_params, fake), 0.0)

    value, gradient = loss(split.d_params)
    assert_close(value, GOLDEN["d_loss"])
    compare_gradients("d_grad", gradient, weights()[1])
    assert LOSSES["minimax"].discriminator is LOSSES["non_saturating"].discriminator


@pytest.mark.parametrize("kind", ["minimax", "non_saturating"])
def test_generator_loss_and_gradient_match_pytorch(kind: str, split: Split) -> None:
    @jax.jit
    @jax.value_and_grad
    def loss(g_params: Any) -> Array:
        fake, _ = split.generate(g_params, INPUTS.z)
        logits = split.discriminate(split.d_params, fake)
        return LOSSES[kind].generator(logits, logits)

    value, gradient = loss(split.g_params)
    assert_close(value, GOLDEN[f"g_loss/{kind}"])
    compare_gradients(f"g_grad/{kind}", gradient, weights()[0])


def sizes(params: Any) -> dict[str, int]:
    """Element count of each parameter, by name."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        layer, kind = jax.tree_util.keystr(path, simple=True, separator=".").split(".")[:2]
        found[f"{layer}.{kind}"] = leaf.size
    return found


def test_parameter_counts_match_the_tutorial() -> None:
    tutorials = abstract_state(PROGRAM._replace(width=64))
    norms = {"norm1": 16_384, "norm2": 128, "norm3": 64}
    assert sizes(tutorials.generator) == {
        "dense.kernel": 1_638_400,
        "deconv1.kernel": 819_200,
        "deconv2.kernel": 204_800,
        "deconv3.kernel": 4_800,
        **{f"{layer}.{kind}": n for layer, n in norms.items() for kind in ("scale", "bias")},
    }
    assert sizes(tutorials.ema) == sizes(tutorials.generator)
    assert sizes(tutorials.discriminator) == {
        "conv1.kernel": 4_800,
        "conv1.bias": 64,
        "conv2.kernel": 204_800,
        "conv2.bias": 128,
        "dense.kernel": 8_192,
        "dense.bias": 1,
    }
    assert sizes(abstract_generator(PROGRAM._replace(width=64))[1]) == {
        f"{layer}.{kind}": n for layer, n in norms.items() for kind in ("mean", "variance")
    }


# Fan-in plus fan-out of each kernel at width 4 and 3 channels; convolutions are 5 x 5.
FANS = {
    ("generator", "dense"): 100 + 1024,
    ("generator", "deconv1"): 25 * (16 + 8),
    ("generator", "deconv2"): 25 * (8 + 4),
    ("generator", "deconv3"): 25 * (4 + 3),
    ("discriminator", "conv1"): 25 * (3 + 4),
    ("discriminator", "conv2"): 25 * (4 + 8),
    ("discriminator", "dense"): 512 + 1,
}


def test_initial_weights_are_glorot_uniform_and_biases_zero(fresh: GanState) -> None:
    for (network, layer), fans in FANS.items():
        kernel = array_of(getattr(fresh, network), layer, "kernel")
        limit = np.sqrt(6 / fans)
        assert np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert np.abs(kernel).max() > 0.95 * limit
        assert abs(kernel.mean()) < 5 * limit / np.sqrt(3 * kernel.size)
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=5 / np.sqrt(kernel.size))
    for layer in ("conv1", "conv2", "dense"):
        assert not array_of(fresh.discriminator, layer, "bias").any()
    for layer in ("norm1", "norm2", "norm3"):
        assert not array_of(fresh.generator, layer, "bias").any()
        assert (array_of(fresh.generator, layer, "scale") == 1).all()
