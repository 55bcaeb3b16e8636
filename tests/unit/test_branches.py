"""Conditional settings: ``[trial.when]`` in the study file, in Optuna, and in trials."""

import warnings
from typing import Any

import optuna
import pytest
from builders import DATASET, assert_problem, spec_of
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tuner.errors import InputError
from tuner.spec.branches import (
    branches,
    decider_of,
    optuna_params,
    problems,
    program_count,
    setting_params,
)
from tuner.spec.loading import differences
from tuner.spec.trial import TrialSection
from tuner.study.samplers import make_sampler
from tuner.study.space import distributions, trial_config

CONDITIONAL = """
[trial]
optimizer = ["adam", "sgd"]
loss = ["non_saturating", "wasserstein"]
learning_rate = { low = 1e-4, high = 1e-2, log = true }

[trial.when.optimizer.sgd]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
momentum = { low = 0.0, high = 0.99 }

[trial.when.loss.wasserstein]
weight_clip = [0.01, 0.1]
d_steps = 5
"""


def test_deciding_settings_come_first_and_others_where_they_apply() -> None:
    spec = spec_of(CONDITIONAL)
    first = distributions(spec)
    assert list(first) == ["optimizer", "loss"]
    assert first["optimizer"] == CategoricalDistribution(("adam", "sgd"))
    usual = distributions(spec, {"optimizer": "adam", "loss": "non_saturating"})
    assert list(usual) == ["optimizer", "loss", "learning_rate"]
    there = distributions(spec, {"optimizer": "sgd", "loss": "wasserstein"})
    assert set(there) == {
        *("optimizer", "loss", "learning_rate[optimizer=sgd]", "momentum[optimizer=sgd]"),
        "weight_clip[loss=wasserstein]",
    }
    assert there["learning_rate[optimizer=sgd]"] == FloatDistribution(1e-3, 1e-1, log=True)


def test_a_point_is_the_trial_of_its_branch() -> None:
    spec = spec_of(CONDITIONAL)
    point = {"optimizer": "sgd", "loss": "wasserstein", "learning_rate[optimizer=sgd]": 0.05}
    point |= {"momentum[optimizer=sgd]": 0.5, "weight_clip[loss=wasserstein]": 0.1}
    program, numbers, _, _ = trial_config(spec, point, 0, DATASET)
    assert (program.d_steps, program.generator_optimizer, program.loss) == (5, "sgd", "wasserstein")
    assert (numbers.generator_learning_rate, numbers.momentum, numbers.weight_clip) == (
        *(0.05, 0.5),
        0.1,
    )
    usual = {"optimizer": "adam", "loss": "non_saturating", "learning_rate": 2e-3}
    program, numbers, _, _ = trial_config(spec, usual, 0, DATASET)
    assert (program.d_steps, numbers.generator_learning_rate, numbers.momentum) == (1, 2e-3, 0.9)
    assert setting_params(point)["learning_rate"] == 0.05


def test_branches_are_searches_without_conditions() -> None:
    found = branches(spec_of(CONDITIONAL).trial)
    assert [tuple(branch.given.values()) for branch in found] == [
        *(("adam", "non_saturating"), ("adam", "wasserstein")),
        *(("sgd", "non_saturating"), ("sgd", "wasserstein")),
    ]
    assert all(branch.trial.when == {} for branch in found)
    assert [branch.trial.d_steps for branch in found] == [1, 5, 1, 5]


def test_optuna_names_round_trip() -> None:
    trial = spec_of(CONDITIONAL).trial
    point: dict[str, Any] = {"optimizer": "sgd", "loss": "hinge", "learning_rate": 0.05}
    assert optuna_params(trial, point) == point  # no branch has this loss
    point["loss"] = "non_saturating"
    named = {"optimizer": "sgd", "loss": "non_saturating", "learning_rate[optimizer=sgd]": 0.05}
    assert optuna_params(trial, point) == named
    assert setting_params(named) == point
    usual = point | {"optimizer": "adam"}
    assert optuna_params(trial, usual) == usual


