"""Traits of losses, networks, optimizers, schedules and sources: one table each.

The study file's checks, ``tuner.gan``, the documentation and tests read these tables. If only
some entries of a table use a setting, it has no effect with the others.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

DEFAULT_PENALTY = 10.0
ADA_IMAGES = 500_000.0  # Karras et al. 2020, section 3.2
PENALTIES = ("gradient_penalty", "r1", "r2")
# Settings that a schedule can move to the value of a second setting, NAME_final.
SCHEDULED = ("r1", "r2", "beta2", "ema_half_life", "augment_probability")
FINAL = tuple(f"{name}_final" for name in SCHEDULED)


class Loss(NamedTuple):
    """An adversarial loss; ``tuner.gan.losses`` computes it."""

    uses: tuple[str, ...] = ()
    penalised: bool = False  # requires a gradient penalty, by default of weight DEFAULT_PENALTY
    bounds_gradients: bool = False  # D's, at images; no penalties are allowed then


class Network(NamedTuple):
    """An architecture: a generator and a discriminator of that name in ``tuner.gan``."""

    norms: tuple[str, str]  # default norms of the generator and the discriminator
    norms_fixed: bool = False  # takes no other norms
    labels: Literal["norm", "embedding"] | None = "norm"  # how the generator is conditioned
    uses: tuple[str, ...] = ()


class Optimizer(NamedTuple):
    """An optimizer; ``tuner.gan.optimizers`` builds it."""

    uses: tuple[str, ...]


class Schedule(NamedTuple):
    """A schedule of learning rates and other settings; ``tuner.gan.schedules`` computes it."""

    uses: tuple[str, ...] = ()


class Augmentation(NamedTuple):
    """A choice of augmentations, joined by +; ``tuner.gan.augmentation`` applies them."""

    uses: tuple[str, ...] = ()


class Source(NamedTuple):
    """A source of images."""

    loader: str  # MODULE:FUNCTION in ``tuner.data``; see ``tuner.data.loading``
    uses: tuple[str, ...]  # keys of [data] that it reads


# ``augment_target`` works only with losses that make D a classifier, whose logit is above 0 for
# images that it takes to be real.
LOSSES = {
    "minimax": Loss(uses=("label_smoothing", "augment_target")),
    "non_saturating": Loss(uses=("label_smoothing", "augment_target")),
    "least_squares": Loss(uses=("label_smoothing",)),
    "hinge": Loss(uses=("augment_target",)),
    "wasserstein": Loss(uses=("weight_clip",)),
    "wasserstein_gp": Loss(penalised=True),
    "dragan": Loss(uses=("label_smoothing", "augment_target"), penalised=True),
    "relativistic": Loss(),
    "gradient_normalized": Loss(uses=("label_smoothing", "augment_target"), bounds_gradients=True),
}

NETWORKS = {
    "dcgan": Network(norms=("batch", "none"), uses=("dropout",)),
    "sndcgan": Network(norms=("batch", "spectral")),
    "resnet": Network(norms=("batch", "spectral")),
    "infogan": Network(norms=("batch", "batch"), labels=None),
    "r3gan": Network(norms=("none", "none"), norms_fixed=True, labels="embedding"),
}

OPTIMIZERS = {
    "adam": Optimizer(uses=("beta1", "beta2")),
    "adamw": Optimizer(uses=("beta1", "beta2", "weight_decay")),
    "sgd": Optimizer(uses=("momentum",)),
    "rmsprop": Optimizer(uses=("rms_decay",)),
    "lion": Optimizer(uses=("beta1", "beta2", "weight_decay")),
    "optimistic_adam": Optimizer(uses=("beta1", "beta2")),
}

SCHEDULES = {
    "constant": Schedule(),
    "linear": Schedule(uses=("decay_images", "burn_in", "final_rate", *FINAL)),
    "cosine": Schedule(uses=("decay_images", "burn_in", "final_rate", *FINAL)),
}

_POLICIES = (
    *("color", "translation", "cutout", "color+translation", "color+cutout"),
    *("translation+cutout", "color+translation+cutout"),
)
AUGMENTATIONS = {
    "none": Augmentation(),
    **dict.fromkeys(
        _POLICIES,
        Augmentation(
            uses=(
                *("augment_probability", "augment_probability_final"),
                *("augment_target", "augment_images"),
            )
        ),
    ),
}

SOURCES = {
    "mnist5k": Source("arrays:mnist5k", uses=("fit",)),
    "digits": Source("arrays:digits", uses=("fit",)),
    "gaussians": Source("arrays:gaussians", uses=("modes",)),
    "idx": Source("arrays:idx", uses=("path", "fit")),
    "npz": Source("arrays:npz", uses=("path", "fit", "images", "labels")),
    "folder": Source("folders:image_folder", uses=("path", "fit", "unreadable")),
    "parquet": Source(
        "tables:table", uses=("path", "fit", "images", "labels", "split", "unreadable")
    ),
    "huggingface": Source(
        "tables:table", uses=("path", "fit", "images", "labels", "split", "subset", "unreadable")
    ),
}

# Each table under the setting that selects one of its entries.
DECIDING: dict[str, Mapping[str, Any]] = {
    "loss": LOSSES,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "discriminator": NETWORKS,
    "optimizer": OPTIMIZERS,
}
CONDITIONAL = tuple(name for name, network in NETWORKS.items() if network.labels)
