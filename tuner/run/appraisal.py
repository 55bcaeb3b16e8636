"""Measure stored generators on fresh latents, or draw samples from them."""

from typing import NamedTuple

import numpy as np

from tuner.environment import DEFAULT_OPTIONS, MachineOptions
from tuner.errors import InputError
from tuner.files.folders import NAME
from tuner.files.serialization import load_generator
from tuner.files.study_files import StudyFiles
from tuner.gan.sampling import draw, even_shares, fixed_latents
from tuner.metrics.evaluate import Scores, real_against_real
from tuner.run.custom_networks import import_allowed, networks_of
from tuner.run.evaluator import PICTURES, Evaluator
from tuner.spec.warnings import can_extrapolate
from tuner.study.records import TrialRecord
from tuner.study.store import StudyStore
from tuner.xla import check_settings


class Appraisal(NamedTuple):
    """Measurements of a trial's stored generator on fresh latents."""

    trial: TrialRecord
    fresh: Scores
    real_fid: float
    real_count: int
    classes: int | None  # that the extractor finds in the data; None if it knows none
    accuracy: float | None  # of a classifier


def generator_of(store: StudyStore, trial: TrialRecord) -> str:
    """The file of a trial's generator; InputError if it has none."""
    if trial.artifact is None or not NAME.fullmatch(trial.artifact):
        raise InputError(f"study {store.name!r}: trial {trial.number} has no stored generator")
    return trial.artifact


def appraise(
    store: StudyStore, evaluator: Evaluator, files: StudyFiles, trial: TrialRecord
) -> Appraisal:
    """Measure a trial's generator on latents that were not used to select it."""
    program, generator, _ = load_generator(files, generator_of(store, trial))
    samples = evaluator.fresh_samples(program, generator)
    extras = {"kid", "neighbours", "heldout"} | (
        {"fid_infinity"} if can_extrapolate(store.spec) else set()
    )
    extras |= store.spec.metrics.always
    real_fid, real_count = real_against_real(evaluator.real)
    return Appraisal(
        trial=trial,
        fresh=evaluator.scores(samples, extras),
        real_fid=real_fid,
        real_count=real_count,
        classes=evaluator.classes or None,
        accuracy=evaluator.extractor.accuracy,
    )


def draw_samples(
    store: StudyStore,
    files: StudyFiles,
    trial: TrialRecord,
    count: int,
    seed: int,
    options: MachineOptions = DEFAULT_OPTIONS,
) -> np.ndarray:
    """Generate ``count`` uint8 images (n, h, w, c) with a trial's stored generator.

    Trials of equal latent size get the same latents for the same ``seed``.
    """
    check_settings()
    import_allowed(networks_of(store.spec), options.allow)
    program, generator, _ = load_generator(files, generator_of(store, trial))
    latent_seed = int(np.random.SeedSequence((seed, PICTURES)).generate_state(1)[0])
    shares = even_shares(program)
    return draw(program, generator, fixed_latents(latent_seed, count, program.latent_dim, shares))
