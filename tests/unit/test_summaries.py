"""Text summaries of a study."""

from typing import Any

import pytest
from builders import epoch, spec_of
from trials import PARAMS, record

from tuner.epoch_report import History
from tuner.phases import Phase
from tuner.study.records import TrialRecord, best_of
from tuner.views import summaries
from tuner.views.formatting import params_text
from tuner.views.generator_warnings import measured_warnings
from tuner.views.plan import plan_text


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([], None),
        ([record(0, "PRUNED", value=1.0), record(1, "RUNNING", value=None)], None),
        ([record(0, value=3.0), record(1, value=2.0), record(2, "PRUNED", value=1.0)], 1),
        ([record(0, value=3.0), record(4, value=0.0)], 4),
    ],
)
def test_the_best_trial_has_the_lowest_value(trials: list[TrialRecord], best: int | None) -> None:
    found = best_of(trials)
    assert (found and found.number) == best
    line = summaries.best_line(trials, "fid")
    assert line.startswith("No trial" if best is None else f"Best: trial {best}, FID ")


@pytest.mark.parametrize(
    ("trials", "line"),
    [
        ([record(0, value=3.0)], ""),  # the study has no baseline
        ([record(0, "RUNNING", value=None, baseline=True)], ""),
        (
            [record(0, "PRUNED", value=5.0, baseline=True), record(1, value=3.0)],
            "No baseline trial is complete, so the gain over the baseline is unknown.",
        ),
        (
            [record(0, value=3.0, baseline=True), record(1, value=3.5)],
            "No trial is better than the best baseline (trial 0).",
        ),
        (
            [record(0, value=9.0, baseline=True), record(1, value=8.0, baseline=True), record(2)],
            "No trial is better than the best baseline (trial 1).",
        ),
        (
            [record(0, value=8.0, baseline=True), record(2, value=6.0)],
            "Gain over the best baseline (trial 0, FID 8): 2, 25%.",
        ),
        (
            [record(0, value=-0.5, baseline=True), record(1, value=-1.0)],  # KID may be negative
            "Gain over the best baseline (trial 0, FID -0.5): 0.5.",
        ),
    ],
)
def test_gain_over_the_baseline(trials: list[TrialRecord], line: str) -> None:
    assert summaries.baseline_gain(trials, "fid") == line


def test_remeasurement() -> None:
    fresh = {"fid": 21.25, "kid": 0.0125, "fid_infinity": 19.5, "precision": 0.75, "recall": 0.625}
    fresh |= {"density": 0.875, "coverage": 0.5, "variance_ratio": 0.9}
    fresh |= {"class_coverage": 0.9, "class_entropy": 0.95}
    found = {
        "trial": record(3),
        "fresh": fresh,
        "real_fid": 0.5,
        "real_count": 5000,
        "classes": 10,
        "accuracy": 0.9876,
    }
    text = summaries.remeasurement(found, "fid")
    assert "Best: trial 3, FID 20.5 in epoch 2 of 2: learning_rate=0.0002123 batch_size=64" in text
    assert "FID on fresh latents 21.25 (19.5 extrapolated to infinitely many images); real" in text
    assert "real images 0.5 (5000 each)" in text
    assert "KID 0.0125, precision 0.75, recall 0.625, density 0.875, coverage 0.5" in text
    assert "Classes generated: 9 of 10, entropy 0.95 of the data's" in text
    assert "98.8%" in text
    assert "Classes" not in summaries.remeasurement(found | {"classes": None}, "fid")
    copies = {"copied": 0.9, "heldout_fid": 30.0, "fid_gap": 5.0}
    lines = summaries.remeasurement(found | {"fresh": fresh | copies}, "fid").splitlines()
    assert any("Warning: the generator copies training images: 90%" in line for line in lines)
    assert sum("held-out images (gap" in line and "FID 30 (+5)" in line for line in lines) == 1
    assert [line for line in text.splitlines() if "Warning" in line] == [
        "Warning: the generator misses 1 of 10 classes. FID does not show that; look at the "
        "samples."
    ]
    short = found | {"fresh": fresh | {"fid_infinity": None}}
    line = "FID on fresh latents 21.25; real against real images 0.5 (5000 each)"
    assert line in summaries.remeasurement(short, "fid").splitlines()


