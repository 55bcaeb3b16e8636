"""Tables of trials, studies and workers, as text, CSV and JSON."""

import csv
import io
import json

from builders import epoch, spec_of
from rich.console import Console
from trials import PARAMS, record, shown

from tuner.epoch_report import FIELDS, EpochReport
from tuner.study.records import StudySummary, TrialRecord
from tuner.study.workers import WorkerRecord
from tuner.views.progress import PlainProgress
from tuner.views.status import worker_table
from tuner.views.studies import comparison_table, space_table, study_table, trial_table
from tuner.views.trial_data import epochs_csv, trial_values


def test_the_trial_table_has_a_row_per_trial() -> None:
    trials = [
        record(0),
        record(1, "PRUNED", value=None, params={"width": 8}, reason="guard: x below 1", reports=()),
        record(2, "RUNNING", reason=None, reports=(epoch(1, None, loss_ratio=None),), value=None),
    ]
    lines = [line.split() for line in shown(trial_table(trials, "fid", best=[0]))]
    assert [" ".join(words) for words in lines[:4]] == [
        "trial state epochs FID loss ratio learning rate batch size width time reason",
        "0 complete 2 20.5 1.5 0.0002123 64 - 10 s all epochs trained",
        "1 pruned 0 - - - - 8 0 s guard: x below 1",
        "2 running 1 - - 0.0002123 64 - 5 s",
    ]


def test_the_best_trial_is_marked() -> None:
    rows = trial_table([record(0), record(1)], "fid", best=[1]).rows
    assert [style for _, style in rows] == [None, "bold green"]


def test_a_long_reason_is_wrapped() -> None:
    reason = "ValueError: " + "x" * 150
    text = "".join(shown(trial_table([record(0, "FAIL", reason=reason)], "fid"), 100))
    assert text.count("x") == 150


def test_the_trial_table_may_be_empty() -> None:
    assert shown(trial_table([], "kid")) == ["trial  state  epochs  KID  loss ratio  time  reason"]


def test_the_study_table_counts_trials_by_state() -> None:
    states = {"COMPLETE": 3, "PRUNED": 2, "FAIL": 1, "WAITING": 7}
    found = [
        StudySummary("one", 9, states, 12.345, "FID", "abcdef"),
        StudySummary("two", 4, {}, None, "FID infinity", None),
    ]
    lines = [line.split() for line in shown(study_table(found))]
    assert lines[1] == ["one", "9", "3", "2", "0", "0", "1", "12.35", "FID", "abcdef"]
    assert lines[2] == ["two", "4", "0", "0", "0", "0", "0", "-", "FID", "infinity", "-"]


def test_the_worker_table_marks_lost_workers() -> None:
    found = [
        WorkerRecord("abc", "here", 12, "cpu", True, 3.2, 7, 4, None, "compiling", 83.6),
        WorkerRecord("def", "there", 34, "NVIDIA H100", True, 0.4, None, None),
        WorkerRecord("ghi", "there", 56, "cpu", False, 190.0, 0, 0),
    ]
    table = worker_table(found)
    lines = [line.split() for line in shown(table)]
    assert lines[1] == [
        *("abc", "here", "12", "cpu", "compiling", "1", "min", "24", "s"),
        *("7", "4", "3", "s", "ago"),
    ]
    assert lines[2] == ["def", "there", "34", "NVIDIA", "H100", "-", "0", "s", "ago"]
    assert " ".join(lines[3]) == "ghi there 56 cpu - 0 0 3 min 10 s ago, lost"
    assert [style for _, style in table.rows] == [None, None, "red"]


def test_the_worker_table_has_jobs_only_where_workers_run_in_some() -> None:
    here = WorkerRecord("abc", "here", 12, "cpu", True, 3.2, 7, 4)
    assert "job" not in worker_table([here]).headings
    lines = [line.split() for line in shown(worker_table([here._replace(job="812_3"), here]))]
    assert lines[1][:5] == ["abc", "here", "12", "812_3", "cpu"]
    assert lines[2][:5] == ["abc", "here", "12", "-", "cpu"]


