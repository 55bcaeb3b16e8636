"""Slurm: submit a study's workers as a job array through submitit, list its jobs, cancel them."""

import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import NamedTuple

from tuner import hints
from tuner.environment import STORAGE_VARIABLE
from tuner.errors import InputError, TunerError
from tuner.launch.slurm_job import CANCEL, TIME_LIMIT, WorkerJob
from tuner.study.store import StudyStore

SECONDS, PATIENCE = 60.0, 5.0  # to wait for Slurm's answer: required, or optional
MARGIN = 60  # seconds left to a job after its worker's grace period
NO_CLUSTER = "configuration source"  # in the error of a Slurm command that finds no slurm.conf
ATTEMPTS = 3  # to cancel jobs, whose states may change meanwhile
# Options of sbatch that decide how workers are started and stopped.
OWN_OPTIONS = (
    *("array", "error", "export", "job-name", "nodes", "ntasks", "open-mode", "output"),
    *("no-requeue", "requeue", "signal", "wrap"),
)
# Variables that override options in a script, unless they are named SBATCH_ and the option.
VARIABLES = {"array": "SBATCH_ARRAY_INX", "time": "SBATCH_TIMELIMIT", "mem": "SBATCH_MEM_PER_NODE"}


class SlurmJob(NamedTuple):
    """A job, or an element of an array, as ``squeue`` lists it."""

    job: str
    state: str
    reason: str


def job_name(store: StudyStore) -> str:
    """The name of all jobs of a study; no other study has it."""
    return f"tuner-{store.folder}"


def submit(
    store: StudyStore,
    storage: str,
    job: WorkerJob,
    count: int,
    options: Mapping[str, str],
    folder: Path,
    grace: float,
) -> tuple[str, Path]:
    """Submit ``count`` workers; returns the id of their job or array, and the folder of their logs.

    ``options`` are options of sbatch, without dashes; '' for one without a value. Scripts and logs
    get their own folder below ``folder``. ``grace`` is that of the workers, in seconds.
    InputError if Slurm refuses.
    """
    submitit = hints.require("submitit", "slurm", "tuner launch slurm")
    _require_programs("sbatch", "srun")
    logs = _new_folder(folder / store.folder)
    # -P: files in the working folder must not shadow libraries.
    python = shlex.join([sys.executable, "-P"])
    executor, utils = submitit.SlurmExecutor(logs, python=python), submitit.core.utils
    cpus = options.get("cpus-per-task")
    executor.update_parameters(
        job_name=job_name(store),
        time=None,  # submitit's own default is five minutes
        wckey=None,
        array_parallelism=count,
        stderr_to_stdout=True,
        srun_args=[] if cpus is None else [f"--cpus-per-task={cpus}"],  # srun does not inherit it
        additional_parameters=_defaults(grace) | {k: v or True for k, v in options.items()},
    )
    try:
        # submitit prints Slurm's message before it raises it.
        with _environment(storage, options), redirect_stderr(io.StringIO()):
            jobs = executor.submit_array([job] * count)
    except (utils.FailedJobError, utils.FailedSubmissionError) as error:
        shutil.rmtree(logs, ignore_errors=True)
        raise _refusal(str(error)) from None
    except OSError as error:
        raise InputError(f"--logs: {logs} can't be written: {error.strerror}") from None
    return str(jobs[0].job_id.partition("_")[0]), logs


def _defaults(grace: float) -> dict[str, str | bool]:
    seconds = round(grace) + MARGIN
    return {"export": "ALL", "requeue": True, "signal": f"{TIME_LIMIT.name[3:]}@{seconds}"}