def test_the_decider_of_a_setting_is_its_condition() -> None:
    trial = spec_of(CONDITIONAL).trial
    names = ("learning_rate", "momentum", "weight_clip", "d_steps", "beta1", "optimizer")
    deciders = ["optimizer", "optimizer", "loss", "loss", None, None]
    assert [decider_of(trial, name) for name in names] == deciders


def test_more_than_a_thousand_branches_are_refused() -> None:
    tens = list(range(2, 12))
    deciding = {"width": "r1", "latent_dim": "r2", "d_steps": "beta1"}
    table: dict[str, Any] = dict.fromkeys(deciding, tens)
    when = {name: {"2": {of: 0.5}} for name, of in deciding.items()}
    assert problems(TrialSection.model_validate(table | {"when": when})) == []
    table["d_steps"] = [*tens, 12]
    assert problems(TrialSection.model_validate(table | {"when": when})) == [
        (("trial", "when"), "found 1,100 combinations of deciding choices, expected at most 1,000")
    ]


def test_programs_are_counted_branch_by_branch() -> None:
    """Two optimizers with and without five D steps; weight clips need no other program."""
    assert program_count(spec_of(CONDITIONAL).trial) == 4
    more = CONDITIONAL + "batch_size = [16, 32, 64]"  # searched with wasserstein only
    assert program_count(spec_of(more).trial) == 2 + 2 * 3
    assert len(branches(spec_of(more).trial)) == 4
    assert len(branches(spec_of("").trial)) == 1


@pytest.mark.parametrize(
    ("r1", "programs"),
    [
        *(("0", 1), ("0.5", 1), ("[0.5, 1]", 1), ("[0, 0.5, 1]", 2)),
        *(("{ low = 0.0, high = 1.0 }", 2), ("{ low = 0.1, high = 1.0 }", 1)),
        ("{ low = 0.0, high = 1.0, step = 1.0 }", 2),
        ("{ low = 1.0, high = 2.0, step = 0.5 }", 1),
        ("{ low = 0.0, high = 1.0, step = 2.0 }", 1),  # only 0
    ],
)
def test_a_penalty_that_may_be_off_is_two_programs(r1: str, programs: int) -> None:
    assert program_count(spec_of(f"[trial]\nr1 = {r1}").trial) == programs
    both = f"[trial]\nr1 = {r1}\nr2 = [0, 1]\nwidth = [8, 16]"
    assert program_count(spec_of(both).trial) == programs * 2 * 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_search_conditional_settings_without_warnings(sampler: str) -> None:
    """TPE learns the best momentum, 0.9, which exists only with sgd."""
    spec = spec_of(f"{CONDITIONAL}[sampler]\nname = '{sampler}'")
    study = optuna.create_study(sampler=make_sampler(spec))
    momenta = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            trial = study.ask()
            params: dict[str, Any] = {}
            while missing := {
                k: d for k, d in distributions(spec, params).items() if k not in params
            }:
                for name, distribution in missing.items():
                    params[name] = trial._suggest(name, distribution)
            momentum = params.get("momentum[optimizer=sgd]")
            study.tell(trial, 1.0 if momentum is None else abs(momentum - 0.9))
            if momentum is not None:
                momenta.append(momentum)
    last = [abs(momentum - 0.9) for momentum in momenta[-10:]]
    if sampler == "tpe":
        assert len(momenta) > 35
        assert sum(last) / len(last) < 0.2  # 0.41 at random
    else:
        assert 18 < len(momenta) < 42


