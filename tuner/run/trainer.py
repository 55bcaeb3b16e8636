"""``Trainer``: trains one trial on the device, epoch by epoch.

The FID of an epoch is computed on the host, while an accelerator would be idle. Therefore the
trainer begins the next epoch meanwhile, on a copy of the state, unless the trial is likely to end
or pause at this epoch. Numbers and their order are the same; if the trial does end, the epoch that
was begun is dropped.
"""

import functools
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JaxRuntimeError

from tuner import environment
from tuner.epoch_report import EpochReport
from tuner.files.checkpoints import pack_state
from tuner.files.serialization import Arrays, pack, unpack
from tuner.gan.losses import LOSSES
from tuner.gan.sampling import Generator, all_finite
from tuner.gan.state import AdaptiveAugmentation, GanState, abstract_generator, init_state
from tuner.gan.step import StepLosses
from tuner.gan.training import Epoch, begin_epoch
from tuner.metrics.diagnostics import loss_ratio
from tuner.phases import Phase, PhaseClock
from tuner.run.device_memory import device_memory
from tuner.run.evaluator import Evaluation, Evaluator
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.trial import DatasetInfo, Hyperparameters, TrialConfig
from tuner.xla import jit, running_time

COPY_SHARE = 0.02  # of the device's memory, for the copy of a state


