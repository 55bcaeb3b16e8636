"""The guard's default limits, held against real training: who is pruned, and who must not be."""

from typing import Any

import pytest

from tuner.data import load_images
from tuner.policies import GuardSection
from tuner.run.files import StudyFiles
from tuner.run.lab import Lab
from tuner.run.lane import Lane
from tuner.run.sharing import shared_measures
from tuner.run.stores import open_store
from tuner.specfile import parse_spec
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Continue, Prune, Verdict, verdict
from tuner.trial import EpochReport

EPOCHS = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    spec = parse_spec({"trial": {"width": 16}, "metrics": {"samples": 1000}}, "test")
    images = load_images(spec.data)
    store = open_store(str(tmp_path_factory.mktemp("files")))
    files = StudyFiles(store, "test").begin("a token")
    return Lab(spec, images, *shared_measures(spec, images, files, None, print))


def train(lab: Lab, **params: Any) -> tuple[list[EpochReport], Verdict]:
    """Train as a worker would, by the guard's word alone."""
    lane = Lane(lab)
    lane.insert(trial_config(lab.spec, params, 0, lab.premises))
    history: list[EpochReport] = []
    end: Verdict = Continue()
    while isinstance(end, Continue):
        history.append(lane.run_epoch())
        end = verdict(GuardSection(), history, EPOCHS, pruner_says_stop=False)
    return history, end


@pytest.mark.slow
def test_a_dead_generator_is_pruned_though_its_naive_loss_ratio_is_fine(lab: Lab) -> None:
    history, end = train(lab, loss="minimax", discriminator_learning_rate=4e-3)
    assert isinstance(end, Prune)
    assert end.reason.startswith("guard: loss_ratio")
    assert len(history) < EPOCHS


@pytest.mark.slow
def test_the_recipe_is_left_alone(lab: Lab) -> None:
    history, end = train(lab)
    assert end == Complete()
    assert all((report.loss_ratio or 0) > 0.1 for report in history)


@pytest.mark.slow
def test_a_generator_that_recovers_is_left_alone(lab: Lab) -> None:
    history, end = train(lab, discriminator_learning_rate=4e-3)
    assert end == Complete()
    assert min(report.loss_ratio or 0 for report in history) < 0.05
    assert history[-1].fid is not None
    assert history[-1].fid < 0.6 * (history[0].fid or 0)


RING = {"batch_size": 32, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    table = {
        "study": {"epochs": EPOCHS},
        "data": {"source": "gaussians"},
        "trial": {"width": 8, "latent_dim": 16},
        "metrics": {"samples": 500, "neighbours": "every"},
    }
    spec = parse_spec(table, "test")
    images = load_images(spec.data)
    store = open_store(str(tmp_path_factory.mktemp("ring")))
    files = StudyFiles(store, "test").begin("a token")
    return Lab(spec, images, *shared_measures(spec, images, files, None, print))


@pytest.mark.slow
def test_collapse_on_the_ring_is_pruned(ring: Lab) -> None:
    """A generator much faster than its discriminator runs after it, from one mode to the next."""
    rates = {"generator_learning_rate": 5e-3, "discriminator_learning_rate": 1e-4}
    history, end = train(ring, **RING | rates)
    assert isinstance(end, Prune)
    assert "variance_ratio" in end.reason
    last = history[-1]
    assert (last.class_coverage or 0) <= 3 / 8
    assert (last.class_entropy or 0) < 0.5
    assert (last.recall or 0) < 0.05


@pytest.mark.slow
def test_the_whole_ring_is_left_alone(ring: Lab) -> None:
    history, end = train(ring, **RING)
    assert end == Complete()
    last = history[-1]
    assert last.class_coverage == 1
    assert (last.class_entropy or 0) > 0.85
    assert (last.recall or 0) > 0.3
    assert (last.variance_ratio or 0) > 0.4
