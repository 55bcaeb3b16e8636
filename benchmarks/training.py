"""Shared by the benchmarks: training without a study, and timing in alternation."""

import tempfile
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from tuner.data import load_images
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.gan.input_pipeline import Images
from tuner.gan.state import init_state
from tuner.gan.training import train_epoch
from tuner.run.evaluator import Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.trainer import Trainer
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo, EpochReport, Hyperparameters

LONG = 1000  # epochs, of a trial that is worth the best program


def alternate(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time the runs in alternation; seconds without the first round, which compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in seconds.items()}


def epoch_of(images: Images, width: int, batch_size: int = 64) -> Callable[[], None]:
    """A function that trains the next epoch of a DCGAN on these images."""
    spec = parse_spec({"trial": {"width": width, "batch_size": batch_size}}, "benchmark")
    _, *shape = images.shape
    dataset = DatasetInfo((shape[0], shape[1], shape[2]), len(images))
    program, numbers, seed, _ = trial_config(spec, {}, 0, dataset)
    hyperparameters = Hyperparameters(*map(jnp.float32, numbers))
    state, epoch = init_state(program, hyperparameters, seed), 0

    def run() -> None:
        nonlocal state, epoch
        state, losses = train_epoch(program, state, hyperparameters, images, None, epoch, LONG)
        jax.device_get(losses)
        epoch += 1

    return run


def temporary_evaluator(spec: StudySpec) -> Evaluator:
    """An evaluator whose extractor and reference statistics are not kept on disk."""
    images = load_images(spec.data)
    with tempfile.TemporaryDirectory() as folder:
        files = StudyFiles(open_store(folder), "benchmark").begin("a token")
        return Evaluator(spec, images, *shared_measures(spec, images, files, None, print))


def train(evaluator: Evaluator, spec: StudySpec, seed: int) -> list[EpochReport]:
    """Train a trial to its last epoch."""
    trainer = Trainer(evaluator)
    trainer.load(trial_config(spec, {}, seed, evaluator.dataset))
    return [trainer.run_epoch() for _ in range(spec.study.epochs)]
