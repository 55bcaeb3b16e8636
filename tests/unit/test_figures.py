"""Plots of a study."""

import math
import random
from typing import Any

import pytest
from builders import epoch, spec_of

from tuner.spec.guard import LossRatioGuard
from tuner.study.importance import importances
from tuner.study.records import TrialRecord
from tuner.views import curves, parallel, parameters
from tuner.views.axes import parameter_axes
from tuner.views.figures import PLOTS
from tuner.views.summaries import epochs_of

SPEC = spec_of("""
[study]
epochs = 4
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
optimizer = ["adam", "sgd"]
[trial.when.optimizer.sgd]
momentum = { low = 0.0, high = 0.9 }
learning_rate = { low = 1e-3, high = 1e-1, log = true }
""")


def trial(number: int, state: str, values: list[float], **changes: Any) -> TrialRecord:
    reports = tuple(epoch(n, fid, loss_ratio=n / 10) for n, fid in enumerate(values, 1))
    params = {"learning_rate": 1e-3, "batch_size": 64, "optimizer": "adam"}
    value = min(values, default=None) if state in ("COMPLETE", "PRUNED") else None
    record = TrialRecord(number, state, params, value, reports, None, None, {})
    return record._replace(**changes)


SGD = {"learning_rate": 1e-3, "batch_size": 32, "optimizer": "sgd", "momentum": 0.5}
TRIALS = [
    trial(0, "COMPLETE", [40.0, 30.0, 20.0, 25.0]),
    trial(1, "COMPLETE", [80.0, 60.0, 50.0, 35.0], params=SGD),
    trial(2, "PRUNED", [90.0]),
    trial(3, "FAIL", []),
    trial(4, "RUNNING", [70.0, 45.0]),
]


def traces(figure: Any, mode: str) -> dict[str, Any]:
    """The traces with this mode, by legend group."""
    return {trace.legendgroup or trace.name: trace for trace in figure.data if trace.mode == mode}


def test_values_are_drawn_against_epochs() -> None:
    lines = traces(figure := curves.value_against_epoch(SPEC, TRIALS), "lines")
    assert set(lines) == {"complete", "pruned", "running", "best (trial 0)"}
    complete = lines["complete"]
    assert list(complete.x) == [1, 2, 3, 4, None, 1, 2, 3, 4, None]  # None separates trials
    assert list(complete.y) == [40, 30, 20, 25, None, 80, 60, 50, 35, None]
    assert list(complete.customdata) == [0] * 5 + [1] * 5
    assert list(lines["best (trial 0)"].y) == [40, 30, 20, 25]
    ends = traces(figure, "markers")
    assert (list(ends["running"].x), list(ends["running"].y)) == ([2], [45])
    assert ends["complete"].text[1].split("<br>") == [
        *("trial 1, complete", "FID 35", "learning_rate=0.001", "batch_size=32"),
        *("optimizer=sgd", "momentum=0.5"),
    ]


def test_trials_are_lines_across_their_parameters() -> None:
    figure = parallel.parallel_coordinates(SPEC, TRIALS)
    labels = figure.layout.xaxis.ticktext
    assert sorted(labels) == ["FID", "batch size", "learning rate", "momentum", "optimizer"]
    lines = {trace.name: dict(zip(labels, trace.y, strict=False)) for trace in figure.data}
    assert set(lines) == {"FID 90", "FID 45", "FID 35", "FID 20", "best (trial 0)"}
    assert (lines["FID 35"]["batch size"], lines["FID 20"]["batch size"]) == (0, 1)
    assert lines["FID 35"]["momentum"] == pytest.approx(5 / 9, abs=1e-4)
    assert lines["FID 20"]["momentum"] is None
    assert (lines["FID 90"]["FID"], lines["FID 20"]["FID"]) == (1, 0)
    assert lines["FID 45"]["FID"] == pytest.approx(math.log(45 / 20) / math.log(90 / 20), abs=1e-4)
    assert lines["best (trial 0)"] == lines["FID 20"]
    texts = {note.text for note in figure.layout.annotations}
    assert {"32", "64", "adam", "sgd", "20", "90", "0.9"} <= texts


