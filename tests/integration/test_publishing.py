"""Redrawing of a study's dashboard plots, at intervals that keep its cost low."""

import json

import pytest
import study_databases
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from study_databases import Studies, run

from tuner.dashboard import publishing
from tuner.dashboard.publishing import refresh_plots
from tuner.study.verdict import Complete, Prune

url, studies = study_databases.url, study_databases.studies


def published_plots(studies: Studies) -> dict[str, str]:
    plain = studies.optuna_study()
    found: dict[str, str] = get_plotly_graph_objects(
        plain._storage.get_study_system_attrs(plain._study_id)
    )
    return found


def test_the_note_is_published_at_once_and_the_plots_later(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = studies.create()
    refresh_plots(store)
    assert get_note(studies.optuna_study()).startswith("A GAN hyperparameter search by tuner")
    session = studies.join()
    run(session, [50.0, 40.0], Complete())
    refresh_plots(store)
    assert published_plots(studies) == {}  # too soon
    monkeypatch.setattr(publishing, "REDRAW_FACTOR", 0.0)
    refresh_plots(store)
    found = published_plots(studies)
    assert set(found) == {"value", "loss-ratio", "map", "time"}
    assert "complete (1)" in found["value"]
    assert json.loads(found["value"])["layout"]["title"]["text"] == "FID against epoch"


def test_the_final_plots_are_drawn_without_delay(studies: Studies) -> None:
    store, other = studies.create(), studies.store()
    refresh_plots(store)
    session = studies.join()
    run(session, [50.0], Complete())
    run(session, [60.0], Prune("bad"))
    refresh_plots(other, last=True)
    found = published_plots(studies)
    assert "pruned (1)" in found["value"]
    refresh_plots(store, last=True)  # nothing changed
    assert published_plots(studies) == found
