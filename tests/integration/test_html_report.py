"""The HTML report, and the study file in it."""

import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import study_databases
from builders import epoch, spec_of
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given
from hypothesis import strategies as st
from study_databases import Studies, claim, report, run

from tuner.dashboard.notes import trial_note
from tuner.spec.loading import load_spec
from tuner.study.records import TrialRecord
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Prune
from tuner.views.figures import PLOTS
from tuner.views.html_report import Grid, Pictures, latents_note, study_page
from tuner.views.study_toml import spec_toml

sqlite = study_databases.sqlite
ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.toml"))


def page_of(store: StudyStore, trials: list[TrialRecord] | None = None, **values: Any) -> str:
    found = store.trials() if trials is None else trials
    return study_page(store.spec, store.summary(), store.fingerprint(), found, **values)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_study_file_in_a_report_is_the_study(path: Path) -> None:
    spec = load_spec(path)
    assert spec_of(spec_toml(spec)) == spec


@given(st.text(min_size=1, max_size=20).filter(str.strip), st.text(max_size=20))
def test_any_text_in_a_study_file_round_trips(path: str, column: str) -> None:
    spec = spec_of("")
    data = spec.data.model_copy(update={"path": path, "labels": column})
    spec = spec.model_copy(update={"data": data})
    text = spec_toml(spec)
    found = tomllib.loads(text).get("data", {})
    assert found.get("path", spec_of("").data.path) == path
    assert found.get("labels", spec_of("").data.labels) == column


def test_hostile_text_is_inert_in_the_report_and_in_notes(sqlite: Studies) -> None:
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>[x](javascript:alert(1))"
    sqlite.create(trials=2)
    session = sqlite.join()
    run(session, [10.0], Complete())
    run(session, [20.0], Prune(hostile))
    store = sqlite.store()
    page = page_of(store)
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    note = trial_note("s", store.spec, store.trial(1), 1, {})
    assert r"\<script\>alert(1)" in note
    assert r"\[x\](javascript" in note


def test_all_trials_are_listed(sqlite: Studies) -> None:
    store = sqlite.create("[metrics]\nown = ['mine:sharpness']", trials=2)
    run(sqlite.join(), [10.0], Complete())
    [trial] = store.trials()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", trial.started or "")
    measured = trial.reports[0]._replace(
        own={"mine:sharpness": 0.25}, class_coverage=0.5, class_entropy=0.9
    )
    waiting = trial._replace(seconds=5580.0, reports=(measured,))
    trials = [waiting._replace(number=number) for number in range(100)]
    table = page_of(store, trials).split('id="trials"')[1].split("</section>")[0]
    assert table.count("<tr>") == 1 + 100
    for heading in ("duration (h)", "device time (h)", "sharpness", "epochs"):
        assert table.count(f">{heading}</th>") == 1
    assert table.count(f"<td>{trial.started}</td>") == 100
    assert table.count('<td class="right">1.55</td>') == 100
    assert table.count('<td class="right">0.25</td>') == 100
    assert table.count('; <b class="bad">the generator misses 50% of the classes</b></td>') == 100


def test_the_report_says_whether_trials_are_running(sqlite: Studies) -> None:
    store, session = sqlite.create(trials=2), sqlite.join()
    run(session, [10.0], Complete())
    [trial] = store.trials()
    assert f"Trials ran from {trial.started} to {trial.ended}." in page_of(store)
    claim(session)
    assert f"Trials ran from {trial.started} to now." in page_of(store)


def test_the_report_explains_missing_importances(sqlite: Studies) -> None:
    store = sqlite.create(trials=8)
    session = sqlite.join()
    for _ in range(4):
        run(session, [10.0], Complete())
    run(session, [20.0], Prune("bad"))
    assert "at least 5 complete trials are needed, and 4 of 5 are complete" in page_of(store)
    run(session, [10.0], Complete())
    assert "Not computed: all 5 complete trials have the same value." in page_of(store)
    run(session, [30.0], Complete())
    assert "Not computed" not in page_of(store)


