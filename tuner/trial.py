"""What one trial is, and what it reports: plain values, without JAX and without a database."""

from typing import NamedTuple


class Program(NamedTuple):
    """Everything about a trial that changes its compiled code; equals share one executable."""

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
    classes: int = 0  # of the labels that both networks are told; 0: none
    penalties: tuple[str, ...] = ()  # of gradient_penalty, r1, r2
    augment: tuple[str, ...] = ()  # of color, translation, cutout
    flips: bool = False
    instance_noise: bool = False
    schedule: str = "constant"
    precision: str = "float32"
    sources: str = ""  # a hash of the code of networks that are not tuner's own

    def iterations(self, images: int) -> int:
        """Iterations (``d_steps`` D updates and one G update each) in an epoch of ``images``."""
        return max(1, round(images / (self.batch_size * self.d_steps)))

    def images_per_epoch(self, images: int) -> int:
        """Real images seen in an epoch of a set of ``images``."""
        return self.iterations(images) * self.batch_size * self.d_steps


class Hyperparameters(NamedTuple):
    """The numbers that are traced: a new value never recompiles. A pytree of floats."""

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
    decay_images: float  # over which the rates fall, once warmed up
    final_rate: float  # what they fall to, as a share
    total_images: float  # of the whole trial
    dropout: float
    gradient_penalty: float
    r1: float
    r2: float
    weight_clip: float
    label_smoothing: float
    instance_noise: float
    ema_decay: float


class Premises(NamedTuple):
    """What the trials of a study have in common that its study file does not say."""

    image_shape: tuple[int, int, int]  # height, width, channels
    images: int
    classes: int = 0  # 0 where the images have no labels
    sources: tuple[tuple[str, str], ...] = ()  # a hash of the code of each network not tuner's own


class TrialConfig(NamedTuple):
    """One trial in full: the same config gives the same numbers, wherever it runs."""

    program: Program
    hyperparameters: Hyperparameters
    seed: int
    epochs: int


class EpochReport(NamedTuple):
    """What is known of a trial after an epoch.

    ``loss_ratio`` is None for losses without a scale of their own. What is measured on generated
    images is None after epochs that are not evaluated, and each where the study does not ask for
    it. Times are in seconds. Where ``finite`` is False the other measurements are whatever was left
    of them, or None.
    """

    epoch: int  # counted from 1
    fid: float | None
    d_loss: float | None
    g_loss: float | None
    loss_ratio: float | None
    d_auc: float | None
    variance_ratio: float | None
    finite: bool
    steps: int  # generator updates since the trial began
    images: int  # real images seen since the trial began
    train_seconds: float
    evaluate_seconds: float
    kid: float | None = None
    fid_infinity: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    class_coverage: float | None = None
    class_entropy: float | None = None
    generate_seconds: float = 0.0  # these three are parts of evaluate_seconds
    extract_seconds: float = 0.0
    score_seconds: float = 0.0

    def value(self, objective: str) -> float | None:
        """The number that the study minimises, where it was measured."""
        found: float | None = getattr(self, objective)
        return found

    @property
    def images_per_second(self) -> float:
        return self.images / self.epoch / self.train_seconds
