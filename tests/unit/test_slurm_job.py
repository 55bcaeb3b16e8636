"""When a Slurm job returns to the queue, and the options that ``tuner launch slurm`` accepts."""

import signal

import pytest

from tuner.cli.launch_slurm import parse_time_limit
from tuner.environment import slurm_job
from tuner.errors import HUNG_EXIT_CODE, InputError
from tuner.launch.slurm_job import CANCEL, TIME_LIMIT, is_preempted, may_return

TERM = signal.SIGTERM


@pytest.mark.parametrize(
    ("code", "signals", "preempted", "returns"),
    [
        (0, [TIME_LIMIT], False, True),
        (0, [TIME_LIMIT, TERM], False, True),  # and the limit itself
        (0, [TERM], True, True),
        (0, [TERM], False, False),  # scancel
        (0, [CANCEL], False, False),
        (0, [TIME_LIMIT, CANCEL], False, False),
        (0, [CANCEL, TERM], True, False),
        (HUNG_EXIT_CODE, [], False, True),
        (HUNG_EXIT_CODE, [CANCEL], False, False),
    ],
)
def test_what_lets_a_job_return_to_the_queue(
    code: int, signals: list[int], preempted: bool, returns: bool
) -> None:
    assert may_return(code, signals, preempted) is returns


@pytest.mark.parametrize(
    ("line", "preempted"),
    [
        ("JobId=7 JobState=RUNNING Reason=None PreemptTime=2026-11-29T21:37:11 SuspendTime=", True),
        (
            "JobId=7 JobState=RUNNING PreemptEligibleTime=2026-11-29T21:31:22 PreemptTime=None",
            False,
        ),
        ("JobId=7 JobState=CANCELLED PreemptTime=2026-11-29T21:37:11", False),
        ("JobId=7 JobState=PENDING Requeue=1 PreemptTime=2026-11-29T21:37:11", False),
        ("", False),
    ],
)
def test_a_preemption_is_told_from_scancel(line: str, preempted: bool) -> None:
    assert is_preempted(line) is preempted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h", 28_800), ("90m", 5400), ("08:00:00", 28_800), ("1-12:00:00", 129_600)],
)
def test_time_limits_are_parsed(text: str, seconds: float) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["480", "8:00", "", "8 hours"])
def test_ambiguous_time_limits_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it like"):
        parse_time_limit(text)


def test_a_job_is_named_as_squeue_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "814")
    assert slurm_job() == "814"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "812")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm_job() == "812_2"
