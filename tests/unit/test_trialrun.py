"""Which epoch's generator a trial keeps, also where epochs are trained again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PREMISES, RANGES, epoch, spec_of

from tuner.run.album import Album
from tuner.run.checkpoints import Checkpoint, KeptGenerator
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store
from tuner.run.trialrun import TrialRun
from tuner.study.membership import Claim
from tuner.study.space import trial_config
from tuner.study.verdict import Fail, Prune
from tuner.trial import EpochReport

TOKEN = "0123456789abcdef"
KIDS = [None, 0.5, None, 0.25, None, 0.375]  # of epochs 1 to 6; FID says otherwise


class FakeLane:
    """Trains nothing; each epoch's generator is its number."""

    def __init__(self, kids: list[float | None]) -> None:
        self.epoch, self._kids, self._measured = 0, kids, 0
        self.samples: Any = None

    def insert(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        self.epoch = epoch

    def run_epoch(self) -> EpochReport:
        self.epoch += 1
        kid = self._kids[self.epoch - 1]
        if kid is not None:
            self._measured = self.epoch
        self.samples = np.full((4, 8, 8, 1), self.epoch, np.uint8) if kid is not None else None
        return epoch(self.epoch, None if kid is None else 10.0 * self.epoch, kid=kid)

    def packed_generator(self) -> dict[str, Any]:
        return {"epoch": np.array(self._measured)}


def trial(
    folder: Path, value: str, kids: list[float | None], reported: int = 0, more: str = ""
) -> TrialRun:
    study = f"[study]\nepochs = 6\nvalue = '{value}'\n{RANGES}\n"
    spec = spec_of(f"{study}[metrics]\nobjective = 'kid'\nevery = 2\n{more}")
    before = FakeLane(KIDS)
    history = tuple(before.run_epoch() for _ in range(reported))
    point = {"learning_rate": 1e-3, "beta1": 0.5}
    claim = Claim(1, 0, point, trial_config(spec, point, 0, PREMISES), 2, history)
    lane: Any = FakeLane(kids)
    writer: Any = None
    return TrialRun(claim, lane, writer, album_in(folder), spec)


def album_in(folder: Path) -> Album:
    files = StudyFiles(open_store(str(folder)), "study").begin(TOKEN)
    return Album(files, TOKEN, 0, print)


def kept(run: TrialRun) -> tuple[int, int] | None:
    """The epoch that is said, and the one whose generator it is."""
    return run.kept and (run.kept.epoch, int(run.kept.arrays["epoch"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("best", [0, 2, 2, 4, 4, 4]), ("last", [0, 2, 2, 4, 4, 6])],
)
def test_the_objectives_epoch_is_kept(value: str, expected: list[int], tmp_path: Path) -> None:
    run = trial(tmp_path, value, KIDS)
    run.begin(None)
    for best in expected:
        run.run_epoch()
        assert run.best_epoch() == best
        assert kept(run) == ((best, best) if best else None)


def test_a_checkpoint_from_before_the_best_epoch_is_trained_up_to_it(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", KIDS, reported=5)
    run.begin(Checkpoint(2, {}, KeptGenerator(2, {"epoch": np.array(2)})))
    for _ in range(3):
        run.repeat_epoch()
    assert kept(run) == (4, 4)
    run.run_epoch()
    assert kept(run) == (4, 4)


def test_an_epoch_that_comes_to_nothing_when_trained_again_is_not_kept(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", [None, 0.5, None, None, None, None], reported=4)
    run.begin(None)
    for _ in range(4):
        run.repeat_epoch()
    assert run.best_epoch() == 4
    assert kept(run) == (2, 2) or run.kept is None


def shown(folder: Path) -> list[int]:
    """The epochs whose samples are kept."""
    return sorted(int(path.stem[-6:]) for path in folder.rglob("samples-epoch-*.png"))


@pytest.mark.parametrize(
    ("pictures", "every", "expected"),
    [
        ("first = 2\nevery = 5", 1, [1, 2, 5, 10, 12]),
        ("first = 0\nevery = 5", 1, [5, 10, 12]),
        ("first = 2\nevery = 5", 3, [6, 12]),  # the first evaluated ones after so many epochs
        ("first = 3\nevery = 100", 3, [3, 12]),
        ("first = 0\nevery = 1000", 5, [12]),
    ],
)
def test_some_epochs_are_shown(
    tmp_path: Path, pictures: str, every: int, expected: list[int]
) -> None:
    toml = f"[study]\nepochs = 12\n[metrics]\nevery = {every}\n[pictures]\n{pictures}"
    spec = spec_of(toml)
    evaluated = [spec.metrics.evaluated(n, 12) for n in range(1, 13)]
    lane: Any = FakeLane([1.0 / n if measured else None for n, measured in enumerate(evaluated, 1)])
    writer: Any = None
    claim = Claim(1, 0, {}, trial_config(spec, {}, 0, PREMISES), 1, ())
    album = album_in(tmp_path)
    run = TrialRun(claim, lane, writer, album, spec)
    run.begin(None)
    for _ in range(12):
        report = run.run_epoch()
        run.new_pictures(report)
    album.take(10)
    assert shown(tmp_path) == expected


def test_the_best_epoch_is_always_shown(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", KIDS, more="[pictures]\nfirst = 0\nevery = 100")
    run.begin(None)
    for _ in range(5):
        report = run.run_epoch()
        assert run.new_pictures(report) == {}
    told = run.last_pictures()
    assert sorted(key[-6:] for key in told) == ["000000", "000004"]
    assert shown(tmp_path) == [4]
    assert (tmp_path / "study/pictures/trial-00000/curves.svg").read_text().startswith("<svg")


def test_whoever_goes_on_tells_of_what_was_left(tmp_path: Path) -> None:
    first = trial(tmp_path, "best", KIDS)
    first.begin(None)
    for _ in range(4):
        first.run_epoch()
    first._album.take(10)
    second = trial(tmp_path, "best", KIDS, reported=4)
    second.begin(None)
    report = second.run_epoch()
    told = second.new_pictures(report)
    assert [key[-6:] for key in told] == ["000002", "000004"]


def test_a_note_says_how_a_trial_went(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", KIDS)
    run.begin(None)
    for _ in range(4):
        run.run_epoch()
    run.last_pictures()
    store: Any = type("Store", (), {"name": "my study", "study_id": 7})
    machine = {"device": "H200", "host": "far|away", "tuner": "1", "jax": "2"}
    text = run.note(store, Prune("worse *than* the others"), "kept.safetensors", machine)
    assert text.startswith("**Pruned** after epoch 4 of 6: worse \\*than\\* the others")
    assert "| KID | 0.25 in epoch 4 |" in text
    assert "| device | H200, of far\\|away |" in text
    assert f"(/artifacts/7/1/{TOKEN[:8]}-00000-000004)" in text
    assert f"(/artifacts/7/1/{TOKEN[:8]}-00000-000000)" in text
    assert "`tuner retry 'my study' 0 --exactly`" in text
    failed = run.note(store, Fail("a bug"), None, {})
    assert failed.startswith("**Failed** after epoch 4 of 6: a bug")
    assert "tuner sample" not in failed
