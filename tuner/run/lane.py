"""``Lane``: a trial in training on the device."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from tuner.gan.losses import LOSSES
from tuner.gan.sampling import Generator, all_finite
from tuner.gan.state import GanState, init_state
from tuner.gan.training import train_epoch
from tuner.metrics.health import loss_ratio
from tuner.run.artifacts import Arrays, pack
from tuner.run.checkpoints import pack_state
from tuner.run.lab import Lab, Measurement
from tuner.trial import EpochReport, Hyperparameters, Premises, TrialConfig


class Lane:
    """Runs a trial epoch by epoch; ``insert`` first."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._config: TrialConfig
        self._state: GanState
        self.generator: Generator | None = None  # as the trial's was evaluated last
        self.samples: np.ndarray | None = None  # of it: see Measurement
        self.epoch = 0  # the last one trained

    @property
    def premises(self) -> Premises:
        """What the images that are trained on make of the study's trials."""
        return self._lab.premises

    def insert(self, config: TrialConfig, state: GanState | None = None, epoch: int = 0) -> None:
        """Begin the trial ``config``: afresh, or from its ``state`` after ``epoch`` epochs."""
        self._config, self.epoch, self.generator = config, epoch, None
        self.samples = None
        # As arrays: a Python float and an array would be two programs to the compiler.
        self._hyperparameters = Hyperparameters(*map(jnp.float32, config.hyperparameters))
        if state is None:
            state = init_state(config.program, self._hyperparameters, config.seed)
        self._state = state

    def run_epoch(self) -> EpochReport:
        """Train an epoch, evaluate where the study does, and bring the numbers to the host."""
        program, lab = self._config.program, self._lab
        started = time.perf_counter()
        self._state, device_losses = train_epoch(
            program,
            self._state,
            self._hyperparameters,
            lab.images,
            lab.labels if program.classes else None,
            self.epoch,
        )
        losses = jax.device_get(device_losses)
        trained = time.perf_counter()
        self.epoch += 1
        finite = bool(all_finite(self._state)) and all(np.isfinite(x) for x in losses)
        found = self._evaluate() if finite else Measurement()
        self.samples = found.samples
        steps = self.epoch * program.iterations(len(lab.images))
        ratio = loss_ratio(
            float(losses.d_adversarial), float(losses.g_measure), LOSSES[program.loss].indifference
        )
        return EpochReport(
            epoch=self.epoch,
            d_loss=_number(losses.d_loss),
            g_loss=_number(losses.g_loss),
            loss_ratio=ratio,
            d_auc=found.d_auc,
            finite=found.finite,
            steps=steps,
            images=steps * program.batch_size * program.d_steps,
            train_seconds=trained - started,
            evaluate_seconds=time.perf_counter() - trained,
            generate_seconds=found.generate_seconds,
            extract_seconds=found.extract_seconds,
            score_seconds=found.score_seconds,
            **found.scores._asdict(),
        )

    def _evaluate(self) -> Measurement:
        """Measure the generator after an epoch that is evaluated."""
        config, metrics = self._config, self._lab.spec.metrics
        if not metrics.evaluated(self.epoch, config.epochs):
            return Measurement(finite=True)
        self.generator = self._lab.generator(config.program, self._state)
        extras = metrics.extras(self.epoch, config.epochs)
        return self._lab.measure(config.program, self._state, self.generator, extras)

    def packed_state(self) -> Arrays:
        """The state after the last epoch, on the host."""
        return pack_state(self._state)

    def packed_generator(self) -> Arrays:
        """The generator that was evaluated last, on the host."""
        return pack(self.generator)


def _number(value: float) -> float | None:
    """A float, or None for what databases can't agree on: NaN and infinity."""
    return float(value) if np.isfinite(value) else None