def test_space_table_lists_searched_settings_first() -> None:
    searched = "width = [8, 16]\nlearning_rate = { low = 1e-4, high = 1e-2, log = true }\n"
    searched += "beta1 = { low = 0.0, high = 0.9, step = 0.3 }\n"
    lines = shown(space_table(spec_of(f"[trial]\nloss = 'minimax'\n{searched}")))
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:4]}
    assert {name: " ".join(text.split()) for name, text in found.items()} == {
        "width": "8, 16 searched",
        "learning_rate": "0.0001 to 0.01, log searched",
        "beta1": "0 to 0.9, in steps of 0.3: 0.0, 0.3, 0.6, 0.9 searched",
    }
    assert ["loss", "minimax", "fixed"] in [line.split() for line in lines]
    assert not any("generator_learning_rate" in line for line in lines)


def test_csv_round_trips() -> None:
    fid = 20.123456789012345
    trials = [
        record(0, reports=(epoch(1, 30.0), epoch(2, fid)), reason='a "b", c\nd'),
        record(1, "PRUNED", reports=(epoch(1, None, finite=False),), params={"loss": "minimax"}),
        record(2, "FAIL", reports=()),
    ]
    rows = list(csv.DictReader(io.StringIO(epochs_csv(trials))))
    found = [(row["trial"], row["state"]) for row in rows]
    assert found == [*[("0", "COMPLETE")] * 2, ("1", "PRUNED"), ("2", "FAIL")]
    fields = ("trial", "state", "reason", "learning_rate", "batch_size", "loss")
    assert set(rows[0]) == {*fields, *FIELDS}
    assert float(rows[1]["fid"]) == fid
    assert float(rows[1]["learning_rate"]) == PARAMS["learning_rate"]
    assert rows[0]["reason"] == 'a "b", c\nd'
    for name in FIELDS:
        value = getattr(epoch(2, fid), name)
        assert rows[1][name] == ("" if value is None else str(value))
    assert (rows[2]["fid"], rows[2]["finite"], rows[2]["loss"]) == ("", "False", "minimax")
    assert rows[2]["learning_rate"] == ""
    assert (rows[3]["epoch"], rows[3]["batch_size"]) == ("", "64")


def test_csv_has_the_objectives_that_no_epoch_reports() -> None:
    objectives = {"fid": 20.0, "seconds": 8.0, "parameters": 1000.0}
    trials = [record(0, reports=(epoch(1), epoch(2)))._replace(objectives=objectives), record(1)]
    rows = list(csv.DictReader(io.StringIO(epochs_csv(trials))))
    assert [*rows[0]][-2:] == ["seconds", "parameters"]
    found = [(row["trial"], row["seconds"], row["parameters"]) for row in rows]
    assert found[:3] == [*[("0", "8.0", "1000.0")] * 2, ("1", "", "")]


def test_csv_without_trials_is_the_header() -> None:
    assert epochs_csv([]) == ",".join(["trial", "state", "reason", *FIELDS]) + "\n"


def test_json_has_no_nan() -> None:
    trial = record(3, reports=(epoch(1, 30.5), epoch(2, None, finite=False, d_loss=None)))
    found = json.loads(json.dumps(trial_values(trial, "fid"), allow_nan=False))
    assert found["params"] == PARAMS
    assert (found["number"], found["value"], found["machine"]) == (3, 20.5, {"device": "cpu"})
    assert EpochReport(**found["reports"][0]) == epoch(1, 30.5)
    assert found["reports"][1]["fid"] is None


def test_a_comparison_has_a_row_per_study() -> None:
    found = [("one", record(0)), ("two", record(3, value=21.0))]
    lines = [line.split() for line in shown(comparison_table(found, "fid"))]
    assert lines[1][:7] == ["one", "0", "20.5", "2", "128,000", "10", "s"]
    assert lines[2][:3] == ["two", "3", "21"]


def test_brackets_in_a_reason_are_not_markup() -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    PlainProgress(console).announce("trial 1 failed: KeyError: '[/x] [bold]'")
    console.print(trial_table([record(1, reason="a [/x] [bold]")], "fid"))
    text = console.export_text()
    assert "'[/x] [bold]'" in text
    assert "a [/x] [bold]" in text


def test_a_running_trial_shows_its_last_measurement() -> None:
    reports = (epoch(1, 9.0), epoch(2, 7.5), epoch(3, None))
    trial = TrialRecord(0, "RUNNING", {}, None, reports, None, None, {})
    assert "7.5" in "\n".join(shown(trial_table([trial], "fid"), 100))
