"""The guard's default limits in real training runs."""

from pathlib import Path
from typing import Any

import pytest
from real_digits import write_digits

from tuner.data import load_images
from tuner.epoch_report import EpochReport
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.run.evaluator import Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.trainer import Trainer
from tuner.spec.guard import GuardSection
from tuner.spec.loading import parse_spec
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Continue, Prune, Verdict, verdict

EPOCHS = 5


def evaluator_of(table: dict[str, Any], folder: Path) -> Evaluator:
    spec = parse_spec(table, "test")
    images = load_images(spec.data)
    files = StudyFiles(open_store(str(folder)), "test").begin("a token")
    return Evaluator(spec, images, *shared_measures(spec, images, files, None, print))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """On 2,500 digits in batches of 32, which give as many updates as 5,000 in batches of 64."""
    folder = tmp_path_factory.mktemp("files")
    write_digits(folder, 2500)
    table = {
        "data": {"source": "idx", "path": str(folder)},
        "trial": {"width": 16, "batch_size": 32},
        "metrics": {"samples": 1000},
    }
    return evaluator_of(table, folder)


def train(evaluator: Evaluator, **params: Any) -> tuple[list[EpochReport], Verdict]:
    """Train as a worker would, without a pruner."""
    trainer = Trainer(evaluator)
    trainer.load(trial_config(evaluator.spec, params, 0, evaluator.dataset))
    history: list[EpochReport] = []
    end: Verdict = Continue()
    while isinstance(end, Continue):
        history.append(trainer.run_epoch())
        end = verdict(GuardSection(), history, EPOCHS, early=None)
    return history, end


@pytest.mark.slow
def test_a_dead_generator_is_pruned_despite_a_finite_loss(
    evaluator: Evaluator,
) -> None:
    history, end = train(evaluator, loss="minimax", discriminator_learning_rate=4e-3)
    assert isinstance(end, Prune)
    assert end.reason.startswith("guard: loss_ratio")
    assert len(history) < EPOCHS


@pytest.mark.slow
def test_the_guard_keeps_the_default_recipe(evaluator: Evaluator) -> None:
    history, end = train(evaluator)
    assert end == Complete()
    assert all((report.loss_ratio or 0) > 0.1 for report in history)


@pytest.mark.slow
def test_the_guard_keeps_a_generator_that_recovers(evaluator: Evaluator) -> None:
    history, end = train(evaluator, discriminator_learning_rate=4e-3)
    assert end == Complete()
    assert min(report.loss_ratio or 0 for report in history) < 0.05
    assert history[-1].fid is not None
    # The ratio to the worst FID is 0.33 on one CPU; it differs where sums are rounded differently.
    assert history[-1].fid < 0.7 * max(report.fid or 0 for report in history)


RING = {"batch_size": 32, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    table = {
        "study": {"epochs": EPOCHS},
        "data": {"source": "gaussians"},
        "trial": {"width": 8, "latent_dim": 16},
        "metrics": {"samples": 500, "neighbours": "every"},
    }
    return evaluator_of(table, tmp_path_factory.mktemp("ring"))


@pytest.mark.slow
def test_collapse_on_the_ring_is_pruned(ring: Evaluator) -> None:
    """A generator that learns much faster than its discriminator cycles through the modes."""
    rates = {"generator_learning_rate": 5e-3, "discriminator_learning_rate": 1e-4}
    history, end = train(ring, **RING | rates)
    assert isinstance(end, Prune)
    assert "variance_ratio" in end.reason
    last = history[-1]
    assert (last.class_coverage or 0) <= 3 / 8
    assert (last.class_entropy or 0) < 0.5
    assert (last.recall or 0) < 0.05


@pytest.mark.slow
def test_the_guard_keeps_runs_that_cover_the_ring(ring: Evaluator) -> None:
    history, end = train(ring, **RING)
    assert end == Complete()
    last = history[-1]
    assert last.class_coverage == 1
    assert (last.class_entropy or 0) > 0.85
    assert (last.recall or 0) > 0.3
    assert (last.variance_ratio or 0) > 0.4
