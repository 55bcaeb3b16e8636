"""Incompatible and unused settings of a search."""

import math
import time

import pytest
from builders import assert_problem, problems, spec_of

from tuner.spec.branches import program_count
from tuner.spec.parameters import Range, Steps, values_of
from tuner.spec.validation import data_problems
from tuner.spec.warnings import warnings
from tuner.views.studies import space_table

CONFLICTS = [
    ("discriminator_norm = 'batch'\nr1 = 1", "discriminator_norm", "gradient at an image"),
    ("discriminator_norm = 'batch'\nr2 = 1", "discriminator_norm", "which r2 = 1 does"),
    (
        "discriminator_norm = 'batch'\ngradient_penalty = 1",
        "discriminator_norm",
        "penalty = 1 does",
    ),
    (
        "discriminator_norm = 'batch'\nloss = 'wasserstein_gp'",
        "discriminator_norm",
        '_gp" does not',
    ),
    (
        "discriminator_norm = 'batch'\nloss = 'gradient_normalized'",
        "discriminator_norm",
        'ized" does',
    ),
    (
        "discriminator_norm = ['none', 'batch']\nr1 = { low = 0.0, high = 1.0 }",
        "discriminator_norm",
        "which r1 = 1 does not allow",
    ),
    ("loss = ['hinge', 'gradient_normalized']\nr1 = 1", "r1", "bounds D's gradients itself"),
    (
        "loss = 'wasserstein_gp'\ngradient_penalty = 0",
        "gradient_penalty",
        "needs a gradient penalty",
    ),
    ("loss = 'dragan'\ngradient_penalty = [0, 1]", "gradient_penalty", "needs a gradient penalty"),
    ("loss = 'hinge'\nlabel_smoothing = 0.1", "label_smoothing", "no targets to smooth"),
    ("loss = ['hinge', 'minimax']\nlabel_smoothing = [0, 0.1]", "label_smoothing", '"hinge"'),
    ("generator = 'r3gan'\ngenerator_norm = 'batch'", "generator_norm", "takes no norm"),
    (
        "discriminator = 'infogan'\nconditional = 'on'",
        "conditional",
        "cannot be conditioned on labels",
    ),
    ("discriminator = 'infogan'\nr1 = 1", "discriminator_norm", "gradient at an image"),
    (
        "generator_norm = 'none'\nconditional = 'on'",
        "generator_norm",
        "conditioned through its batch norm",
    ),
    (
        "schedule = 'cosine'\nburn_in = 0.5\ndecay_images = 1000",
        "burn_in",
        "found 0.5, but decay_images sets the same length; use one of them",
    ),
    (
        "ema_decay = [0.0, 0.99]\nema_half_life = { low = 0.0, high = 1e5 }",
        "ema_half_life",
        "but ema_decay = 0.99 sets the same average; use one of them",
    ),
    (
        "schedule = 'cosine'\nema_decay = 0.99\nema_half_life_final = 1e5",
        "ema_half_life_final",
        "found 100000, but ema_decay = 0.99 sets",
    ),
]


@pytest.mark.parametrize(("trial", "key", "reason"), CONFLICTS)
def test_incompatible_settings_are_refused(trial: str, key: str, reason: str) -> None:
    line = problems(f"[trial]\n{trial}")[0]
    assert line.startswith(f"study.toml: trial.{key}: ")
    assert reason in line


@pytest.mark.parametrize(
    "trial",
    [
        "discriminator_norm = ['none', 'layer', 'spectral']\nr1 = [0, 1]",
        "discriminator_norm = ['none', 'batch']\nloss = ['minimax', 'wasserstein']",
        "loss = ['wasserstein_gp', 'hinge']\ngradient_penalty = { low = 0.1, high = 100.0 }",
        "loss = 'relativistic'\nr1 = { low = 0.01, high = 1.0, log = true }\nr2 = 0.1",
        "loss = ['non_saturating', 'least_squares']\nlabel_smoothing = [0, 0.1]",
        "generator = 'r3gan'\ngenerator_norm = 'none'\nconditional = 'on'",
        "schedule = 'cosine'\nema_half_life_final = 1e5\nburn_in = { low = 0.1, high = 1.0 }",
        "schedule = 'linear'\nema_half_life = [0.0, 1e5]\ndecay_images = [1e5, 1e6]",
    ],
)
def test_compatible_settings_are_accepted(trial: str) -> None:
    spec_of(f"[trial]\n{trial}")


