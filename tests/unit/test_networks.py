"""The DCGAN against PyTorch's numbers, its sizes, and its first weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dcgan_weights import BATCH, CHANNELS, LATENT_DIM, SIZE, WIDTH, inputs, sample, weights
from flax import nnx
from jax import Array

from tuner.gan.losses import LOSSES
from tuner.gan.networks import DCGANDiscriminator, DCGANGenerator
from tuner.gan.state import abstract_generator, abstract_state, init_state
from tuner.trial import Hyperparameters, Program

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "dcgan.npz")
GIVEN = inputs()
SHAPE = (SIZE, SIZE, CHANNELS)
PROGRAM = Program(
    "dcgan", "dcgan", WIDTH, LATENT_DIM, SHAPE, BATCH, "non_saturating", "adam", 1, True
)


def close(found: Any, expected: Any) -> None:
    """To 1e-5 of the value, or of the array's largest one."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def fill(network: nnx.Module, values: Mapping[str, np.ndarray]) -> Any:
    """``network`` with the parameters ``values``; every parameter must be among them."""
    assert len(jax.tree.leaves(nnx.state(network, nnx.Param))) == len(values)
    for name, value in values.items():
        layer, kind = name.split(".")
        variable = getattr(getattr(network, layer), kind)
        assert variable.shape == value.shape
        variable.set_value(jnp.asarray(value, jnp.float32))
    return network


@pytest.fixture(scope="module")
def networks() -> tuple[Any, Any]:
    """A generator and a discriminator with the golden weights."""
    g, d = weights()
    return (
        fill(DCGANGenerator(PROGRAM, rngs=nnx.Rngs(0)), g),
        fill(DCGANDiscriminator(PROGRAM, rngs=nnx.Rngs(0)), d),
    )


@pytest.fixture(scope="module")
def split(networks: tuple[Any, Any]) -> tuple[Any, ...]:
    """Graph, parameters and statistics of the generator; graph and parameters of D."""
    return (*nnx.split(networks[0], nnx.Param, ...), *nnx.split(networks[1], nnx.Param))


def test_generator_with_batch_statistics_is_pytorchs(networks: tuple[Any, Any]) -> None:
    close(networks[0](jnp.float32(GIVEN.z), train=True)[:4], GOLDEN["fake"])


def test_generator_with_recorded_statistics_is_pytorchs(networks: tuple[Any, Any]) -> None:
    generator = nnx.clone(networks[0])
    generator(jnp.float32(GIVEN.other_z), train=True)
    close(generator(jnp.float32(GIVEN.z), train=False)[:2], GOLDEN["fake_recorded"])
    for layer in ("norm1", "norm2", "norm3"):
        norm = getattr(generator, layer)
        close(norm.mean[...], GOLDEN[f"recorded/{layer}.mean"])
        close(norm.variance[...], GOLDEN[f"recorded/{layer}.variance"])


def test_discriminator_is_pytorchs(networks: tuple[Any, Any]) -> None:
    generator, discriminator = networks
    fake = generator(jnp.float32(GIVEN.z), train=True)
    close(discriminator(jnp.float32(GIVEN.reals), rate=jnp.float32(0.3)), GOLDEN["real_logits"])
    close(
        discriminator(fake, rate=jnp.float32(0), key=jax.random.key(0)),  # dropout at rate 0
        GOLDEN["fake_logits"],
    )


def array_of(params: Any, layer: str, kind: str) -> np.ndarray:
    return np.asarray(params[layer][kind][...])


def compare_gradients(prefix: str, found: Any, names: Mapping[str, Any]) -> None:
    for name in names:
        gradient = array_of(found, *name.split("."))
        close(sample(gradient), GOLDEN[f"{prefix}/{name}"])
        close(np.linalg.norm(gradient), GOLDEN[f"{prefix}/{name}/norm"])


