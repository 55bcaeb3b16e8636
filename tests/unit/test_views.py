"""What people and programs are shown: tables, numbers, pictures, CSV, JSON, progress lines."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PREMISES, RANGES, epoch, spec_of
from PIL import Image
from rich.console import Console, RenderableType

from tuner.errors import TunerError
from tuner.metrics.suite import Scores
from tuner.study.membership import Claim
from tuner.study.space import trial_config
from tuner.study.store import StudySummary, TrialRecord, WorkerRecord, best_of
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport
from tuner.views import report
from tuner.views.numbers import duration, moment, number, settings, size, spread
from tuner.views.pictures import grid, grid_png, save_grid
from tuner.views.progress import LiveProgress, PlainProgress, outcome, share
from tuner.views.studies import (
    comparison_table,
    epochs_csv,
    space_table,
    study_table,
    trial_table,
    trial_values,
    worker_table,
)

PARAMS = {"learning_rate": 2.123456e-4, "batch_size": 64}


def record(trial: int, state: str = "COMPLETE", **changes: Any) -> TrialRecord:
    made = TrialRecord(
        number=trial,
        state=state,
        params=PARAMS,
        value=20.5,
        reports=(epoch(1, 30.0), epoch(2, 20.5)),
        reason="all epochs trained",
        artifact=None,
        machine={"device": "cpu"},
    )
    return made._replace(**changes)


def shown(renderable: RenderableType, width: int = 160) -> list[str]:
    """The lines that a terminal of this width would show."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(renderable)
    return [line.rstrip() for line in capture.get().splitlines()]


def claim_of(trial: int) -> Claim:
    spec = spec_of("[study]\nepochs = 4\n" + RANGES)
    return Claim(trial, trial, PARAMS, trial_config(spec, PARAMS | {"beta1": 0.5}, trial, PREMISES))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (2e-4, "0.0002"),
        (1.23456e-5, "1.235e-05"),
        (100.0, "100"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (41.6, "42s"),
        (59.6, "1m00s"),
        (190, "3m10s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (360_000, "100h00m"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (12_345_678, "12.3 MB"),
        (1.5e9, "1.5 GB"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "most", "found"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (3, 3, [0, 1, 2]),
        (4, 3, [0, 2, 3]),
        (101, 5, [0, 25, 50, 75, 100]),
    ],
)
def test_spread(count: int, most: int, found: list[int]) -> None:
    assert spread(count, most) == found


def test_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-5:30")  # as POSIX counts: east of Greenwich
    try:
        time.tzset()
        assert moment(1e9) == "2001-09-09 07:16:40"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_trial_table() -> None:
    trials = [
        record(0),
        record(1, "PRUNED", value=None, params={"width": 8}, reason="guard: x below 1", reports=()),
        record(2, "RUNNING", reason=None, reports=(epoch(1, None, loss_ratio=None),), value=None),
    ]
    lines = [line.split() for line in shown(trial_table(trials, "fid", best=0))]
    assert lines[0] == [
        *("trial", "state", "epochs", "FID", "loss", "ratio", "learning", "rate"),
        *("batch", "size", "width", "why", "it", "ended"),
    ]
    assert lines[1] == [
        *("0", "complete", "2", "20.5", "1.5", "0.0002123", "64", "-"),
        *("all", "epochs", "trained"),
    ]
    assert lines[2] == [
        *("1", "pruned", "0", "-", "-", "-", "-", "8"),
        *("guard:", "x", "below", "1"),
    ]
    assert lines[3] == ["2", "running", "1", "-", "-", "0.0002123", "64", "-"]


def test_the_best_trial_is_marked() -> None:
    rows = trial_table([record(0), record(1)], "fid", best=1).rows
    assert [row.style for row in rows] == [None, "bold green"]


def test_a_long_reason_is_folded_not_cut() -> None:
    reason = "ValueError: " + "x" * 150
    assert shown(trial_table([record(0, "FAIL", reason=reason)], "fid"), 100)
    text = "".join(shown(trial_table([record(0, "FAIL", reason=reason)], "fid"), 100))
    assert text.count("x") == 150


def test_no_trials() -> None:
    assert shown(trial_table([], "kid")) == ["trial  state  epochs  KID  loss ratio  why it ended"]


def test_study_table() -> None:
    states = {"COMPLETE": 3, "PRUNED": 2, "FAIL": 1, "WAITING": 7}
    found = [
        StudySummary("one", 9, states, 12.345, "FID", "abcdef"),
        StudySummary("two", 4, {}, None, "FID infinity", None),
    ]
    lines = [line.split() for line in shown(study_table(found))]
    assert lines[1] == ["one", "9", "3", "2", "0", "1", "12.35", "FID", "abcdef"]
    assert lines[2] == ["two", "4", "0", "0", "0", "0", "-", "FID", "infinity", "-"]


def test_worker_table() -> None:
    found = [
        WorkerRecord("abc", "here", 12, "cpu", True, 3.2, 7, 4),
        WorkerRecord("def", "there", 34, "NVIDIA H100", True, 0.4, None, None),
        WorkerRecord("ghi", "there", 56, "cpu", False, 190.0, 0, 0),
    ]
    table = worker_table(found)
    lines = [line.split() for line in shown(table)]
    assert lines[1] == ["abc", "here", "12", "cpu", "7", "4", "3s", "ago"]
    assert lines[2] == ["def", "there", "34", "NVIDIA", "H100", "0s", "ago"]
    assert lines[3] == ["ghi", "there", "56", "cpu", "0", "0", "3m10s", "ago,", "lost"]
    assert [row.style for row in table.rows] == [None, None, "red"]


def test_space_table_has_what_is_searched_first() -> None:
    lines = shown(space_table(spec_of("[trial]\nloss = 'minimax'\nwidth = [8, 16]")))
    assert lines[1].split() == ["width", "[8,", "16]", "searched"]
    assert ["loss", "minimax", "fixed"] in [line.split() for line in lines]
    assert not any("generator_learning_rate" in line for line in lines)


@pytest.mark.parametrize(
    ("count", "channels", "gap", "scale", "shape"),
    [
        (1, 1, 2, 2, (24, 20, 1)),
        (4, 1, 2, 1, (22, 18, 1)),
        (5, 3, 2, 1, (22, 26, 3)),
        (7, 3, 0, 3, (72, 54, 3)),
        (9, 1, 1, 1, (28, 22, 1)),
    ],
)
def test_grid(count: int, channels: int, gap: int, scale: int, shape: tuple[int, ...]) -> None:
    height, width = 8, 6
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.full(
        (1, height, width, channels), 100, np.uint8
    )
    images[:, 0, 0] = 7
    found = grid(images, gap=gap, scale=scale)
    assert found.dtype == np.uint8
    assert found.shape == shape
    columns = int(np.ceil(np.sqrt(count)))
    small = found[::scale, ::scale]
    np.testing.assert_array_equal(found, small.repeat(scale, 0).repeat(scale, 1))
    rest = np.ones(small.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        np.testing.assert_array_equal(small[top : top + height, left : left + width], image)
        rest[top : top + height, left : left + width] = False
    assert (small[rest] == 64).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_save_grid(channels: int, mode: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels), np.uint8)
    path = tmp_path / "deep" / "grid.png"
    save_grid(images, path)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels.reshape(*pixels.shape[:2], channels), grid(images))


