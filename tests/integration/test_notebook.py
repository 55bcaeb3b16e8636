"""The notebook API: data frames, plots, HTML cards and errors, on real databases."""

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import browsers
import numpy as np
import pandas
import pytest
import sqlalchemy
import study_databases
from browsers import Browser
from builders import epoch
from study_databases import Studies, claim, report, run, spec

import tuner
from tuner import hints
from tuner.cli.export import KINDS
from tuner.epoch_report import FIELDS
from tuner.errors import InputError, StorageError
from tuner.notebook import Study
from tuner.spec.trial import setting_names
from tuner.study import steering
from tuner.study.creation import create_study
from tuner.study.verdict import Complete, Fail, Prune
from tuner.views.data_frames import AFTER, BEFORE
from tuner.views.notebook_html import study_card

browser = browsers.browser
url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

CONDITIONAL = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
optimizer = ["adam", "sgd"]
[trial.when.optimizer.sgd]
momentum = { low = 0.0, high = 0.9 }
d_steps = [1, 5]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
[[baseline]]
learning_rate = 1e-3
batch_size = 32
optimizer = "adam"
[budget]
epochs = 100
[[baseline]]
learning_rate = 1e-2
batch_size = 64
optimizer = "sgd"
momentum = 0.5
d_steps = 5
[sampler]
name = "random"
[pruner]
name = "none"
"""
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


def open_study(studies: Studies, name: str = "s") -> Study:
    found = tuner.open_study(name, studies.url)
    assert isinstance(found, Study)
    return found


def mixed_study(studies: Studies) -> Study:
    """A study with a complete trial in each branch and a failed, a pruned and a running trial."""
    studies.create(CONDITIONAL, trials=9)
    session = studies.join()
    run(session, [40.0, 30.0, 20.0, 25.0], Complete(), "trial-0.safetensors")
    run(session, [90.0, 80.0], Complete())
    run(session, [], Fail(HOSTILE))
    run(session, [300.0], Prune("guard: too bad"))
    report(session, claim(session), [50.0, 45.5])
    return open_study(studies)


def test_the_trials_frame_has_a_row_for_each_trial(studies: Studies) -> None:
    trials = mixed_study(studies).trials
    assert (trials.index.name, list(trials.index)) == ("trial", [0, 1, 2, 3, 4])
    assert list(trials.state) == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED", "RUNNING"]
    assert trials.value[[0, 1, 3]].tolist() == [20.0, 80.0, 300.0]
    assert trials.value[[2, 4]].isna().all()
    assert trials.epochs.tolist() == [4, 2, 0, 1, 2]
    assert trials.train_seconds.tolist() == [16, 8, 0, 4, 8]
    assert trials.evaluate_seconds.tolist() == [4, 2, 0, 1, 2]
    assert trials.device.tolist() == ["cpu"] * 5
    assert trials.reason[[0, 2, 3]].tolist() == ["all epochs trained", HOSTILE, "guard: too bad"]
    assert trials.reason.isna()[4]


def test_a_conditional_parameter_is_missing_where_it_does_not_apply(studies: Studies) -> None:
    trials = mixed_study(studies).trials
    # A setting has one column, although Optuna names it differently in each branch.
    assert trials.learning_rate[[0, 1]].tolist() == [1e-3, 1e-2]
    assert trials.batch_size[[0, 1]].tolist() == [32, 64]
    assert trials.optimizer[[0, 1]].tolist() == ["adam", "sgd"]
    assert trials.loc[1, ["momentum", "d_steps"]].tolist() == [0.5, 5]
    assert trials.loc[0, ["momentum", "d_steps"]].isna().all()
    assert (trials.d_steps.notna() == (trials.optimizer == "sgd")).all()


TYPES = {
    "state": "string",
    "value": "float64",
    "learning_rate": "float64",
    "batch_size": "Int64",
    "optimizer": "string",
    "momentum": "float64",
    "d_steps": "Int64",
    "epochs": "int64",
    "train_seconds": "float64",
    "evaluate_seconds": "float64",
    "device": "string",
    "host": "string",
    "reason": "string",
}


def test_columns_and_types_follow_from_the_study_file_alone(sqlite: Studies) -> None:
    sqlite.create(CONDITIONAL, name="empty")
    for study in (open_study(sqlite, "empty"), mixed_study(sqlite)):
        types = study.trials.dtypes.astype(str).to_dict()
        assert types == TYPES
        types = study.epochs.dtypes.astype(str).to_dict()
        assert list(types) == ["trial", "state", *FIELDS]
        assert {n for n, kind in types.items() if kind == "int64"} == {
            *("trial", "epoch", "steps", "images")
        }
        assert (types.pop("state"), types.pop("finite")) == ("string", "bool")
        assert set(types.values()) == {"int64", "float64"}


def test_setting_names_clash_with_no_other_column() -> None:
    assert {*setting_names()} & {*BEFORE, *AFTER, "trial"} == set()
    # Nor with attributes of a frame, so that trials.learning_rate is the column.
    assert [name for name in setting_names() if hasattr(pandas.DataFrame, name)] == []


def test_the_epochs_frame_has_a_row_for_each_epoch(studies: Studies) -> None:
    epochs = mixed_study(studies).epochs
    assert epochs.trial.tolist() == [0, 0, 0, 0, 1, 1, 3, 4, 4]
    assert epochs.epoch.tolist() == [1, 2, 3, 4, 1, 2, 1, 1, 2]
    assert epochs.fid.tolist() == [40, 30, 20, 25, 90, 80, 300, 50, 45.5]
    assert epochs.state.tolist() == ["COMPLETE"] * 6 + ["PRUNED"] + ["RUNNING"] * 2
    assert epochs.kid.isna().all()
    assert epochs.finite.all()


def test_missing_numbers_of_an_epoch_are_na(sqlite: Studies) -> None:
    sqlite.create()
    session = sqlite.join()
    found = claim(session)
    session.report(found, epoch(1, None, finite=False, d_loss=None, loss_ratio=np.inf), [])
    epochs = open_study(sqlite).epochs
    assert epochs[["fid", "d_loss"]].isna().all(axis=None)
    assert (epochs.finite.tolist(), epochs.loss_ratio.tolist()) == ([False], [np.inf])


def test_a_trial_has_its_number_value_params_and_epochs(studies: Studies) -> None:
    study = mixed_study(studies)
    best, failed = study.best, study.trial(2)
    assert (best.number, best.value, best.state) == (0, 20.0, "COMPLETE")
    assert best.params == {"learning_rate": 1e-3, "batch_size": 32, "optimizer": "adam"}
    pandas.testing.assert_frame_equal(best.epochs, study.epochs[:4])
    assert (failed.value, failed.reason, len(failed.epochs)) == (None, HOSTILE, 0)
    assert repr(best) == (
        "<Trial 0 of 's': complete, value 20, optimizer=adam batch_size=32 learning_rate=0.001>"
    )
    assert study.spec == spec(CONDITIONAL, trials=9)


def test_every_access_reads_the_current_study(studies: Studies) -> None:
    store = studies.create(trials=3)
    study = open_study(studies)
    assert repr(study) == "<Study 's': 0 of 3 trials finished>"
    assert "No trial is complete yet." in study._repr_html_()
    session = studies.join()
    found = claim(session)
    report(session, found, [50.0])
    assert repr(study) == "<Study 's': 0 of 3 trials finished: 1 running>"
    assert "Running: trial 0, 1 of 4 epochs, FID 50" in study._repr_html_()
    session.finish(found, Complete(), None)
    store.raise_total(7)
    assert repr(study) == "<Study 's': 1 of 7 trials finished: 1 complete, best FID 50 by trial 0>"
    assert (len(study.trials), len(study.epochs)) == (1, 1)
    steering.delete(store)
    assert "no study 's'" in repr(study)
    create_study(studies.open(), spec(CONDITIONAL, trials=2))
    assert repr(study) == "<Study 's': 0 of 2 trials finished>"
    assert "momentum" in study.trials.columns


def test_no_connection_stays_open_between_reads(studies: Studies) -> None:
    studies.create()
    study = open_study(studies)
    before = _connections(studies)
    assert len(study.trials) == 0
    study._repr_html_()
    assert _connections(studies) == before


def _connections(studies: Studies) -> int:
    """Open connections: counted by the server, or SQLite files that this process has open."""
    if studies.url.startswith("postgresql"):
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        [(count,)] = studies.rows(query)
        return int(count)
    path = studies.url.removeprefix("sqlite:///")
    return sum(str(p.resolve()).startswith(path) for p in Path("/proc/self/fd").iterdir())


def test_missing_studies_and_trials_are_reported(sqlite: Studies, tmp_path: Path) -> None:
    sqlite.create()
    study = open_study(sqlite)
    with pytest.raises(InputError, match="study 's' has no complete trial yet"):
        _ = study.best
    with pytest.raises(InputError, match="has no complete trial yet"):
        study.plot.trial()
    with pytest.raises(InputError, match="has no trial 3; none has begun"):
        study.trial(3)
    with pytest.raises(InputError, match="no study 'other', expected one of: s"):
        tuner.open_study("other", sqlite.url)
    with pytest.raises(StorageError, match="no such database"):
        tuner.open_study("s", f"sqlite:///{tmp_path}/missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_repr_works_while_the_database_is_unreachable(sqlite: Studies) -> None:
    sqlite.create()
    study = open_study(sqlite)
    path = Path(sqlite.url.removeprefix("sqlite:///"))
    path.rename(path.with_suffix(".moved"))
    assert repr(study).startswith(f"<Study 's': {path}: no such database")
    with pytest.raises(StorageError, match="no such database"):
        study._repr_html_()
    assert not path.exists()


def test_samples_need_a_kept_generator(sqlite: Studies) -> None:
    sqlite.create()
    run(sqlite.join(), [20.0], Complete())
    best = open_study(sqlite).best
    with pytest.raises(InputError, match="study 's': trial 0 has no stored generator"):
        best.samples(4)
    with pytest.raises(InputError, match="samples: found n = 0, expected at least 1"):
        best.grid(0)
    with pytest.raises(InputError, match="samples: found seed = -1, expected at least 0"):
        best.samples(4, seed=-1)


def test_environment_variables_set_the_defaults(
    sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.create()
    run(sqlite.join(), [20.0], Complete(), "trial-0.safetensors")
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    assert len(tuner.open_study("s").trials) == 1
    sqlite.store().record_artifacts(str(tmp_path / "there"))
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "here"))
    with pytest.raises(StorageError, match=rf"no files of study 's' at \S*{tmp_path}/here"):
        tuner.open_study("s").best.samples(1)
    with pytest.raises(StorageError, match=rf"no files of study 's' at \S*{tmp_path}/else"):
        tuner.open_study("s", artifacts=tmp_path / "else").best.samples(1)


def test_every_kind_of_plot_is_a_method(studies: Studies) -> None:
    study = mixed_study(studies)
    names = dir(study.plot)
    assert names == sorted(kind.replace("-", "_") for kind in KINDS)
    for name in names:
        method = getattr(study.plot, name)
        assert method.__doc__
        assert type(method()).__name__ == "Figure"
        assert f"{name}()" in repr(study.plot)
    line = [t for t in study.plot.value().data if t.name == "best (trial 0)"]
    assert [list(t.y) for t in line] == [[40, 30, 20, 25]]
    assert list(study.plot.trial(4).data[0].y) == [50, 45.5]


def test_a_study_card_summarises_the_study(studies: Studies) -> None:
    study = mixed_study(studies)
    studies.store().bind({"data": "abc", "samples": "300"})
    card = study._repr_html_()
    for words in (
        "<b>Study s</b>",
        "3 of 9 trials finished: 2 complete, 1 running, 1 failed, 1 pruned.",
        "Best: trial 0, FID 20 (one seed), optimizer=adam batch_size=32 learning_rate=0.001",
        "Running: trial 4, 2 of 4 epochs, FID 45.5",
        "Budget: 9 of 100 epochs trained",
        "data abc, samples 300",
        "45 s on cpu, 20% of it evaluating",
    ):
        assert words in card
    assert card.count("<tr>") == 3  # the header row and two complete trials
    assert len(card) < 6000


def test_a_password_is_not_shown(studies: Studies) -> None:
    """Not even in the traceback of a failure, which a notebook shows with its causes."""
    url = sqlalchemy.make_url(studies.url)
    if url.password is None:
        pytest.skip("SQLite has none")
    studies.create()
    study = open_study(studies)
    assert url.password not in study._repr_html_() + repr(study) + repr(study.plot)
    wrong = url.set(password="wrong-word").render_as_string(hide_password=False)
    with pytest.raises(StorageError, match="password authentication failed") as failed:
        tuner.open_study("s", wrong)
    shown = "".join(traceback.format_exception(failed.value))
    assert "wrong-word" not in shown
    assert "psycopg" not in shown


def test_hostile_text_is_escaped(sqlite: Studies, browser: Browser, tmp_path: Path) -> None:
    """Exception messages and file names reach the cards, which a real browser shows here."""
    study = mixed_study(sqlite)
    with study._opened() as store:
        trials = store.trials()
    cards = [
        study.trial(2)._repr_html_(),
        study_card(study.spec, 9, {"data": HOSTILE}, trials, HOSTILE, HOSTILE),
    ]
    with browser.page() as page:
        _show(page, tmp_path / "page.html", "".join(cards))
        assert page.title() == "cards"
        assert page.problems == []
        assert page.locator("body").inner_text().count(HOSTILE) == 4
        assert page.locator("script, img").count() == 0


@pytest.mark.parametrize(("back", "ink"), [("#ffffff", "#222222"), ("#111111", "#eeeeee")])
@pytest.mark.parametrize("width", [1000, 360])
def test_cards_take_the_notebooks_colours_and_fit(
    sqlite: Studies, browser: Browser, tmp_path: Path, back: str, ink: str, width: int
) -> None:
    study = mixed_study(sqlite)
    body = study._repr_html_() + study.best._repr_html_()
    with browser.page(width=width) as page:
        _show(page, tmp_path / "page.html", body, f"background: {back}; color: {ink}")
        colours = page.evaluate(
            "() => [...new Set(Array.from(document.querySelectorAll('.tuner-card *'), "
            "e => getComputedStyle(e).color))]"
        )
        assert colours == [page.evaluate("() => getComputedStyle(document.body).color")]
        assert page.overflow == 0
        assert page.problems == []


def _show(page: Any, path: Path, body: str, style: str = "") -> None:
    head = "<!doctype html><meta charset=utf-8><title>cards</title>"
    path.write_text(f'{head}<body style="{style}">{body}</body>')
    page.goto(path.as_uri())
    page.settle()


def test_only_data_frames_need_pandas(sqlite: Studies) -> None:
    """Without pandas, everything else still works."""
    sqlite.create(trials=6)
    session = sqlite.join()
    for fid in range(5):
        run(session, [10.0 + fid], Complete())
    code = f"""
import sys
sys.modules["pandas"] = None
import tuner
from tuner.errors import InputError
study = tuner.open_study("s", {sqlite.url!r})
print(study)
print(type(study.plot.value()).__name__, type(study.plot.importances()).__name__)
assert "jax" not in sys.modules
for read in (lambda: study.trials, lambda: study.best.epochs):
    try:
        read()
    except InputError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    needed = f"a data frame needs the package pandas; install it with {hints.install('notebook')}"
    assert done.stdout.splitlines() == [
        "<Study 's': 5 of 6 trials finished: 5 complete, best FID 10 by trial 0>",
        "Figure Figure",
        needed,
        needed,
    ]
