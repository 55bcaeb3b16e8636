"""Tables in terminals of any width."""

import io

import pytest
from builders import DATASET, epoch, spec_of
from rich.console import Console, RenderableType
from trials import rendered

from tuner.study.claims import Claim
from tuner.study.curves import Correlation
from tuner.study.records import Ownership, StudySummary, TrialRecord
from tuner.study.snapshot import StudySnapshot
from tuner.study.space import trial_config
from tuner.study.workers import WorkerRecord
from tuner.views.progress import LiveProgress
from tuner.views.replay import correlation_table
from tuner.views.status import status_view, worker_table
from tuner.views.studies import comparison_table, space_table, study_table, trial_table
from tuner.views.tables import MAX_LINES, FittingTable
from tuner.views.trial_detail import trial_view

PARAMS = {
    "learning_rate": 0.0001234,
    "beta1": 0.8765,
    "beta2": 0.9993,
    "instance_noise": 0.02345,
    "label_smoothing": 0.1357,
    "ema_decay": 0.9987,
    "r1": 0.004321,
    "augment": "color+translation+cutout",
}
NUMBERS = ["0.0001234", "0.8765", "0.9993", "0.02345", "0.1357", "0.9987", "0.004321"]
REPORTS = (epoch(1, 12.34, loss_ratio=0.7654),)
TRIAL = TrialRecord(1234, "COMPLETE", PARAMS, 12.34, REPORTS, "all epochs trained", None, {})
WORKER = WorkerRecord("abcdef123456", "a-machine", 98765, "NVIDIA H100", True, 2.0, 1234, 17)
IN_JOB = WORKER._replace(job="81234567_1023")
SNAPSHOT = StudySnapshot(
    1000,
    {"COMPLETE": 345, "RUNNING": 1},
    {"COMPLETE": 15432},
    {1234: TRIAL._replace(reports=tuple(epoch(n, 12.34) for n in range(1, 18)))},
    [WORKER],
    TRIAL,
)
SPEC = spec_of("[study]\nepochs = 50\n[trial]\nlearning_rate = { low = 1e-4, high = 1e-2 }\n")
OWNERSHIP = Ownership("a-machine", "cpu", "abcdef123456", 1, 17, 1.7e9, 1.7e9 + 125)
VIEWS: dict[str, tuple[RenderableType, list[str]]] = {
    "trials": (trial_table([TRIAL] * 3, "fid"), [*NUMBERS, "1234", "12.34", "0.7654"]),
    "compare": (comparison_table([("one", TRIAL), ("two", TRIAL)], "fid"), [*NUMBERS, "12.34"]),
    "workers": (worker_table([WORKER]), ["98765", "1234", "17"]),
    "jobs": (worker_table([IN_JOB]), ["98765", "1234", "17", "81234567_1023"]),
    "studies": (study_table([StudySummary("one", 12345, {}, 12.34, "FID", "ab")]), ["12345"]),
    "watch": (status_view(SNAPSHOT, SPEC), ["1000", "345", "15,432", "1234", "17/50", "12.34"]),
    "watch jobs": (status_view(SNAPSHOT._replace(workers=[IN_JOB]), SPEC), ["81234567_1023"]),
    "show": (trial_view(SPEC, TRIAL, [OWNERSHIP], None, 40), [*NUMBERS, "12.34", "0.7654"]),
    "check": (space_table(SPEC), ["0.0001", "0.01", "0.999"]),
    "replay": (correlation_table([Correlation(17, 345, 0.987, 0.654)]), ["345", "0.987", "0.654"]),
}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 10_000])
@pytest.mark.parametrize("name", VIEWS)
def test_no_number_is_cut(name: str, width: int) -> None:
    view, numbers = VIEWS[name]
    lines = rendered(view, width)
    assert max(map(len, lines)) <= width
    missing = [number for number in numbers if number not in "\n".join(lines)]
    assert not missing, lines


@pytest.mark.parametrize("width", [40, 80])
def test_no_number_of_a_sweep_is_cut(width: int) -> None:
    config = trial_config(SPEC, {"learning_rate": 0.0001234}, 7, DATASET)
    progress = LiveProgress(Console(file=io.StringIO(), width=width), 0, 100, "fid", lambda: None)
    claim = Claim(1, 1234, PARAMS, config, 1, ())
    progress.started(claim)
    progress.epoch(claim, epoch(1, 12.34))
    text = "\n".join(rendered(progress._render(), width))
    for number in (*NUMBERS, "1234", "12.34"):
        assert number in text


def test_a_narrow_table_wraps_headings_then_drops_columns_then_stacks_rows() -> None:
    table = FittingTable(("trial number", "a", "b"), spare=("b",))
    table.add_row("1", "1.234e-05", "123456")
    assert rendered(table, 40)[0] == "trial number          a       b"
    assert rendered(table, 26)[0].split() == ["trial"]
    assert rendered(table, 26)[1] == "number          a       b"
    assert rendered(table, 18)[1] == "number          a"
    assert rendered(table, 14) == ["trial number 1", "  a 1.234e-05", "  b 123456"]


def test_long_notes_drop_columns_and_then_their_end() -> None:
    headings, reason = ("trial", "time", "reason"), ["reason"]
    table = FittingTable(headings, prose=reason, notes=reason, spare=["time"])
    table.add_row(1, "1 min 23 s", "x" * 19 + " " + "y" * 19)
    assert rendered(table, 40)[0].split() == ["trial", "time", "reason"]
    table.add_row(2, "1 min 23 s", " ".join(["word"] * 33))  # 164 characters
    assert rendered(table, 40)[0].split() == ["trial", "reason"]
    table.add_row(3, "1 min 23 s", " ".join(["word"] * 99))
    lines = rendered(table, 40)
    assert sum("word" in line for line in lines) <= 2 * MAX_LINES + 1
    assert lines[-1].rstrip().endswith("word …")
    stacked = rendered(table, 24)
    assert len(stacked) <= 1 + 3 * 4
    assert stacked[-1].rstrip().endswith("…")
    assert max(map(len, lines)) <= 40
