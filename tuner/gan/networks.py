"""Generators and discriminators by their names.

A generator maps latents (batch, latent_dim) to images (batch, size, size, channels) in [-1, 1];
``train`` says whether batch norm uses the batch's own statistics. A discriminator maps images to
logits (batch,), higher where it believes an image real; ``key`` makes its dropout random, and
``None`` turns dropout off; ``train`` says whether its norms go by the batch at hand, or by what is
recorded. Both are given labels, int32 (batch,), where the program has classes. All that is not
``nnx.Param`` in them is statistics.
"""

from collections.abc import Callable

from flax import nnx

from tuner.gan.dcgan import DCGANDiscriminator, DCGANGenerator
from tuner.gan.infogan import InfoGANDiscriminator, InfoGANGenerator
from tuner.gan.r3gan import R3GANDiscriminator, R3GANGenerator
from tuner.gan.resnet import ResNetDiscriminator, ResNetGenerator
from tuner.gan.sndcgan import SNDCGANDiscriminator, SNDCGANGenerator

# Both grow when somebody's own networks are admitted: see run.own_networks.
GENERATORS: dict[str, Callable[..., nnx.Module]] = {
    "dcgan": DCGANGenerator,
    "sndcgan": SNDCGANGenerator,
    "resnet": ResNetGenerator,
    "infogan": InfoGANGenerator,
    "r3gan": R3GANGenerator,
}
DISCRIMINATORS: dict[str, Callable[..., nnx.Module]] = {
    "dcgan": DCGANDiscriminator,
    "sndcgan": SNDCGANDiscriminator,
    "resnet": ResNetDiscriminator,
    "infogan": InfoGANDiscriminator,
    "r3gan": R3GANDiscriminator,
}
