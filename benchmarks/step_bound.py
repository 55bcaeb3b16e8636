"""What bounds a training step on a CPU: its multiplications, next to a large matrix product.

    python benchmarks/step_bound.py --width 64

Times each product of the tutorial's DCGAN with batches of 64 alone, as the training step computes
it: forward, and the gradients of its input and its kernel. Multiplications are those that the
definition of the layer requires; a transposed convolution in sub-pixel form computes more. The
bound is the time of all required multiplications at the speed of a product of two square matrices.
Operations of a step are fused and overlap, so its products alone may take longer than all of it.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from default_trial import epoch_of, random_images
from flax import nnx

from tuner.gan.layers import Conv, ConvTranspose, Dense
from tuner.xla import compiler_options

BATCH, STEPS, ROUNDS, SIZE = 64, 24, 11, 2048


class Product(NamedTuple):
    """A layer with its input shape, and how often a step computes each of its three products."""

    name: str
    layer: Any
    shape: tuple[int, ...]
    multiplications: int  # per image
    uses: tuple[int, int, int]  # forward, gradient of the input, gradient of the kernel


def products(width: int) -> list[Product]:
    """G draws twice and is updated once; D sees three batches, and is updated with two of them."""
    rngs, w = nnx.Rngs(0), width
    g, d = (2, 1, 1), (3, 1, 2)
    return [
        Product("G, dense", Dense(100, 256 * w, rngs=rngs), (100,), 25600 * w, (2, 0, 1)),
        Product(
            "G, 5x5 at 8x8",
            ConvTranspose(4 * w, 2 * w, stride=1, rngs=rngs),
            (8, 8, 4 * w),
            64 * 25 * 8 * w * w,
            g,
        ),
        Product(
            "G, 5x5 to 16x16",
            ConvTranspose(2 * w, w, stride=2, rngs=rngs),
            (8, 8, 2 * w),
            64 * 25 * 2 * w * w,
            g,
        ),
        Product(
            "G, 5x5 to the image",
            ConvTranspose(w, 1, stride=2, rngs=rngs),
            (16, 16, w),
            256 * 25 * w,
            g,
        ),
        Product(
            "D, 5x5 to 16x16",
            Conv(1, w, size=5, stride=2, rngs=rngs),
            (32, 32, 1),
            256 * 25 * w,
            d,
        ),
        Product(
            "D, 5x5 to 8x8",
            Conv(w, 2 * w, size=5, stride=2, rngs=rngs),
            (16, 16, w),
            64 * 25 * 2 * w * w,
            (3, 3, 2),
        ),
    ]


def median_seconds(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def seconds_of(product: Product) -> list[float]:
    """The seconds of the three products, each compiled alone."""
    graph, params = nnx.split(product.layer)
    x = jax.random.normal(jax.random.key(0), (BATCH, *product.shape))

    def forward(x: Any, params: Any) -> Any:
        return nnx.merge(graph, params)(x)

    def gradient(argument: int) -> Callable[[Any, Any, Any], Any]:
        def pull(x: Any, params: Any, cotangent: Any) -> Any:
            return jax.vjp(forward, x, params)[1](cotangent)[argument]

        return pull

    cotangent = jnp.ones_like(forward(x, params))
    functions = (lambda x, p, _: forward(x, p), gradient(0), gradient(1))
    options = compiler_options(jax.default_backend())
    compiled = [jax.jit(function, compiler_options=options) for function in functions]
    return [median_seconds(functools.partial(f, x, params, cotangent)) for f in compiled]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    width = parser.parse_args().width
    square = jnp.ones((SIZE, SIZE))
    multiply = jax.jit(lambda x: x @ x)
    rate = SIZE**3 / median_seconds(lambda: multiply(square))
    epoch = epoch_of(jax.device_put(random_images(STEPS * BATCH)), width, BATCH)
    step = median_seconds(epoch) / STEPS
    print("| product | uses | ms | speed / matrix product's |")
    print("|---|---|---|---|")
    total = required = 0.0
    for product in products(width):
        seconds, count = seconds_of(product), BATCH * product.multiplications
        for kind, one, uses in zip(
            ("forward", "input", "kernel"), seconds, product.uses, strict=True
        ):
            total, required = total + uses * one, required + uses * count
            speed = count / one / rate
            print(f"| {product.name}: {kind} | {uses} | {1e3 * one:.1f} | {speed:.2f} |")
    print(f"\nmatrix product: {2e-9 * rate:.0f} GFLOP/s; step: {1e3 * step:.0f} ms")
    print(f"all products: {1e3 * total:.0f} ms; bound: {1e3 * required / rate:.0f} ms")


if __name__ == "__main__":
    main()