def test_a_picture_is_written_as_it_is_encoded(tmp_path: Path) -> None:
    images = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
    save_grid(images, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == grid_png(images)


def test_a_picture_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TunerError, match=r"file/grid.png: can't be written"):
        save_grid(np.zeros((1, 8, 8, 1), np.uint8), tmp_path / "file" / "grid.png")


def test_csv_is_read_back_with_the_same_numbers() -> None:
    fid = 20.123456789012345
    trials = [
        record(0, reports=(epoch(1, 30.0), epoch(2, fid)), reason='a "b", c\nd'),
        record(1, "PRUNED", reports=(epoch(1, None, finite=False),), params={"loss": "minimax"}),
        record(2, "FAIL", reports=()),
    ]
    rows = list(csv.DictReader(io.StringIO(epochs_csv(trials))))
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("0", "COMPLETE"),
        ("0", "COMPLETE"),
        ("1", "PRUNED"),
        ("2", "FAIL"),
    ]
    fields = ("trial", "state", "reason", "learning_rate", "batch_size", "loss")
    assert set(rows[0]) == {*fields, *EpochReport._fields}
    assert float(rows[1]["fid"]) == fid
    assert float(rows[1]["learning_rate"]) == PARAMS["learning_rate"]
    assert rows[0]["reason"] == 'a "b", c\nd'
    for name, value in epoch(2, fid)._asdict().items():
        assert rows[1][name] == ("" if value is None else str(value))
    assert (rows[2]["fid"], rows[2]["finite"], rows[2]["loss"]) == ("", "False", "minimax")
    assert rows[2]["learning_rate"] == ""
    assert (rows[3]["epoch"], rows[3]["batch_size"]) == ("", "64")


def test_csv_of_no_trials() -> None:
    assert epochs_csv([]) == ",".join(["trial", "state", "reason", *EpochReport._fields]) + "\n"


