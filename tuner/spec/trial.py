"""The ``[trial]`` section: every hyperparameter, fixed or searched."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from tuner.spec.kinds import Kind, Name, Real, Whole
from tuner.spec.parameters import Choices, Range, Setting
from tuner.spec.sections import Section, entry
from tuner.spec.traits import AUGMENTATIONS, LOSSES, NETWORKS, OPTIMIZERS, SCHEDULES

GENERATOR_NORMS = ("batch", "none")
DISCRIMINATOR_NORMS = ("none", "batch", "layer", "spectral")
PRECISIONS = ("float32", "bfloat16")
_RATE = Real(0, 10, open_low=True)
_FRACTION = Real(0, 1, open_high=True)
_OPTIMIZER = Name(tuple(OPTIMIZERS))

_Network = Annotated[Setting, Name(tuple(NETWORKS), custom=True)]
_Switch = Annotated[Setting, Name(("off", "on"))]
_Amount = Annotated[Setting, Real(0)]
_Rate = Annotated[Setting, _RATE]
_Fraction = Annotated[Setting, _FRACTION]
_Optimizer = Annotated[Setting, _OPTIMIZER]
# Values at the end of the schedule; None where the setting keeps its value.
_FinalAmount = Annotated[Setting | None, Real(0)]
_Probability = Annotated[Setting | None, Real(0, 1)]
# Settings of one network; None where the common setting applies.
_OwnRate = Annotated[Setting | None, _RATE]
_OwnFraction = Annotated[Setting | None, _FRACTION]
_OwnOptimizer = Annotated[Setting | None, _OPTIMIZER]


class TrialSection(Section):
    """Each key is a value, a list of choices, or a range ``{ low, high, log, step }``."""

    generator: _Network = entry("dcgan", "generator network")
    discriminator: _Network = entry("dcgan", "discriminator network")
    width: Annotated[Setting, Whole(1, 1024)] = entry(
        64, "scale of all channel counts; the tutorial uses 64"
    )
    latent_dim: Annotated[Setting, Whole(1, 4096)] = entry(100, "length of the noise vector")
    generator_norm: Annotated[Setting | None, Name(GENERATOR_NORMS)] = entry(
        None, "normalisation; by default the network's own"
    )
    discriminator_norm: Annotated[Setting | None, Name(DISCRIMINATOR_NORMS)] = entry(
        None, "normalisation; by default the network's own"
    )
    conditional: _Switch = entry("off", "condition both networks on the labels")
    precision: Annotated[Setting, Name(PRECISIONS)] = entry(
        "float32", "dtype in which networks compute; weights are float32"
    )
    loss: Annotated[Setting, Name(tuple(LOSSES))] = entry("non_saturating", "adversarial loss")
    gradient_penalty: Annotated[Setting | None, Real(0)] = entry(
        None, "weight of the gradient penalty; by default 10 for losses that need one, else 0"
    )
    r1: _Amount = entry(0.0, "weight of the R1 penalty, on D's gradient at real images")
    r2: _Amount = entry(0.0, "weight of the R2 penalty, on D's gradient at generated images")
    r1_final: _FinalAmount = entry(None, "r1 at the end of the schedule; by default r1")
    r2_final: _FinalAmount = entry(None, "r2 at the end of the schedule; by default r2")
    weight_clip: Annotated[Setting, Real(0, open_low=True)] = entry(
        0.01, "largest absolute weight of D, to which wasserstein clips"
    )
    label_smoothing: _Fraction = entry(
        0.0, "one-sided label smoothing: D's target for real images is 1 minus this"
    )
    instance_noise: _Amount = entry(
        0.0, "initial standard deviation of noise on D's images; falls to 0 by the end of the trial"
    )
    augment: Annotated[Setting, Name(tuple(AUGMENTATIONS))] = entry(
        "none", "DiffAugment of real and generated images"
    )
    augment_probability: _Probability = entry(
        None, "probability that an image is augmented; by default every image is"
    )
    augment_probability_final: _Probability = entry(
        None, "augment_probability at the end of the schedule; by default the same"
    )
    augment_target: Annotated[Setting | None, Real(0, 1, open_low=True, open_high=True)] = entry(
        None,
        "ADA: adapt the probability to keep the mean sign of D's logits on real images at this "
        "value; the paper uses 0.6",
    )
    augment_images: Annotated[Setting | None, Real(0, open_low=True)] = entry(
        None, "ADA: real images in which the probability can rise from 0 to 1; by default 500,000"
    )
    flips: _Switch = entry("off", "flip real images left to right at random")
    batch_size: Annotated[Setting, Whole(2, 65_536)] = entry(64, "images per batch")
    d_steps: Annotated[Setting, Whole(1, 100)] = entry(
        1, "discriminator updates per generator update"
    )
    optimizer: _Optimizer = entry("adam", "optimizer of both networks, unless set for one")
    generator_optimizer: _OwnOptimizer = entry(None, "for the generator only")
    discriminator_optimizer: _OwnOptimizer = entry(None, "for the discriminator only")
    learning_rate: _Rate = entry(2e-4, "learning rate of both networks, unless set for one")
    generator_learning_rate: _OwnRate = entry(None, "for the generator only")
    discriminator_learning_rate: _OwnRate = entry(None, "for the discriminator only")
    beta1: _Fraction = entry(
        0.5, "Adam and variants: decay of the mean gradient; Lion: weight of momentum in the update"
    )
    generator_beta1: _OwnFraction = entry(None, "for the generator only")
    discriminator_beta1: _OwnFraction = entry(None, "for the discriminator only")
    beta2: _Fraction = entry(
        0.999, "Adam and variants: decay of the mean squared gradient; Lion: decay of momentum"
    )
    generator_beta2: _OwnFraction = entry(None, "for the generator only")
    discriminator_beta2: _OwnFraction = entry(None, "for the discriminator only")
    beta2_final: _OwnFraction = entry(
        None, "beta2 of both networks at the end of the schedule; by default the same"
    )
    momentum: _Fraction = entry(0.9, "SGD: momentum")
    rms_decay: _Fraction = entry(0.9, "RMSprop: decay of the mean squared gradient")
    weight_decay: _Amount = entry(
        0.0, "AdamW, Lion: decoupled weight decay, scaled by the learning rate"
    )
    schedule: Annotated[Setting, Name(tuple(SCHEDULES))] = entry(
        "constant",
        "curve on which the learning rates decay, and settings with a final value move to it",
    )
    warmup_images: _Amount = entry(0.0, "images over which the learning rates warm up")
    decay_images: Annotated[Setting | None, Real(0, open_low=True)] = entry(
        None,
        "images over which the schedule runs after the warm-up; by default until the end of the "
        "trial",
    )
    burn_in: Annotated[Setting | None, Real(0, 1, open_low=True)] = entry(
        None,
        "share of the trial after which the schedule, warm-up included, has ended: like "
        "decay_images, but relative",
    )
    final_rate: Annotated[Setting, Real(0, 1)] = entry(
        0.0, "final learning rate as a fraction of the full one"
    )
    dropout: _Fraction = entry(0.3, "dropout rate in the discriminator")
    clip_norm: _Amount = entry(0.0, "largest global norm of the gradient; 0 is off")
    ema_decay: _Fraction = entry(
        0.0, "decay of the generator's moving average, which is then evaluated; 0 is off"
    )
    ema_half_life: _Amount = entry(
        0.0,
        "like ema_decay, in images: after that many, half of the moving average is new",
    )
    ema_half_life_final: Annotated[Setting | None, Real(0, open_low=True)] = entry(
        None,
        "half-life at the end of the schedule, without the warm-up that ema_decay has: let it "
        "rise from ema_half_life = 0",
    )

    when: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict,
        description="settings that apply only with a certain choice of another setting: see "
        "Conditional settings",
    )

    def __hash__(self) -> int:
        """Hash the settings except ``when``, a dict, so that ``branches`` is cacheable."""
        return hash(tuple(value for _, value in self.settings()))

    def settings(self) -> Iterator[tuple[str, Setting]]:
        """Every setting by name, except those under ``when``."""
        return ((name, value) for name, value in self if name != "when")

    def searched(self) -> dict[str, Choices | Range]:
        """The settings with choices or a range, by name."""
        return {k: value for k, value in self.settings() if isinstance(value, Choices | Range)}


def kind_of(name: str) -> Kind:
    """The kind of values that the trial's setting ``name`` takes."""
    return next(m for m in TrialSection.model_fields[name].metadata if isinstance(m, Kind))


def setting_names() -> list[str]:
    """The names of all settings of ``[trial]``."""
    return [name for name in TrialSection.model_fields if name != "when"]
