"""Settings that make no sense together are refused, wherever a search meets them."""

import pytest
from builders import spec_of

from tuner.errors import InputError

SENSELESS = [
    ("discriminator_norm = 'batch'\nr1 = 1", "discriminator_norm", "slopes at an image"),
    ("discriminator_norm = 'batch'\nr2 = 1", "discriminator_norm", "with r2 = 1"),
    ("discriminator_norm = 'batch'\ngradient_penalty = 1", "discriminator_norm", "slopes"),
    ("discriminator_norm = 'batch'\nloss = 'wasserstein_gp'", "discriminator_norm", "slopes"),
    ("discriminator_norm = 'batch'\nloss = 'gradient_normalized'", "discriminator_norm", "slopes"),
    (
        "discriminator_norm = ['none', 'batch']\nr1 = { low = 0.0, high = 1.0 }",
        "discriminator_norm",
        "'batch' with r1 = 1",
    ),
    ("loss = ['hinge', 'gradient_normalized']\nr1 = 1", "r1", "bounds D's slopes itself"),
    ("loss = 'wasserstein_gp'\ngradient_penalty = 0", "gradient_penalty", "whose point it is"),
    ("loss = 'dragan'\ngradient_penalty = [0, 1]", "gradient_penalty", "whose point it is"),
    ("loss = 'hinge'\nlabel_smoothing = 0.1", "label_smoothing", "no target to smooth"),
    ("loss = ['hinge', 'minimax']\nlabel_smoothing = [0, 0.1]", "label_smoothing", "'hinge'"),
    ("generator = 'r3gan'\ngenerator_norm = 'batch'", "generator_norm", "relies on none"),
    ("discriminator = 'infogan'\nconditional = 'on'", "conditional", "takes no labels"),
    ("discriminator = 'infogan'\nr1 = 1", "discriminator_norm", "slopes at an image"),
    ("generator_norm = 'none'\nconditional = 'on'", "generator_norm", "labels by its norm"),
]


@pytest.mark.parametrize(("trial", "key", "reason"), SENSELESS)
def test_refused(trial: str, key: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(f"[trial]\n{trial}")
    (line,) = str(caught.value).splitlines()[:1]
    assert line.startswith(f"study.toml: trial.{key}: found ")
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
    ],
)
def test_accepted(trial: str) -> None:
    spec_of(f"[trial]\n{trial}")


def test_a_wrong_key_is_not_judged_by_its_default() -> None:
    with pytest.raises(InputError) as caught:
        spec_of("[trial]\nloss = 'hinje'\nlabel_smoothing = 0.1")
    assert len(str(caught.value).splitlines()) == 1


BOTH_SGD = "generator_optimizer = 'sgd'\ndiscriminator_optimizer = 'sgd'\n"
BETA1 = "beta1 = { low = 0.0, high = 0.9 }\n"
IDLE = [
    ("discriminator = 'resnet'\ndropout = [0.1, 0.3]", "dropout", "discriminator = resnet"),
    (
        "discriminator = ['sndcgan', 'infogan', 'r3gan']\ngenerator = 'infogan'\n"
        "dropout = { low = 0.0, high = 0.5 }",
        "dropout",
        "discriminator = sndcgan, infogan, r3gan",
    ),
    (BOTH_SGD + BETA1, "beta1", "optimizer = sgd"),
    (BOTH_SGD + "optimizer = 'rmsprop'\nrms_decay = [0.5, 0.9]", "rms_decay", "optimizer = sgd"),
    (BOTH_SGD + "optimizer = ['adam', 'sgd']", "optimizer", "a separate optimizer for each"),
    (
        BETA1 + "generator_beta1 = 0.5\ndiscriminator_beta1 = [0.0, 0.5]",
        "beta1",
        "a separate beta1 for each network",
    ),
    (
        "beta2 = [0.9, 0.99]\ngenerator_beta2 = 0.9\ndiscriminator_optimizer = 'sgd'",
        "beta2",
        "the discriminator's optimizer = sgd",
    ),
    (
        "generator_optimizer = 'sgd'\ngenerator_beta1 = [0.0, 0.5]",
        "generator_beta1",
        "the generator's optimizer = sgd",
    ),
    (
        "optimizer = ['sgd', 'rmsprop']\ndiscriminator_beta2 = { low = 0.9, high = 0.99 }",
        "discriminator_beta2",
        "the discriminator's optimizer = sgd, rmsprop",
    ),
    (
        "optimizer = ['adam', 'sgd']\ndiscriminator_optimizer = 'adam'\n"
        "generator_optimizer = 'sgd'\nweight_decay = [0.0, 0.1]\n"
        "[trial.when.optimizer.adam]\nclip_norm = 1.0",
        "weight_decay",
        "optimizer = sgd, adam",
    ),
]


@pytest.mark.parametrize(("trial", "key", "cause"), IDLE)
def test_a_search_that_changes_nothing_is_refused(trial: str, key: str, cause: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(f"[trial]\n{trial}")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"study.toml: trial.{key}: found a search that {cause}")
    assert line.endswith(" leaves idle")


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
    ],
)
def test_a_search_that_changes_something_is_not(trial: str) -> None:
    spec_of(f"[trial]\n{trial}")


def test_dropout_is_used_in_a_branch_and_idle_in_another() -> None:
    """As long as one of them uses it: the search is for that one."""
    both = "[trial]\ndiscriminator = ['dcgan', 'r3gan']\n[trial.when.discriminator.{}]\n"
    spec_of(both.format("dcgan") + "dropout = [0.1, 0.3]")
    with pytest.raises(InputError, match=r"trial.dropout: .* discriminator = r3gan leaves idle"):
        spec_of(both.format("r3gan") + "dropout = [0.1, 0.3]")


def test_idle_is_not_judged_by_a_wrong_keys_default() -> None:
    with pytest.raises(InputError) as caught:
        spec_of("[trial]\noptimizer = 'sgd'\ngenerator_optimizer = 'adamm'\nbeta1 = [0.1, 0.2]")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("study.toml: trial.generator_optimizer: found 'adamm'")
