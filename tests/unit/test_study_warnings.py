"""Warnings about valid study files, and batch sizes against the number of images."""

import pytest
from builders import RANGES, spec_of

from tuner.spec.branches import program_count
from tuner.spec.validation import data_problems
from tuner.spec.warnings import warnings


def test_a_huge_space_is_checked_at_once() -> None:
    sizes = "width = { low = 1, high = 1024 }\nlatent_dim = { low = 1, high = 4096 }\n"
    spec = spec_of(f"[trial]\n{sizes}batch_size = {{ low = 2, high = 64000, log = true }}")
    assert list(warnings(spec)) == []
    assert program_count(spec.trial) == 1024 * 4096 * 63999
    assert len(data_problems(spec, 1000)) == 2


@pytest.mark.parametrize(
    ("trial", "images", "expected"),
    [
        ("batch_size = 64", 5000, []),
        ("batch_size = 64", 64, []),
        (
            "batch_size = 64",
            63,
            ["trial.batch_size: found 64, expected at most 63, the number of images"],
        ),
        ("batch_size = 100", 91, ["expected at most 91"]),
        ("batch_size = [32, 64]", 40, ["found 32 with d_steps = 1", "found 64, expected at most"]),
        ("batch_size = 64\nd_steps = [1, 20]", 5000, []),
        (
            "batch_size = 64\nd_steps = 50",
            5000,
            ["found 64 with d_steps = 50: an epoch would see 6400 images, expected within 10%"],
        ),
        ("batch_size = 100\nd_steps = 1", 111, []),
        ("batch_size = 100", 112, ["an epoch would see 100 images, expected within 10% of 112"]),
        ("batch_size = { low = 10, high = 30, step = 10 }", 20, ["found 30, expected at most 20"]),
    ],
)
def test_batch_sizes_that_do_not_suit_the_images_are_reported(
    trial: str, images: int, expected: list[str]
) -> None:
    found = data_problems(spec_of(f"[trial]\n{trial}"), images)
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert line.startswith("trial.batch_size: found ")
        assert part in line


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (RANGES, []),
        ("", ["nothing is searched"]),
        (
            RANGES + "[sampler]\nname = 'gp'",
            ["gp does not learn from pruned trials; with pruner.name"],
        ),
        (RANGES + "[sampler]\nname = 'gp'\n[pruner]\nname = 'none'", []),
        (RANGES + "[sampler]\nname = 'random'", ["random does not learn from earlier trials"]),
        (
            RANGES + "width = [8, 16]\n[sampler]\nname = 'cmaes'",
            ["cmaes searches ranges only; width: drawn at random"],
        ),
        (
            "[trial]\nwidth = [8, 16]\n[sampler]\nname = 'grid'\n[study]\ntrials = 3\n",
            ["grid does not learn", "the grid has 2 points, fewer than the trials"],
        ),
    ],
)
def test_questionable_studies_are_warned_about(toml: str, expected: list[str]) -> None:
    found = list(warnings(spec_of(toml)))
    assert len(found) == len(expected), found
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_few_samples_are_warned_about() -> None:
    few = "[metrics]\nobjective = 'fid_infinity'\nsamples = 1000"
    assert any("use at least 1,024" in text for text in warnings(spec_of(few)))
    enough = spec_of(few.replace("1000", "1024"))
    assert not any("samples" in text for text in warnings(enough))
    biased = "[metrics]\nfeatures = 'inception'\nsamples = 4000"
    assert any("strongly biased upwards" in text for text in warnings(spec_of(biased)))