def test_conflicts_with_a_wrong_key_are_not_reported() -> None:
    assert_problem("[trial]\nloss = 'hinje'\nlabel_smoothing = 0.1", "trial.loss")


BOTH_SGD = "generator_optimizer = 'sgd'\ndiscriminator_optimizer = 'sgd'\n"
BETA1 = "beta1 = { low = 0.0, high = 0.9 }\n"
UNUSED = [
    (
        "discriminator = 'resnet'\ndropout = [0.1, 0.3]",
        "dropout",
        'discriminator = "resnet" ignores it',
    ),
    (
        "discriminator = ['sndcgan', 'infogan', 'r3gan']\ngenerator = 'infogan'\n"
        "dropout = { low = 0.0, high = 0.5 }",
        "dropout",
        'discriminator = "sndcgan" or "infogan" or "r3gan" ignores it',
    ),
    (BOTH_SGD + BETA1, "beta1", 'optimizer = "sgd" ignores it'),
    (
        BOTH_SGD + "optimizer = 'rmsprop'\nrms_decay = [0.5, 0.9]",
        "rms_decay",
        'optimizer = "sgd" ignores it',
    ),
    (BOTH_SGD + "optimizer = ['adam', 'sgd']", "optimizer", "each network has its own optimizer"),
    (
        BETA1 + "generator_beta1 = 0.5\ndiscriminator_beta1 = [0.0, 0.5]",
        "beta1",
        "each network has its own beta1",
    ),
    (
        "beta2 = [0.9, 0.99]\ngenerator_beta2 = 0.9\ndiscriminator_optimizer = 'sgd'",
        "beta2",
        'the discriminator\'s optimizer = "sgd" ignores it',
    ),
    (
        "generator_optimizer = 'sgd'\ngenerator_beta1 = [0.0, 0.5]",
        "generator_beta1",
        'the generator\'s optimizer = "sgd" ignores it',
    ),
    (
        "optimizer = ['sgd', 'rmsprop']\ndiscriminator_beta2 = { low = 0.9, high = 0.99 }",
        "discriminator_beta2",
        'the discriminator\'s optimizer = "sgd" or "rmsprop" ignores it',
    ),
    ("optimizer = 'sgd'\nbeta1 = [0.1, 0.2]", "beta1", 'optimizer = "sgd" ignores it'),
    (
        "optimizer = ['adam', 'sgd']\nrms_decay = [0.1, 0.2]",
        "rms_decay",
        'optimizer = "adam" or "sgd" ignores it',
    ),
    (
        "learning_rate = [0.1, 0.2]\ngenerator_learning_rate = 0.1\n"
        "discriminator_learning_rate = [0.1, 0.3]",
        "learning_rate",
        "each network has its own learning_rate",
    ),
    (
        "optimizer = ['adam', 'sgd']\ndiscriminator_optimizer = 'adam'\n"
        "generator_optimizer = 'sgd'\nweight_decay = [0.0, 0.1]\n"
        "[trial.when.optimizer.adam]\nclip_norm = 1.0",
        "weight_decay",
        'optimizer = "sgd" or "adam" ignores it',
    ),
]


@pytest.mark.parametrize(("trial", "key", "cause"), UNUSED)
def test_a_search_without_effect_is_refused(trial: str, key: str, cause: str) -> None:
    line = f"study.toml: trial.{key}: {key} is searched, but {cause}"
    assert problems(f"[trial]\n{trial}") == [line]


