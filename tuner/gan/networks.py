"""Generators and discriminators by name.

A generator maps latents (batch, latent_dim) to images (batch, size, size, channels) in [-1, 1].
With ``train=True`` its batch norm uses the statistics of the batch.

A discriminator maps images to logits (batch,), higher for images that it takes for real. ``rate``
is its dropout rate; ``key`` seeds dropout, and ``None`` turns it off. With ``train=True`` its norms
use the statistics of the batch, else the recorded ones.

Both take labels, int32 (batch,), if the program has classes. Every variable in them that is not an
``nnx.Param`` counts as statistics.
"""

import importlib
from collections.abc import Callable

from flax import nnx

from tuner.spec.traits import NETWORKS

# An architecture is a module of this package with the classes Generator and Discriminator.
_MODULES = {name: importlib.import_module(f"tuner.gan.{name}") for name in NETWORKS}

# Custom networks are added to both by run.custom_networks.
GENERATORS: dict[str, Callable[..., nnx.Module]] = {
    name: module.Generator for name, module in _MODULES.items()
}
DISCRIMINATORS: dict[str, Callable[..., nnx.Module]] = {
    name: module.Discriminator for name, module in _MODULES.items()
}
