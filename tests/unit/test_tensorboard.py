"""TensorBoard's event files, read back by an independent parser."""

from pathlib import Path

import pytest
from event_files import events, plugin, scalars, values
from tracked import FOLDER, pass_on, png, reports, study, taken_over
from trials import PARAMS, claim_of

from tuner.study.sinks import Released
from tuner.study.verdict import Complete, Fail, Prune
from tuner.tracking.runs import Epoch, TrackedTrial
from tuner.tracking.tensorboard import begin

TRIAL = TrackedTrial("faces", FOLDER, 3, PARAMS)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNER_TENSORBOARD", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_a_trial_becomes_a_folder_of_event_files(runs: Path) -> None:
    announced: list[str] = []
    store, claim = study("tensorboard"), claim_of(3)
    pass_on(store, claim, 4, Prune("not good enough"), announced, pictures=(1, 4))
    folder = runs / FOLDER / "trial-00003"
    assert events(folder)[0].file_version == "brain.Event:2"
    assert scalars(folder, "fid") == [(n, pytest.approx(100 / n, rel=1e-6)) for n in (1, 2, 3, 4)]
    assert [step for step, _ in scalars(folder, "loss_ratio")] == [1, 2, 3, 4]
    assert scalars(folder, "kid") == []  # was not measured
    start = plugin(folder, "_hparams_/session_start_info").session_start_info
    assert start.hparams["learning_rate"].number_value == PARAMS["learning_rate"]
    assert start.hparams["batch_size"].number_value == 64
    end = plugin(folder, "_hparams_/session_end_info").session_end_info
    assert end.status == 1  # success
    pictures = [(step, value.image) for tag, step, value in values(folder) if tag == "samples"]
    assert [(step, image.encoded_image_string) for step, image in pictures] == [
        (1, png(1)),
        (4, png(4)),
    ]
    assert {(i.width, i.height, i.colorspace) for _, i in pictures} == {(6, 4, 1)}
    [text] = [value for tag, _, value in values(folder) if tag.startswith("outcome")]
    assert text.tensor.string_val == [b"PRUNED: not good enough"]
    assert announced == []


def test_a_trial_that_is_taken_over_goes_on_in_the_same_folder(runs: Path) -> None:
    """The first worker was lost before it wrote its third epoch."""
    announced: list[str] = []
    store = study("tensorboard")
    pass_on(store, claim_of(3), 2, Released("stopped"), announced, pictures=(2,))
    ending = Complete(objectives={"recall": 0.5, "seconds": 8.0, "parameters": 1000.0})
    pass_on(store, taken_over(3, 3), 5, ending, announced, pictures=(4,))
    folder = runs / FOLDER / "trial-00003"
    assert len([*folder.iterdir()]) == 2
    assert [step for step, _ in scalars(folder, "fid")] == [1, 2, 3, 4, 5]
    assert [step for tag, step, _ in values(folder) if tag == "samples"] == [2, 4]
    found = {name: scalars(folder, name) for name in ending.objectives}
    assert found == {"recall": [], "seconds": [(5, 8.0)], "parameters": [(5, 1000.0)]}
    plugin(folder, "_hparams_/session_start_info")  # once
    plugin(folder, "_hparams_/session_end_info")


def test_a_worker_elsewhere_writes_the_whole_trial(runs: Path) -> None:
    pass_on(study("tensorboard"), taken_over(3, 3), 4, Fail("bug"), [])
    folder = runs / FOLDER / "trial-00003"
    assert [step for step, _ in scalars(folder, "fid")] == [1, 2, 3, 4]
    end = plugin(folder, "_hparams_/session_end_info").session_end_info
    assert end.status == 2  # failure


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_file_that_a_crash_cut_short_is_continued_in_another(runs: Path, cut: int) -> None:
    run = begin(TRIAL)
    run.epochs([Epoch(report, 1.0) for report in reports(2)])
    run.close()
    [path] = (runs / FOLDER / "trial-00003").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    again = begin(TRIAL)
    assert again.last_epoch == 1
    again.epochs([Epoch(reports(2)[1], 1.0)])
    again.close()
    assert [step for step, _ in scalars(runs / FOLDER / "trial-00003", "fid")] == [1, 2]


def test_later_files_sort_after_earlier_ones_whatever_the_clock(runs: Path) -> None:
    folder = runs / FOLDER / "trial-00003"
    folder.mkdir(parents=True)
    ahead = folder / "events.out.tfevents.4000000000.elsewhere.1"
    ahead.touch()
    begin(TRIAL).close()
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == ahead.name
    assert names[1].startswith("events.out.tfevents.4000000001.")
