"""Edits of a study file: which keys may change, and what the file is afterwards."""

import pytest
from builders import spec_of

from tuner.errors import InputError
from tuner.spec.edits import Change, changes, edited, parse_assignments
from tuner.spec.parameters import Choices, Range

FILE = """
[study]
name = "s"
trials = 9
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
optimizer = ["adam", "sgd"]
width = 16
generator = ["dcgan", "mine:G"]
[trial.when.optimizer.sgd]
momentum = { low = 0.5, high = 0.9 }
[[baseline]]
learning_rate = 2e-4
optimizer = "adam"
"""
SPEC = spec_of(FILE)


def edit(*words: str) -> list[Change]:
    return changes(SPEC, edited(SPEC, parse_assignments(words), "study 's'"))


def problems(*words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        edit(*words)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("study.checkpoint_seconds=5", Change("study.checkpoint_seconds", 30.0, 5.0)),
        ("study.epoch_timeout=90", Change("study.epoch_timeout", None, 90.0)),
        ("study.max_takeovers=0", Change("study.max_takeovers", 3, 0)),
        ("pruner.reduction_factor=4", Change("pruner.reduction_factor", 3, 4)),
        ("sampler.n_startup_trials=3", Change("sampler.n_startup_trials", 10, 3)),
        ("guard.loss_ratio.high=9", Change("guard.loss_ratio.high", 100.0, 9.0)),
        ("pictures.images=4", Change("pictures.images", 36, 4)),
        ("trial.batch_size=[32, 128]", Change("trial.batch_size", [32, 64], [32, 128])),
        (
            "trial.learning_rate.high=1e-3",
            Change(
                "trial.learning_rate",
                {"low": 1e-4, "high": 1e-2, "log": True},
                {"low": 1e-4, "high": 1e-3, "log": True},
            ),
        ),
        (
            "trial.when.optimizer.sgd.momentum={low=0.6,high=0.8}",
            Change(
                "trial.when.optimizer.sgd.momentum",
                {"low": 0.5, "high": 0.9},
                {"low": 0.6, "high": 0.8},
            ),
        ),
    ],
)
def test_a_key_is_changed(word: str, change: Change) -> None:
    assert edit(word) == [change]


def test_the_file_is_otherwise_unchanged() -> None:
    for words in ([], ["study.checkpoint_seconds=30"], ["pruner.reduction_factor=3"]):
        assert edited(SPEC, parse_assignments(words), "") == SPEC


@pytest.mark.parametrize(
    "metrics",
    [
        "features = 'inception'\nevery = 1",
        "features = 'clip'\nevery = 1",
        "features = 'clip'\nobjective = 'fid'",
        "features = 'clip'\nobjectives = ['fid', 'recall']",
        "features = 'clip'",
    ],
)
def test_metrics_that_differ_from_the_defaults_of_their_features_stay(metrics: str) -> None:
    spec = spec_of(f"{FILE}[metrics]\n{metrics}\n")
    assert edited(spec, parse_assignments(["study.trials=10"]), "").metrics == spec.metrics


def test_an_empty_value_restores_the_default() -> None:
    spec = edited(SPEC, parse_assignments(["study.epoch_timeout=90"]), "")
    again = edited(spec, parse_assignments(["study.epoch_timeout="]), "")
    assert again == SPEC


