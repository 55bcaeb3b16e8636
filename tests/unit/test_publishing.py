"""When a study's plots in the dashboard are made anew: seldom enough to cost nothing."""

import json

import pytest
import workplace
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from workplace import Studies, run

from tuner.run import publishing
from tuner.run.publishing import refresh_plots
from tuner.study.verdict import Complete, Prune

url, studies = workplace.url, workplace.studies


def shown(studies: Studies) -> dict[str, str]:
    plain = studies.plain()
    found: dict[str, str] = get_plotly_graph_objects(
        plain._storage.get_study_system_attrs(plain._study_id)
    )
    return found


def test_first_the_note_then_the_plots_when_it_is_time(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = studies.make()
    refresh_plots(store)
    assert get_note(studies.plain()).startswith("A search for GANs made by tuner")
    member = studies.join()
    run(member, [50.0, 40.0], Complete())
    refresh_plots(store)
    assert shown(studies) == {}  # too soon
    monkeypatch.setattr(publishing, "REST", 0.0)
    refresh_plots(store)
    found = shown(studies)
    assert set(found) == {"value", "loss-ratio", "map", "time"}
    assert "complete (1)" in found["value"]
    assert json.loads(found["value"])["layout"]["title"]["text"] == "FID against epoch"


def test_the_last_ones_are_made_whenever_it_was(studies: Studies) -> None:
    store, other = studies.make(), studies.store()
    refresh_plots(store)
    member = studies.join()
    run(member, [50.0], Complete())
    run(member, [60.0], Prune("bad"))
    refresh_plots(other, last=True)
    found = shown(studies)
    assert "pruned (1)" in found["value"]
    refresh_plots(store, last=True)  # there is nothing new
    assert shown(studies) == found
