"""The confirmed winner as sentences, table and JSON values."""

import json
import math
from typing import Any

from builders import RANGES, epoch, spec_of
from trials import record, rendered

from tuner.study.confirmation import Result, confirmation, results
from tuner.study.records import Confirms, TrialRecord
from tuner.views import confirmations, html_report

SPEC = spec_of(RANGES + "[confirm]\ntop = 3\nseeds = 3\n")
SEARCH = [
    record(0, params={"learning_rate": 1e-3}, value=20.0),
    record(1, params={"learning_rate": 2e-3}, value=25.0),
    record(2, params={"learning_rate": 2e-4}, value=90.0, baseline=True),
]


def runs(values: dict[int, list[float | None]]) -> list[TrialRecord]:
    """Runs of these trials with these values on fresh latents; None diverged."""
    made: list[TrialRecord] = []
    for trial, own in values.items():
        for seed, value in enumerate(own):
            state = "PRUNED" if value is None else "COMPLETE"
            reports = (epoch(1, value and value - 1),)
            more: dict[str, Any] = {"value": value and value - 1, "reports": reports}
            mark = Confirms(trial, seed)
            made.append(record(10 + len(made), state, confirms=mark, fresh=value, **more))
    return made


def found(values: dict[int, list[float | None]]) -> list[Result]:
    return results(SPEC.confirm, confirmation(SPEC.confirm, SEARCH, runs(values)), "fid")


WHOLE = found({0: [22.0, 24.0, 23.0], 1: [28.0, 27.0, 29.0], 2: [91.0, 92.0]})


def test_the_winner_has_a_mean_an_interval_and_a_probability() -> None:
    # Student's t with two degrees of freedom: 23 +- 4.3027 / sqrt(3).
    assert confirmations.winner_line(WHOLE, SPEC) == (
        "Confirmed: trial 0, FID 23 over 3 seeds (95% interval 20.52 to 25.48), the best with a "
        "probability of 98%: learning_rate=0.001"
    )


def test_the_reports_first_tile_shows_the_trial_that_its_warnings_are_about() -> None:
    """A confirmation may prefer another trial than the search did."""
    other = found({0: [28.0, 27.0, 29.0], 1: [22.0, 24.0, 23.0]})
    assert html_report.winner_of(SEARCH, other)[0].number == 1
    tile = html_report._winner_tile("FID", SEARCH, other)
    assert tile == ("23", "FID, trial 1, mean of 3 seeds")
    assert html_report._winner_tile("FID", SEARCH, []) == ("20", "best FID, trial 0, one seed")


def test_the_gain_over_the_baseline_has_an_interval() -> None:
    # Paired over two seeds: -69 and -68, so -68.5 +- 12.706 * 0.7071 / sqrt(2).
    assert confirmations.gain_line(WHOLE, SPEC) == (
        "The winner is FID 68.5 below the baseline (95% interval -74.85 to -62.15)."
    )


def test_a_table_has_one_row_per_configuration() -> None:
    headings, rows = confirmations.results_rows(WHOLE, SPEC)
    assert all(len(row) == len(headings) for row in rows)
    cells = [dict(zip(headings, row, strict=True)) for row in rows]
    assert [row["trial"] for row in cells] == ["0", "1", "2"]
    assert [row["seeds"] for row in cells] == ["3", "3", "2"]
    assert (cells[0]["best epoch"], cells[0]["last epoch"]) == ("22", "22")
    assert cells[2]["left the race"].startswith("after 2 seeds: mean 64 above that of trial 1")
    narrow = rendered(confirmations.results_table(WHOLE, SPEC), 80)
    assert all(len(line) <= 80 for line in narrow)
    assert any("20.52" in line for line in narrow)


def test_a_diverged_run_makes_no_winner() -> None:
    lost = found({0: [22.0, None, 23.0], 1: [28.0, 27.0, 29.0]})
    assert lost[0].trial.number == 1
    assert math.isinf(lost[1].value.mean)
    both = found({0: [None, None], 1: [None, None]})
    assert confirmations.winner_line(both, SPEC) == ""
    json.dumps(confirmations.results_values(both), allow_nan=False)


def test_one_seed_so_far_has_no_interval() -> None:
    line = confirmations.winner_line(found({0: [22.0]}), SPEC)
    assert line == "Confirmed: trial 0, FID 22 over 1 seed: learning_rate=0.001"


def test_without_runs_there_is_nothing_to_say() -> None:
    assert confirmations.winner_line([], SPEC) == ""
    assert confirmations.gain_line([], SPEC) == ""
    assert "tuner confirm s" in confirmations.how_to_confirm("s")
