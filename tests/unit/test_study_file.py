"""Study files: loading, comparison and storage."""

from pathlib import Path
from typing import Any

import pytest
from builders import RANGES, setting_tables, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import InputError
from tuner.spec.loading import differences, load_spec
from tuner.spec.parameters import Choices, Range
from tuner.spec.pruners import AshaPruner
from tuner.spec.samplers import TpeSampler
from tuner.spec.study import StudySpec

STUDIES = Path(__file__).parents[2] / "studies"


def test_differences_name_the_key_that_differs() -> None:
    other = spec_of("[guard.d_auc]\nenabled = true")
    [line] = differences(spec_of(""), other)
    assert line == "guard.d_auc.enabled: False in the database, True in the file"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert str(caught.value) == f"{path}: no such file, expected a study file"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[study\ntrials = 1", "invalid TOML: "),
        (b"[study]\ntrials = 1\ntrials = 2", "invalid TOML: "),
        (b"[study]\nname = '\xff\xfe'", "can't be read"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_study_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        load_spec(tmp_path)


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[study]\nepoch = 1\n[metrics]\nsamples = 1\n")
    with pytest.raises(InputError) as caught:
        load_spec(str(path))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [str(path), "study.epoch"],
        [str(path), "metrics.samples"],
    ]


@pytest.mark.parametrize(
    ("content", "name"),
    [("", "my-study_1"), ("[study]\ntrials = 9", "my-study_1"), ("[study]\nname = 'x'", "x")],
)
def test_the_default_name_is_the_files(tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / "my-study_1.toml"
    path.write_text(content)
    assert load_spec(path).study.name == name
    assert load_spec(path, "another").study.name == "another"
    with pytest.raises(InputError, match=r"study.name: found 600 characters, expected at most 246"):
        load_spec(path, "a" * 600)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(b"\xef\xbb\xbf[study]\r\ntrials = 9\r\n")
    assert load_spec(path).study.trials == 9


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_studies_load(path: Path) -> None:
    spec = load_spec(path)
    assert spec.study.name == path.stem
    assert spec.trial.searched()
    assert spec.baseline


def test_defaults_are_the_tutorials_recipe() -> None:
    spec = spec_of("")
    trial = spec.trial
    networks = (trial.generator, trial.discriminator)
    assert (*networks, trial.loss) == ("dcgan", "dcgan", "non_saturating")
    assert (trial.optimizer, trial.learning_rate, trial.beta1) == ("adam", 2e-4, 0.5)
    assert (trial.generator_learning_rate, trial.discriminator_learning_rate) == (None, None)
    assert (trial.batch_size, trial.width, trial.latent_dim) == (64, 64, 100)
    assert (trial.dropout, trial.d_steps, trial.clip_norm, trial.ema_decay) == (0.3, 1, 0.0, 0.0)
    assert trial.searched() == {}
    assert (spec.sampler, spec.pruner) == (TpeSampler(), AshaPruner())


def test_settings_are_parsed_to_their_kind() -> None:
    trial = spec_of("""
        [trial]
        learning_rate = { low = 1, high = 2 }
        width = { low = 8, high = 64, step = 8 }
        beta1 = [0, 0.5]
        batch_size = [32, 64]
        dropout = 0
    """).trial
    assert trial.learning_rate == Range(1.0, 2.0)
    assert trial.width == Range(8, 64, step=8)
    assert trial.beta1 == Choices((0.0, 0.5))
    assert isinstance(trial.dropout, float)
    assert set(trial.searched()) == {"learning_rate", "width", "beta1", "batch_size"}


def other_sections() -> st.SearchStrategy[dict[str, Any]]:
    """The sections of a study file other than ``[trial]``."""
    samplers: list[dict[str, Any]] = [
        {"name": "random"},
        {"name": "qmc", "qmc_type": "halton", "scramble": False},
        {"name": "tpe", "n_startup_trials": 3, "group": True},
        {"name": "cmaes", "lr_adapt": True, "popsize": 6},
        {"name": "gp", "deterministic_objective": True},
    ]
    pruners: list[dict[str, Any]] = [
        {"name": "none"},
        {"name": "hyperband", "reduction_factor": 4},
        {"name": "threshold", "upper": 300, "lower": 0.5},
        {"name": "patient", "min_delta": 0.1, "wrapped": {"name": "percentile", "percentile": 30}},
    ]
    return st.fixed_dictionaries(
        {},
        optional={
            "study": st.fixed_dictionaries(
                {"seed": st.integers(0, 2**31 - 1), "value": st.sampled_from(["best", "last"])}
            ),
            "sampler": st.sampled_from(samplers),
            "pruner": st.sampled_from(pruners),
            "guard": st.just({"loss_ratio": {"high": 7}, "d_auc": {"enabled": True}}),
            "baseline": st.lists(
                st.dictionaries(
                    st.sampled_from(["width", "beta1", "loss"]),
                    st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)),
                ),
                max_size=2,
            ),
        },
    )


@settings(deadline=None)
@given(setting_tables(), other_sections())
def test_a_spec_survives_the_database(trial: dict[str, Any], rest: dict[str, Any]) -> None:
    spec = StudySpec.model_validate({"trial": trial, **rest})
    again = StudySpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert differences(spec, again) == []
    assert [type(getattr(again.trial, name)) for name in trial] == [
        type(getattr(spec.trial, name)) for name in trial
    ]


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ("[study]\ntrials = 99\n" + RANGES, []),
        ("[study]\nepochs = 99\n" + RANGES, ["study.epochs: 20 in the database, 99 in the file"]),
        (
            RANGES + "width = [8, 16]",
            ["trial.width: 64 in the database, [8, 16] in the file"],
        ),
        (
            RANGES.replace("high = 0.9", "high = 0.8"),
            [
                "trial.beta1: {'low': 0.0, 'high': 0.9} in the database, "
                "{'low': 0.0, 'high': 0.8} in the file"
            ],
        ),
        (
            RANGES + "[sampler]\nname = 'gp'\ndeterministic_objective = true",
            [
                "sampler.name: tpe in the database, gp in the file",
                "sampler.deterministic_objective: nothing in the database, True in the file",
            ],
        ),
        (
            RANGES + "[[baseline]]\nbeta1 = 0.5",
            ["baseline: [] in the database, [{'beta1': 0.5}] in the file"],
        ),
    ],
)
def test_differences_list_every_changed_key(changed: str, keys: list[str]) -> None:
    found = differences(spec_of(RANGES), spec_of(changed))
    assert set(keys) <= set(found), found
    if not changed.endswith("objective = true"):
        assert found == keys


def test_inception_is_evaluated_every_5_epochs_by_default() -> None:
    inception = "[metrics]\nfeatures = 'inception'\n"
    assert spec_of(inception).metrics.every == 5
    assert spec_of(inception + "every = 2").metrics.every == 2
    assert spec_of("").metrics.every == 1
    stored = spec_of(inception).model_dump_json()
    assert StudySpec.model_validate_json(stored) == spec_of(inception)


def test_metrics_follow_their_schedule() -> None:
    metrics = spec_of(
        "[metrics]\nevery = 3\nkid = 'every'\nneighbours = 'end'\nobjective = 'fid_infinity'"
        "\n[pruner]\nname = 'none'"
    ).metrics
    assert [e for e in range(1, 9) if metrics.evaluated(e, 8)] == [3, 6, 8]
    assert metrics.extras(3, 8) == {"kid", "fid_infinity"}
    assert metrics.extras(8, 8) == {"kid", "fid_infinity", "neighbours", "heldout"}
    assert spec_of("").metrics.extras(1, 8) == set()
