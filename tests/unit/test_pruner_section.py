"""Pruners that could never prune."""

import pytest
from builders import assert_problem, problems, spec_of

from tuner.spec.pruners import AshaPruner
from tuner.spec.warnings import warnings

LATE = "but trials end at epoch 10, so none could be pruned; lower it"


@pytest.mark.parametrize(
    ("pruner", "key", "problem", "remedy"),
    [
        (
            "name = 'successive_halving'\nmin_resource = 10",
            "min_resource",
            "the first rung is at epoch 10",
            LATE,
        ),
        (
            "name = 'successive_halving'\nreduction_factor = 4\nmin_early_stopping_rate = 2",
            "min_resource",
            "the first rung is at epoch 16",
            LATE,
        ),
        (
            "name = 'hyperband'\nmin_resource = 4",
            "min_resource",
            "two rungs take 12 epochs with min_resource = 4 and reduction_factor = 3",
            "but trials have 10; lower one of the two keys, or choose another pruner",
        ),
        ("name = 'patient'\npatience = 8", "patience", "patience lasts until epoch 10", LATE),
        (
            "name = 'patient'\nwrapped = { name = 'successive_halving', min_resource = 12 }",
            "wrapped.min_resource",
            "the first rung is at epoch 12",
            LATE,
        ),
        (
            "name = 'patient'\nwrapped = { name = 'threshold' }",
            "wrapped.upper",
            "neither lower nor upper is set",
            "set at least one",
        ),
        ("name = 'threshold'", "upper", "neither lower nor upper is set", "set at least one"),
        (
            "name = 'threshold'\nupper = 9\nn_warmup_steps = 10",
            "n_warmup_steps",
            "the warm-up lasts until epoch 10",
            LATE,
        ),
        (
            "name = 'median'\nn_warmup_steps = 10",
            "n_warmup_steps",
            "the warm-up lasts until epoch 10",
            LATE,
        ),
        (
            "name = 'median'\nn_startup_trials = 6",
            "n_startup_trials",
            "found 6",
            "expected fewer than the study's 6 trials",
        ),
        (
            "name = 'percentile'\nn_startup_trials = 7",
            "n_startup_trials",
            "found 7",
            "expected fewer than the study's 6 trials",
        ),
    ],
)
def test_a_pruner_that_can_never_prune_is_refused(
    pruner: str, key: str, problem: str, remedy: str
) -> None:
    toml = f"[study]\nepochs = 10\ntrials = 6\nvalue = 'last'\n[pruner]\n{pruner}"
    assert_problem(toml, f"pruner.{key}", f"pruner.{key}: {problem}", remedy)


def test_the_default_pruner_refuses_no_study() -> None:
    """With one epoch, the default pruner only warns, and the same pruner is refused if named."""
    one, named = "[study]\nepochs = 1\n", "[pruner]\nname = 'asha'\n"
    assert problems(one) == []
    warning = "pruner: asha, the default, never prunes with epochs = 1"
    assert warning in warnings(spec_of(one))
    [line] = problems(one + named)
    assert line.startswith("study.toml: pruner.min_resource: the first rung is at epoch 1 ")
    assert problems("[study]\nepochs = 1\n[pruner]\nname = 'none'") == []
    [line] = problems("[study]\nepochs = 2\n[pruner]\nname = 'hyperband'")
    assert line.endswith("but trials have 2; lower one of the two keys, or choose another pruner")


@pytest.mark.parametrize(
    "pruner",
    [
        "name = 'successive_halving'\nmin_resource = 9",
        "name = 'hyperband'\nmin_resource = 3",
        "name = 'patient'\npatience = 7",
        "name = 'median'\nn_warmup_steps = 9\nn_startup_trials = 5",
        "name = 'threshold'\nlower = 1",
        "name = 'none'",
    ],
)
def test_a_pruner_that_can_prune_once_is_accepted(pruner: str) -> None:
    assert problems(f"[study]\nepochs = 10\ntrials = 6\nvalue = 'last'\n[pruner]\n{pruner}") == []


@pytest.mark.parametrize(
    ("pruner", "every", "epochs", "rung"),
    [
        ("name = 'successive_halving'\nmin_resource = 1", 2, 20, 1),
        ("name = 'successive_halving'\nmin_resource = 3\nreduction_factor = 2", 2, 20, 3),
        ("name = 'successive_halving'\nmin_resource = 10\nreduction_factor = 3", 4, 20, 10),
        ("name = 'hyperband'\nmin_resource = 1\nreduction_factor = 2", 2, 20, 1),
        ("name = 'hyperband'\nmin_resource = 5", 4, 50, 5),
        (
            "name = 'patient'\npatience = 0\n"
            "wrapped = { name = 'successive_halving', min_resource = 3 }",
            *(2, 20, 3),
        ),
    ],
)
def test_a_rung_between_evaluations_is_refused(
    pruner: str, every: int, epochs: int, rung: int
) -> None:
    study = f"[study]\nepochs = {epochs}\nvalue = 'last'\n"
    toml = f"{study}[pruner]\n{pruner}\n[metrics]\nevery = {every}"
    key = "pruner.wrapped.min_resource" if "wrapped" in pruner else "pruner.min_resource"
    assert_problem(toml, key, f"the rung at epoch {rung} falls between", f"metrics.every = {every}")
    spec_of(toml.replace(f"every = {every}", "every = 1"))


def test_by_default_the_first_rung_is_the_first_evaluation() -> None:
    spec = spec_of("[study]\nepochs = 20\n[metrics]\nevery = 5\n")
    assert isinstance(spec.pruner, AshaPruner)
    assert spec.pruner.first_rung(spec.metrics.every) == 5
    halving = "[pruner]\nname = 'successive_halving'\n"
    toml = "[study]\nepochs = 5\n[metrics]\nevery = 5\n" + halving
    assert_problem(toml, "pruner.min_resource", "epoch 5", "5")
    toml = "[study]\nepochs = 9\n[pruner]\nname = 'median'\n[metrics]\nevery = 9\n"
    assert_problem(
        toml, "metrics.every", "found 9 with 9 epochs", "an evaluation before the last epoch"
    )


def test_warm_up_past_the_last_evaluation_is_refused() -> None:
    pruner = "[study]\nepochs = 12\n[metrics]\nevery = 5\n[pruner]\nname = 'median'\n"
    spec_of(pruner + "n_warmup_steps = 10")
    assert_problem(pruner + "n_warmup_steps = 11", "pruner.n_warmup_steps", "none could be pruned")
