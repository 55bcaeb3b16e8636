"""The running-time clock, which excludes compilation, and the epoch times measured with it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import spec_of

from tuner.data import ImageSet
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.gan.state import AdaptiveAugmentation, GanState
from tuner.gan.step import StepLosses
from tuner.gan.training import Epoch
from tuner.run.evaluator import Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.trainer import Trainer
from tuner.study.space import trial_config
from tuner.trial import Program
from tuner.xla import COMPILING, running_time

TRACE, _, BACKEND = COMPILING


@pytest.fixture
def reported() -> Iterator[list[tuple[str, float]]]:
    """Compilation events that JAX reports during the test, with seconds."""
    found: list[tuple[str, float]] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event in COMPILING:
            found.append((event, duration_secs))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def compiled(reported: list[tuple[str, float]]) -> float:
    """Seconds of backend compilation, which is never nested."""
    return sum(seconds for event, seconds in reported if event == BACKEND)


def compile_something() -> None:
    """Compile a program that is in no cache."""
    jax.jit(lambda x: jnp.linalg.qr(jnp.sin(x) @ x)).lower(jnp.ones((8, 8))).compile()


def test_the_clock_excludes_compilation(reported: list[tuple[str, float]]) -> None:
    wall, running = time.perf_counter(), running_time()
    compile_something()
    running = running_time() - running
    assert time.perf_counter() - wall - running > 0.95 * compiled(reported) > 0


def test_the_clock_runs_outside_compilation() -> None:
    wall, running = time.perf_counter(), running_time()
    time.sleep(0.1)
    assert 0.1 <= running_time() - running <= time.perf_counter() - wall


def test_nested_compilations_are_counted_once() -> None:
    running = running_time()
    time.sleep(0.3)
    for event, seconds in ((BACKEND, 0.1), (BACKEND, 0.05), (TRACE, 0.2)):
        jax.monitoring.record_event_duration_secs(event, seconds)
    assert running_time() - running >= 0.3 - 0.2


def test_setting_the_system_clock_does_not_turn_the_clock_back() -> None:
    for seconds in (86_400.0, -86_400.0):
        before = running_time()
        jax.monitoring.record_event_duration_secs(BACKEND, seconds)
        assert running_time() >= before


def test_compilation_in_another_thread_is_not_excluded(
    reported: list[tuple[str, float]],
) -> None:
    running, wall = running_time(), time.perf_counter()
    thread = threading.Thread(target=compile_something)
    thread.start()
    thread.join()
    wall = time.perf_counter() - wall
    assert compiled(reported) > 0
    assert running_time() - running >= wall


def test_times_of_the_first_epoch_exclude_compilation(
    tmp_path: Path, reported: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is so small that compiling it takes most of the evaluation."""
    spec = spec_of(
        "[trial]\nwidth = 2\nlatent_dim = 8\nbatch_size = 8\n"
        "[metrics]\nfeatures = 'random'\nsamples = 30\n"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (56, 32, 32, 1), np.uint8)
    images = ImageSet(pixels, None, "a-fingerprint")
    files = StudyFiles(open_store(str(tmp_path)), "study").begin("a token")
    trainer = Trainer(Evaluator(spec, images, *shared_measures(spec, images, files, None, print)))
    trainer.load(trial_config(spec, {}, 0, trainer.dataset))

    def train(program: Program, state: GanState, *_: object) -> Epoch:
        compile_something()
        time.sleep(0.1)
        adaptive = AdaptiveAugmentation(jnp.float32(0.25), jnp.float32(0))
        return Epoch(state._replace(adaptive=adaptive), StepLosses(*jnp.ones(4)), 1)

    monkeypatch.setattr("tuner.run.trainer.begin_epoch", train)
    reported.clear()
    wall = time.perf_counter()
    report = trainer.run_epoch()
    wall = time.perf_counter() - wall
    seconds = report.train_seconds + report.evaluate_seconds
    assert compiled(reported) > 0
    assert report.train_seconds >= 0.1
    assert seconds < wall - 0.95 * compiled(reported)
    assert seconds > 0.95 * (wall - sum(length for _, length in reported))
    assert report.images_per_second == report.images / report.train_seconds
    parts = report.generate_seconds + report.extract_seconds + report.score_seconds
    assert 0 < parts < report.evaluate_seconds
    assert report.augmentation == 0.25
