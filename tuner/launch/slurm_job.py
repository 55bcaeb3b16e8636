"""``WorkerJob``: run ``tuner worker`` in a Slurm job, and requeue the job while trials are left.

Slurm signals a job's step: SIGUSR2 before the time limit; SIGTERM on preemption, ``scancel`` and at
the time limit; SIGUSR1 for ``tuner launch cancel``. On each of them the worker stops after its
epoch, and the job then decides whether it returns to the queue.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tuner.environment import RESTARTS_VARIABLE, default_storage, slurm_job
from tuner.errors import HUNG_EXIT_CODE, StorageError, TunerError
from tuner.worker_command import tuner_process

if TYPE_CHECKING:
    from tuner.study.store import StudyStore

CANCEL = signal.SIGUSR1
TIME_LIMIT = signal.SIGUSR2
MAX_FRUITLESS = 3  # restarts without an epoch after which the time limit counts as too short
STOP = signal.SIGINT  # sent to the worker in place of Slurm's signals
STOPPED = (0, 128 + STOP, -STOP)  # exit codes of a worker that was stopped
REASONS = {
    CANCEL: "the job was cancelled",
    TIME_LIMIT: "the job's time limit is near",
    signal.SIGTERM: "Slurm is ending the job",
}


class WorkerJob:
    """Runs ``tuner worker NAME`` with further ``words``. Pickled by submitit: holds no password."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self.name, self.words = name, list(words)

    def __call__(self) -> None:
        """Run the worker, then requeue the job if it should continue.

        Exits with the worker's exit code unless the worker was stopped, and with 1 if Slurm refuses
        to requeue the job.
        """
        code, signals = self._run()
        stopped = bool(signals) and code in STOPPED
        requeues = (stopped or code == HUNG_EXIT_CODE) and self._should_requeue(code, signals)
        if requeues and requeue(str(slurm_job())):
            sys.exit(0)
        self._notify()
        if requeues:
            sys.exit(1)
        if code != 0 and not stopped:
            sys.exit(code)

    def _notify(self) -> None:
        """Send the notification that no worker is left, if it is due: the worker can't know whether
        its job returns to the queue."""
        from tuner.notify.sink import send_due_once  # slow imports, needed only at the end

        try:
            send_due_once(self._store(), say)
        except TunerError as error:
            say(f"notifications: {error}")

    def _run(self) -> tuple[int, list[int]]:
        """The worker's exit code, and the signals received while it ran."""
        signals: list[int] = []
        processes: list[subprocess.Popen[bytes]] = []

        def stop(number: int, frame: object) -> None:
            signals.append(number)
            if len(signals) == 1:  # a second one would abort the epoch
                say(f"{REASONS[signal.Signals(number)]}: stopping the worker")
                for process in processes:
                    process.send_signal(STOP)

        for number in REASONS:
            signal.signal(number, stop)
        command = tuner_process("worker", self.name, *self.words)
        environment = os.environ | {RESTARTS_VARIABLE: "1"}
        with subprocess.Popen(command, env=environment, preexec_fn=_ignore_signals) as process:
            processes.append(process)
            if signals:  # received while the process started
                process.send_signal(STOP)
            return process.wait(), signals

    def _should_requeue(self, code: int, signals: Collection[int]) -> bool:
        """Whether the job should return to the queue; prints the reason."""
        job = str(slurm_job())
        preempted = signal.SIGTERM in signals and is_preempted(job_description(job))
        if not may_return(code, signals, preempted):
            say("not resubmitted: the job was cancelled")
            return False
        try:
            left, reported = self._read_progress(job)
        except StorageError as error:
            say(f"resubmitted without knowing whether trials are left: {error}")
            return True
        except TunerError as error:
            say(f"not resubmitted: {error}")
            return False
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if TIME_LIMIT in signals and not reported and restarts >= MAX_FRUITLESS:
            say(f"not resubmitted: no epoch in {restarts + 1} runs; launch with a longer --time")
            return False
        count = f"{left} trials are" if left != 1 else "1 trial is"
        say(f"resubmitted: {count} left" if left else "not resubmitted: no trial is left")
        return left > 0

    def _read_progress(self, job: str) -> tuple[int, bool]:
        """The number of trials left, and whether workers of this job have reported an epoch."""
        store = self._store()
        left = 0 if store.budget().reason is not None else store.remaining()
        return left, store.has_reported(job)

    def _store(self) -> "StudyStore":
        from tuner.study.database import Database  # slow imports, needed only at the end
        from tuner.study.store import StudyStore

        return StudyStore(Database(default_storage()), self.name)


def _ignore_signals() -> None:
    """Ignore Slurm's signals: depending on its plugins, all processes of a step receive them."""
    for number in REASONS:
        signal.signal(number, signal.SIG_IGN)


def may_return(code: int, signals: Collection[int], preempted: bool) -> bool:
    """Whether a job whose worker was stopped may return to the queue.

    ``scancel`` and a preemption both send SIGTERM; only Slurm knows which one it was.
    """
    if CANCEL in signals:
        return False
    return code == HUNG_EXIT_CODE or TIME_LIMIT in signals or preempted


def is_preempted(description: str) -> bool:
    """Whether Slurm is preempting a running job, by its line from ``scontrol show job``.

    A job that is not RUNNING has been cancelled, or requeued by Slurm itself.
    """
    fields = dict(word.partition("=")[::2] for word in description.split())
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") != "None"


def job_description(job: str) -> str:
    """The line of ``scontrol show job``; empty if Slurm does not answer."""
    return _scontrol("--oneliner", "show", "job", job)[1]


def requeue(job: str) -> bool:
    """Return this job to the queue; False if Slurm refuses."""
    code, text = _scontrol("requeue", job)
    if code != 0:
        say(f"Slurm did not resubmit the job: {' '.join(text.split())}")
    return code == 0


def _scontrol(*words: str) -> tuple[int, str]:
    """Exit code and output; 1 and the reason if it can't be run."""
    try:
        done = subprocess.run(
            ["scontrol", *words], capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout or done.stderr


def say(text: str) -> None:
    sys.stderr.write(f"tuner: {text}\n")
    sys.stderr.flush()