def test_json_values() -> None:
    trial = record(3, reports=(epoch(1, 30.5), epoch(2, None, finite=False, d_loss=None)))
    found = json.loads(json.dumps(trial_values(trial), allow_nan=False))
    assert found["params"] == PARAMS
    assert (found["number"], found["value"], found["machine"]) == (3, 20.5, {"device": "cpu"})
    assert EpochReport(**found["reports"][0]) == epoch(1, 30.5)
    assert found["reports"][1]["fid"] is None


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([], None),
        ([record(0, "PRUNED", value=1.0), record(1, "RUNNING", value=None)], None),
        ([record(0, value=3.0), record(1, value=2.0), record(2, "PRUNED", value=1.0)], 1),
        ([record(0, value=3.0), record(4, value=0.0)], 4),
    ],
)
def test_best_of(trials: list[TrialRecord], best: int | None) -> None:
    found = best_of(trials)
    assert (found and found.number) == best
    line = report.best_line(trials, "fid")
    assert line.startswith("No trial" if best is None else f"Best: trial {best}, FID ")


def test_appraisal() -> None:
    found = {
        "trial": record(3),
        "fresh": Scores(21.25, 0.0125, 19.5, 0.75, 0.625, 0.875, 0.5, 0.9, 0.9, 0.95),
        "real_fid": 0.5,
        "real_count": 5000,
        "classes": 10,
        "accuracy": 0.9876,
    }
    text = report.appraisal(found, "fid")
    assert "Best: trial 3, FID 20.5 in epoch 2 of 2: learning_rate=0.0002123 batch_size=64" in text
    assert "FID on fresh latents 21.25, extrapolated to infinitely many 19.5; real against" in text
    assert "real images 0.5 (5000 each)" in text
    assert "KID 0.0125, precision 0.75, recall 0.625, density 0.875, coverage 0.5" in text
    assert "Classes generated: 9 of 10, entropy 0.95 of the data's" in text
    assert "98.8%" in text
    assert "Classes" not in report.appraisal(found | {"classes": None}, "fid")
    short = found | {"fresh": Scores(21.25, 0.0125, None, 0.75, 0.625, 0.875, 0.5, 0.9, 0.9, 0.95)}
    line = "FID on fresh latents 21.25; real against real images 0.5 (5000 each)"
    assert line in report.appraisal(short, "fid").splitlines()


def test_cost() -> None:
    parts = {"generate_seconds": 0.25, "extract_seconds": 0.5, "score_seconds": 0.1}
    trials = [record(0, reports=(epoch(1, **parts), epoch(2, None, evaluate_seconds=0.0)))]
    text = report.cost(trials)
    assert text.startswith("Evaluating took 11.1% of the time (generating 25%, features 50%,")
    assert report.cost([record(0, reports=())]) == ""


def test_what_the_numbers_depend_on() -> None:
    assert report.measured_as({}, "None") == "Nothing is measured yet."
    found = report.measured_as({"data": "abc", "samples": "9"}, "1234")
    assert found == "Measured as 1234: data abc, samples 9"


def test_a_comparison() -> None:
    found = [("one", record(0)), ("two", record(3, value=21.0))]
    lines = [line.split() for line in shown(comparison_table(found, "fid"))]
    assert lines[1][:6] == ["one", "0", "20.5", "2", "128,000", "10s"]
    assert lines[2][:3] == ["two", "3", "21"]


def test_plan_ends_with_the_warnings() -> None:
    found = {
        "programs": 1200,
        "images": 5000,
        "image_shape": (32, 32, 1),
        "device": "cpu",
        "largest": {"width": 64, "batch_size": 128},
        "generator_parameters": 1_234_567,
        "discriminator_parameters": 89,
        "state_bytes": 2e6,
        "activation_bytes": 3e9,
        "training_flops": 3e12,
        "evaluation_flops": 1e12,
    }
    lines = report.plan(spec_of("[study]\ntrials = 9\nepochs = 8"), found).splitlines()
    assert lines[1] == "trials: 9 of up to 8 epochs, sampler tpe, pruner successive_halving"
    assert lines[2].endswith("1,200")
    assert lines[3] == "images: 5,000 of 32x32x1"
    assert "generator 1,234,567 parameters, discriminator 89; state 2 MB" in lines[4]
    assert "activations 3 GB on this cpu" in lines[4]
    assert lines[5].startswith("evaluation every epoch: 1 TFLOP, an epoch's training 3: 25% of a")
    assert lines[6].startswith("warning: trial: nothing is searched")
    seldom = spec_of("[study]\nepochs = 8\n[metrics]\nevery = 4")
    assert "every 4 epochs: 1 TFLOP, an epoch's training 3: 8%" in report.plan(seldom, found)
    dear = report.plan(seldom, found | {"evaluation_flops": 99e12})
    assert "a larger metrics.every or fewer metrics.samples make it less" in dear


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Continue(), "goes on"),
        (Complete(), "complete"),
        (Prune("bad"), "pruned: bad"),
        (Fail("a bug"), "failed: a bug"),
    ],
)
def test_outcome(verdict: Verdict, text: str) -> None:
    assert outcome(verdict) == text


