"""Parameter counts of the architectures against the papers' tables."""

import itertools
from typing import Any

import jax
import pytest
from flax import nnx

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.spec.traits import NETWORKS
from tuner.trial import Program


def dense(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def conv(size: int, inputs: int, outputs: int) -> int:
    return (size * size * inputs + 1) * outputs


def up(inputs: int, outputs: int) -> int:
    """A generator block: two batch norms, two 3x3 convolutions and a shortcut."""
    kernels = conv(3, inputs, outputs) + conv(3, outputs, outputs) + conv(1, inputs, outputs)
    return 2 * inputs + 2 * outputs + kernels


def down(inputs: int, outputs: int) -> int:
    """A discriminator block."""
    return conv(3, inputs, inputs) + conv(3, inputs, outputs) + conv(1, inputs, outputs)


def first(outputs: int) -> int:
    return conv(3, 3, outputs) + conv(3, outputs, outputs) + conv(1, 3, outputs)


def sndcgan(start: int) -> tuple[int, int]:
    """Kurach et al. 2019, table 5, for images of ``8 * start`` pixels."""
    flat = start * start * 512
    deconvs = [(512, 256), (256, 128), (128, 64)]
    g = dense(128, flat) + 2 * flat + sum(conv(4, i, o) + 2 * o for i, o in deconvs)
    fine = conv(3, 3, 64) + conv(3, 128, 128) + conv(3, 256, 256) + conv(3, 512, 512)
    coarse = conv(4, 64, 128) + conv(4, 128, 256) + conv(4, 256, 512)
    return g + conv(3, 64, 3), fine + coarse + dense(flat, 1)


def infogan(start: int) -> tuple[int, int]:
    """Chen et al. 2016, table 1, for images of ``4 * start`` pixels."""
    flat = start * start * 128
    g = dense(64, 1024) + 2 * 1024 + dense(1024, flat) + 2 * flat
    d = conv(4, 1, 64) + conv(4, 64, 128) + 2 * 128 + dense(flat, 1024) + 2 * 1024
    return g + conv(4, 128, 64) + 2 * 64 + conv(4, 64, 1), d + dense(1024, 1)


def resnet(g: list[int], d: list[int], halvings: int) -> tuple[int, int]:
    """Miyato et al. 2018, tables 4 and 6, and Brock et al. 2019, table 6, without attention:
    channels at 4x4 and after each block."""
    blocks = sum(up(i, o) for i, o in itertools.pairwise(g)) + 2 * g[-1]
    downs = sum(down(i, o) for i, o in itertools.pairwise(d[:halvings]))
    # Blocks that keep size and channels have no convolution in their shortcut.
    plain = sum(2 * conv(3, width, width) for width in d[halvings:])
    numbers = dense(128, 16 * g[0]) + blocks + conv(3, g[-1], 3)
    return numbers, first(d[0]) + downs + plain + dense(d[-1], 1)


def dcgan(start: list[int]) -> tuple[int, int]:
    """The tutorial's layers; ``start``: the generator's channels at 8x8 and after each layer."""
    flat = 64 * start[0]
    g = 100 * flat + 2 * flat + sum(25 * i * o + 2 * o for i, o in itertools.pairwise(start))
    d = [1, *start[:0:-1]]
    return g + 25 * 64, sum(conv(5, i, o) for i, o in itertools.pairwise(d)) + dense(64 * d[-1], 1)


# Parameters of generator and discriminator with the papers' width, latent size and channels. R3GAN
# was counted in its authors' code (brownvc/R3GAN) with their settings for CIFAR-10, FFHQ-64 and
# FFHQ-256, the last also reduced to 128 pixels.
COUNTS = {
    ("dcgan", 32): dcgan([256, 128, 64]),
    ("dcgan", 64): dcgan([512, 256, 128, 64]),
    ("dcgan", 128): dcgan([1024, 512, 256, 128, 64]),
    ("dcgan", 256): dcgan([2048, 1024, 512, 256, 128, 64]),
    ("sndcgan", 32): sndcgan(4),
    ("sndcgan", 64): sndcgan(8),
    ("sndcgan", 128): sndcgan(16),
    ("sndcgan", 256): sndcgan(32),
    ("resnet", 32): resnet([256] * 4, [128] * 4, 2),
    ("resnet", 64): resnet([1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024], 5),
    ("resnet", 128): resnet([1024, 1024, 512, 256, 128, 64], [64, 128, 256, 512, 1024, 1024], 5),
    ("resnet", 256): resnet(
        [1024, 1024, 512, 512, 256, 128, 64], [64, 128, 256, 512, 512, 1024, 1024], 6
    ),
    ("infogan", 32): infogan(8),
    ("infogan", 64): infogan(16),
    ("infogan", 128): infogan(32),
    ("infogan", 256): infogan(64),
    ("r3gan", 32): (20_732_160, 20_683_776),
    ("r3gan", 64): (22_429_824, 22_381_440),
    ("r3gan", 128): (22_910_016, 22_861_632),
    ("r3gan", 256): (23_057_952, 23_009_568),
}
# Width, latent size, channels.
PAPERS = {
    "dcgan": (64, 100, 1),
    "sndcgan": (64, 128, 3),
    "resnet": (64, 128, 3),
    "infogan": (64, 64, 1),
    "r3gan": (48, 64, 3),
}


def program(name: str, size: int, classes: int = 0) -> Program:
    """A program with the paper's width and the network's norms."""
    (width, latent_dim, channels), shape = PAPERS[name], (size, size)
    plain = Program(
        *(name, name, width, latent_dim, (*shape, channels), 8, "minimax", "adam", "adam", 1, False)
    )
    g, d = NETWORKS[name].norms
    return plain._replace(generator_norm=g, discriminator_norm=d, classes=classes)


def count(kind: Any, program: Program) -> int:
    params = nnx.state(nnx.eval_shape(lambda: kind(program, rngs=nnx.Rngs(0))), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("name", "size"), COUNTS)
def test_parameter_counts_equal_the_papers(name: str, size: int) -> None:
    at = program(name, size)
    kinds = GENERATORS[name], DISCRIMINATORS[name]
    assert tuple(count(kind, at) for kind in kinds) == COUNTS[name, size]
    if size <= 128:
        for kind, number in zip(kinds, COUNTS[name, size], strict=True):
            assert f"{number:,}" in " ".join((kind.__doc__ or "").split())


@pytest.mark.parametrize(("size", "widths"), [(32, [256] * 4), (64, [1024, 512, 256, 128, 64])])
def test_resnet_conditions_its_blocks_but_not_the_last_norm(size: int, widths: list[int]) -> None:
    """As in the authors' code (pfnet-research/sngan_projection, gen_models), both norms of a block
    have a gain and a bias for each class."""
    kind = GENERATORS["resnet"]
    more = count(kind, program("resnet", size, 10)) - count(kind, program("resnet", size))
    assert more == 9 * sum(2 * i + 2 * o for i, o in itertools.pairwise(widths))


def test_class_conditional_r3gan_has_its_authors_parameter_counts() -> None:
    """Counted in the authors' code with their settings for CIFAR-10 with classes."""
    at = program("r3gan", 32, classes=10)
    assert count(GENERATORS["r3gan"], at) == 20_781_952
    assert count(DISCRIMINATORS["r3gan"], at) == 21_280_512