def test_another_pruner_or_sampler_begins_with_its_defaults() -> None:
    spec = edited(SPEC, parse_assignments(["pruner.reduction_factor=4"]), "")
    words = ["pruner.name=median", "pruner.interval_steps=2", "sampler.name=random"]
    again = edited(spec, parse_assignments(words), "")
    assert again.pruner.model_dump(exclude_defaults=True) == {"interval_steps": 2}
    assert (again.pruner.name, again.sampler.name) == ("median", "random")
    assert edited(again, parse_assignments(["pruner.n_min_trials=2"]), "").pruner.name == "median"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("study.name=t", "it identifies the study to its files and workers"),
        ("study.epochs=9", "trials of different lengths are not comparable"),
        ("study.seed=1", "all random numbers"),
        ("study.value=last", "it defines what the study's numbers mean"),
        ("study.lease_seconds=9", "keep renewing their leases"),
        ("study={trials=9}", "give its keys one by one"),
        ("data.size=32", "it defines what the study's numbers mean"),
        ("metrics.samples=100", "it defines what the study's numbers mean"),
        ("metrics={}", "it defines what the study's numbers mean"),
        ("baseline=[]", "use tuner enqueue"),
        ("trial.width=32", "it is fixed, not searched"),
        ("trial.beta1={low=0,high=0.9}", "it is fixed, not searched"),
        ("trial.gradient_penalty=1", "it is not searched"),
        ("trial.when.optimizer.sgd.width=[8, 16]", "it is not searched"),
        ("trial.when.batch_size.32.width=[8, 16]", "it is not searched"),
        ("trial.when={}", "it is not searched"),
    ],
)
def test_what_defines_the_numbers_is_refused(word: str, reason: str) -> None:
    [line] = problems(word)
    assert line.startswith(f"study 's': {word.partition('=')[0]}: can't be changed: ")
    assert reason in line


def test_all_problems_are_reported_at_once() -> None:
    words = ["study.seed=1", "pruner.reduction_factor=1", "trial.batch_size=[]", "guard.x.low=1"]
    lines = problems(*words)
    keys = ["study.seed", "trial.batch_size", "pruner.reduction_factor", "guard.x"]
    assert [line.split(": ")[1] for line in lines] == keys


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trial.learning_rate=1e-3", "trial.learning_rate: found 0.001, expected a range or a"),
        ("trial.learning_rate=", "trial.learning_rate: found 0.0002, expected a range or a list"),
        ("trial.generator=[\"dcgan\", 'x:G']", "trial.generator: custom networks can be neither"),
        ("trial.generator=['dcgan']", "trial.generator: custom networks can be neither"),
        ("trial.learning_rate.log=x", "trial.learning_rate: found log = 'x', expected true or"),
        ("trial.nothing=1", "trial.nothing: unknown key"),
        ("pruners.name=none", "pruners: unknown key (did you mean 'pruner'?)"),
        ("pruner.name=mediann", "pruner.name: found 'mediann', expected one of"),
        ("pruner.name.x=1", 'pruner.name: found "{'),
        ("study.trials=0", "study.trials: found 0, expected at least 1"),
    ],
)
def test_an_edited_file_is_checked_like_any_other(word: str, line: str) -> None:
    [found] = problems(word)
    assert found.startswith(f"study 's': {line}")


def test_a_range_may_become_choices() -> None:
    new = edited(SPEC, parse_assignments(["trial.learning_rate=[1e-3, 2e-4]"]), "")
    assert new.trial.learning_rate == Choices((1e-3, 2e-4))
    words = ["trial.batch_size={low=16, high=64, step=16}"]
    assert edited(SPEC, parse_assignments(words), "").trial.batch_size == Range(16, 64, step=16)


def test_conditions_go_with_their_choice_and_baselines_with_their_range() -> None:
    new = edited(SPEC, parse_assignments(["trial.optimizer=['adam', 'lion']"]), "")
    assert (new.trial.when, new.baseline) == ({}, SPEC.baseline)
    new = edited(SPEC, parse_assignments(["trial.learning_rate.low=1e-3"]), "")
    assert (new.trial.when, new.baseline) == (SPEC.trial.when, ())


@pytest.mark.parametrize("word", ["study.trials", "", "=1", "a b=1", "a.=1", "a=1\nb", "a={}\nb=2"])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    with pytest.raises(InputError, match=r"expected key=value|unknown key"):
        edit(word)


def test_keys_are_read_as_toml() -> None:
    [one] = parse_assignments(["trial.when.\"dropout\".'0.5'.momentum=[0.1, 0.2]"])
    assert one.key == ("trial", "when", "dropout", "0.5", "momentum")
    assert one.value == [0.1, 0.2]


def test_a_key_can_be_given_once() -> None:
    with pytest.raises(InputError, match=r"^study\.trials is given twice$"):
        parse_assignments(["study.trials=10", "study.epochs=3", "study.trials=11"])