def test_the_report_shows_the_gain_over_the_best_baseline(sqlite: Studies) -> None:
    baselines = "[[baseline]]\nbeta1 = 0.5\n"
    store = sqlite.create(f"[trial]\nbeta1 = {{ low = 0.0, high = 0.9 }}\n{baselines}", trials=3)
    session = sqlite.join()
    run(session, [40.0, 50.0], Complete())
    assert "No trial is better than the best baseline (trial 0)." in page_of(store)
    run(session, [60.0, 30.0], Complete())
    gain = "Gain over the best baseline (trial 0, FID 40): 10, 25%."
    assert gain in page_of(store)
    assert "over the best baseline" not in page_of(store, store.trials()[1:])


def test_a_section_of_the_report_has_every_plot_that_names_it(sqlite: Studies) -> None:
    """The template must have a place for every section that a plot names."""
    store = sqlite.create(trials=1)
    report(session := sqlite.join(), claim(session), [epoch(1).fid or 0.0])
    page = page_of(store)
    for plot in PLOTS.values():
        title = plot.draw(store.spec, store.trials()).layout.title.text
        if plot.section is not None:  # those of several objectives have no place in this one
            assert plot.several != (f"<h3>{title}</h3>" in page), title


def test_the_templates_are_in_the_wheel(tmp_path: Path) -> None:
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    templates = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tuner/views/templates").iterdir()
    }
    assert templates
    assert templates <= packed


def test_warnings_about_the_best_generator_are_red_next_to_its_value(sqlite: Studies) -> None:
    store = sqlite.create(trials=1)
    run(sqlite.join(), [10.0], Complete())
    [trial] = store.trials()
    last = trial.reports[-1]._replace(copied=0.5, heldout_fid=12.0, fid_gap=1.5, class_coverage=0.1)
    page = page_of(store, [trial._replace(reports=(last,))])
    signs = "the generator has collapsed: 10% of the classes generated", "50% of its samples"
    for text in signs:
        assert len(re.findall(f'<p class="bad">Trial 0, FID 10: [^<]*{text}', page)) == 1
        assert len(re.findall(f'<span class="bad">[^<]*{text}', page)) == 1
    assert "FID 12 (+1.5)" in page
    assert 'class="bad"' not in page_of(store)


def test_samples_of_each_epoch_are_shown_next_to_real_images(sqlite: Studies) -> None:
    store = sqlite.create(trials=1)
    run(sqlite.join(), [20.0, 10.0, 30.0], Complete())
    grids = [Grid(f"epoch {n}", b"grid %d" % n, n) for n in (1, 2, 3)]
    pictures = Pictures(
        samples={0: grids},
        real=[Grid("Real images", b"real")],
        neighbours=[Grid("Trial 0", b"strips")],
        drawn=[Grid("Interpolation", b"path")],
        notes=["No grid by class: why & how."],
    )
    page = page_of(store, pictures=pictures)
    for grid in (*grids, *pictures.real, *pictures.neighbours, *pictures.drawn):
        assert page.count(f'src="{grid.address}"') == 1
    assert re.findall(r'data-epoch="(\d)" data-label="epoch \d"( hidden)?>', page) == [
        *(("1", " hidden"), ("2", ""), ("3", " hidden"))
    ]
    assert 'max="2" value="1"' in page
    assert "The samples of all trials are generated from the same latents" in page
    assert "why &amp; how." in page
    searched = spec_of("[trial]\nlatent_dim = [8, 16]\nbeta1 = [0.0, 0.5]")
    assert "The samples of trials with equal latent_dim are" in latents_note(searched)
    assert "Real images" not in page_of(store)
    running = [trial._replace(state="RUNNING", value=None) for trial in store.trials()]
    assert f'src="{grids[2].address}"' in page_of(store, running, pictures=pictures)


def test_the_budget_is_shown(sqlite: Studies) -> None:
    store = sqlite.create(trials=1)
    line = "Budget: 1 of 2 device hours spent."
    assert f"<p>{line}</p>" in page_of(store, budget=line)
    assert "Budget" not in page_of(store)