COSINE = "schedule = 'cosine'\n"
IDLE = [
    ("r1 = 1.0\nr1_final = 0.1", "r1_final", 'schedule = "constant" ignores it'),
    ("burn_in = 0.5", "burn_in", 'schedule = "constant" ignores it'),
    (COSINE + "r1_final = 0.1", "r1_final", "r1 = 0 turns the penalty off"),
    (COSINE + "r1 = 1.0\nr2_final = 0.1", "r2_final", "r2 = 0 turns the penalty off"),
    (COSINE + "optimizer = 'sgd'\nbeta2_final = 0.99", "beta2_final", '"sgd" ignores it'),
    ("augment_probability = 0.5", "augment_probability", 'augment = "none" ignores it'),
    (
        COSINE + "augment_probability_final = 0.5",
        "augment_probability_final",
        'augment = "none" ignores it',
    ),
    ("augment_target = 0.6", "augment_target", 'augment = "none" ignores it'),
    (
        "augment = 'color'\nloss = 'relativistic'\naugment_target = 0.6",
        "augment_target",
        'loss = "relativistic" ignores it',
    ),
    ("augment = 'color'\naugment_images = 1e4", "augment_images", "augment_target is not set"),
]


@pytest.mark.parametrize(("trial", "key", "cause"), IDLE)
def test_a_final_value_without_effect_is_refused_even_if_fixed(
    trial: str, key: str, cause: str
) -> None:
    assert_problem(f"[trial]\n{trial}", f"trial.{key}", f"{key} is set, but ", cause)
    value = trial.rpartition(" = ")[2]
    searched = trial.removesuffix(value) + f"[{value}, 0.01]"
    assert_problem(f"[trial]\n{searched}", f"trial.{key}", f"{key} is searched, but ", cause)


@pytest.mark.parametrize(
    "trial",
    [
        "schedule = ['constant', 'linear']\nr1 = [0.0, 1.0]\nr1_final = 0.0\nburn_in = 0.5",
        COSINE + "r1 = { low = 0.0, high = 1.0 }\nr1_final = { low = 0.0, high = 0.1 }",
        COSINE + "generator_optimizer = 'sgd'\nbeta2_final = 0.99",
        "augment = ['none', 'color']\naugment_probability = 0.5",
        "augment = ['none', 'color']\nloss = ['hinge', 'relativistic']\naugment_target = 0.6",
        "schedule = ['constant', 'linear']\n[trial.when.schedule.linear]\nbeta2_final = 0.99",
    ],
)
def test_a_final_value_with_an_effect_in_some_trials_is_accepted(trial: str) -> None:
    spec_of(f"[trial]\n{trial}")


@pytest.mark.parametrize(
    "trial",
    [
        "discriminator = ['resnet', 'dcgan']\ndropout = [0.1, 0.3]",
        "discriminator = 'ours.models:Judge'\ndropout = [0.1, 0.3]",
        "generator_optimizer = 'sgd'\n" + BETA1,
        "optimizer = 'sgd'\ndiscriminator_optimizer = ['lion', 'sgd']\n" + BETA1,
        "generator_beta1 = 0.5\n" + BETA1,
        "generator_optimizer = 'sgd'\noptimizer = 'rmsprop'\nrms_decay = [0.5, 0.9]",
        BOTH_SGD + "momentum = [0.5, 0.9]",
        "optimizer = 'sgd'\ngenerator_optimizer = 'adam'\ngenerator_beta2 = [0.9, 0.99]",
        "optimizer = ['adam', 'sgd']\nbeta1 = [0.1, 0.2]\nmomentum = [0.1, 0.2]",
        "optimizer = 'sgd'\nbeta1 = 0.1",
        "learning_rate = [0.1, 0.2]\ngenerator_learning_rate = 0.1",
    ],
)
def test_a_search_with_an_effect_is_accepted(trial: str) -> None:
    spec_of(f"[trial]\n{trial}")


