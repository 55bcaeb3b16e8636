"""``Precompiler``: compiles programs in a thread before trials need them.

The next trial is unknown until it is claimed, but it runs one of few programs: those of trials that
were left behind or are queued, else any that the search space allows. Meanwhile, a trial that needs
another program compiles it itself, and one that needs the program being compiled waits for it.
"""

import random
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

import jax

from tuner import environment
from tuner.data import ImageSet
from tuner.errors import StorageError
from tuner.gan.sampling import compile_evaluation
from tuner.gan.training import compile_training
from tuner.metrics.extractors import Extractor
from tuner.run.constraints import is_allowed
from tuner.run.device_memory import image_memory
from tuner.run.evaluator import AUC_CHUNKS, AUC_IMAGES
from tuner.run.signals import PRECOMPILER
from tuner.study.session import WorkerSession
from tuner.study.space import programs
from tuner.trial import DatasetInfo, Program

MAX_PROGRAMS = 8  # compiled in advance; a guess among more would mostly be wrong


def should_compile_ahead() -> bool:
    """Whether to compile next to training: TUNER_COMPILE_AHEAD, or by default if that leaves the
    device to training. A CPU's cores are busy already."""
    given = environment.compile_ahead()
    return jax.default_backend() != "cpu" if given is None else given


class Precompiler:
    """Compiles one program after another in a daemon thread. Failures are left to the trials.

    XLA's compiler can't be interrupted, so a process may have to end while the thread compiles: see
    ``signals.exit_process``.
    """

    extractor: Extractor | None = None  # once there is one

    def __init__(self, session: WorkerSession) -> None:
        self._session = session
        self._images: ImageSet
        self._dataset: DatasetInfo
        self._wanted = deque[Program]()
        self._seen = set[Program]()
        self._condition = threading.Condition()
        self._started = self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Begin no further program; the one being compiled is finished."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def start(self, images: ImageSet, dataset: DatasetInfo) -> None:
        """Start to compile for trials on these images. Until then nothing is compiled."""
        self._images, self._dataset, self._started = images, dataset, True
        self.look_ahead()
        threading.Thread(target=self._run, name=PRECOMPILER, daemon=True).start()

    def look_ahead(self, current: Program | None = None) -> None:
        """Compile what is missing for the ``current`` trial, then programs of trials to come.

        Reads the database, so it must be called by the session's thread.
        """
        if not self._started:
            return
        candidates = list[Program]()
        with suppress(StorageError, KeyError):  # the trial itself will need the database
            candidates = [
                p for p in self._candidates(current) if p not in self._seen and p != current
            ]
        with self._condition:
            self._wanted = deque(candidates)
            if current is not None:
                self._wanted.appendleft(current)
            self._condition.notify()

    def _candidates(self, current: Program | None) -> Iterable[Program]:
        """Programs that trials may need, the likeliest first, without repetition."""
        spec, dataset = self._session.spec, self._dataset
        guesses = [p for p in programs(spec, {}, dataset, MAX_PROGRAMS) if is_allowed(spec, p)]
        done = bool(guesses) and self._seen.issuperset(guesses)
        if done or self._session.store.remaining() <= (current is not None):
            return ()
        known = [
            programs(spec, p, dataset, MAX_PROGRAMS)
            for p in self._session.upcoming_params(MAX_PROGRAMS)
        ]
        random.shuffle(guesses)  # workers of one machine then compile different ones for its cache
        candidates = (program for some in (*known, guesses) for program in some)
        return dict.fromkeys(program for program in candidates if is_allowed(spec, program))

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                program = self._wanted.popleft()
                self._seen.add(program)
            with suppress(Exception, SystemExit):  # a custom network may raise anything
                self._compile(program)

    def _compile(self, program: Program) -> None:
        spec = self._session.spec
        samples, count = spec.metrics.samples, len(self._images.images)
        streamed = self._images.images.nbytes > image_memory()
        compile_training(program, count, spec.study.epochs, streamed=streamed)
        compared = min(AUC_IMAGES, count), min(AUC_IMAGES, samples)
        compile_evaluation(program, samples, compared, AUC_CHUNKS)
        if self.extractor is not None:
            self.extractor.compile(program.image_shape)
