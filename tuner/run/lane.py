"""``Lane``: a trial in training on the device."""

import time

import jax
import jax.numpy as jnp

from tuner.gan.losses import LOSSES
from tuner.gan.sampling import Generator
from tuner.gan.state import GanState, init_state
from tuner.gan.training import train_epoch
from tuner.metrics.health import loss_ratio
from tuner.run.artifacts import Arrays, pack
from tuner.run.checkpoints import pack_state
from tuner.run.lab import Lab
from tuner.trial import EpochReport, Hyperparameters, TrialConfig


class Lane:
    """Runs a trial epoch by epoch; ``insert`` first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._config: TrialConfig
        self._state: GanState
        self.epoch = 0  # the last one trained

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of the images that are trained on."""
        return self._lab.image_set.shape

    def insert(self, config: TrialConfig, state: GanState | None = None, epoch: int = 0) -> None:
        """Begin the trial ``config``: afresh, or from its ``state`` after ``epoch`` epochs."""
        self._config, self.epoch = config, epoch
        # As arrays: a Python float and an array would be two programs to the compiler.
        self._hyperparameters = Hyperparameters(*map(jnp.float32, config.hyperparameters))
        if state is None:
            state = init_state(config.program, self._hyperparameters, config.seed)
        self._state = state

    def run_epoch(self) -> EpochReport:
        """Train an epoch, evaluate, and bring the numbers to the host."""
        program, lab = self._config.program, self._lab
        started = time.perf_counter()
        self._state, device_losses = train_epoch(
            program, self._state, self._hyperparameters, lab.images, self.epoch
        )
        losses = jax.device_get(device_losses)
        trained = time.perf_counter()
        self.generator: Generator = lab.generator(program, self._state)
        found = lab.measure(program, self._state, self.generator)
        evaluated = time.perf_counter()
        self.epoch += 1
        steps = self.epoch * program.iterations(len(lab.images))
        finite = found.finite and all(jnp.isfinite(x) for x in losses)
        ratio = loss_ratio(
            float(losses.d_adversarial), float(losses.g_measure), LOSSES[program.loss].indifference
        )
        return EpochReport(
            epoch=self.epoch,
            fid=found.fid,
            d_loss=_number(losses.d_loss),
            g_loss=_number(losses.g_loss),
            loss_ratio=ratio,
            d_auc=found.d_auc,
            variance_ratio=found.variance_ratio,
            finite=finite,
            steps=steps,
            images=steps * program.batch_size * program.d_steps,
            train_seconds=trained - started,
            evaluate_seconds=evaluated - trained,
        )

    def packed_state(self) -> Arrays:
        """The state after the last epoch, on the host."""
        return pack_state(self._state)

    def packed_generator(self) -> Arrays:
        """The generator that the last epoch measured, on the host."""
        return pack(self.generator)


def _number(value: float) -> float | None:
    """A float, or None for what databases can't agree on: NaN and infinity."""
    return float(value) if jnp.isfinite(value) else None