def test_dropout_used_in_one_branch_only() -> None:
    both = "[trial]\ndiscriminator = ['dcgan', 'r3gan']\n[trial.when.discriminator.{}]\n"
    spec_of(both.format("dcgan") + "dropout = [0.1, 0.3]")
    lines = problems(both.format("r3gan") + "dropout = [0.1, 0.3]")
    assert 'dropout is searched, but discriminator = "r3gan" ignores it' in "\n".join(lines)


def test_an_invalid_key_is_not_replaced_by_its_default() -> None:
    toml = "[trial]\noptimizer = 'sgd'\ngenerator_optimizer = 'adamm'\nbeta1 = [0.1, 0.2]"
    key = "trial.generator_optimizer"
    assert_problem(toml, key, f"{key}: found 'adamm'")


def test_steps_are_indexed() -> None:
    steps = values_of(Range(0.0, 1.0, step=0.1))
    assert isinstance(steps, Steps)
    assert list(steps) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert (steps[-1], steps[2:4]) == (1.0, [0.2, 0.3])
    assert 0.1 * 3 in steps  # 0.30000000000000004
    assert steps.index(0.1 * 3) == 3
    for absent in (0.35, -0.1, 1.1, math.nan, math.inf, "0.3", None):
        assert absent not in steps
    assert list(values_of(Range(1.0, 5.0, step=10.0)) or []) == [1.0]


TEN = list(range(2, 12))
DECIDERS = {"width": "r1", "latent_dim": "r2", "d_steps": "beta1", "batch_size": "beta2"}
FINE_STEPS = "{ low = 0.0, high = 0.5, step = 1e-7 }"
THOUSAND = str([n / 1000 for n in range(1000)])


@pytest.mark.parametrize(
    "trial",
    [
        "\n".join(f"{name} = {FINE_STEPS}" for name in ("r1", "r2", "ema_decay", "dropout")),
        "\n".join(f"{n} = {THOUSAND}" for n in ("r1", "r2", "gradient_penalty", "beta1")),
        "batch_size = { low = 2, high = 4096 }\nd_steps = { low = 1, high = 100 }",
        f"generator = {[f'own.models:N{n}' for n in range(300)]}\n"
        f"discriminator = {[f'own.models:N{n}' for n in range(300)]}",
    ],
    ids=["fine steps", "many numbers", "many batches", "many networks"],
)
def test_checks_do_not_enumerate_the_product(trial: str) -> None:
    began = time.process_time()
    spec = spec_of(f"[trial]\n{trial}")
    assert program_count(spec.trial) >= 1
    data_problems(spec, 60_000)
    assert list(warnings(spec)) is not None
    space_table(spec)
    assert time.process_time() - began < 2  # 0.1 s on a quiet core


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ("r1 = { low = 0.0, high = 1.0, step = 1e-12 }", "r1: found step = 1e-12"),
        ("r1 = { low = 0, high = 1, step = 1e-6 }\n[sampler]\nname = 'gp'", "r1: found 1,000,001"),
        (
            "".join(f"{name} = {TEN}\n" for name in DECIDERS)
            + "".join(f"[trial.when.{name}.2]\n{of} = 0.5\n" for name, of in DECIDERS.items()),
            "when: found 10,000 combinations",
        ),
    ],
)
def test_too_many_choices_are_refused(trial: str, expected: str) -> None:
    assert any(f"study.toml: trial.{expected}" in line for line in problems(f"[trial]\n{trial}"))


@pytest.mark.parametrize(
    ("setting", "end"),
    [
        ("dropout = { low = 0.0, high = 0.5, step = 0.2 }", "0.4"),
        ("r1 = { low = 1.0, high = 5.0, step = 10.0 }", "1"),
        ("width = { low = 4, high = 9, step = 4 }", "8"),
        ("dropout = { low = 0.0, high = 0.6, step = 0.2 }", None),
    ],
)
def test_an_unreachable_upper_bound_is_reported(setting: str, end: str | None) -> None:
    found = [line for line in warnings(spec_of(f"[trial]\n{setting}")) if "never tried" in line]
    assert [line.rpartition(" ")[2] for line in found] == ([end] if end else [])
