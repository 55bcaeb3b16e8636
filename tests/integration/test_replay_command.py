"""``tuner replay`` on a stored study: tables, JSON and the page of plots."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import study_databases
from study_databases import RANDOM, Studies, run

from tuner.study.curves import Correlation, Curve
from tuner.study.replay import Outcome
from tuner.study.verdict import Complete, Prune
from tuner.views.replay import caution, correlation_table, outcome_line, outcome_table

sqlite = study_databases.sqlite
Command = Callable[..., tuple[int, str, str]]

FIDS = ([40.0, 30.0, 20.0, 25.0], [80.0, 60.0, 40.0, 35.0], [70.0, 10.0, 9.0, 8.0])
MEDIAN = "median:n_startup_trials=2"


@pytest.fixture
def replay(
    sqlite: Studies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run ``tuner replay`` on study s: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "160")  # not the width of the terminal that runs the tests
        code = command_line.call("replay", "s", "--storage", sqlite.url, *words)
        return (code, *capsys.readouterr())

    return call


def record_study(sqlite: Studies, toml: str = RANDOM, **study: Any) -> None:
    sqlite.create(toml, **study)
    session = sqlite.join()
    for fids in FIDS:
        run(session, fids, Complete())


def test_json_holds_correlations_and_outcomes(sqlite: Studies, replay: Command) -> None:
    record_study(sqlite)
    code, text, errors = replay("--pruner", MEDIAN, "--shuffles", "0", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(text)
    assert found["study"] == "s"
    # Best values so far, by epoch: 40 80 70, 30 60 10, 20 40 9, 20 35 8.
    spearman = [epoch["spearman"] for epoch in found["correlations"]]
    assert spearman == pytest.approx([0.5, 1, 1, 1])
    [outcome] = found["pruners"]
    assert outcome == {
        "pruner": MEDIAN,
        "orders": 1,
        "epochs_recorded": 12,
        "epochs_trained": 9,  # 70 is above the median of 40 and 80
        "epochs_saved": 0.25,
        "seconds_saved": 0.25,
        "trials_pruned": 1,
        "winner_lost": 1,
        "nobody_survived": 0,
        "regret": 12,
        "relative_regret": 1.5,
    }


def test_tables_show_correlations_and_outcomes(sqlite: Studies, replay: Command) -> None:
    record_study(sqlite, value="last")
    code, text, errors = replay("--pruner", MEDIAN, "--pruner", "none", "--shuffles", "0")
    lines = [line.split() for line in text.splitlines()]
    assert (code, errors) == (0, "")
    assert lines[3] == ["1", "3", "0.500", "0.333"]
    row = "25% of the epochs, 25% of the time 1 1 of 1 orders 17 (212.5%)"
    assert [MEDIAN, *row.split()] in lines
    assert "warning: only 3 of 3 trials reached the last epoch" in text
    assert "pruned during recording" not in text


def test_the_default_pruners_include_the_studys_own(sqlite: Studies, replay: Command) -> None:
    record_study(sqlite, RANDOM.replace("'none'", "'median'\nn_startup_trials = 1"))
    _, text, _ = replay("--json")
    outcomes = json.loads(text)["pruners"]
    assert [outcome["pruner"] for outcome in outcomes] == [
        *("median:n_startup_trials=1", "none", "median", "percentile"),
        *("successive_halving", "hyperband", "asha"),
    ]
    assert {outcome["orders"] for outcome in outcomes} == {21}


def test_the_page_is_self_contained(sqlite: Studies, replay: Command, tmp_path: Path) -> None:
    record_study(sqlite)
    page = tmp_path / "plots.html"
    assert replay("--pruner", MEDIAN, "--pruner", "none", "--plot", str(page))[::2] == (0, "")
    text = page.read_text()
    assert "Replay of study s" in text
    for shown in ("trial 2, the winner", MEDIAN, "Spearman's rho", "Mean regret (FID)"):
        assert shown in text
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text)


def test_an_unwritable_page_is_refused(sqlite: Studies, replay: Command, tmp_path: Path) -> None:
    record_study(sqlite)
    page = tmp_path / "no" / "plots.html"
    expected = f"tuner: --plot: {page} can't be written: No such file or directory\n"
    assert replay("--plot", str(page)) == (2, "", expected)


def test_invalid_pruners_are_refused(sqlite: Studies, replay: Command) -> None:
    record_study(sqlite)
    code, text, error = replay("--pruner", "median", "--pruner", "median:n_warmup_steps=9")
    assert (code, text) == (2, "")
    # The default n_startup_trials = 5 is too large for three trials.
    expected = "pruner.n_startup_trials: found 5, expected fewer than the study's 3 trials"
    assert error == f"tuner: --pruner median: {expected}\n"
    _, _, error = replay("--pruner", "medain")
    assert error.startswith("tuner: --pruner medain: pruner.name: found 'medain', expected one of")
    assert error.count("\n") == 1


def test_a_study_without_a_complete_trial_is_refused(sqlite: Studies, replay: Command) -> None:
    sqlite.create()
    run(sqlite.join(), FIDS[0][:2], Prune("bad"))
    expected = "has no trial that reached its last epoch; replay needs one"
    assert replay() == (2, "", f"tuner: study 's' {expected}\n")


def test_warnings_about_pruned_and_few_trials() -> None:
    whole = [Curve(i, "COMPLETE", {1: 1.0}, {1: 1.0}) for i in range(10)]
    pruned = whole[0]._replace(state="PRUNED")
    assert caution(whole, "median") is None
    # The guard pruned this trial, and would prune it again.
    assert caution([*whole, pruned], "none") is None
    found = caution([*whole, pruned], "median")
    assert found is not None
    assert found.startswith("warning: 1 of 11 trials were pruned during recording")
    few = caution([*whole[1:], pruned], "median")
    assert few is not None
    assert "only 9 of 10 trials reached the last epoch" in few
    assert "; 1 of 10 trials were pruned" in few
    assert "\n" not in few


OUTCOME = Outcome(MEDIAN, 21, 100, 57.0, 0.43, 0.4, 3.5, 2, 0, 0.8, 0.016)


def test_an_outcome_line_names_savings_losses_and_regret() -> None:
    saved = "would have saved 43% of the epochs, 40% of the time"
    assert outcome_line(OUTCOME) == f"{saved}; the winner lost in 2 of 21 orders; regret 0.8 (1.6%)"
    nobody = OUTCOME._replace(nobody_survived=2, regret=None, relative_regret=None)
    assert outcome_line(nobody).endswith("2 of 21 orders, 2 without a survivor; regret -")
    assert len(outcome_table([OUTCOME]).rows) == 1


def test_many_epochs_are_thinned() -> None:
    table = correlation_table([Correlation(n, 9, 0.5, None) for n in range(1, 101)])
    shown = [cells[0] for cells, _ in table.rows]
    assert (len(shown), shown[0], shown[-1]) == (20, "1", "100")
    [(cells, _)] = correlation_table([Correlation(1, 2, None, None)]).rows
    assert cells[2] == "-"
