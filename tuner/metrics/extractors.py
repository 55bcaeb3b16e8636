"""Feature extractors: a classifier's features, random ones, or those of published networks.

The first two share a network that is small enough to run after every epoch: two 5x5 convolutions of
stride 2 (16 and 32 channels), a dense layer of 128 units, whose outputs are the features, and a
dense layer to the classes. ``classifier`` is trained on the labelled data set itself, as is usual
for MNIST; ``random`` keeps its initial weights, for data without labels. Matrix products use the
highest precision. An extractor depends on the images and labels alone, never on a study's seed, so
studies of the same data share it.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpy.typing import NDArray

from tuner.metrics.inception import CHUNK as INCEPTION_CHUNK
from tuner.metrics.inception import inception_features, weight_shapes
from tuner.metrics.vit import ARCHITECTURES, prepare
from tuner.metrics.vit_weights import network_of, published_names
from tuner.xla import QUICK_COMPILATION, abstract, flops_of, jit

VERSION = 1  # part of the metric fingerprint: increase it if an extractor's numbers change
FEATURES = 128
BATCH = 128
CHUNK = 256
VIT_CHUNK = 16  # images per call of a vision transformer, with a few hundred MB of activations
EPOCHS = 12
MAX_STEPS = 2000
MAX_HELD_OUT = 10_000
LEARNING_RATE = 3e-3
SHIFT = 2  # pixels, the largest random translation in training

Weights = dict[str, Array]
Images = NDArray[np.uint8]


class Extractor(NamedTuple):
    """A feature extractor."""

    kind: str  # classifier, random, inception, or one of ``vit.ARCHITECTURES``
    weights: Weights
    accuracy: float | None  # of the classifier on held-out images
    convention: str = ""  # of Inception's input; see ``resizing``

    def __call__(self, images: Images) -> NDArray[np.float32]:
        """Features (n, d) in float32 of uint8 images (n, h, w, c).

        One compiled program extracts them in chunks, the last of which is padded.
        """
        features = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK]
            padding = [(0, CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)]
            features += self.extract(np.pad(chunk, padding), len(chunk))
        return joined(features, len(images))

    def extract(self, chunk: Any, count: int) -> list[Array]:
        """Features of the first ``count`` of ``CHUNK`` uint8 images, without waiting for them.

        They stay on the device, in parts; features of the other images may follow.
        """
        if self.kind in ARCHITECTURES:
            return [
                _compiled_vit(self.weights, chunk, start, self.kind)
                for start in range(0, count, VIT_CHUNK)
            ]
        if self.kind != "inception":
            return [_compiled_features(self.weights, chunk)]
        return [
            _compiled_inception(self.weights, chunk, start, self.convention)
            for start in range(0, count, INCEPTION_CHUNK)
        ]

    def compile(self, shape: tuple[int, int, int]) -> None:
        """Compile the extraction of features of images of ``shape`` (h, w, c)."""
        chunk = abstract((CHUNK, *shape), jnp.uint8)
        if self.kind in ARCHITECTURES:
            _compiled_vit.compile(self.weights, chunk, 0, self.kind)
        elif self.kind == "inception":
            _compiled_inception.compile(self.weights, chunk, 0, self.convention)
        else:
            _compiled_features.compile(self.weights, chunk)

    @property
    def digest(self) -> str:
        """A hash of the weights."""
        parts = [
            name.encode() + np.asarray(self.weights[name]).tobytes()
            for name in sorted(self.weights)
        ]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    @property
    def class_count(self) -> int:
        """Number of classes of the classifier; 0 for other extractors."""
        return self.weights["dense2"].shape[1] if self.kind == "classifier" else 0

    def classes(self, features: NDArray[np.float32]) -> NDArray[np.int64] | None:
        """Most likely classes (n,) of images with features (n, d); None without a classifier."""
        if self.kind != "classifier":
            return None
        logits = features @ np.asarray(self.weights["dense2"])
        found: NDArray[np.int64] = np.argmax(logits + self.weights["dense2.bias"], axis=1)
        return found


def joined(features: list[Array], count: int) -> NDArray[np.float32]:
    """The first ``count`` features (n, d) of parts on the device, on the host."""
    return np.concatenate(jax.device_get(features))[:count]


def abstract_weights(shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """Shapes and dtypes of the weights for images of ``shape`` (h, w, c)."""
    found: dict[str, Any] = jax.eval_shape(lambda: _initial_weights(shape, classes))
    return found


def random_extractor(shape: tuple[int, int, int]) -> Extractor:
    """An untrained extractor for images of ``shape`` (h, w, c)."""
    return Extractor("random", _init_weights(shape, 2), None)


def train_classifier(images: Images, labels: NDArray[np.integer]) -> Extractor:
    """Train on four fifths of the images; measure accuracy on the rest, at most 10,000 images."""
    order = np.random.default_rng(0).permutation(len(images))
    held_out = min(len(images) // 5, MAX_HELD_OUT)
    test, train = order[:held_out], order[held_out:]
    steps = min(EPOCHS * len(train) // BATCH + 1, MAX_STEPS)
    weights = _train(images[train], labels[train], int(labels.max()) + 1, steps)
    extractor = Extractor("classifier", weights, None)
    found = extractor.classes(extractor(images[test]))
    accuracy = float(np.mean(found == labels[test]))
    return extractor._replace(accuracy=accuracy)


def _train(images: Images, labels: NDArray[np.integer], classes: int, steps: int) -> Weights:
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    weights = _init_weights(images.shape[1:], classes)
    state = optimizer.init(weights)
    device_images, device_labels = jax.device_put((images, labels.astype(np.int32)))

    @functools.partial(jit, donate_argnums=(0, 1))
    def step(
        weights: Weights, state: optax.OptState, images: Array, labels: Array, key: Array
    ) -> tuple[Weights, optax.OptState]:
        pick_key, shift_key = jax.random.split(key)
        picked = jax.random.randint(pick_key, (BATCH,), 0, len(images))
        batch = _shift_randomly(images[picked], shift_key)

        def loss(weights: Weights) -> Array:
            logits = _logits(weights, batch)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[picked])
            return jnp.mean(losses)

        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    for i in range(steps):
        key = jax.random.fold_in(jax.random.key(1), i)
        weights, state = step(weights, state, device_images, device_labels, key)
    return weights


def _shift_randomly(images: Array, key: Array) -> Array:
    """Translate each image by up to SHIFT pixels along each axis, replicating its border."""
    padded = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    offsets = jax.random.randint(key, (len(images), 2), 0, 2 * SHIFT + 1)
    shape = images.shape[1:]
    return jax.vmap(lambda x, o: lax.dynamic_slice(x, (o[0], o[1], 0), shape))(padded, offsets)


def _initial_weights(shape: tuple[int, ...], classes: int) -> Weights:
    height, width, channels = shape
    flat = -(-height // 4) * -(-width // 4) * 32
    shapes = {
        "conv1": (5, 5, channels, 16),
        "conv2": (5, 5, 16, 32),
        "dense1": (flat, FEATURES),
        "dense2": (FEATURES, classes),
    }
    he = jax.nn.initializers.he_normal()
    keys = jax.random.split(jax.random.key(0), len(shapes))
    kernels = {name: he(key, shapes[name]) for name, key in zip(shapes, keys, strict=True)}
    return kernels | {f"{name}.bias": jnp.zeros(shape[-1]) for name, shape in shapes.items()}


def _features(weights: Weights, images: Array) -> Array:
    x = images.astype(jnp.float32) / 127.5 - 1.0
    for name in ("conv1", "conv2"):
        x = lax.conv_general_dilated(
            x,
            weights[name],
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        x = jax.nn.relu(x + weights[f"{name}.bias"])
    x = x.reshape(len(x), -1)
    product = jnp.dot(x, weights["dense1"], precision=lax.Precision.HIGHEST)
    return jax.nn.relu(product + weights["dense1.bias"])


def _inception(weights: Weights, images: Array, start: Array | int, convention: str) -> Array:
    """Inception's features (``INCEPTION_CHUNK``, d) of the images from ``start`` on."""
    some = lax.dynamic_slice_in_dim(images, start, INCEPTION_CHUNK)
    return inception_features(weights, some, convention)


