"""A trial's configuration: plain values, without JAX and without a database."""

from typing import NamedTuple


class Program(NamedTuple):
    """Everything about a trial that changes its compiled code; equal programs compile once."""

    generator: str
    discriminator: str
    width: int
    latent_dim: int
    image_shape: tuple[int, int, int]  # height, width, channels
    batch_size: int
    loss: str
    generator_optimizer: str
    discriminator_optimizer: str
    d_steps: int
    ema: bool
    generator_norm: str = "batch"
    discriminator_norm: str = "none"
    classes: int = 0  # classes that both networks are conditioned on; 0 if unconditional
    penalties: tuple[str, ...] = ()  # any of gradient_penalty, r1, r2
    augment: tuple[str, ...] = ()  # any of color, translation, cutout
    flips: bool = False
    instance_noise: bool = False
    schedule: str = "constant"
    precision: str = "float32"
    sources: str = ""  # a hash of the code of custom networks
    clips: bool = False  # whether gradients are clipped
    scheduled: tuple[str, ...] = ()  # settings with a final value: see tuner.spec.traits.SCHEDULED
    augment_some: bool = False  # whether images are augmented with a probability
    augment_adapts: bool = False  # whether this probability follows D's logits

    def iterations(self, images: int) -> int:
        """Iterations (``d_steps`` D updates and one G update each) per epoch of ``images``."""
        return max(1, round(images / (self.batch_size * self.d_steps)))

    def images_per_epoch(self, images: int) -> int:
        """Real images seen in one epoch of a dataset of ``images``."""
        return self.iterations(images) * self.batch_size * self.d_steps


class Hyperparameters(NamedTuple):
    """Numeric settings, traced as a pytree of floats: new values never trigger recompilation.

    New fields go last and have a default, because checkpoints are stored without them.
    """

    generator_learning_rate: float
    discriminator_learning_rate: float
    generator_beta1: float
    discriminator_beta1: float
    generator_beta2: float
    discriminator_beta2: float
    momentum: float
    rms_decay: float
    weight_decay: float
    clip_norm: float
    warmup_images: float
    decay_images: float  # over which the learning rates fall after warm-up
    final_rate: float  # learning rates at the end, as a fraction of the initial ones
    total_images: float  # of the whole trial
    dropout: float
    gradient_penalty: float
    r1: float
    r2: float
    weight_clip: float
    label_smoothing: float
    instance_noise: float
    ema_decay: float
    r1_final: float = 0.0
    r2_final: float = 0.0
    beta2_final: float = 0.0  # of both networks
    ema_half_life: float = 0.0  # in images, if it is scheduled; otherwise see ema_decay
    ema_half_life_final: float = 0.0
    augment_probability: float = 1.0
    augment_probability_final: float = 1.0
    augment_target: float = 0.0  # for a probability that adapts
    augment_images: float = 0.0


class DatasetInfo(NamedTuple):
    """Dataset facts shared by all trials of a study."""

    image_shape: tuple[int, int, int]  # height, width, channels
    images: int
    classes: int = 0  # 0 where the images have no labels
    sources: tuple[tuple[str, str], ...] = ()  # a hash of the code of each custom network


class TrialConfig(NamedTuple):
    """One trial in full: machines of the same kind get the same results from the same config."""

    program: Program
    hyperparameters: Hyperparameters
    seed: int
    epochs: int
