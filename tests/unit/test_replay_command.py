"""``tuner replay`` on a study in a database: its tables, its JSON, its page of plots."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workplace
from workplace import RANDOM, Studies, run

from tuner.cli import main
from tuner.study.replay import Correlation, Curve, Outcome
from tuner.study.verdict import Complete, Prune
from tuner.views.replay import caution, correlation_table, in_words, outcome_table

sqlite = workplace.sqlite
Command = Callable[..., tuple[int, str, str]]

FIDS = ([40.0, 30.0, 20.0, 25.0], [80.0, 60.0, 40.0, 35.0], [70.0, 10.0, 9.0, 8.0])
MEDIAN = "median:n_startup_trials=2"


@pytest.fixture
def replay(
    sqlite: Studies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command on a study, as a person gives it: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        command = ["tuner", "replay", "s", "--storage", sqlite.url, *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


def recorded(sqlite: Studies, toml: str = RANDOM, **study: Any) -> None:
    sqlite.make(toml, **study)
    member = sqlite.join()
    for fids in FIDS:
        run(member, fids, Complete())


def test_json(sqlite: Studies, replay: Command) -> None:
    recorded(sqlite)
    code, text, errors = replay("--pruner", MEDIAN, "--shuffles", "0", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(text)
    assert found["study"] == "s"
    # As they are judged, by their best: 40 80 70, 30 60 10, 20 40 9, and 20 35 8 in the end.
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


def test_tables(sqlite: Studies, replay: Command) -> None:
    recorded(sqlite, value="last")
    code, text, errors = replay("--pruner", MEDIAN, "--pruner", "none", "--shuffles", "0")
    lines = [line.split() for line in text.splitlines()]
    assert (code, errors) == (0, "")
    assert lines[3] == ["1", "3", "0.500", "0.333"]
    row = "25% of the epochs, 25% of the time 1 1 of 1 orders 17 (212.5%)"
    assert [MEDIAN, *row.split()] in lines
    assert "warning: only 3 of 3 trials are whole" in text
    assert "pruned while recorded" not in text


def test_without_a_pruner_there_are_the_usual_ones_and_the_studys_own(
    sqlite: Studies, replay: Command
) -> None:
    recorded(sqlite, RANDOM.replace("'none'", "'median'\nn_startup_trials = 1"))
    _, text, _ = replay("--json")
    outcomes = json.loads(text)["pruners"]
    assert [outcome["pruner"] for outcome in outcomes] == [
        *("median:n_startup_trials=1", "none", "median", "percentile"),
        *("successive_halving", "hyperband"),
    ]
    assert {outcome["orders"] for outcome in outcomes} == {21}


def test_the_page_needs_nothing_else(sqlite: Studies, replay: Command, tmp_path: Path) -> None:
    recorded(sqlite)
    page = tmp_path / "plots.html"
    assert replay("--pruner", MEDIAN, "--pruner", "none", "--plot", str(page))[::2] == (0, "")
    text = page.read_text()
    assert "Replay of study s" in text
    for shown in ("trial 2, the winner", MEDIAN, "Spearman's rho", "Mean regret (FID)"):
        assert shown in text
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", text)


def test_a_page_that_can_not_be_written(sqlite: Studies, replay: Command, tmp_path: Path) -> None:
    recorded(sqlite)
    page = tmp_path / "no" / "plots.html"
    expected = f"tuner: --plot: {page} can't be written: No such file or directory\n"
    assert replay("--plot", str(page)) == (2, "", expected)


def test_wrong_words(sqlite: Studies, replay: Command) -> None:
    recorded(sqlite)
    code, text, error = replay("--pruner", "median", "--pruner", "median:n_warmup_steps=9")
    assert (code, text) == (2, "")
    # The first of them is wrong for a study of three trials.
    expected = "pruner.n_startup_trials: found 5, expected fewer than the study's 3 trials"
    assert error == f"tuner: --pruner median: {expected}\n"
    _, _, error = replay("--pruner", "medain")
    assert error.startswith("tuner: --pruner medain: pruner.name: found 'medain', expected one of")
    assert error.count("\n") == 1


def test_a_study_without_a_whole_trial(sqlite: Studies, replay: Command) -> None:
    sqlite.make()
    run(sqlite.join(), FIDS[0][:2], Prune("bad"))
    expected = "found no trial that reached its last epoch, expected at least one"
    assert replay() == (2, "", f"tuner: study 's': {expected}\n")


def test_when_to_beware() -> None:
    whole = [Curve(i, "COMPLETE", {1: 1.0}, {1: 1.0}) for i in range(10)]
    pruned = whole[0]._replace(state="PRUNED")
    assert caution(whole, "median") is None
    assert caution([*whole, pruned], "none") is None  # by the guard, as it would be again
    found = caution([*whole, pruned], "median")
    assert found is not None
    assert found.startswith("warning: 1 of 11 trials were pruned while recorded")
    few = caution([*whole[1:], pruned], "median")
    assert few is not None
    assert "only 9 of 10 trials are whole" in few
    assert "; 1 of 10 trials were pruned" in few
    assert "\n" not in few


OUTCOME = Outcome(MEDIAN, 21, 100, 57.0, 0.43, 0.4, 3.5, 2, 0, 0.8, 0.016)


def test_an_outcome_in_words() -> None:
    saved = "would have saved 43% of the epochs, 40% of the time"
    assert in_words(OUTCOME) == f"{saved}; the winner lost in 2 of 21 orders; regret 0.8 (1.6%)"
    nobody = OUTCOME._replace(nobody_survived=2, regret=None, relative_regret=None)
    assert in_words(nobody).endswith("2 of 21 orders, 2 without a survivor; regret -")
    assert outcome_table([OUTCOME]).row_count == 1


def test_many_epochs_are_thinned() -> None:
    table = correlation_table([Correlation(n, 9, 0.5, None) for n in range(1, 101)])
    shown = list(table.columns[0].cells)
    assert (len(shown), shown[0], shown[-1]) == (20, "1", "100")
    assert list(correlation_table([Correlation(1, 2, None, None)]).columns[2].cells) == ["-"]