def _vit(weights: Weights, images: Array, start: Array | int, kind: str) -> Array:
    """A vision transformer's features (``VIT_CHUNK``, d) of the images from ``start`` on."""
    some = lax.dynamic_slice_in_dim(images, start, VIT_CHUNK)
    size = ARCHITECTURES[kind]
    return network_of(size, weights)(prepare(some, size))


def _logits(weights: Weights, images: Array) -> Array:
    features = _features(weights, images)
    product = jnp.dot(features, weights["dense2"], precision=lax.Precision.HIGHEST)
    return product + weights["dense2.bias"]


def extraction_flops(kind: str, shape: tuple[int, int, int]) -> float:
    """Floating-point operations per image of ``shape`` (h, w, c), as XLA counts them."""
    images = abstract((1, *shape), jnp.uint8)
    if kind == "inception":
        weights = {name: abstract(size, jnp.float32) for name, size in weight_shapes().items()}
        lowered = jax.jit(inception_features, static_argnums=2).lower(weights, images, "clean")
        return flops_of(lowered)
    if kind in ARCHITECTURES:
        size = ARCHITECTURES[kind]
        names = published_names(size)
        weights = {name: abstract(array, jnp.float32) for name, _, array in names}
        many = abstract((VIT_CHUNK, *shape), jnp.uint8)
        lowered = jax.jit(_vit, static_argnums=3).lower(weights, many, 0, kind)
        return flops_of(lowered) / VIT_CHUNK
    weights = abstract_weights(shape, classes=2)
    return flops_of(_compiled_features.compiled.lower(weights, images))


_init_weights: Callable[[tuple[int, ...], int], Weights] = jax.jit(
    _initial_weights, static_argnums=(0, 1), compiler_options=QUICK_COMPILATION
)
_compiled_features = jit(_features)
_compiled_inception = jit(_inception, static_argnums=3)
_compiled_vit = jit(_vit, static_argnums=3)