def test_discriminators_loss_and_gradient_are_pytorchs(split: tuple[Any, ...]) -> None:
    g_graph, g_params, statistics, d_graph, d_params = split
    real = jnp.float32(GIVEN.reals)

    @jax.jit
    @jax.value_and_grad
    def loss(params: Any) -> Array:
        fake = nnx.merge(g_graph, g_params, statistics, copy=True)(jnp.float32(GIVEN.z), train=True)
        logits = [nnx.merge(d_graph, params, copy=True)(x, rate=0.0) for x in (real, fake)]
        return LOSSES["minimax"].discriminator(*logits)

    value, gradient = loss(d_params)
    close(value, GOLDEN["d_loss"])
    compare_gradients("d_grad", gradient, weights()[1])
    assert LOSSES["minimax"].discriminator is LOSSES["non_saturating"].discriminator


@pytest.mark.parametrize("kind", LOSSES)
def test_generators_loss_and_gradient_are_pytorchs(kind: str, split: tuple[Any, ...]) -> None:
    g_graph, g_params, statistics, d_graph, d_params = split

    @jax.jit
    @jax.value_and_grad
    def loss(params: Any) -> Array:
        generator = nnx.merge(g_graph, params, statistics, copy=True)
        discriminator = nnx.merge(d_graph, d_params, copy=True)
        fake = generator(jnp.float32(GIVEN.z), train=True)
        return LOSSES[kind].generator(discriminator(fake, rate=0.0))

    value, gradient = loss(g_params)
    close(value, GOLDEN[f"g_loss/{kind}"])
    compare_gradients(f"g_grad/{kind}", gradient, weights()[0])


def sizes(params: Any) -> dict[str, int]:
    """Numbers in each parameter, by name."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        layer, kind = jax.tree_util.keystr(path, simple=True, separator=".").split(".")[:2]
        found[f"{layer}.{kind}"] = leaf.size
    return found


def test_parameter_counts_at_the_tutorials_width() -> None:
    state = abstract_state(PROGRAM._replace(width=64))
    norms = {"norm1": 16_384, "norm2": 128, "norm3": 64}
    assert sizes(state.generator) == {
        "dense.kernel": 1_638_400,
        "deconv1.kernel": 819_200,
        "deconv2.kernel": 204_800,
        "deconv3.kernel": 4_800,
        **{f"{layer}.{kind}": n for layer, n in norms.items() for kind in ("scale", "bias")},
    }
    assert sizes(state.ema) == sizes(state.generator)
    assert sizes(state.discriminator) == {
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


# Kernel: inputs + outputs, times 25 for convolutions (by hand, at width 4 and 3 channels).
FANS = {
    ("generator", "dense"): 100 + 1024,
    ("generator", "deconv1"): 25 * (16 + 8),
    ("generator", "deconv2"): 25 * (8 + 4),
    ("generator", "deconv3"): 25 * (4 + 3),
    ("discriminator", "conv1"): 25 * (3 + 4),
    ("discriminator", "conv2"): 25 * (4 + 8),
    ("discriminator", "dense"): 512 + 1,
}


def test_first_weights_are_glorot_uniform_and_biases_zero() -> None:
    state = init_state(PROGRAM, Hyperparameters(*[0.1] * 9), 5)
    for (network, layer), fans in FANS.items():
        kernel = array_of(getattr(state, network), layer, "kernel")
        limit = np.sqrt(6 / fans)
        assert np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert np.abs(kernel).max() > 0.95 * limit
        assert abs(kernel.mean()) < 5 * limit / np.sqrt(3 * kernel.size)
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=5 / np.sqrt(kernel.size))
    for layer in ("conv1", "conv2", "dense"):
        assert not array_of(state.discriminator, layer, "bias").any()
    for layer in ("norm1", "norm2", "norm3"):
        assert not array_of(state.generator, layer, "bias").any()
        assert (array_of(state.generator, layer, "scale") == 1).all()
