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
