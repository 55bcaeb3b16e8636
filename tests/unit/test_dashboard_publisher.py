"""Pictures and notes of trials on the dashboard."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import RANGES, epoch, spec_of
from fake_trainer import KIDS, KidTrainer, fake_run, kid_spec, reported
from trials import record

from tuner.dashboard.notes import study_lead, trial_note
from tuner.dashboard.publishing import DashboardPublisher
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.spec.study import StudySpec
from tuner.study.budget import Budget, Spent
from tuner.study.verdict import Fail, Prune

TOKEN = "0123456789abcdef"
MACHINE = {"device": "H200", "host": "far|away", "tuner": "1", "jax": "2"}


class PublishedTrial:
    """A trial of the fake trainer, with its publisher."""

    def __init__(
        self, folder: Path, spec: StudySpec, kids: list[float | None], epochs: int = 0
    ) -> None:
        self._trainer = KidTrainer(kids)
        self.run = fake_run(spec, self._trainer, reported(epochs, kids))
        files = StudyFiles(open_store(str(folder)), "study").begin(TOKEN)
        store: Any = SimpleNamespace(name="my study", study_id=7, token=TOKEN, spec=spec)
        self.drawn: list[tuple[int, int, bytes]] = []  # pictures that others receive

        def drawn(trial: int, epoch: int, png: bytes) -> None:
            self.drawn.append((trial, epoch, png))

        self.publisher = DashboardPublisher(store, files, print, drawn)
        self.publisher.begin(self.run.claim)
        self.run.begin(None)

    def epoch(self) -> list[int]:
        """Train an epoch; return the epochs of the pictures reported with it."""
        report = self.run.run_epoch()
        self.publisher.samples(report.epoch, self._trainer.samples)
        return epochs_of(self.publisher.attributes(report))

    def end(self, verdict: Any, artifact: str | None, machine: dict[str, str]) -> Any:
        samples = self.run.kept and self.run.kept.samples
        record = self.run.record(verdict, artifact, machine)
        return self.publisher.end(record, self.run.best_epoch(), samples)


def epochs_of(attributes: Any) -> list[int]:
    """The epochs of the pictures that attributes name; 0 is the learning curves."""
    return sorted(int(key[-6:]) for key in attributes)


def published_epochs(folder: Path) -> list[int]:
    """The epochs whose samples are in the artifact store."""
    return sorted(int(path.stem[-6:]) for path in folder.rglob("samples-epoch-*.png"))


@pytest.mark.parametrize(
    ("pictures", "every", "expected"),
    [
        ("first = 2\nevery = 5", 1, [1, 2, 5, 10, 12]),
        ("first = 0\nevery = 5", 1, [5, 10, 12]),
        ("first = 2\nevery = 5", 3, [6, 12]),  # the first evaluated epoch after each fifth one
        ("first = 3\nevery = 100", 3, [3, 12]),
        ("first = 0\nevery = 1000", 5, [12]),
    ],
)
def test_samples_of_some_epochs_are_published(
    tmp_path: Path, pictures: str, every: int, expected: list[int]
) -> None:
    spec = spec_of(
        f"[study]\nepochs = 12\n{RANGES}\n[metrics]\nevery = {every}\n[pictures]\n{pictures}"
    )
    evaluated = [spec.metrics.evaluated(n, 12) for n in range(1, 13)]
    kids = [1.0 / n if measured else None for n, measured in enumerate(evaluated, 1)]
    trial = PublishedTrial(tmp_path, spec, kids)
    for _ in range(12):
        trial.epoch()
    trial.publisher._uploader.take(10)
    assert published_epochs(tmp_path) == expected


def test_samples_of_the_best_epoch_are_always_published(tmp_path: Path) -> None:
    spec = kid_spec(more="[pictures]\nfirst = 0\nevery = 100")
    trial = PublishedTrial(tmp_path, spec, KIDS)
    for _ in range(5):
        assert trial.epoch() == []
    ended = trial.end(Prune("bad"), None, {})
    assert epochs_of(ended.attributes) == [0, 4]
    assert published_epochs(tmp_path) == [4]
    assert (tmp_path / "study/pictures/trial-00000/curves.svg").read_text().startswith("<svg")


def test_sample_grids_are_passed_on_as_they_are_stored(tmp_path: Path) -> None:
    """Drawn once, for the dashboard and for trackers."""
    trial = PublishedTrial(tmp_path, kid_spec(), KIDS)
    for _ in range(4):
        trial.epoch()
    trial.publisher._uploader.take(10)
    stored = {int(path.stem[-6:]): path.read_bytes() for path in tmp_path.rglob("samples-*.png")}
    assert {(number, epoch): png for number, epoch, png in trial.drawn} == {
        (0, epoch): png for epoch, png in stored.items()
    }
    assert set(stored) == {2, 4}


def test_a_successor_publishes_the_remaining_pictures(tmp_path: Path) -> None:
    first = PublishedTrial(tmp_path, kid_spec(), KIDS)
    for _ in range(4):
        first.epoch()
    first.publisher._uploader.take(10)
    second = PublishedTrial(tmp_path, kid_spec(), KIDS, epochs=4)
    assert second.epoch() == [2, 4]


def test_a_note_summarises_the_trial(tmp_path: Path) -> None:
    trial = PublishedTrial(tmp_path, kid_spec(), KIDS)
    for _ in range(4):
        trial.epoch()
    text = trial.end(Prune("worse *than* the others"), "kept.safetensors", MACHINE).note
    assert text.startswith("**Pruned** after epoch 4 of 6: worse \\*than\\* the others")
    assert "| KID | 0.25 in epoch 4 |" in text
    assert "| device | H200 on far\\|away |" in text
    assert f"(/artifacts/7/1/{TOKEN[:8]}-00000-000004)" in text
    assert f"(/artifacts/7/1/{TOKEN[:8]}-00000-000000)" in text
    assert "`tuner retry 'my study' 0 --exactly`" in text
    failed = trial.end(Fail("a bug"), None, {}).note
    assert failed.startswith("**Failed** after epoch 4 of 6: a bug")
    assert "tuner sample" not in failed


def test_the_studys_note_leads_with_the_winner_what_is_wrong_with_it_and_the_budget() -> None:
    spec = spec_of("[budget]\ndevice_hours = 2.0")
    budget = Budget(spec.budget, Spent(device_hours=0.5))
    collapsed = epoch(2, 20.5, class_coverage=0.1, class_entropy=0.0)
    trials = [record(0, reports=(epoch(1, 30.0), collapsed))]
    winner, spent = study_lead("s", spec, trials, [], budget)
    warning = "\N{LARGE RED CIRCLE} the generator has collapsed: 10% of the classes generated"
    assert winner.startswith(f"Best: trial 0, FID 20.5 (one seed) ({warning}), ")
    assert spent == "Budget: 0.5 of 2 device hours spent."
    assert study_lead("s", spec_of(""), [], [], Budget(spec_of("").budget, Spent())) == []
    note = trial_note("s", spec, trials[0], 2, {})
    assert "\N{LARGE RED CIRCLE} **Warning: the generator has collapsed: 10% of the" in note