def test_a_copying_generator_comes_with_a_warning() -> None:
    copies = {"copied": 0.9, "heldout_fid": 12.5, "fid_gap": 3.0}
    trial = record(0, value=3.0, reports=(epoch(1, **copies), epoch(2)))
    warning = "the generator copies training images: 90% of its samples"
    assert f"({warning})" in summaries.best_line([trial], "fid")
    found = measured_warnings(copies | {"copied": 0.15})
    assert (found, measured_warnings({})) == ([], [])
    line = "Against held-out images (gap to training images): FID 12.5 (+3); copies of training"
    assert summaries.held_out_line(copies).startswith(line)
    assert summaries.held_out_line(epoch(1)._asdict()) == ""


@pytest.mark.parametrize(
    ("coverage", "classes", "warning"),
    [
        (1 / 2, 2, "the generator has collapsed: 1 of 2 classes generated"),
        (1 / 3, 3, "the generator has collapsed: 1 of 3 classes generated"),
        (2 / 3, 3, "the generator misses 1 of 3 classes"),
        (2 / 3, None, "the generator misses 33% of the classes"),
        (999 / 1000, None, "the generator misses 0.1% of the classes"),
        (1.0, 2, None),
        (None, 2, None),
    ],
)
def test_missing_classes_are_reported(
    coverage: float | None, classes: int | None, warning: str | None
) -> None:
    measured = {"class_coverage": coverage, "class_entropy": 0.9}
    assert measured_warnings(measured, classes) == [warning] * (warning is not None)


def test_a_warning_about_the_best_trial_is_red_next_to_its_value() -> None:
    reports = epoch(1, 30.0), epoch(2, 20.5, class_coverage=1 / 10, class_entropy=0.0)
    healthy, collapsed = record(0, value=25.0), record(1, reports=reports)
    text = summaries.best_text([healthy, collapsed], "fid")
    [red] = [text.plain[s.start : s.end] for s in text.spans if "red" in str(s.style)]
    assert red == "the generator has collapsed: 10% of the classes generated"
    assert f"FID 20.5 (one seed) ({red}), " in text.plain
    assert summaries.best_text([healthy], "fid").spans == []


def test_held_out_metrics_are_those_of_the_best_epoch_if_measured() -> None:
    held_out: Any = {"copied": 0.0, "fid_gap": 3.0}
    best, last = (epoch(n, fid) for n, fid in ((2, 20.5), (3, 30.0)))
    last = last._replace(**held_out, heldout_fid=33.0)
    line = "Against held-out images (gap to training images): FID {} (+3); copies of training"
    trial = record(0, reports=(epoch(1), best, last))
    found = summaries.trial_held_out_line(trial, "fid")
    assert found.startswith("Epoch 3 (not the best one): " + line.format(33))
    best = best._replace(**held_out, heldout_fid=23.5)
    found = summaries.trial_held_out_line(record(0, reports=(epoch(1), best, last)), "fid")
    assert found.startswith("Epoch 2 (best epoch): " + line.format(23.5))
    assert summaries.trial_held_out_line(record(0), "fid") == ""


