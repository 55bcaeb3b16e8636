"""A study from file to finish on this machine; and what can be said of its best trial."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import jax
import numpy as np

from tuner.coherence import can_extrapolate, data_problems
from tuner.combinations import values_of
from tuner.conditions import branches
from tuner.data import Announce, ImageSet, load_images
from tuner.data.listing import counted
from tuner.errors import InputError
from tuner.gan.sampling import draw, even_shares, fixed_latents
from tuner.metrics import suite
from tuner.metrics.suite import Scores
from tuner.places import NOWHERE_ELSE, Local, compiled_programs
from tuner.run.artifacts import load_generator
from tuner.run.files import StudyFiles
from tuner.run.lab import PICTURES, Lab, check_labels, latents_digest, premises_of
from tuner.run.lane import Lane
from tuner.run.own_networks import Sources, admit, named_in, try_all
from tuner.run.sharing import shared_measures
from tuner.run.signals import GRACE, Stop, stop_on_signals
from tuner.run.worker import NO_LIMITS, Limits, Observer, Worker
from tuner.spec import StudySpec
from tuner.study.fingerprint import Parts, disagreements
from tuner.study.membership import Membership
from tuner.study.patience import Patience
from tuner.study.store import StudyStore, TrialRecord
from tuner.version import __version__
from tuner.xla import keep_compiled

FEWEST_IMAGES = 20


class Appraisal(NamedTuple):
    """What can be said of a trial's kept generator beyond what was recorded."""

    trial: TrialRecord
    fresh: Scores
    real_fid: float
    real_count: int
    classes: int | None  # in the data, where a classifier tells them apart
    accuracy: float | None


def check_data(spec: StudySpec, images: ImageSet) -> None:
    """InputError where the study can't be run on these images."""
    if len(images.images) < FEWEST_IMAGES:
        found = counted(len(images.images), "image")
        raise InputError(f"data: found {found}, expected at least {FEWEST_IMAGES}")
    check_labels(spec, images)
    problems = data_problems(spec, len(images.images))
    problems += _classes_problem(spec, images)
    settings = [branch.trial.conditional for branch in branches(spec.trial)]
    if images.labels is None and any("on" in (values_of(setting) or []) for setting in settings):
        problems.append("trial.conditional: found 'on' with images without labels, expected 'off'")
    if problems:
        raise InputError("\n".join(f"study {spec.study.name!r}: {line}" for line in problems))


def _classes_problem(spec: StudySpec, images: ImageSet) -> list[str]:
    """Too few samples for each class to appear would look like collapse."""
    samples, guarded = spec.metrics.samples, spec.guard.class_coverage.enabled
    if spec.metrics.features != "classifier" or images.labels is None or not guarded:
        return []
    kinds = len(np.unique(images.labels))
    if samples >= kinds:
        return []
    expected = "expected at least as many, or guard.class_coverage off"
    return [f"metrics.samples: found {samples} with {kinds} classes, {expected}"]


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


def open_lab(
    store: StudyStore,
    files: StudyFiles,
    announce: Announce,
    membership: Membership | None = None,
    local: Local = NOWHERE_ELSE,
) -> Lab:
    """Load the images and make ready to measure; a member may train the classifier.

    InputError where the images are missing or unfit, where a network is not allowed or does not
    fit, or where the study's numbers come from other images, another extractor, other metrics or
    other networks' code.
    """
    keep_compiled(compiled_programs())
    announce(f"loading the images of {store.spec.data.source}")
    sources = admit(named_in(store.spec), local.allow)
    images = load_images(store.spec.data, local.data, announce)
    check_data(store.spec, images)
    try_all(store.spec, premises_of(images, sources))
    patience = Patience(announce)
    known = known_parts(store.spec, images, sources)
    patience(lambda: store.check_fingerprint(known))
    extractor, real = shared_measures(
        store.spec, images, files, membership, announce, local.weights
    )
    parts = known | {"weights": extractor.digest}
    patience(lambda: store.bind(parts))
    if extractor.accuracy is not None:
        announce(f"the classifier names {extractor.accuracy:.1%} of held-out images rightly")
    return Lab(store.spec, images, extractor, real, sources)


