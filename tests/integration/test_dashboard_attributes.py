"""Notes, pictures and plots as the dashboard reads them, with concurrent writers."""

import itertools
import json
import threading
from typing import Any

import optuna
import pytest
import study_databases
from builders import epoch
from optuna_dashboard import get_note, save_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from study_databases import LostConnection, Studies, claim, report, run

from tuner.study.dashboard_attributes import publish, published
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Prune

url, studies = study_databases.url, study_databases.studies


def attributes(studies: Studies) -> dict[str, Any]:
    study = studies.optuna_study()
    found: dict[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    return found


def note_of(studies: Studies, number: int) -> str:
    study = studies.optuna_study()
    trial = optuna.Trial(study, study.trials[number]._trial_id)
    return str(get_note(trial))


def test_a_finished_trial_has_its_note_and_pictures(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    first = claim(session)
    history = [epoch(1, 50.0)]
    session.report(first, history[0], [], {"artifacts:a": '{"filename": "1.png"}'})
    session.finish(
        first, Complete(), attributes={"artifacts:b": '{"filename": "2.png"}'}, note="**good**"
    )
    [trial] = studies.trials()
    assert trial.system_attrs["artifacts:a"] == '{"filename": "1.png"}'
    assert trial.system_attrs["artifacts:b"] == '{"filename": "2.png"}'
    assert note_of(studies, 0) == "**good**"


@pytest.mark.parametrize("answer_only", [False, True])
@pytest.mark.parametrize("at", range(3))
def test_a_lost_commit_writes_a_note_once(studies: Studies, at: int, answer_only: bool) -> None:
    studies.create()
    session = studies.join()
    first = claim(session)
    report(session, first, [50.0])
    with LostConnection(session, at, answer_only=answer_only) as connection:
        session.finish(first, Prune("bad"), note="why")
    assert connection.lost
    assert note_of(studies, 0) == "why"


def test_user_notes_on_a_running_trial_are_kept(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    first = claim(session)
    report(session, first, [50.0])
    long = "look at this " * 400  # more than the dashboard keeps in one piece
    save_note(optuna.Trial(studies.optuna_study(), first.trial_id), long)
    session.finish(first, Complete(), note="tuner's note")
    assert note_of(studies, 0) == f"{long}\n\n---\n\ntuner's note"


def test_the_dashboard_shows_published_plots(studies: Studies) -> None:
    store = studies.create()
    assert published(store) is None
    plots = {"value": json.dumps({"data": ["ü" * 9000]}), "map": "{}"}
    assert publish(store, 3, 0.5, plots, "what it is")
    assert get_plotly_graph_objects(attributes(studies)) == plots
    assert get_note(studies.optuna_study()) == "what it is"
    found = published(store)
    assert found is not None
    assert (found.events, found.seconds) == (3, 0.5)
    assert 0 <= found.age < 60


def test_older_plots_do_not_replace_newer_ones(studies: Studies) -> None:
    store = studies.create()
    other = studies.store()
    assert publish(store, 7, 0.1, {"value": "new"}, "ours")
    assert not publish(other, 5, 0.1, {"value": "old"}, "ours")
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "new"}
    assert publish(other, 8, 0.1, {"value": "newest"}, "ours")
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "newest"}


def test_a_users_note_on_the_study_stays(studies: Studies) -> None:
    store = studies.create()
    publish(store, 1, 0.1, {}, "ours")
    save_note(studies.optuna_study(), "a person's")
    publish(store, 2, 0.1, {}, "ours again")
    assert get_note(studies.optuna_study()) == "a person's"


def test_concurrent_publishers_leave_the_newest_plots(studies: Studies) -> None:
    """Other trials begin and end with notes meanwhile."""
    studies.create(trials=8)
    stores: list[StudyStore] = [studies.store() for _ in range(4)]
    turns = itertools.count(1)
    failures: list[BaseException] = []

    def work(store: StudyStore) -> None:
        try:
            for _ in range(10):
                turn = next(turns)
                publish(store, turn, 0.1, {"value": str(turn)}, "ours")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    session = studies.join()
    for number in range(8):
        run(session, [float(number)], Complete())
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "40"}


def test_dashboard_data_is_deleted_with_the_study(studies: Studies) -> None:
    store = studies.create()
    publish(store, 1, 0.1, {"value": "{}"}, "ours")
    others = store.database.open_unfenced()
    others.delete_study(store.study_id)
    others.engine.dispose()
    assert studies.rows("SELECT * FROM study_system_attributes") == []
    assert studies.rows("SELECT * FROM tuner_studies") == []


def test_the_studys_note_begins_with_its_lead(studies: Studies) -> None:
    store = studies.create()
    shown = []
    for events, lead in enumerate(((), ("Best: trial 3",), ("Best: trial 4", "Budget")), 1):
        publish(store, events, 0.1, {}, "what it is", lead)
        shown.append(get_note(studies.optuna_study()))
    assert shown == [
        "what it is",
        "**Best: trial 3**\n\nwhat it is",
        "**Best: trial 4**\n\n**Budget**\n\nwhat it is",
    ]
    save_note(studies.optuna_study(), "a person's")
    publish(store, 9, 0.1, {}, "what it is", ["Best: trial 5"])
    assert get_note(studies.optuna_study()) == "a person's"
