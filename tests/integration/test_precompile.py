"""Programs compiled in a thread before trials need them."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_networks
from builders import new_database, spec_of

from tuner.api import run_here
from tuner.data import ImageSet
from tuner.environment import MachineOptions
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles, begin_study
from tuner.gan.sampling import compile_evaluation
from tuner.gan.training import compile_training
from tuner.run.evaluator import AUC_CHUNKS, Evaluator
from tuner.run.sharing import shared_measures
from tuner.run.signals import PRECOMPILER, Stop
from tuner.run.trainer import Trainer
from tuner.study.database import Database
from tuner.study.sinks import Sinks
from tuner.study.space import trial_config
from tuner.xla import COMPILING, abstract, jit, running_time

tiny = tiny_networks.tiny_networks
pytestmark = pytest.mark.usefixtures("tiny")
Events = list[tuple[str, str, str]]
# No other file has latents of 11 to 13 numbers, so these programs compile here.
STUDY = """
[study]
epochs = 2
[trial]
width = 2
latent_dim = 11
batch_size = 8
{trial}
[metrics]
features = "random"
samples = 300
"""


@pytest.fixture
def events() -> Iterator[Events]:
    """Thread, stage and function of all that is traced, lowered, compiled or read from disk."""
    found = Events()

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        if event in COMPILING:
            found.append((threading.current_thread().name, event, about["fun_name"]))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def count(events: Events, function: str) -> int:
    """How often a function was compiled, or its program read from disk."""
    return sum(stage == COMPILING[-1] and function in name for _, stage, name in events)


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("trial", ["", "conditional = 'on'\nema_decay = 0.9\nd_steps = 2"])
def test_trials_compile_nothing_that_was_compiled_ahead(
    trial: str, streamed: bool, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setenv("TUNER_IMAGE_MEMORY", "0")
        monkeypatch.setattr("tuner.gan.input_pipeline.PORTION_BYTES", 4 * 8 * 32 * 32)
    spec = spec_of(STUDY.format(trial=trial))
    pixels = np.random.default_rng(0).integers(0, 256, (330, 32, 32, 1), np.uint8)
    images = ImageSet(pixels, np.arange(330) % 3, "a-fingerprint")
    files = StudyFiles(open_store(str(tmp_path)), "study").begin("a token")
    measures = shared_measures(spec, images, files, None, print)
    trainer = Trainer(Evaluator(spec, images, *measures))
    config = trial_config(spec, {}, 0, trainer.dataset)

    def work() -> None:
        compile_training(config.program, len(pixels), 2, streamed=streamed)
        compile_evaluation(config.program, 300, (330, 300), AUC_CHUNKS)
        measures.extractor.compile(images.shape)

    in_a_thread(work)
    assert count(events, "_train_steps") == 1 + streamed, "the last portion is shorter"
    events.clear()
    trainer.load(config)
    trainer.run_epoch()
    trainer.run_epoch()
    # The thread that gathers streamed images has tiny ones of its own.
    assert [event for event in events if event[0] == "MainThread"] == []


SWEEP = """
[study]
trials = 5
epochs = 2
[data]
source = "idx"
path = "{digits}"
[trial]
width = 2
latent_dim = {latents}
batch_size = [32, 64]
ema_decay = [0.0, 0.5, 0.9]
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
[[baseline]]
batch_size = 32
ema_decay = 0.0
[[baseline]]
batch_size = 64
ema_decay = 0.0
[[baseline]]
batch_size = 32
ema_decay = 0.9
[sampler]
name = "random"
[pruner]
name = "none"
[metrics]
features = "random"
samples = 300
"""


@pytest.mark.parametrize("ahead", [False, True])
def test_a_sweep_compiles_each_program_once(
    ahead: bool, tmp_path: Path, digits: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_COMPILE_AHEAD", str(int(ahead)))
    spec = spec_of(SWEEP.format(digits=digits, latents=12 + ahead))
    store, files = begin_study(Database(new_database(tmp_path / "db")), spec, str(tmp_path / "a"))
    run_here(store, files, Sinks(), Stop(), options=MachineOptions(), grace=60.0)
    trials = store.trials()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 5
    used = {(trial.params["batch_size"], trial.params["ema_decay"] > 0) for trial in trials}
    # A guess may have been compiled in vain.
    assert len(used) <= count(events, "_train_steps") <= (4 if ahead else len(used))
    for function in ("_generate", "_measure_statistics"):
        assert count(events, function) == 1, function
    assert count(events, "_init_state") == 2, "with and without an average"
    helpers = {thread for thread, _, name in events if "_train_steps" in name} - {"MainThread"}
    assert helpers == ({PRECOMPILER} if ahead else set())


def test_two_threads_compile_a_program_once(events: Events) -> None:
    def slow(x: jax.Array, size: int) -> jax.Array:
        time.sleep(0.2)  # while it is traced
        return x * size

    function = jit(slow, static_argnums=1)
    thread = threading.Thread(target=function.compile, args=(abstract((3,), jnp.float32), 7))
    thread.start()
    time.sleep(0.1)
    running = running_time()
    np.testing.assert_array_equal(function(jnp.ones(3), 7), [7, 7, 7])
    assert running_time() - running < 0.05 + 0.1, "waiting counts as compilation"
    thread.join()
    assert count(events, "slow") == 1