def test_share_and_settings() -> None:
    assert share([epoch(1), epoch(2, evaluate_seconds=0.0)]) == pytest.approx(1 / 9)
    assert share([]) == 0
    assert settings(dict(PARAMS)) == "learning_rate=0.0002123 batch_size=64"


def test_plain_progress_is_a_line_a_step() -> None:
    console = Console(file=(file := io.StringIO()), width=40)
    claim = claim_of(7)
    with PlainProgress(console) as view:
        view.trial_started(claim)
        view.epoch_done(claim, epoch(2, 123.456, d_auc=None))
        view.trial_ended(claim, Prune("bad [1,2]"))
    times, lines = zip(*(line.split(" ", 1) for line in file.getvalue().splitlines()), strict=True)
    assert all(len(time.split(":")) == 3 for time in times)
    assert lines[0] == "trial 7 starts: learning_rate=0.0002123 batch_size=64"
    assert lines[1].startswith("trial 7 epoch 2/4 FID 123.5 loss ratio 1.5 variance 0.9")
    assert lines[1].endswith("16,000 images/s evaluation 20%")
    assert lines[2] == "trial 7 pruned: bad [1,2]"


def test_plain_progress_of_a_trial_that_was_another_workers() -> None:
    console = Console(file=(file := io.StringIO()), width=200)
    claim = claim_of(7)._replace(history=(epoch(1, 30.0), epoch(2, 20.0)))
    with PlainProgress(console) as view:
        view.trial_started(claim)
        view.trial_left(claim, "left for later")
    lines = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert lines[0].startswith("trial 7 goes on after epoch 2: learning_rate=")
    assert lines[1] == "trial 7 left for later"


def test_live_progress_of_a_trial_that_was_another_workers() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    claim = claim_of(7)._replace(history=(epoch(1, 30.0), epoch(2, 20.0)))
    view = LiveProgress(console, finished=0, total=5, objective="fid")
    with view:
        view.trial_started(claim)
        line = shown(view._render())[1].split()
        assert line[:3] == ["7", "2/4", "20"]
        view.trial_left(claim, "lost to another worker")
        view.epoch_done(claim, epoch(3, 10.0))  # told late
        text = "\n".join(shown(view._render()))
    assert "trial 7 lost to another worker" in text
    assert "0/5 trials" in text
    assert "2/4" not in text


def test_live_progress() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    claim, other = claim_of(7), claim_of(8)
    view = LiveProgress(console, finished=2, total=5, objective="fid")
    with view:
        for one in (claim, other):
            view.trial_started(one)
        view.epoch_done(claim, epoch(1, 30.0))
        view.epoch_done(other, epoch(1, None))
        lines = [line.split() for line in shown(view._render())]
        assert lines[1] == [
            *("7", "1/4", "30", "1.5", "16,000", "20%", "15s"),
            *("learning_rate=0.0002123", "batch_size=64"),
        ]
        assert lines[2][:5] == ["8", "1/4", "-", "1.5", "16,000"]
        assert " ".join(lines[3]).endswith("2/5 trials, best FID here 30 (trial 7)")
        view.trial_ended(claim, Complete())
        view.trial_ended(other, Fail("a bug"))
        text = "\n".join(shown(view._render()))
    assert "3/5 trials" in text
    assert "learning_rate" not in text


def test_brackets_in_a_reason_are_shown_as_they_are() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    PlainProgress(console).announce("trial 1 failed: KeyError: '[/x] [bold]'")
    console.print(trial_table([record(1, reason="a [/x] [bold]")], "fid"))
    text = console.export_text()
    assert "'[/x] [bold]'" in text
    assert "a [/x] [bold]" in text


def test_what_goes_on_is_a_bar_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = LiveProgress(console, finished=0, total=5, objective="fid")
    with view:
        view.announce("decoding images: 500 of 1,000", 0.5)
        [_, _, line] = shown(view._render())
        view.announce("starting JAX")
        [_, _, later] = shown(view._render())
    assert line.count("━") == 15
    assert line.endswith("decoding images: 500 of 1,000")
    assert later.strip() == "starting JAX"


def test_what_goes_on_is_told_now_and_then_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = PlainProgress(Console(file=out, width=100))
    for second in range(25):
        monkeypatch.setattr("tuner.views.progress.time.monotonic", lambda now=second: float(now))
        view.announce(f"decoding images: {second} of 25", second / 25)
    assert [line.split()[3] for line in out.getvalue().splitlines()] == ["0", "10", "20"]
