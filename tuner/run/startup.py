"""Prepare and run a worker: images, custom networks, extractor, fingerprint."""

import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import jax
import numpy as np

from tuner.data import Announce, ImageSet, load_images
from tuner.data.listing import counted, origin
from tuner.environment import DEFAULT_OPTIONS, MachineOptions, program_cache
from tuner.errors import InputError
from tuner.files.study_files import StudyFiles
from tuner.metrics import evaluate
from tuner.metrics.vit import ARCHITECTURES
from tuner.phases import Phase, PhaseClock
from tuner.run.constraints import excluded
from tuner.run.custom_metrics import check_metrics, import_metrics
from tuner.run.custom_networks import Sources, check_all_shapes, import_allowed, networks_of
from tuner.run.evaluator import Evaluator, dataset_info
from tuner.run.gpus import warning_of_unused
from tuner.run.precompile import Precompiler, should_compile_ahead
from tuner.run.sharing import StoppedError, shared_measures
from tuner.run.signals import Stop, stop_on_ctrl_c, stop_on_signals
from tuner.run.study_latents import latents_digest
from tuner.run.trainer import Trainer
from tuner.run.watchdog import Watchdog
from tuner.run.worker import Limits, Worker
from tuner.spec.branches import branches
from tuner.spec.parameters import values_of
from tuner.spec.study import StudySpec
from tuner.spec.validation import data_problems
from tuner.study.fingerprint import Parts, disagreements
from tuner.study.retrying import Retrier
from tuner.study.session import WorkerSession
from tuner.study.sinks import Publisher, TrialSink
from tuner.study.store import StudyStore
from tuner.trial import DatasetInfo
from tuner.version import __version__
from tuner.xla import check_settings, compilation_seconds, compiling_since, keep_compiled

# How images enter the extractor, except Inception's, where the study decides.
INPUTS = dict.fromkeys(("classifier", "random"), "as it is") | dict.fromkeys(
    ARCHITECTURES, "resized as by Pillow"
)
MIN_IMAGES, MIN_LABELLED, MIN_HELD_OUT = 20, 50, 50


def check_data(spec: StudySpec, images: ImageSet) -> None:
    """InputError if the study can't be run on these images."""
    if len(images.images) < MIN_IMAGES:
        found = counted(len(images.images), "image")
        raise InputError(f"data: found {found}, expected at least {MIN_IMAGES}")
    problems = data_problems(spec, len(images.images))
    if images.held_out is not None and len(images.held_out) < MIN_HELD_OUT:
        found = f"{len(images.held_out)} of {len(images.held_out) + len(images.images)} images"
        problems.append(f"data.holdout: holds out {found}, expected at least {MIN_HELD_OUT}")
    if spec.metrics.features == "classifier":
        problems += _classifier_problems(spec, images)
    settings = [branch.trial.conditional for branch in branches(spec.trial)]
    if images.labels is None and any("on" in (values_of(setting) or []) for setting in settings):
        problems.append("trial.conditional: found 'on' with images without labels, expected 'off'")
    if problems:
        raise InputError("\n".join(f"study {spec.study.name!r}: {line}" for line in problems))


def _classifier_problems(spec: StudySpec, images: ImageSet) -> list[str]:
    """Problems with training a classifier on these images, or with measuring by it."""
    count, samples = len(images.images), spec.metrics.samples
    if images.labels is None:
        return [
            "metrics.features: 'classifier' needs images with labels; use 'random' or 'inception'"
        ]
    if count < MIN_LABELLED:
        needed = f"at least {MIN_LABELLED} images"
        return [f"metrics.features: 'classifier' needs {needed}, not {count}; use 'random'"]
    classes = len(np.unique(images.labels))
    if spec.guard.class_coverage.enabled and samples < classes:  # would look like collapse
        expected = "expected at least as many, or guard.class_coverage off"
        return [f"metrics.samples: found {samples} with {classes} classes, {expected}"]
    return []


def load_checked(
    spec: StudySpec, options: MachineOptions, announce: Announce
) -> tuple[ImageSet, DatasetInfo]:
    """Load the images and import the custom networks; InputError if the study can't be run."""
    sources = import_allowed(networks_of(spec), options.allow)
    sources += import_metrics(spec.metrics.own, options.allow)
    images = load_images(spec.data, options.data, announce)
    check_data(spec, images)
    dataset = dataset_info(images, sources)
    check_all_shapes(spec, dataset)
    excluded(spec, dataset)
    return images, dataset


def machine() -> dict[str, str]:
    """The versions and the device that produce this worker's numbers."""
    packages = {name: version(name) for name in ("jax", "flax", "optax", "optuna")}
    device = jax.devices()[0]
    return packages | {
        "tuner": __version__,
        "python": platform.python_version(),
        "device": device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})",
        "host": platform.node(),
    }