def _new_folder(parent: Path) -> Path:
    """A new folder that only the user can enter, because jobs execute what is in it."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=parent)
        return Path(made).absolute()
    except OSError as error:
        raise InputError(f"--logs: {parent} can't be written: {error.strerror}") from None


@contextmanager
def _environment(storage: str, options: Mapping[str, str]) -> Iterator[None]:
    """Within the block, this process's environment is that of the jobs.

    The database's URL reaches them in a variable, because all users can read command lines.
    Variables of a job that this process itself runs in are left out.
    """
    before = dict(os.environ)
    in_job = "SLURM_JOB_ID" in before
    for name in before:
        if in_job and name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF":
            del os.environ[name]
    for option in (*OWN_OPTIONS, *options):
        name = VARIABLES.get(option, f"SBATCH_{option.upper().replace('-', '_')}")
        os.environ.pop(name, None)
    os.environ[STORAGE_VARIABLE] = storage
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _require_programs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise InputError(
                f"{program} is not on the PATH: run this on a machine from which jobs are "
                "submitted to Slurm"
            )


def _refusal(text: str) -> TunerError:
    """Slurm's own message as one line: wrong input, unless Slurm itself can't be reached."""
    lines = [line.rpartition("error: ")[2].strip() for line in text.splitlines()]
    said = "; ".join(dict.fromkeys(filter(None, lines))) or "no reason given"
    kind = TunerError if "controller" in said or "timed out" in said else InputError
    return kind(f"Slurm refused: {said}")


def jobs_of(store: StudyStore, *options: str, seconds: float = SECONDS) -> list[SlurmJob]:
    """The study's waiting and running jobs, selected by further options of ``squeue``.

    TunerError if Slurm does not answer within ``seconds``.
    """
    form = ["--noheader", "--format=%i|%T|%r", f"--name={job_name(store)}"]
    text = _run("squeue", *form, *options, seconds=seconds)
    found = (line.strip().split("|", 2) for line in text.splitlines())
    return [SlurmJob(*fields) for fields in found if len(fields) == 3]


def waiting_jobs(store: StudyStore) -> list[SlurmJob]:
    """The study's jobs waiting in Slurm's queue; none without Slurm. TunerError if it does not
    answer."""
    if shutil.which("squeue") is None:
        return []
    return jobs_of(store, "--states=PENDING", seconds=PATIENCE)


def waiting_line(store: StudyStore) -> str:
    """The study's jobs waiting in Slurm's queue, and why; empty if none, or without Slurm."""
    try:
        found = waiting_jobs(store)
    except TunerError as error:
        # Slurm's programs may be installed on a machine that belongs to no cluster.
        return "" if NO_CLUSTER in str(error) else f"Slurm's queue is unknown: {error}"
    jobs = ", ".join(f"{entry.job} ({entry.reason})" for entry in found)
    return f"Waiting in Slurm: {jobs}" if jobs else ""


def _run(program: str, *words: str, seconds: float = SECONDS) -> str:
    """A Slurm program's output; TunerError with its message if it fails."""
    _require_programs(program)
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise TunerError(f"Slurm did not answer {program} within {seconds:g} s") from None
    if done.returncode != 0:
        raise _refusal(done.stderr)
    return done.stdout


class Cancelled(NamedTuple):
    """The effect of a cancellation on a study's jobs."""

    stopping: list[str]  # jobs whose workers finish their epoch
    removed: list[str]  # jobs whose workers had nothing to finish


def cancel(store: StudyStore) -> Cancelled:
    """Cancel all jobs of the study; those whose worker has joined it are stopped gracefully.

    TunerError if Slurm does not answer or refuses.
    """
    stopping: list[str] = []
    removed: list[str] = []
    for _ in range(ATTEMPTS):  # a job may have begun, or returned to the queue, meanwhile
        found = [entry for entry in jobs_of(store, "--me", "--array") if entry.job not in removed]
        joined = {worker.job for worker in store.workers() if worker.alive}
        finishing = [e.job for e in found if e.state == "RUNNING" and e.job in joined]
        others = [e.job for e in found if e.job not in {*finishing, *stopping}]
        others += [e.job for e in found if e.job in stopping and e.state == "PENDING"]
        new = [job for job in finishing if job not in stopping]
        if not new and not others:
            break
        _signal(new, f"--signal={CANCEL.name[3:]}")
        _signal(others)
        stopping += new
        removed += others
    return Cancelled([job for job in stopping if job not in removed], removed)


def _signal(jobs: Sequence[str], *options: str) -> None:
    if jobs:
        _run("scancel", "--quiet", *options, *jobs)
