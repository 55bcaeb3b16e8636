"""The README of an exported generator."""

from typing import Any

from builders import RANGES, epoch, spec_of
from trials import record

from tuner.study.confirmation import confirmation, results
from tuner.study.records import Confirms, TrialRecord
from tuner.trial import Program
from tuner.views.model_readme import FORMATS, model_readme

PROGRAM = Program("dcgan", "dcgan", 64, 7, (32, 32, 1), 64, "minimax", "adam", "adam", 1, False)
SPEC = spec_of("[study]\nname = 's'\n" + RANGES + "[confirm]\ntop = 1\nseeds = 3\n")
PARAMS = {"learning_rate": 2e-4, "beta1": 0.5}


def readme(trial: TrialRecord, program: Program = PROGRAM, **given: Any) -> str:
    more = {"confirmed": [], "formats": FORMATS, "versions": {"jax": "1"}} | given
    return model_readme(SPEC, trial, program=program, **more)


def test_it_says_what_one_seed_is_worth() -> None:
    text = readme(record(3, params=PARAMS, fresh=22.5))
    assert "FID 20.5 in the search: one seed, not confirmed." in text
    assert "On latents that were not used to choose it: FID 22.5." in text
    assert "5,000 generated images" in text
    assert "| after epoch 2 | value |" in text
    for line in ("| learning_rate | 0.0002 |", "| beta1 | 0.5 |", "| width | 64 |", "jax 1."):
        assert line in text


def test_a_confirmed_winner_has_its_interval() -> None:
    trial = record(3, params=PARAMS)
    runs = [
        record(10 + i, confirms=Confirms(3, i), fresh=value, params=PARAMS)
        for i, value in enumerate((22.0, 24.0, 23.0))
    ]
    found = results(SPEC.confirm, confirmation(SPEC.confirm, [trial], runs), "fid")
    text = readme(trial, confirmed=found)
    expected = "trial 3, FID 23 over 3 seeds (95% interval 20.52 to 25.48)."
    assert f"Confirmed with fresh seeds: {expected}" in text
    assert "Confirmed" not in readme(record(4, params=PARAMS), confirmed=found)


def test_a_collapsed_generator_is_said_to_be_so() -> None:
    reports = (epoch(1, 20.5, variance_ratio=0.001),)
    text = readme(record(3, params=PARAMS, reports=reports))
    assert "**Warning: the generator has collapsed: " in text


def test_copies_of_training_images_are_warned_of() -> None:
    trial = record(3, params=PARAMS, reports=(epoch(1, 20.5, copied=0.5),))
    assert "**Warning: the generator copies training images: 50% of its samples.**" in readme(trial)


def test_own_metrics_and_directions_are_shown() -> None:
    metrics = "[metrics]\nown = ['mine:sharp_edges']\nobjectives = ['recall', 'mine:sharp_edges']\n"
    spec = spec_of("[study]\nname = 's'\n" + RANGES + metrics)
    report = epoch(1, 20.5, recall=0.5, own={"mine:sharp_edges": 0.25})
    trial = record(3, params=PARAMS, value=0.5, reports=(report,))
    text = model_readme(spec, trial, [], PROGRAM, FORMATS, {})
    assert "recall 0.5 in the search" in text
    assert "Higher is better." in text
    assert "| sharp edges | 0.25 |" in text


def test_labels_and_norms_are_explained_where_there_are_any() -> None:
    trial = record(3, params=PARAMS)
    plain = readme(trial, PROGRAM._replace(generator_norm="none"))
    assert "labels" not in plain.partition("## How it was trained")[0]
    assert "batch norm" not in plain
    text = readme(trial, PROGRAM._replace(classes=10, ema=True, image_shape=(64, 64, 3)))
    for part in ("a class from 0 to 9", "moving average", "RGB images of 64 x 64", "batch norm"):
        assert part in text


def test_only_exported_formats_are_described() -> None:
    text = readme(record(3, params=PARAMS), formats=["onnx"])
    assert "generator.onnx" in text
    assert "draw.py" not in text
    assert "jax_export" not in text
