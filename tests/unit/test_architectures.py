"""Every architecture: shapes, gradients, types, what labels do."""

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
from tuner.spec import (
    CONDITIONAL,
    DISCRIMINATOR_NORMS,
    DROPPING,
    GENERATOR_NORMS,
    NETWORKS,
    OWN_NORMS,
)
from tuner.trial import Program
from tuner.xla import abstract

BATCH = 5  # no network has another axis of this length
LABELS = jnp.arange(BATCH) % 3


def program(name: str, size: int = 32, channels: int = 3, **changes: Any) -> Program:
    """Of both networks of that name with their own norms, very narrow."""
    norms = OWN_NORMS[name]
    shape = (size, size, channels)
    plain = Program(name, name, 1, 7, shape, BATCH, "minimax", "adam", "adam", 1, False, *norms)
    return plain._replace(**changes)


def built(kind: Any, program: Program, seed: int = 0) -> Any:
    return kind(program, rngs=nnx.Rngs(seed))


def generated(program: Program, network: Any, labels: Array | None = None) -> Array:
    images: Array = network(jnp.zeros((BATCH, program.latent_dim)), labels, train=True)
    return images


def judged(program: Program, network: Any, labels: Array | None = None) -> Array:
    images, key = jnp.zeros((BATCH, *program.image_shape)), jax.random.key(0)
    logits: Array = network(images, labels, rate=jnp.float32(0.1), key=key, train=True)
    return logits


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(name: str, size: int, channels: int) -> None:
    at = program(name, size, channels, classes=3 if name in CONDITIONAL else 0)
    labels = LABELS if at.classes else None
    images = nnx.eval_shape(lambda: generated(at, built(GENERATORS[name], at), labels))
    assert images.shape == (BATCH, size, size, channels)
    logits = nnx.eval_shape(lambda: judged(at, built(DISCRIMINATORS[name], at), labels))
    assert (logits.shape, logits.dtype) == ((BATCH,), jnp.float32)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "r3gan"])
def test_every_norm_of_its_side(name: str) -> None:
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
        assert nnx.eval_shape(lambda n, at=at: judged(at, n), network).shape == (BATCH,)


def test_what_makes_no_sense_is_refused() -> None:
    for table in (GENERATORS, DISCRIMINATORS):
        with pytest.raises(ValueError, match="takes no labels"):
            built(table["infogan"], program("infogan", classes=3))
    with pytest.raises(ValueError, match="found norm 'batch', expected 'none'"):
        built(GENERATORS["r3gan"], program("r3gan", generator_norm="batch"))
    with pytest.raises(ValueError, match="found norm 'spectral', expected 'none'"):
        built(DISCRIMINATORS["r3gan"], program("r3gan", discriminator_norm="spectral"))


# What is compiled here runs once or twice: optimizing it would cost more than it saves.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Game:
    """Both networks of a program: their structure, their weights, their other variables."""

    def __init__(self, program: Program) -> None:
        def pair() -> Any:
            return nnx.Dict(
                g=built(GENERATORS[program.generator], program),
                d=built(DISCRIMINATORS[program.discriminator], program, 1),
            )

        self.graph = nnx.graphdef(nnx.eval_shape(pair))
        self.params, self.rest = quickly(lambda: nnx.state(pair(), nnx.Param, ...))()
        self.labels = LABELS if program.classes else None

    def shaken(self, rng: np.random.Generator) -> Any:
        """Weights away from where they begin, where some kernels of R3GAN are 0."""
        return jax.tree.map(
            lambda x: np.asarray(x) + np.float32(0.1 * rng.normal(size=x.shape)), self.params
        )

    def images(self, params: Any, z: Array) -> Array:
        pair = nnx.merge(self.graph, params, self.rest, copy=True)
        images: Array = pair["g"](z, self.labels, train=True)
        return images

    def total(self, params: Any, images: Array) -> Array:
        """The sum of logits, with dropout."""
        judge = nnx.merge(self.graph, params, self.rest, copy=True)["d"]
        logits: Array = judge(
            images, self.labels, rate=jnp.float32(0.1), key=jax.random.key(0), train=True
        )
        return logits.sum()


