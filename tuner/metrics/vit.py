"""Vision transformers as feature extractors: DINOv2, and the image encoder of CLIP.

DINOv2 (Oquab et al. 2024) has layer scales and GELU; its features are the normalised class token.
CLIP's encoder (Radford et al. 2021) has a norm before the first block, x sigmoid(1.702 x) for GELU
and a linear projection, whose output is scaled to length 1. Both are pre-norm transformers
(Dosovitskiy et al. 2021) on patches of 14 x 14 pixels. Matrix products use the highest precision.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from numpy.typing import NDArray

from tuner.metrics.resizing import resize_bytes

PRECISION = lax.Precision.HIGHEST
CUBIC = -0.75  # PyTorch's parameter of cubic convolution
OFFSET = 0.1  # patches, which DINOv2's authors add to the size of the interpolated grid


@dataclass(frozen=True)
class Architecture:
    """The sizes of a vision transformer, and what distinguishes CLIP's from DINOv2's."""

    width: int
    depth: int
    heads: int
    pixels: int  # of its square input
    grid: int  # patches along each side for which positions are learned
    projection: int = 0  # outputs of CLIP's projection; 0 for DINOv2
    patch: int = 14

    @property
    def is_clip(self) -> bool:
        return self.projection > 0

    @property
    def epsilon(self) -> float:
        """Of layer norms."""
        return 1e-5 if self.is_clip else 1e-6

    @property
    def features(self) -> int:
        return self.projection or self.width


ARCHITECTURES = {
    "dinov2": Architecture(1024, 24, 16, 224, 37),  # ViT-L/14, as in Stein et al. 2023
    "dinov2-base": Architecture(768, 12, 12, 224, 37),  # ViT-B/14
    "clip": Architecture(1024, 24, 16, 336, 24, 768),  # ViT-L/14-336, as in Jayasumana et al. 2024
}
# Means and standard deviations of red, green and blue in [0, 1]: ImageNet's, and those of CLIP.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Block(nnx.Module):
    """Self-attention and a two-layer perceptron, each with a norm before and a residual."""

    def __init__(self, size: Architecture, *, rngs: nnx.Rngs) -> None:
        width = size.width
        self.heads, self.is_clip = size.heads, size.is_clip
        self.norm1, self.norm2 = (_norm(size, rngs) for _ in range(2))
        self.query, self.key, self.value, self.out = (
            nnx.Linear(width, width, precision=PRECISION, rngs=rngs) for _ in range(4)
        )
        self.fc1 = nnx.Linear(width, 4 * width, precision=PRECISION, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, precision=PRECISION, rngs=rngs)
        if not size.is_clip:
            self.scale1, self.scale2 = (nnx.Param(jnp.ones(width)) for _ in range(2))

    def __call__(self, x: Array) -> Array:
        attended = self._attention(self.norm1(x))
        x = x + (attended if self.is_clip else attended * self.scale1[...])
        hidden = self.fc1(self.norm2(x))
        processed = self.fc2(_quick_gelu(hidden) if self.is_clip else _gelu(hidden))
        return x + (processed if self.is_clip else processed * self.scale2[...])

    def _attention(self, x: Array) -> Array:
        query, key, value = (
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer in (self.query, self.key, self.value)
        )
        scale = 1 / math.sqrt(query.shape[-1])
        logits = jnp.einsum("nqhd,nkhd->nhqk", query * scale, key, precision=PRECISION)
        weights = jax.nn.softmax(logits, axis=-1)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value, precision=PRECISION)
        return self.out(mixed.reshape(x.shape))


class VisionTransformer(nnx.Module):
    """Normalised images (n, pixels, pixels, 3) to features."""

    def __init__(self, size: Architecture, *, rngs: nnx.Rngs) -> None:
        patch = (size.patch, size.patch)
        self.size = size
        self.patches = nnx.Conv(
            *(3, size.width, patch),
            strides=patch,
            padding="VALID",
            use_bias=not size.is_clip,
            precision=PRECISION,
            rngs=rngs,
        )
        self.class_token = nnx.Param(jnp.zeros(size.width))
        self.positions = nnx.Param(jnp.zeros((1 + size.grid**2, size.width)))
        if size.is_clip:
            self.first_norm = _norm(size, rngs)
            self.projection = nnx.Linear(
                size.width, size.projection, use_bias=False, precision=PRECISION, rngs=rngs
            )
        self.blocks = nnx.List([Block(size, rngs=rngs) for _ in range(size.depth)])
        self.norm = _norm(size, rngs)

    def __call__(self, x: Array) -> Array:
        return self.outputs(x)[-1]

    def outputs(self, x: Array) -> list[Array]:
        """Tokens (n, 1 + patches, width) before the first and after each block, and the features.

        CLIP's features have length 1.
        """
        x = self.patches(x).reshape(len(x), -1, self.size.width)
        token = jnp.broadcast_to(self.class_token[...], (len(x), 1, self.size.width))
        x = jnp.concatenate([token, x], axis=1) + self._positions()
        if self.size.is_clip:
            x = self.first_norm(x)
        tokens = [x]
        for block in self.blocks:
            x = block(x)
            tokens.append(x)
        features = self.norm(x[:, 0])
        if self.size.is_clip:
            features = self.projection(features)
            features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
        return [*tokens, features]

    def _positions(self) -> Array:
        """Positions of the class token and of the patches, interpolated if the grids differ."""
        grid, learned = self.size.pixels // self.size.patch, self.positions[...]
        if grid == self.size.grid:
            return learned
        matrix = interpolation(self.size.grid, grid)
        square = learned[1:].reshape(self.size.grid, self.size.grid, -1)
        square = jnp.einsum("yh,xw,hwc->yxc", matrix, matrix, square, precision=PRECISION)
        return jnp.concatenate([learned[:1], square.reshape(grid**2, -1)])


def interpolation(grid: int, target: int) -> NDArray[np.float32]:
    """Weights (target, grid) by which DINOv2 interpolates learned positions along one axis.

    PyTorch's bicubic interpolation for the scale (target + 0.1) / grid, without anti-aliasing;
    beyond the border the last position counts.
    """
    centres = (np.arange(target) + 0.5) * grid / (target + OFFSET) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((target, grid))
    for tap in range(-1, 3):
        at = np.clip(first + tap, 0, grid - 1)
        np.add.at(weights, (np.arange(target), at), _cubic(np.abs(centres - first - tap)))
    return weights.astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of cubic convolution (Keys 1981) with PyTorch's parameter."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def prepare(images: Array, size: Architecture) -> Array:
    """Normalised inputs (n, pixels, pixels, 3) of uint8 ``images`` (n, h, w, 1 or 3).

    Resized as by Pillow's bicubic filter for bytes, in dgm-eval (Stein et al. 2023) and the code of
    Jayasumana et al. 2024 alike.
    """
    x = resize_bytes(images, size.pixels) / 255
    mean, deviation = (jnp.asarray(numbers) for numbers in (CLIP if size.is_clip else IMAGENET))
    return (x - mean) / deviation


def _norm(size: Architecture, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(size.width, epsilon=size.epsilon, use_fast_variance=False, rngs=rngs)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)