def known_parts(spec: StudySpec, images: ImageSet, sources: Sources = ()) -> Parts:
    """What the study's numbers depend on, but for the extractor's weights."""
    metrics = spec.metrics
    return _code_parts(sources) | {
        "data": images.fingerprint,
        "features": metrics.features,
        "input": metrics.input if metrics.features == "inception" else "as it is",
        "samples": str(metrics.samples),
        "latents": f"{latents_digest(spec)} (seed {spec.study.seed})",
        "precision": suite.PRECISION,
        "version": str(suite.VERSION),
    }


def _code_parts(sources: Sources) -> Parts:
    return {f"code of {name}": digest for name, digest in sources}


def other_code(store: StudyStore, local: Local) -> str | None:
    """One line on networks whose code here is not the one that the study's trials were trained
    with, as samples drawn with it may not be theirs; None where it is. InputError as ``admit``."""
    here = _code_parts(admit(named_in(store.spec), local.allow))
    found = "; ".join(disagreements(here, store.fingerprint()))
    what = "with which its trials were trained: samples are drawn with the code found here"
    return f"study {store.name!r}: {found}, {what}" if found else None


def run_worker(
    store: StudyStore,
    files: StudyFiles,
    observer: Observer,
    stop: Stop | None = None,
    limits: Limits = NO_LIMITS,
    *,
    local: Local = NOWHERE_ELSE,
    grace: float = GRACE,
    watch: Callable[[Membership], None] | None = None,
) -> Lab:
    """Run the study's trials here until it has ended, ``stop`` is requested (by signals, too) or a
    limit is reached. Returns the lab they were measured in. ``watch`` hears of the membership
    before it begins.

    TunerError where too many trials fail in a row or a file can't be written; StorageError where
    the database or the artifact store stays away; InputError where this machine can't give the
    numbers that the study's other workers give.
    """
    stop = stop or Stop()
    membership = Membership(store, machine(), observer.announce)
    if watch is not None:
        watch(membership)
    with stop_on_signals(stop, observer.announce, membership.leave_at_once, grace), membership:
        lab = open_lab(store, files, observer.announce, membership, local)
        stop.has_something_to_finish = True
        Worker(membership, Lane(lab), files, observer).work(stop, limits)
        return lab


def generator_of(store: StudyStore, trial: TrialRecord) -> str:
    """The name of a trial's kept generator; InputError for a trial that kept none."""
    if trial.artifact is None:
        raise InputError(f"study {store.name!r}: trial {trial.number} kept no generator")
    return trial.artifact


def appraise(store: StudyStore, lab: Lab, files: StudyFiles, trial: TrialRecord) -> Appraisal:
    """Measure a trial's kept generator again, on latents that had no part in choosing it."""
    program, generator, _ = load_generator(files, generator_of(store, trial))
    samples = lab.fresh_samples(program, generator)
    extras = {"kid", "neighbours"} | ({"fid_infinity"} if can_extrapolate(store.spec) else set())
    real_fid, real_count = lab.real_fid()
    return Appraisal(
        trial=trial,
        fresh=lab.scores(samples, extras),
        real_fid=real_fid,
        real_count=real_count,
        classes=int((lab.real.shares > 0).sum()) or None,
        accuracy=lab.extractor.accuracy,
    )


def draw_samples(
    store: StudyStore,
    files: StudyFiles,
    trial: TrialRecord,
    count: int,
    seed: int,
    local: Local = NOWHERE_ELSE,
) -> np.ndarray:
    """``count`` uint8 images (n, h, w, c) of a trial's kept generator. The same ``seed`` gives
    every trial of equal latent size the same latents."""
    admit(named_in(store.spec), local.allow)
    program, generator, _ = load_generator(files, generator_of(store, trial))
    latent_seed = int(np.random.SeedSequence((seed, PICTURES)).generate_state(1)[0])
    shares = even_shares(program)
    return draw(program, generator, fixed_latents(latent_seed, count, program.latent_dim, shares))