def open_evaluator(
    store: StudyStore,
    files: StudyFiles,
    announce: Announce,
    session: WorkerSession | None = None,
    options: MachineOptions = DEFAULT_OPTIONS,
    stop: Stop | None = None,
    loaded: Callable[[ImageSet, DatasetInfo], None] | None = None,
) -> Evaluator:
    """Load the images and the extractor; with a ``session``, train the classifier if it is missing.

    ``loaded`` is called with the images before the extractor is loaded.
    InputError if the images are missing or unsuitable, if a custom network is not allowed or fails,
    or if the study's numbers come from other images, another extractor, other metrics or other
    network code. StoppedError if ``stop`` is requested while another worker trains the classifier.
    """
    check_settings()
    keep_compiled(program_cache(), announce)
    device = machine()["device"]
    announce(f"device: {device}")
    if jax.default_backend() == "cpu" and (warning := warning_of_unused(device)) is not None:
        announce(warning)
    announce(f"loading images from {origin(store.spec.data, options.data)}")
    clock = PhaseClock() if session is None else session.clock
    with clock.phase(Phase.OTHER, "loading images"):
        images, dataset = load_checked(store.spec, options, announce)
    retrier = Retrier(announce)
    known = known_parts(store.spec, images, dataset.sources)
    retrier(lambda: store.check_fingerprint(known))
    if loaded is not None:
        loaded(images, dataset)
    with clock.phase(Phase.OTHER, "loading the extractor"):
        extractor, real = shared_measures(
            store.spec, images, files, session, announce, options.weights, stop
        )
    parts = known | {"weights": extractor.digest}
    retrier(lambda: store.bind(parts))
    if extractor.accuracy is not None:
        announce(f"the classifier's accuracy on held-out images is {extractor.accuracy:.1%}")
    evaluator = Evaluator(store.spec, images, extractor, real, dataset.sources)
    if store.spec.metrics.own:
        check_metrics(store.spec.metrics.own, evaluator.real_sample)
    if session is not None:
        session.when_edited = partial(_apply_edit, evaluator, images)
    return evaluator


def _apply_edit(evaluator: Evaluator, images: ImageSet, spec: StudySpec) -> None:
    """Measure according to an edited study file; InputError if it can't run on these images."""
    check_data(spec, images)
    check_all_shapes(spec, evaluator.dataset)
    excluded(spec, evaluator.dataset)
    evaluator.spec = spec


def known_parts(spec: StudySpec, images: ImageSet, sources: Sources) -> Parts:
    """The inputs of the study's numbers, except the extractor's weights."""
    metrics = spec.metrics
    return _code_parts(sources) | {
        "data": images.fingerprint,
        "features": metrics.features,
        "input": INPUTS.get(metrics.features, metrics.input),
        "samples": str(metrics.samples),
        "latents": f"{latents_digest(spec)} (seed {spec.study.seed})",
        "precision": evaluate.PRECISION,
        "version": str(evaluate.VERSION),
    }


def _code_parts(sources: Sources) -> Parts:
    return {f"code of {name}": digest for name, digest in sources}


def code_change_warning(store: StudyStore, options: MachineOptions) -> str | None:
    """A one-line warning if custom network code differs from the code that trained the trials.

    None if it is the same. InputError as in ``import_allowed``.
    """
    here = _code_parts(import_allowed(networks_of(store.spec), options.allow))
    found = "; ".join(disagreements(here, store.fingerprint()))
    what = "its trials were trained with the latter, but samples are drawn with the code found here"
    return f"study {store.name!r}: {found}; {what}" if found else None


def run_worker(
    store: StudyStore,
    files: StudyFiles,
    sink: TrialSink,
    stop: Stop,
    limits: Limits,
    *,
    publisher: Publisher,
    options: MachineOptions,
    grace: float | None,
    watch: Callable[[WorkerSession], None] | None,
) -> Evaluator | None:
    """Run trials until the study has ended, a limit is reached, or a stop is requested.

    Signals request a stop, too. Returns the evaluator, or None if the worker was stopped before it
    had one. ``watch`` receives the session before it begins. With ``grace``, in seconds, the
    process belongs to the worker and ends if an epoch hangs or outlasts a stop request: see
    ``watchdog`` and ``signals``.

    TunerError if too many trials fail in a row or a file can't be written; StorageError if the
    database or the artifact store stays unavailable; InputError if this machine can't reproduce the
    numbers of the study's other workers.
    """
    files.claim()
    if files.notice:
        sink.announce(files.notice)
    clock = PhaseClock(compilation_seconds, compiling_since=compiling_since)
    session = WorkerSession(store, machine(), sink.announce, clock=clock)
    if watch is not None:
        watch(session)
    signals = (
        stop_on_ctrl_c(stop, sink.announce)
        if grace is None
        else stop_on_signals(stop, sink.announce, session.leave_at_once)
    )
    watching = Watchdog(session, stop, sink.announce, grace).watching()
    with signals, session.joined(), watching as watchdog, Precompiler(session) as precompiler:
        # A process that must not end can't leave a compilation behind.
        loaded = precompiler.start if grace is not None and should_compile_ahead() else None
        try:
            evaluator = open_evaluator(store, files, sink.announce, session, options, stop, loaded)
        except StoppedError:
            return None
        precompiler.extractor = evaluator.extractor
        stop.has_something_to_finish = True
        with clock.phase(Phase.FILES):
            publisher.real_images(evaluator.shown_images)
        trainer = Trainer(evaluator, clock)
        Worker(session, trainer, files, sink, publisher, watchdog, stop, precompiler).work(limits)
        return evaluator