WRONG = [
    ("[trial.when.optimiser.sgd]\nmomentum = 0.5", "when.optimiser", "did you mean 'optimizer'"),
    ("[trial.when.d_steps.1]\nmomentum = 0.5", "when.d_steps", "is 1; only a list of choices"),
    ("[trial.when.beta1.1]\nmomentum = 0.5", "when.beta1", "trial.beta1 is a range; only a list"),
    ("[trial.when.optimizer.sdg]\nmomentum = 0.5", "when.optimizer.sdg", "did you mean 'sgd'"),
    ("[trial.when.optimizer.sgd]\nmomentun = 0.5", "when.optimizer.sgd.momentun", "'momentum'"),
    ("[trial.when.optimizer.sgd]\nmomentum = 2", "when.optimizer.sgd.momentum", "found 2"),
    ("[trial.when.optimizer.sgd]\noptimizer = 'adam'", "when.optimizer.sgd.optimizer", "depend on"),
    (
        "[trial.when.optimizer.sgd]\ndropout = 0.1\n[trial.when.loss.hinge]\ndropout = 0.2",
        "when.loss",
        "dropout is also set under optimizer, and both may apply at once; set it under one",
    ),
]


@pytest.mark.parametrize(("tables", "key", "reason"), WRONG)
def test_problems_under_when_are_reported(tables: str, key: str, reason: str) -> None:
    choices = "optimizer = ['adam', 'sgd']\nloss = ['hinge', 'minimax']\n"
    text = f"[trial]\n{choices}beta1 = {{ low = 0.0, high = 0.9 }}\n{tables}"
    assert_problem(text, f"trial.{key}", reason)


@pytest.mark.parametrize("sampler", ["grid", "cmaes", "gp", "qmc"])
def test_samplers_without_conditional_search_are_refused(sampler: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"sampler.name: {sampler} cannot search conditionally .*; use random or tpe",
    ):
        spec_of(f"{CONDITIONAL}[sampler]\nname = '{sampler}'")


def test_a_condition_separates_conflicting_settings() -> None:
    searched = "[trial]\nloss = ['non_saturating', 'wasserstein_gp']\n"
    norm = "discriminator_norm = ['none', 'batch']\n"
    with pytest.raises(
        InputError, match=r'discriminator_norm: with "batch" .* loss = "wasserstein_gp"'
    ):
        spec_of(searched + norm)
    spec_of(searched + f"[trial.when.loss.non_saturating]\n{norm}")


def test_a_setting_is_unused_only_if_unused_in_every_branch() -> None:
    text = "[trial]\noptimizer = ['adam', 'sgd']\n[trial.when.optimizer.{}]\nmomentum = [0.5, 0.9]"
    spec_of(text.format("sgd"))
    with pytest.raises(InputError, match='momentum is searched, but optimizer = "adam" ignores it'):
        spec_of(text.format("adam"))


@pytest.mark.parametrize(
    ("baseline", "problem"),
    [
        ("optimizer = 'sgd'\nloss = 'wasserstein'\nlearning_rate = 0.05\nweight_clip = 0.1", None),
        ("learning_rate = 0.005", "learning_rate: it depends on optimizer; give a value"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nlearning_rate = 0.05", "found 0.05, expected"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nmomentum = 0.5", "with optimizer = adam"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nwidth = 8", "trial.width is fixed"),
        (
            "optimizer = 'lion'\nmomentum = 5.0\nwidth = 8",
            "^[^\\n]*'lion'[^\\n]*\\n[^\\n]*width[^\\n]*$",
        ),
    ],
)
def test_baselines_are_checked_in_their_branch(baseline: str, problem: str | None) -> None:
    text = f"{CONDITIONAL}\n[[baseline]]\n{baseline}"
    if problem is None:
        spec_of(text)
        return
    with pytest.raises(InputError, match=problem):
        spec_of(text)


def test_a_changed_condition_is_a_difference() -> None:
    (line,) = differences(spec_of(CONDITIONAL), spec_of(CONDITIONAL.replace("0.99", "0.9")))
    assert line.startswith("trial.when.optimizer.sgd.momentum: ")