class Trainer:
    """Trains and evaluates the trial that was loaded last."""

    def __init__(self, evaluator: Evaluator, clock: PhaseClock | None = None) -> None:
        self._evaluator, self.clock = evaluator, clock or PhaseClock()
        wanted = environment.train_ahead()
        self._trains_ahead = jax.default_backend() != "cpu" if wanted is None else wanted
        self._ahead: Epoch | None = None  # the next epoch, if the device has begun it
        self._begun_at = 0.0  # when it did, by ``running_time``
        self._config: TrialConfig
        self._state: GanState
        self.generator: Generator | None = None  # the one evaluated last
        self.samples: np.ndarray | None = None  # its samples: see Evaluation
        self.epoch = 0  # the last one trained

    @property
    def dataset(self) -> DatasetInfo:
        """Dataset facts shared by all trials."""
        return self._evaluator.dataset

    @property
    def classes(self) -> int:
        """Number of classes that the extractor finds in the data; 0 if it knows none."""
        return self._evaluator.classes

    def load(self, config: TrialConfig, state: GanState | None = None, epoch: int = 0) -> None:
        """Load a trial: a fresh one, or its ``state`` after ``epoch`` epochs."""
        self._config, self.epoch, self.generator = config, epoch, None
        self.samples = self._ahead = None
        # As arrays, because Python floats would compile a second program.
        numbers = jax.device_put([np.float32(x) for x in config.hyperparameters])
        self._hyperparameters = Hyperparameters(*numbers)
        if state is None:
            state = init_state(config.program, self._hyperparameters, config.seed)
        self._state = state

    def run_epoch(self) -> EpochReport:
        """Train an epoch, and evaluate if that is due; times exclude compilation.

        An epoch that was begun ahead counts as training from then on; the host's work in that time
        does not count as evaluation.
        """
        config, evaluator = self._config, self._evaluator
        program, metrics = config.program, evaluator.spec.metrics
        started = self._begun_at if self._ahead else running_time()
        losses = self._train()
        adaptive = jax.device_get(self._state.adaptive)
        trained = running_time()
        self.clock.switch(Phase.EVALUATION)
        self.epoch += 1
        finite = bool(all_finite(self._state)) and all(np.isfinite(x) for x in losses)
        found = Evaluation(finite=finite)
        if finite and metrics.evaluated(self.epoch, config.epochs):
            self.generator = evaluator.generator(program, self._state)
            extras = metrics.extras(self.epoch, config.epochs)
            found = evaluator.measure(
                program, self._state, self.generator, extras, self._train_ahead
            )
        evaluated = self._begun_at if self._ahead else running_time()
        self.samples = found.samples
        return self._report(losses, adaptive, found, trained - started, evaluated - trained)

    def _report(
        self,
        losses: StepLosses,
        adaptive: AdaptiveAugmentation | None,
        found: Evaluation,
        train_seconds: float,
        evaluate_seconds: float,
    ) -> EpochReport:
        """The report on the epoch that has just been trained."""
        program = self._config.program
        steps = self.epoch * program.iterations(len(self._evaluator.images))
        return EpochReport(
            epoch=self.epoch,
            d_loss=_number(float(losses.d_loss)),
            g_loss=_number(float(losses.g_loss)),
            loss_ratio=loss_ratio(
                float(losses.d_adversarial),
                float(losses.g_measure),
                LOSSES[program.loss].indifference,
            ),
            d_auc=found.d_auc,
            finite=found.finite,
            steps=steps,
            images=steps * program.batch_size * program.d_steps,
            train_seconds=train_seconds,
            evaluate_seconds=evaluate_seconds,
            generate_seconds=found.generate_seconds,
            extract_seconds=found.extract_seconds,
            score_seconds=0.0 if self._ahead else found.score_seconds,
            own=found.own,
            augmentation=None if adaptive is None else _number(float(adaptive.probability)),
            **found.scores,
        )

    def _train(self) -> StepLosses:
        """Train an epoch, or wait for the one that was begun ahead; its mean losses."""
        begun, self._ahead = self._ahead, None
        if begun is not None:
            with suppress(JaxRuntimeError):  # such as a lack of memory: it is trained again
                losses = begun.losses()
                self._state = begun.state
                return losses
        begun = self._begin(self._state)
        self._state = begun.state
        return begun.losses()

    def _begin(self, state: GanState) -> Epoch:
        """Begin the epoch after the last one; ``state`` is donated."""
        config, evaluator = self._config, self._evaluator
        labels = evaluator.labels if config.program.classes else None
        return begin_epoch(
            config.program,
            state,
            self._hyperparameters,
            evaluator.images,
            labels,
            self.epoch,
            config.epochs,
        )

    def _train_ahead(self) -> None:
        """Begin the next epoch while the host computes scores, if useful and if memory allows."""
        spec, size = self._evaluator.spec, sum(x.nbytes for x in jax.tree.leaves(self._state))
        if (
            self._trains_ahead
            and isinstance(self._evaluator.images, jax.Array)  # else the host reads them
            and self.epoch < self._config.epochs
            and not spec.pruner.compares_at(self.epoch, spec.metrics.every)
            and size <= COPY_SHARE * device_memory()
        ):
            self._begun_at = running_time()
            with suppress(JaxRuntimeError):  # out of memory for two states
                self._ahead = self._begin(_copied(self._state))

    def remeasure(self, arrays: Arrays) -> tuple[float | None, np.ndarray | None]:
        """The objective of one of the trial's packed generators, on latents that no epoch was
        measured with, and some of its samples with their nearest training images.

        The value of a trial's best epoch is the best of many measurements on the same latents. The
        objective is None if it is not finite; the images are None if none are held out.
        """
        program, evaluator = self._config.program, self._evaluator
        objective = evaluator.spec.metrics.objective
        like = Generator(*abstract_generator(program))
        generator = unpack(like, arrays, "the best generator")
        samples = evaluator.fresh_samples(program, generator)
        group = ALL_OBJECTIVES[objective].group
        value = evaluator.scores(samples, set() if group is None else {group}).get(objective)
        return None if value is None else _number(value), evaluator.nearest(samples)

    def packed_state(self) -> Arrays:
        """Return the state after the last epoch as host arrays."""
        return pack_state(self._state)

    def packed_generator(self) -> Arrays:
        """Return the generator that was evaluated last as host arrays."""
        return pack(self.generator)


@functools.partial(jit, quick=True)
def _copied(state: GanState) -> GanState:
    copy: GanState = jax.tree.map(jnp.copy, state)
    return copy


def _number(value: float) -> float | None:
    """A float, or None for NaN and infinity, which databases treat differently."""
    return float(value) if np.isfinite(value) else None
