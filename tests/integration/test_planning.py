"""Memory measurement of ``tuner check``, and its time limit."""

import time

import pytest
from builders import spec_of

from tuner.data import load_images
from tuner.gan.state import size_of
from tuner.gan.training import training_memory
from tuner.run import planning
from tuner.run.evaluator import dataset_info
from tuner.run.planning import largest_program, measured_memory, measured_seconds, plan
from tuner.trial import DatasetInfo, Program

SPEC = "[data]\nsource = 'gaussians'\n[trial]\nwidth = 4\nlatent_dim = 8\n"


@pytest.fixture(scope="module")
def program() -> Program:
    spec = spec_of(SPEC)
    return largest_program(spec, dataset_info(load_images(spec.data)))


def test_memory_is_measured_in_a_process_of_its_own(program: Program) -> None:
    found = measured_memory(program, 128, 1000, seconds=300)
    assert found == training_memory(program, 128, epochs=1000)
    assert found > training_memory(program, 128, epochs=1)  # long trials unroll their iterations


def test_the_largest_program_has_every_penalty_that_is_searched() -> None:
    spec = spec_of(SPEC + "r1 = { low = 0.02, high = 20.0 }\ngradient_penalty = [0.0, 10.0]\n")
    found = largest_program(spec, DatasetInfo((32, 32, 1), 128))
    assert found.penalties == ("gradient_penalty", "r1")


def test_the_largest_program_is_within_the_constraint() -> None:
    searched = "width = { low = 4, high = 64, step = 4 }\nlatent_dim = { low = 8, high = 128 }\n"
    limits = "[constraint]\nparameters = 300_000\n"
    toml = "[trial]\ngenerator = ['resnet', 'dcgan']\nbatch_size = [32, 64]\n" + searched + limits
    dataset = DatasetInfo((32, 32, 1), 128)
    found = largest_program(spec_of(toml), dataset)
    assert found.batch_size == 64
    assert size_of(found).total <= 300_000
    assert size_of(found._replace(width=found.width + 4)).total > 300_000
    unlimited = largest_program(spec_of(toml.replace(limits, "")), dataset)
    assert (unlimited.width, unlimited.latent_dim) == (64, 128)


def test_iterations_are_timed_in_a_process_of_its_own(program: Program) -> None:
    found = measured_seconds(program, seconds=300)
    assert found is not None
    assert found > 0
    assert measured_seconds(program, seconds=0.1) is None


@pytest.mark.parametrize(("limit", "seconds"), [("epochs", None), ("wall_hours", 0.5)])
def test_a_budget_of_hours_is_timed(
    monkeypatch: pytest.MonkeyPatch, limit: str, seconds: float | None
) -> None:
    monkeypatch.setattr(planning, "measured_memory", lambda *_: 7)
    monkeypatch.setattr(planning, "measured_seconds", lambda *_: 0.5)
    found = plan(spec_of(f"{SPEC}[budget]\n{limit} = 3\n"))
    if seconds is None:
        assert found["epoch_seconds"] is None
    else:  # training, and evaluation in proportion to its operations
        iterations = Program._make(found["largest"].values()).iterations(found["images"])
        share = found["evaluation_flops"] / found["training_flops"]
        assert found["epoch_seconds"] == pytest.approx(seconds * iterations * (1 + share))


def test_measuring_stops_at_its_time_limit(program: Program) -> None:
    began = time.monotonic()
    assert measured_memory(program, 128, 1000, seconds=0.5) is None
    assert time.monotonic() - began < 20


def test_measuring_announces_its_limit_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announced: list[str] = []
    announced_before: list[str] = []

    def measure(*_: object) -> int:
        announced_before.extend(announced)
        return 7

    monkeypatch.setattr(planning, "measured_memory", measure)
    spec = spec_of(SPEC)
    assert (
        plan(spec, announce=lambda text, part=None: announced.append(text))["activation_bytes"] == 7
    )
    assert announced_before == announced
    assert announced[-1] == (
        "measuring the memory of training the largest program: compiling it takes at most 45 s"
    )