def test_the_cost_of_evaluation_is_a_share_of_the_time() -> None:
    parts = {"generate_seconds": 0.25, "extract_seconds": 0.5, "score_seconds": 0.1}
    trials = [record(0, reports=(epoch(1, **parts), epoch(2, None, evaluate_seconds=0.0)))]
    text = summaries.evaluation_cost(summaries.durations(trials))
    assert text.startswith(
        "Evaluating took 11.1% of the device time (generating 25%, features 50%,"
    )
    assert summaries.evaluation_cost(summaries.durations([record(0, reports=())])) == ""


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ((80, 20, 0, 0, 0, 0, 0), "training 80%, evaluation 20%, other 0%"),
        ((94, 5, 0.4, 0.3, 0.2, 0, 0.1), "training 94%, evaluation 5%, other 1%"),
        (
            (50, 10, 20, 3, 5, 2, 10),
            "training 50%, evaluation 10%, compilation 20%, files 5%, other 15%",
        ),
        (
            (10, 10, 24, 23, 11, 11, 11),
            "training 10%, evaluation 10%, compilation 24%, database 23%, other 33%",
        ),
    ],
)
def test_the_largest_phases_are_shown_in_one_line(seconds: tuple[float, ...], line: str) -> None:
    found = summaries.phase_shares(dict(zip(Phase, seconds, strict=True)))
    assert found == f"Time: {line}."
    assert len(found) <= 80


def test_the_fingerprint_line_lists_its_parts() -> None:
    assert summaries.measured_as({}, "None") == "Nothing has been measured yet."
    found = summaries.measured_as({"data": "abc", "samples": "9"}, "1234")
    assert found == "Measured as 1234: data abc, samples 9"


PLAN = {
    "programs": 1200,
    "images": 5000,
    "image_shape": (32, 32, 1),
    "device": "cpu",
    "largest": {"width": 64, "batch_size": 128},
    "generator_parameters": 1_234_567,
    "discriminator_parameters": 89,
    "state_bytes": 2e6,
    "activation_bytes": 3e9,
    "image_bytes": 1e9,
    "device_bytes": 5e9,
    "training_flops": 3e12,
    "evaluation_flops": 1e12,
}


def test_plan_ends_with_the_warnings() -> None:
    lines = plan_text(spec_of("[study]\ntrials = 9\nepochs = 8"), PLAN).splitlines()
    assert lines[1] == "trials: 9 of up to 8 epochs, sampler tpe, pruner asha"
    assert lines[2].endswith("1,200")
    assert lines[3] == "images: 5,000 of 32x32x1"
    assert "generator 1,234,567 parameters, discriminator 89; state 2 MB" in lines[4]
    assert "activations 3 GB on this cpu" in lines[4]
    assert lines[5].startswith("evaluation every epoch: 1 TFLOP each, training 3 TFLOP per epoch: ")
    assert lines[5].endswith("evaluation is 25% of a trial's arithmetic")
    assert lines[6].startswith("warning: trial: nothing is searched")
    infrequent = spec_of("[study]\nepochs = 8\n[metrics]\nevery = 4")
    assert "every 4 epochs: 1 TFLOP each" in plan_text(infrequent, PLAN)
    assert "evaluation is 8% of a trial's arithmetic" in plan_text(infrequent, PLAN)
    expensive = plan_text(infrequent, PLAN | {"evaluation_flops": 99e12})
    assert "to reduce it, raise metrics.every or lower metrics.samples" in expensive


def test_plan_says_which_batch_size_fits() -> None:
    spec = spec_of("[study]\nepochs = 8\n[trial]\nwidth = 64")
    assert "GB:" not in plan_text(spec, PLAN)
    small = plan_text(spec, PLAN | {"device_bytes": 2.5e9})
    assert small.endswith(
        "warning: the largest program needs 4 GB, this cpu has 2.5 GB: lower batch_size to at "
        "most 63, or its trials run out of memory"
    )
    assert "has 900 MB: lower width" in plan_text(spec, PLAN | {"device_bytes": 0.9e9})
    assert "GB:" not in plan_text(spec, PLAN | {"activation_bytes": None, "device_bytes": 1})


def test_share_and_settings() -> None:
    history = History([epoch(1), epoch(2, evaluate_seconds=0.0)])
    assert history.evaluation_share == pytest.approx(1 / 9)
    assert History().evaluation_share == 0
    assert params_text(dict(PARAMS)) == "learning_rate=0.0002123 batch_size=64"
