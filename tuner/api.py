"""The service from Python."""

import os
from collections.abc import Sequence
from pathlib import Path

from tuner.errors import InputError
from tuner.places import Local, default_storage
from tuner.run.files import begin_study
from tuner.run.signals import Stop
from tuner.run.sweep import run_worker
from tuner.run.worker import Observer
from tuner.spec import StudySpec
from tuner.specfile import load_spec
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.study.verdict import Verdict


class _Silence:
    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def trial_started(self, claim: object) -> None:
        return None

    def epoch_done(self, claim: object, report: object) -> None:
        return None

    def trial_ended(self, claim: object, verdict: Verdict) -> None:
        return None

    def trial_left(self, claim: object, why: str) -> None:
        return None


def sweep(
    study: StudySpec | str | os.PathLike[str],
    *,
    storage: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    observer: Observer | None = None,
) -> StudyStore:
    """Run a study (a spec, or the path of a study file) to its total, and return its store.

    Goes on where an earlier call ended, beside whatever other workers the study has. ``storage``
    is a URL ``sqlite:///FILE`` or ``postgresql://…``, ``artifacts`` a folder or the URL of one;
    both default to the command line's. ``weights`` is the file with Inception's, where the study
    uses it and they are not where it says; ``allow`` names packages whose networks are imported.
    ``observer`` hears of every trial and epoch.
    Raises InputError, StorageError or TunerError with a message for people, and KeyboardInterrupt
    after an epoch was finished because of Ctrl-C.
    """
    spec = study if isinstance(study, StudySpec) else load_spec(Path(study))
    if trials is not None and trials < 1:
        raise InputError(f"trials: found {trials}, expected at least 1")
    database = Database(storage or default_storage(), create=True)
    store, files = begin_study(database, spec, None if artifacts is None else str(artifacts))
    store.raise_total(trials or spec.study.trials)
    if store.remaining() > 0:
        stop = Stop()
        local = Local(weights=None if weights is None else str(weights), allow=tuple(allow))
        run_worker(store, files, observer or _Silence(), stop, local=local)
        if stop.requested:
            raise KeyboardInterrupt
    return store
