"""Every architecture: shapes, gradients, dtypes, dropout, conditioning on labels."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from tuner.gan import r3gan
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.spec.traits import CONDITIONAL, NETWORKS
from tuner.spec.trial import DISCRIMINATOR_NORMS, GENERATOR_NORMS
from tuner.trial import Program
from tuner.xla import abstract

BATCH = 5  # no network has another axis of this length
LABELS = jnp.arange(BATCH) % 3


def program(name: str, size: int = 32, channels: int = 3, **changes: Any) -> Program:
    """A very narrow program with the networks of that name and their default norms."""
    norms = NETWORKS[name].norms
    shape = (size, size, channels)
    base = Program(name, name, 1, 7, shape, BATCH, "minimax", "adam", "adam", 1, False, *norms)
    return base._replace(**changes)


def built(kind: Any, program: Program, seed: int = 0) -> Any:
    return kind(program, rngs=nnx.Rngs(seed))


def generated(program: Program, network: Any, labels: Array | None = None) -> Array:
    images: Array = network(jnp.zeros((BATCH, program.latent_dim)), labels, train=True)
    return images


def logits_of(program: Program, network: Any, labels: Array | None = None) -> Array:
    images, key = jnp.zeros((BATCH, *program.image_shape)), jax.random.key(0)
    logits: Array = network(images, labels, rate=jnp.float32(0.1), key=key, train=True)
    return logits


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_logits_have_their_shapes(name: str, size: int, channels: int) -> None:
    at = program(name, size, channels, classes=3 if name in CONDITIONAL else 0)
    labels = LABELS if at.classes else None
    images = nnx.eval_shape(lambda: generated(at, built(GENERATORS[name], at), labels))
    assert images.shape == (BATCH, size, size, channels)
    logits = nnx.eval_shape(lambda: logits_of(at, built(DISCRIMINATORS[name], at), labels))
    assert (logits.shape, logits.dtype) == ((BATCH,), jnp.float32)


@pytest.mark.parametrize("name", [name for name in NETWORKS if not NETWORKS[name].norms_fixed])
def test_every_norm_has_its_statistics(name: str) -> None:
    for norm in GENERATOR_NORMS:
        at = program(name, generator_norm=norm)
        network = nnx.eval_shape(functools.partial(built, GENERATORS[name], at))
        assert bool(jax.tree.leaves(nnx.state(network, nnx.BatchStat))) == (norm == "batch")
        assert nnx.eval_shape(lambda n, at=at: generated(at, n), network).shape[1] == 32
    for norm in DISCRIMINATOR_NORMS:
        at = program(name, discriminator_norm=norm)
        network = nnx.eval_shape(functools.partial(built, DISCRIMINATORS[name], at))
        statistics = nnx.state(network, nnx.Not(nnx.Param))
        assert bool(jax.tree.leaves(statistics)) == (norm in ("batch", "spectral"))
        if norm == "spectral":  # a vector u for every kernel
            paths = [path for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))]
            assert len(jax.tree.leaves(statistics)) == sum(path[-1] == "kernel" for path in paths)
        assert nnx.eval_shape(lambda n, at=at: logits_of(at, n), network).shape == (BATCH,)


def test_inconsistent_settings_are_refused() -> None:
    for table in (GENERATORS, DISCRIMINATORS):
        with pytest.raises(ValueError, match="cannot be conditioned on labels"):
            built(table["infogan"], program("infogan", classes=3))
    with pytest.raises(ValueError, match="found norm 'batch', expected 'none'"):
        built(GENERATORS["r3gan"], program("r3gan", generator_norm="batch"))
    with pytest.raises(ValueError, match="found norm 'spectral', expected 'none'"):
        built(DISCRIMINATORS["r3gan"], program("r3gan", discriminator_norm="spectral"))


# Each program runs once or twice: optimizing it would cost more than it saves.
jit_unoptimized = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Networks:
    """Both networks of a program: structure, weights, other variables."""

    def __init__(self, program: Program) -> None:
        def pair() -> Any:
            return nnx.Dict(
                g=built(GENERATORS[program.generator], program),
                d=built(DISCRIMINATORS[program.discriminator], program, 1),
            )

        self.graph = nnx.graphdef(nnx.eval_shape(pair))
        self.params, self.rest = jit_unoptimized(lambda: nnx.state(pair(), nnx.Param, ...))()
        self.labels = LABELS if program.classes else None

    def perturbed(self, rng: np.random.Generator) -> Any:
        """Weights moved off their initial values; some kernels of R3GAN start at 0."""
        return jax.tree.map(
            lambda x: np.asarray(x) + np.float32(0.1 * rng.normal(size=x.shape)), self.params
        )

    def images(self, params: Any, z: Array) -> Array:
        pair = nnx.merge(self.graph, params, self.rest, copy=True)
        images: Array = pair["g"](z, self.labels, train=True)
        return images

    def total(self, params: Any, images: Array) -> Array:
        """The sum of logits, with dropout."""
        discriminator = nnx.merge(self.graph, params, self.rest, copy=True)["d"]
        logits: Array = discriminator(
            images, self.labels, rate=jnp.float32(0.1), key=jax.random.key(0), train=True
        )
        return logits.sum()


networks_of = functools.cache(Networks)  # tests share their weights, whose draw compiles for long


def labelled_program(name: str, **changes: Any) -> Program:
    """A program with classes if the networks take labels."""
    return program(name, classes=3 if name in CONDITIONAL else 0, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_and_reach_every_kernel(name: str) -> None:
    """In float32 with a gradient penalty, which takes second derivatives; in bfloat16 without."""
    at = labelled_program(name)
    if at.discriminator_norm == "batch":  # a gradient penalty needs norms of each image
        at = at._replace(discriminator_norm="layer")
    networks, rng = networks_of(at), np.random.default_rng(0)
    params, z = networks.perturbed(rng), jnp.float32(rng.normal(size=(BATCH, at.latent_dim)))

    def loss(params: Any, dtype: Any) -> tuple[Array, Array]:
        rounded, noise = jax.tree.map(lambda x: x.astype(dtype), (params, z))
        images = networks.images(rounded, noise)
        total = networks.total(rounded, images)
        if dtype == jnp.float32:
            fixed = lax.stop_gradient(images)
            total += jnp.square(jax.grad(networks.total, 1)(rounded, fixed)).sum()
        return total, images

    for dtype in (jnp.float32, jnp.bfloat16):
        gradients, images = jit_unoptimized(
            jax.grad(functools.partial(loss, dtype=dtype), has_aux=True)
        )(params)
        assert images.dtype == dtype
        assert np.isfinite(np.asarray(images, np.float32)).all()
        for path, leaf in nnx.to_flat_state(gradients):
            assert np.isfinite(leaf[...]).all(), path
            if path[-1] in ("kernel", "pattern", "scale"):
                assert np.any(leaf[...]), path


def operands(jaxpr: Jaxpr) -> Iterator[tuple[str, Any]]:
    """The first operand of every convolution and matrix product, nested ones included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation.primitive.name, equation.invars[0].aval
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                yield from operands(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from operands(value)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_stays_bfloat16(name: str) -> None:
    """The batch operand of every convolution and matrix product, with labels."""
    at = labelled_program(name)
    networks = networks_of(at)

    def evaluate(params: Any, z: Array) -> Array:
        return networks.total(params, networks.images(params, z))

    half = jax.tree.map(lambda x: abstract(x.shape, jnp.bfloat16), networks.params)
    z = abstract((BATCH, at.latent_dim), jnp.bfloat16)
    found = list(operands(jax.make_jaxpr(evaluate)(half, z).jaxpr))
    of_batch = [(kind, aval) for kind, aval in found if aval.shape[0] == BATCH]
    assert {kind for kind, _ in of_batch} == {"conv_general_dilated", "dot_general"}
    assert all(aval.dtype == jnp.bfloat16 for _, aval in of_batch), of_batch


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_change_images_and_logits(name: str) -> None:
    at = labelled_program(name)
    networks = networks_of(at)
    params = networks.perturbed(np.random.default_rng(0))

    @jit_unoptimized
    def evaluate(params: Any, labels: Array) -> tuple[Array, Array]:
        pair = nnx.merge(networks.graph, params, networks.rest, copy=True)
        images = pair["g"](jnp.ones((BATCH, at.latent_dim)), labels, train=False)
        x = jnp.ones((BATCH, *at.image_shape))
        return images, pair["d"](x, labels, rate=jnp.float32(0), key=None, train=False)

    # The latents and the images are the same for every label.
    for found in map(np.asarray, evaluate(params, LABELS)):
        np.testing.assert_allclose(found[0], found[3], rtol=1e-3, atol=1e-5)
        assert np.abs(found[0] - found[1]).max() > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_where_the_settings_apply(name: str) -> None:
    """Validation refuses a search over a rate that has no effect."""
    at = program(name)
    graph, state = nnx.split(nnx.eval_shape(functools.partial(built, DISCRIMINATORS[name], at)))
    drawn = jax.make_jaxpr(lambda state: logits_of(at, nnx.merge(graph, state)))(state)
    assert ("random_bits" in str(drawn)) == ("dropout" in NETWORKS[name].uses)


def test_r3gans_resampling_is_bilinear() -> None:
    rng = np.random.default_rng(0)
    x, y = (jnp.float32(rng.normal(size=(2, size, size, 3))) for size in (6, 12))
    expected = jax.image.resize(x, (2, 12, 12, 3), "bilinear")
    doubled = r3gan._doubled(x)
    # At the edges JAX repeats pixels, R3GAN pads zeros.
    np.testing.assert_allclose(
        doubled[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        doubled[:, 0, 1:-1], 0.75 * expected[:, 0, 1:-1], rtol=1e-5, atol=1e-6
    )
    # Halving is its transpose, up to a factor of 4.
    both = jnp.vdot(doubled, y), 4 * jnp.vdot(x, r3gan._halved(y))
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_r3gan_computes_activations_of_large_batches_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, and gradients of a gradient's norm, are those with the activations kept."""
    at = program("r3gan")
    networks, rng = networks_of(at), np.random.default_rng(0)
    params = networks.perturbed(rng)
    images = jnp.float32(rng.normal(size=(BATCH, *at.image_shape)))

    def penalty(params: Any) -> Array:
        return jnp.sum(jnp.square(jax.grad(networks.total, 1)(params, images)))

    def gradients(limit: float) -> Any:
        monkeypatch.setattr(r3gan, "_LARGEST_KEPT", limit)
        assert ("remat" in str(jax.make_jaxpr(lambda p: penalty(p))(params))) == (limit == 0)
        return jit_unoptimized(lambda p: jax.grad(penalty)(p))(params)

    for kept, again in zip(*map(jax.tree.leaves, (gradients(2**30), gradients(0))), strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-4 * np.abs(kept).max())