def test_outcomes_differ_in_more_than_colour() -> None:
    figure = curves.value_against_epoch(SPEC, TRIALS)
    ends, lines = traces(figure, "markers").values(), traces(figure, "lines").values()
    assert len({trace.marker.symbol for trace in ends}) == len(ends)
    assert len({trace.line.dash for trace in lines}) == len(lines)


def test_epochs_without_a_finite_value_are_left_out() -> None:
    odd = trial(0, "PRUNED", [])._replace(
        reports=(epoch(1, 9.0), epoch(2, None), epoch(3, math.nan), epoch(4, 8.0))
    )
    assert list(curves.value_against_epoch(SPEC, [odd]).data[0].x) == [1, 4, None]


def test_bounds_are_drawn_while_the_guard_is_enabled() -> None:
    figure = curves.loss_ratio_against_epoch(SPEC, TRIALS)
    bounds = [list(t.y) for t in figure.data if t.name == "bounds of the guard"]
    assert bounds == [[0.001, 0.001], [100, 100]]
    guard = SPEC.guard.model_copy(update={"loss_ratio": LossRatioGuard(enabled=False)})
    figure = curves.loss_ratio_against_epoch(SPEC.model_copy(update={"guard": guard}), TRIALS)
    assert "bounds of the guard" not in [trace.name for trace in figure.data]


def test_few_epochs_have_a_tick_each() -> None:
    for figure in (
        curves.value_against_epoch(SPEC, TRIALS),
        curves.trial_curves(SPEC, TRIALS[0]),
    ):
        assert 1 in {axis.dtick for axis in figure.select_xaxes()}
    many = spec_of("[study]\nepochs = 11")
    assert curves.value_against_epoch(many, TRIALS).layout.xaxis.dtick is None


def test_time_is_summed_by_outcome() -> None:
    training, evaluating = curves.time_by_outcome(SPEC, TRIALS).data
    names = ["complete (2)", "running (1)", "failed (1)", "pruned (1)"]
    assert list(training.x) == list(evaluating.x) == names
    assert list(training.y) == [32, 8, 0, 4]  # 4 s of training an epoch, 1 s of evaluating
    assert list(evaluating.y) == [8, 2, 0, 1]
    epochs = epochs_of(TRIALS)
    assert (epochs.train_seconds, epochs.evaluate_seconds) == (44, 11)


def test_the_map_shows_the_best_of_each_cell() -> None:
    figure = parameters.best_value_map(SPEC, TRIALS)
    heat = figure.data[0]
    # The learning rates of all branches span three decades in twelve cells.
    assert list(heat.x)[::4] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    cells = {
        (heat.z[row][column], row, column)
        for row in range(2)
        for column in range(12)
        if heat.z[row][column] is not None
    }
    assert cells == {(35, 0, 4), (20, 1, 4)}
    assert heat.text[1][4] == "best here: FID 20, trial 0"
    assert (figure.layout.xaxis.type, list(figure.layout.yaxis.ticktext)) == ("log", ["32", "64"])
    points = {t.name: list(t.y) for t in figure.data[1:]}
    assert [round(y) for y in points["complete"]] == [1, 0]


def test_the_map_adapts_to_fewer_than_two_ranges() -> None:
    one = spec_of("[trial]\nbeta1 = { low = 0.0, high = 0.9 }")
    figure = parameters.best_value_map(one, [trial(0, "COMPLETE", [9.0], params={"beta1": 0.3})])
    assert [(list(t.x), list(t.y)) for t in figure.data] == [([0.3], [9.0])]
    assert "No parameter is searched." in parameters.best_value_map(spec_of(""), TRIALS).to_json()
    other = spec_of("[trial]\nbeta1 = { low = 0.0, high = 0.9 }\nd_steps = [1, 5]")
    params = {"beta1": 0.3, "d_steps": 5}
    figure = parameters.best_value_map(other, [trial(0, "COMPLETE", [9.0], params=params)])
    assert figure.layout.title.text == "Best FID by d steps and beta1"


