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
    optimizer: str
    d_steps: int
    ema: bool

    def iterations(self, images: int) -> int:
        """Iterations (``d_steps`` D updates and one G update each) in an epoch of ``images``."""
        return max(1, round(images / (self.batch_size * self.d_steps)))


class Hyperparameters(NamedTuple):
    """The numbers that are traced: a new value never recompiles. A pytree of floats."""

    generator_learning_rate: float
    discriminator_learning_rate: float
    beta1: float
    beta2: float
    momentum: float
    rms_decay: float
    dropout: float
    clip_norm: float
    ema_decay: float


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