def told(name: str, **changes: Any) -> Program:
    """With classes where it takes them."""
    return program(name, classes=3 if name in CONDITIONAL else 0, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_and_reach_every_kernel(name: str) -> None:
    """With a penalty on slopes in float32, which is a gradient's gradient; without in bfloat16."""
    at = told(name)
    if at.discriminator_norm == "batch":  # slopes at an image need norms of each image
        at = at._replace(discriminator_norm="layer")
    game, rng = Game(at), np.random.default_rng(0)
    params, z = game.shaken(rng), jnp.float32(rng.normal(size=(BATCH, at.latent_dim)))

    def loss(params: Any, dtype: Any) -> tuple[Array, Array]:
        rounded, noise = jax.tree.map(lambda x: x.astype(dtype), (params, z))
        images = game.images(rounded, noise)
        total = game.total(rounded, images)
        if dtype == jnp.float32:
            fixed = lax.stop_gradient(images)
            total += jnp.square(jax.grad(game.total, 1)(rounded, fixed)).sum()
        return total, images

    for dtype in (jnp.float32, jnp.bfloat16):
        gradients, images = quickly(jax.grad(functools.partial(loss, dtype=dtype), has_aux=True))(
            params
        )
        assert images.dtype == dtype
        assert np.isfinite(np.asarray(images, np.float32)).all()
        for path, leaf in nnx.to_flat_state(gradients):
            assert np.isfinite(leaf[...]).all(), path
            if path[-1] in ("kernel", "pattern", "scale"):
                assert np.any(leaf[...]), path


def operands(jaxpr: Jaxpr) -> Iterator[tuple[str, Any]]:
    """The first operand of every convolution and matrix product, wherever it is nested."""
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
    """All that convolutions and matrices do to a batch, in networks that are told classes."""
    at = told(name)
    game = Game(at)

    def play(params: Any, z: Array) -> Array:
        return game.total(params, game.images(params, z))

    half = jax.tree.map(lambda x: abstract(x.shape, jnp.bfloat16), game.params)
    z = abstract((BATCH, at.latent_dim), jnp.bfloat16)
    found = list(operands(jax.make_jaxpr(play)(half, z).jaxpr))
    of_batch = [(kind, aval) for kind, aval in found if aval.shape[0] == BATCH]
    assert {kind for kind, _ in of_batch} == {"conv_general_dilated", "dot_general"}
    assert all(aval.dtype == jnp.bfloat16 for _, aval in of_batch), of_batch


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_matter(name: str) -> None:
    at = told(name)
    game = Game(at)
    params = game.shaken(np.random.default_rng(0))

    @quickly
    def play(params: Any, labels: Array) -> tuple[Array, Array]:
        pair = nnx.merge(game.graph, params, game.rest, copy=True)
        images = pair["g"](jnp.ones((BATCH, at.latent_dim)), labels, train=False)
        x = jnp.ones((BATCH, *at.image_shape))
        return images, pair["d"](x, labels, rate=jnp.float32(0))

    for found in map(np.asarray, play(params, LABELS)):  # of the same noise, and of the same image
        np.testing.assert_allclose(found[0], found[3], rtol=1e-3, atol=1e-5)
        assert np.abs(found[0] - found[1]).max() > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_is_where_the_settings_say(name: str) -> None:
    """A search over its rate is refused where it would change nothing."""
    at = program(name)
    graph, state = nnx.split(nnx.eval_shape(functools.partial(built, DISCRIMINATORS[name], at)))
    drawn = jax.make_jaxpr(lambda state: judged(at, nnx.merge(graph, state)))(state)
    assert ("random_bits" in str(drawn)) == (name in DROPPING)


def test_r3gans_resampling_is_bilinear() -> None:
    rng = np.random.default_rng(0)
    x, y = (jnp.float32(rng.normal(size=(2, size, size, 3))) for size in (6, 12))
    wanted = jax.image.resize(x, (2, 12, 12, 3), "bilinear")
    doubled = r3gan._doubled(x)
    # JAX repeats the edge where R3GAN sees zeros.
    np.testing.assert_allclose(doubled[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(doubled[:, 0, 1:-1], 0.75 * wanted[:, 0, 1:-1], rtol=1e-5, atol=1e-6)
    # Halving is its transpose, but for the gain.
    both = jnp.vdot(doubled, y), 4 * jnp.vdot(x, r3gan._halved(y))
    np.testing.assert_allclose(*both, rtol=1e-5)