def test_marginals_cover_conditional_parameters() -> None:
    figure = parameters.marginal(SPEC, TRIALS, "momentum")
    assert [(t.name, list(t.x), list(t.y)) for t in figure.data] == [("complete", [0.5], [35.0])]
    names = list(parameter_axes(SPEC))
    assert sorted(names) == ["batch_size", "learning_rate", "momentum", "optimizer"]
    everything = parameters.marginals(SPEC, TRIALS)
    titles = [everything.layout[f"xaxis{i}"].title.text for i in ("", 2, 3, 4)]
    assert titles == [parameter_axes(SPEC)[name].title for name in names]
    assert sum(bool(trace.showlegend) for trace in everything.data) == 3  # once for each outcome


def test_a_trials_curves_are_value_loss_ratio_and_auc() -> None:
    figure = curves.trial_curves(SPEC, TRIALS[0])
    assert [list(t.y) for t in figure.data] == [
        *([40, 30, 20, 25], [0.1, 0.2, 0.3, 0.4], [0.75, 0.75, 0.75, 0.75]),
    ]


def test_importances_find_the_only_relevant_parameter() -> None:
    spec = spec_of(
        "[trial]\nbeta1 = { low = 0.0, high = 0.9 }\ndropout = { low = 0.0, high = 0.9 }"
    )
    points = [
        {"beta1": 0.9 * (i * 0.618 % 1), "dropout": 0.9 * (i * 0.7321 % 1)} for i in range(60)
    ]
    trials = [trial(i, "COMPLETE", [10 + 100 * p["beta1"]], params=p) for i, p in enumerate(points)]
    found = importances(spec, trials)
    assert list(found.shares) == ["beta1", "dropout"]
    assert found.shares["beta1"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1)
    assert importances(spec, trials) == found
    bars = parameters.importances(spec, trials).data[0]
    assert list(bars.y) == ["dropout", "beta1"]  # bottom to top
    assert list(bars.x) == [found.shares["dropout"], found.shares["beta1"]]


def test_importances_of_few_trials_and_of_conditional_parameters() -> None:
    few = parameters.importances(SPEC, TRIALS)
    assert len(few.data) == 0
    assert (
        "at least 5 complete trials are needed, and 2 of 5 are complete"
        in few.layout.annotations[0].text
    )
    # All pairs of optimizer and batch size occur, and only the optimizer matters.
    pairs = [(TRIALS[i % 2], size) for size in (32, 64) for i in range(4)]
    trials = [
        t._replace(number=i, params=t.params | {"batch_size": size})
        for i, (t, size) in enumerate(pairs)
    ]
    found = importances(SPEC, trials)
    # With sgd there is a momentum, and the learning rate has another range.
    assert set(found.shares) == {"batch_size", "optimizer", "learning_rate", "momentum"}
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.trials == 8
    assert max(found.shares, key=found.shares.__getitem__) == "optimizer"


def test_importances_rank_a_known_function() -> None:
    names = ("beta1", "dropout", "ema_decay")
    toml = "".join(f"{name} = {{ low = 0.0, high = 0.9 }}\n" for name in names)
    spec = spec_of(f"[trial]\n{toml}")
    draw = random.Random(0)
    for count in (12, 30, 100):
        points = [{name: draw.uniform(0, 0.9) for name in names} for _ in range(count)]
        trials = [
            trial(i, "COMPLETE", [10 + 100 * p["beta1"] + 60 * p["dropout"]], params=p)
            for i, p in enumerate(points)
        ]
        found = list(importances(spec, trials).shares)
        assert found[0] == "beta1", count
        assert count < 100 or found == list(names)


def test_every_plot_is_empty_without_trials() -> None:
    for plot in PLOTS.values():
        figure = plot.draw(SPEC, [])
        assert [t for t in figure.data if t.x or t.y] == []
    assert "Nothing has been measured yet." in curves.value_against_epoch(SPEC, []).to_json()
