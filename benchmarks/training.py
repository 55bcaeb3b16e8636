"""Training and evaluation by tuner's own classes, without a database: shared by benchmarks."""

import tempfile

from tuner.data import load_images
from tuner.epoch_report import EpochReport
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.run.evaluator import Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.trainer import Trainer
from tuner.spec.study import StudySpec
from tuner.study.space import trial_config


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
