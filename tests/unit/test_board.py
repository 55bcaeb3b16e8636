"""What the dashboard shows beside trials, as the dashboard itself reads it; and who undoes whom."""

import itertools
import json
import threading
from typing import Any

import pytest
import workplace
from builders import epoch
from optuna_dashboard import get_note, save_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from workplace import Cut, Studies, claim, report, run

from tuner.study.board import publish, published
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Prune

url, studies = workplace.url, workplace.studies


def attributes(studies: Studies) -> dict[str, Any]:
    plain = studies.plain()
    found: dict[str, Any] = plain._storage.get_study_system_attrs(plain._study_id)
    return found


def note_of(studies: Studies, number: int) -> str:
    import optuna

    plain = studies.plain()
    trial = optuna.Trial(plain, plain.trials[number]._trial_id)
    return str(get_note(trial))


def test_a_trial_ends_with_its_note_and_its_pictures(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    first = claim(member)
    history = [epoch(1, 50.0)]
    member.report(first, history[0], [], {"artifacts:a": '{"filename": "1.png"}'})
    member.finish(
        first, Complete(), attributes={"artifacts:b": '{"filename": "2.png"}'}, note="**good**"
    )
    [trial] = studies.trials()
    assert trial.system_attrs["artifacts:a"] == '{"filename": "1.png"}'
    assert trial.system_attrs["artifacts:b"] == '{"filename": "2.png"}'
    assert note_of(studies, 0) == "**good**"


@pytest.mark.parametrize("answer_only", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_a_note_is_written_once_whatever_breaks(
    studies: Studies, at: int, answer_only: bool
) -> None:
    studies.make()
    member = studies.join()
    first = claim(member)
    report(member, first, [50.0])
    with Cut(member, at, answer_only=answer_only):
        member.finish(first, Prune("bad"), note="why")
    assert note_of(studies, 0) == "why"


def test_what_a_person_noted_on_a_running_trial_stays(studies: Studies) -> None:
    import optuna

    studies.make()
    member = studies.join()
    first = claim(member)
    report(member, first, [50.0])
    long = "look at this " * 400  # more than the dashboard keeps in one piece
    save_note(optuna.Trial(studies.plain(), first.trial_id), long)
    member.finish(first, Complete(), note="our words")
    assert note_of(studies, 0) == f"{long}\n\n---\n\nour words"


def test_plots_are_shown_by_the_dashboard(studies: Studies) -> None:
    store = studies.make()
    assert published(store) is None
    plots = {"value": json.dumps({"data": ["ü" * 9000]}), "map": "{}"}
    assert publish(store, 3, 0.5, plots, "what it is")
    assert get_plotly_graph_objects(attributes(studies)) == plots
    assert get_note(studies.plain()) == "what it is"
    found = published(store)
    assert found is not None
    assert (found.events, found.seconds) == (3, 0.5)
    assert 0 <= found.age < 60


def test_older_plots_do_not_replace_newer_ones(studies: Studies) -> None:
    store = studies.make()
    other = studies.store()
    assert publish(store, 7, 0.1, {"value": "new"}, "ours")
    assert not publish(other, 5, 0.1, {"value": "old"}, "ours")
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "new"}
    assert publish(other, 8, 0.1, {"value": "newest"}, "ours")
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "newest"}


def test_a_person_s_note_on_the_study_stays(studies: Studies) -> None:
    store = studies.make()
    publish(store, 1, 0.1, {}, "ours")
    save_note(studies.plain(), "a person's")
    publish(store, 2, 0.1, {}, "ours again")
    assert get_note(studies.plain()) == "a person's"


def test_workers_that_publish_at_once_leave_the_newest(studies: Studies) -> None:
    """While trials end with notes of their own, and others begin."""
    studies.make(trials=8)
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
    member = studies.join()
    for number in range(8):
        run(member, [float(number)], Complete())
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert get_plotly_graph_objects(attributes(studies)) == {"value": "40"}


def test_what_the_dashboard_knows_goes_with_the_study(studies: Studies) -> None:
    store = studies.make()
    publish(store, 1, 0.1, {"value": "{}"}, "ours")
    others = store.database.open_to_others()
    others.delete_study(store.study_id)
    others.engine.dispose()
    assert studies.rows("SELECT * FROM study_system_attributes") == []
    assert studies.rows("SELECT * FROM tuner_studies") == []
