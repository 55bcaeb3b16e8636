"""Trials that violate a constraint: ended without training, counted, and learned from."""

from pathlib import Path
from typing import Any

import study_databases
from builders import epoch
from fake_trainer import FakeTrainer, run_trials
from optuna.trial import FrozenTrial, TrialState
from study_databases import EXPIRE_LEASES, Studies, claim

from tuner.epoch_report import EpochReport
from tuner.files.study_files import open_files
from tuner.study.edits import edit
from tuner.study.screening import screened

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

LIMIT = 300_000
CONSTRAINED = """
[trial]
width = [2, 4, 8, 32, 48, 64]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
[pruner]
name = "none"
[constraint]
parameters = 300_000
[sampler]
name = "tpe"
n_startup_trials = 6
"""


class RecordingTrainer(FakeTrainer):
    """Records the width of each trial. Lower learning rates are better."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = list[int]()

    def load(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        self.epoch, self._fid = epoch, 1e4 * config.hyperparameters.generator_learning_rate
        self.trained.append(config.program.width)

    def run_epoch(self) -> EpochReport:
        self.epoch += 1
        return epoch(self.epoch, self._fid)


def work(studies: Studies, folder: Path) -> RecordingTrainer:
    """Run the study's trials with one worker."""
    session, trainer = studies.join(), RecordingTrainer()
    run_trials(session, trainer, open_files(session.store, str(folder)))
    return trainer


def violating(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.params["width"] >= 32]


def test_violating_trials_are_pruned_untrained(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.create(CONSTRAINED, trials=12, epochs=1)
    trainer = work(sqlite, tmp_path)
    trials = sqlite.trials()
    assert len(trials) == 12
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    wrong = violating(trials)
    assert [t for t in trials if t.state == TrialState.PRUNED] == wrong
    assert len(trainer.trained) == 12 - len(wrong)
    assert max(trainer.trained) <= 8
    for trial in wrong:
        generator, discriminator = trial.user_attrs["tuner:parameters"]
        assert trial.constraints == {"parameters": (generator + discriminator) / LIMIT - 1}
        assert trial.user_attrs["tuner:reason"].startswith("constraint.parameters: ")
        assert trial.user_attrs["tuner:reason"].endswith(" weights, at most 300,000 allowed")
        assert (trial.value, trial.intermediate_values) == (None, {})
    assert len(wrong) >= 2
    assert sqlite.optuna_study().best_trial.params["width"] <= 8
    assert store.summary().states == {"COMPLETE": 12 - len(wrong), "PRUNED": len(wrong)}
    assert store.remaining() == 0


def test_a_violating_trial_that_was_left_behind_is_pruned(studies: Studies, tmp_path: Path) -> None:
    store = studies.create(CONSTRAINED + "[[baseline]]\nwidth = 64\n", trials=1)
    claim(studies.join())
    studies.rows(EXPIRE_LEASES)
    assert work(studies, tmp_path).trained == []
    [trial] = store.trials()
    assert (trial.state, trial.params["width"], trial.reports) == ("PRUNED", 64, ())


def test_samplers_see_constraints_by_the_present_limit(sqlite: Studies, tmp_path: Path) -> None:
    store = sqlite.create(CONSTRAINED + "[[baseline]]\nwidth = 32\n", trials=1)
    work(sqlite, tmp_path)
    [before] = screened(store.study, store.spec).trials
    assert before.constraints["parameters"] > 0
    edit(store, ["constraint.parameters=1e9"], "test")
    store.refresh()
    [after] = screened(store.study, store.spec).trials
    assert -1 < after.constraints["parameters"] < 0
    edit(store, ["constraint.parameters="], "test")
    store.refresh()
    assert screened(store.study, store.spec).trials[0].constraints == {}
