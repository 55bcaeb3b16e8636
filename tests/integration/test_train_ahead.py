"""The next epoch may begin while the scores of the last one are computed, which changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import spec_of
from jax.errors import JaxRuntimeError

from tuner.data import ImageSet
from tuner.epoch_report import EpochReport
from tuner.errors import InputError
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.gan.step import StepLosses
from tuner.gan.training import Epoch, begin_epoch
from tuner.run.evaluator import Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.trainer import Trainer
from tuner.study.space import trial_config

EPOCHS = 4
STUDY = """
[study]
epochs = 4
[trial]
width = 2
latent_dim = 8
batch_size = 8
[pruner]
name = "none"
[metrics]
features = "random"
samples = 30
neighbours = "off"
"""
AT_RUNGS = STUDY.replace('"none"', '"asha"\nmin_resource = 1\nreduction_factor = 2')


def trainer_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, ahead: str) -> Trainer:
    monkeypatch.setenv("TUNER_TRAIN_AHEAD", ahead)
    spec = spec_of(text)
    pixels = np.random.default_rng(0).integers(0, 256, (56, 32, 32, 1), np.uint8)
    images = ImageSet(pixels, None, "a-fingerprint")
    files = StudyFiles(open_store(str(folder)), "study").begin("a token")
    trainer = Trainer(Evaluator(spec, images, *shared_measures(spec, images, files, None, print)))
    trainer.load(trial_config(spec, {}, 0, trainer.dataset))
    return trainer


def numbers(report: EpochReport) -> dict[str, Any]:
    """The report without its seconds."""
    return {k: v for k, v in report._asdict().items() if not k.endswith("seconds")}


def outcomes(trainer: Trainer) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """The report, state and generator of each epoch."""
    return [
        (
            numbers(trainer.run_epoch()),
            dict(trainer.packed_state()),
            dict(trainer.packed_generator()),
        )
        for _ in range(EPOCHS)
    ]


def test_reports_states_and_generators_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = outcomes(trainer_of(STUDY, tmp_path, monkeypatch, "0"))
    trainer = trainer_of(STUDY, tmp_path, monkeypatch, "1")
    ahead = outcomes(trainer)
    assert [x[0] for x in ahead] == [x[0] for x in after]
    for one, other in zip(ahead, after, strict=True):
        np.testing.assert_equal(one[1:], other[1:])
    trainer.load(trial_config(spec_of(STUDY), {}, 0, trainer.dataset))
    trainer.run_epoch()  # the begun epoch is dropped
    trainer.load(trial_config(spec_of(STUDY), {}, 0, trainer.dataset))
    np.testing.assert_equal(outcomes(trainer)[0], after[0])


@pytest.mark.parametrize("late", [False, True])
def test_without_memory_for_two_states_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The error comes at once, or when the epoch is awaited."""
    expected = outcomes(trainer_of(STUDY, tmp_path, monkeypatch, "0"))
    trainer = trainer_of(STUDY, tmp_path, monkeypatch, "1")
    calls = 0

    class Broken(Epoch):
        def losses(self) -> StepLosses:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    def begin(*args: Any) -> Epoch:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            broken = Broken(*begin_epoch(*args))
            return broken if late else Epoch(broken.state, broken.losses(), 1)
        return begin_epoch(*args)

    monkeypatch.setattr("tuner.run.trainer.begin_epoch", begin)
    np.testing.assert_equal(outcomes(trainer), expected)
    assert calls == 2 * EPOCHS - 1


@pytest.mark.parametrize(
    ("text", "ahead", "begun"),
    [
        (STUDY, "1", [True, True, True, False]),  # nothing follows the last epoch
        (AT_RUNGS, "1", [False, False, True, False]),  # most trials pause at rungs 1 and 2
        (STUDY + 'kid = "every"', "1", [False] * 4),  # computed on the device
        (STUDY + "every = 2", "1", [False, True, False, False]),
        (STUDY, "", [False] * 4),  # a CPU has nothing idle
    ],
)
def test_the_next_epoch_begins_where_the_trial_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, ahead: str, begun: list[bool]
) -> None:
    trainer = trainer_of(text, tmp_path, monkeypatch, ahead)
    found = []
    for _ in range(EPOCHS):
        trainer.run_epoch()
        found.append(trainer._ahead is not None)
    assert found == begun


def test_streamed_images_are_not_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_IMAGE_MEMORY", "0")
    trainer = trainer_of(STUDY, tmp_path, monkeypatch, "1")
    trainer.run_epoch()
    assert trainer._ahead is None


def test_a_wrong_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="TUNER_TRAIN_AHEAD: found 'yes', expected 0 or 1"):
        trainer_of(STUDY, tmp_path, monkeypatch, "yes")
