"""A study from file to finish on this machine; and what can be said of its best trial."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from tuner.coherence import data_problems
from tuner.data import ImageSet, load_images
from tuner.errors import InputError
from tuner.gan.sampling import draw, fixed_latents
from tuner.run.artifacts import load_generator
from tuner.run.lab import PICTURES, Lab, check_labels
from tuner.run.worker import Observer, Worker, stop_on_signals
from tuner.spec import StudySpec
from tuner.study.store import StudyStore, TrialRecord
from tuner.version import __version__
from tuner.xla import keep_compiled

CLASS_SAMPLES = 1000
FEWEST_IMAGES = 20


class Appraisal(NamedTuple):
    """What can be said of a trial's kept generator beyond what was recorded."""

    trial: TrialRecord
    fresh_fid: float
    real_fid: float
    real_count: int
    class_samples: int
    classes_found: int | None
    classes: int | None
    accuracy: float | None


def check_data(spec: StudySpec, images: ImageSet) -> None:
    """InputError where the study can't be run on these images."""
    if len(images.images) < FEWEST_IMAGES:
        raise InputError(
            f"data: found {len(images.images)} images, expected at least {FEWEST_IMAGES}"
        )
    check_labels(spec, images)
    problems = data_problems(spec, len(images.images))
    if problems:
        raise InputError("\n".join(f"study {spec.study.name!r}: {line}" for line in problems))


def machine() -> dict[str, str]:
    """What produced a trial's numbers: versions and device."""
    packages = {name: version(name) for name in ("jax", "flax", "optax", "optuna")}
    device = jax.devices()[0]
    return packages | {
        "tuner": __version__,
        "python": platform.python_version(),
        "device": device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})",
        "host": platform.node(),
    }


def open_lab(store: StudyStore, artifacts: Path, announce: Callable[[str], None]) -> Lab:
    """Load the images and make ready to measure; may train the classifier.

    InputError where the images are missing or unfit, or not those the study began with.
    """
    keep_compiled(artifacts / "compiled")
    announce(f"loading the images of {store.spec.data.source}")
    images = load_images(store.spec.data)
    check_data(store.spec, images)
    store.bind("data", images.fingerprint)
    announce("preparing the feature extractor")
    lab = Lab(store.spec, images, artifacts / "extractors")
    store.bind("extractor", lab.extractor.digest)
    if lab.extractor.accuracy is not None:
        announce(f"the classifier names {lab.extractor.accuracy:.1%} of held-out images rightly")
    return lab


def run_study(
    store: StudyStore,
    artifacts: Path,
    observer: Observer,
    announce: Callable[[str], None] = lambda text: None,
) -> tuple[Lab, bool]:
    """Run the study's remaining trials here. Returns the lab they were measured in, and whether a
    person stopped the run before its end.

    TunerError where another process runs the study, where too many trials fail in a row, or where
    a file can't be written; StorageError where the database fails; InputError for unfit images.
    """

    def say_stopping() -> None:
        announce("finishing the epoch, then stopping; once more to leave at once")

    with store.owned(), stop_on_signals(say_stopping) as stop:
        lab = open_lab(store, artifacts, announce)
        stop.has_something_to_finish = True
        Worker(store, lab, artifacts / store.folder, machine(), observer).work(stop)
        return lab, stop.requested


def generator_path(store: StudyStore, artifacts: Path, trial: TrialRecord) -> Path:
    """Where a trial's generator is kept; InputError for a trial that kept none."""
    if trial.artifact is None:
        raise InputError(f"study {store.name!r}: trial {trial.number} kept no generator")
    return artifacts / store.folder / trial.artifact


def appraise(store: StudyStore, lab: Lab, artifacts: Path, trial: TrialRecord) -> Appraisal:
    """Measure a trial's kept generator again, on latents that had no part in choosing it."""
    program, generator, _ = load_generator(generator_path(store, artifacts, trial))
    samples = lab.fresh_samples(program, generator)
    found = classes = None
    pictures = samples[:CLASS_SAMPLES]
    labels = lab.image_set.labels
    if lab.extractor.kind == "classifier" and labels is not None:
        classes = len(np.unique(labels))
        found = len(np.unique(lab.extractor.classify(pictures)))
    real_fid, real_count = lab.real_fid()
    return Appraisal(
        trial=trial,
        fresh_fid=lab.fid(samples),
        real_fid=real_fid,
        real_count=real_count,
        class_samples=len(pictures),
        classes_found=found,
        classes=classes,
        accuracy=lab.extractor.accuracy,
    )


def draw_samples(
    store: StudyStore, artifacts: Path, trial: TrialRecord, count: int, seed: int
) -> np.ndarray:
    """``count`` uint8 images (n, h, w, c) of a trial's kept generator. The same ``seed`` gives
    every trial of equal latent size the same latents."""
    program, generator, _ = load_generator(generator_path(store, artifacts, trial))
    latent_seed = int(np.random.SeedSequence((seed, PICTURES)).generate_state(1)[0])
    return draw(program, generator, fixed_latents(latent_seed, count, program.latent_dim))
