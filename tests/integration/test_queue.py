"""The queue of a study: what waits, how it is removed; sorted and selected trials."""

import json
from collections.abc import Callable

import command_line
import pytest
import study_databases
from builders import DATASET, epoch
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, report, run

from tuner.errors import InputError
from tuner.study import steering
from tuner.study.claims import Idle
from tuner.study.records import DEQUEUED, WARM_START
from tuner.study.upcoming import upcoming
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

BASELINE = RANDOM + "[[baseline]]\nbeta1 = 0.5\n"
Tuner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tuner(sqlite: Studies, capsys: pytest.CaptureFixture[str]) -> Tuner:
    """Run a command on the database: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        code = command_line.call(*words, "--storage", sqlite.url)
        return (code, *capsys.readouterr())

    return call


def test_what_waits_is_listed_in_the_order_in_which_it_is_claimed(studies: Studies) -> None:
    store = studies.create(BASELINE, trials=9)
    session = studies.join()
    report(session, claim(session), [30.0])
    run(studies.join(), [20.0], Complete())
    other = studies.join()
    report(other, released := claim(other), [25.0, 24.0])
    steering.enqueue(store, {"beta1": 0.25}, {})
    steering.enqueue(store, {}, {WARM_START: {"study": "old", "trial": 3}})
    steering.retry(store, 1, exactly=True)
    studies.optuna_study().enqueue_trial({"beta1": 0.75})  # another program's
    studies.rows(EXPIRE_LEASES)
    other.release(released)
    found = upcoming(store)
    assert [(one.number, one.origin, one.queued) for one in found] == [
        (0, "lost its worker after epoch 1", False),
        (2, "released after epoch 2", False),
        (3, "enqueued", True),
        (4, "warm start from trial 3 of study old", True),
        (5, "trial 1 again, same seed", True),
        (6, "enqueued", True),
    ]
    assert found[0].params["beta1"] == 0.5
    assert [one.params.get("beta1") for one in found[2:4]] == [0.25, None]
    assert [claim(studies.join()).number for _ in found] == [one.number for one in found]
    assert upcoming(store) == []


def test_a_study_begins_with_its_baselines(sqlite: Studies) -> None:
    [baseline] = upcoming(sqlite.create(BASELINE))
    assert baseline == (0, "baseline", True, {"beta1": 0.5})


def test_a_dequeued_trial_is_not_claimed_and_not_counted(studies: Studies) -> None:
    store = studies.create(trials=2)
    for beta1 in (0.1, 0.2, 0.3):
        steering.enqueue(store, {"beta1": beta1}, {})
    steering.dequeue(store, [0, 2])
    assert [one.number for one in upcoming(store)] == [1]
    session = studies.join()
    assert run(session, [1.0], Complete()).params["beta1"] == 0.2
    assert [store.trial(n).state for n in range(3)] == ["FAIL", "COMPLETE", "FAIL"]
    assert store.trial(0).reason == DEQUEUED
    assert run(session, [1.0], Complete()).number == 3
    assert run(session, [1.0], Complete()).number == 4  # enqueueing had raised the total to 3
    assert session.claim(DATASET) is Idle.ENDED
    steering.check_new(store, {"beta1": 0.1})  # may be queued again


def test_only_queued_trials_are_removed_and_all_or_none(studies: Studies) -> None:
    store = studies.create()
    steering.enqueue(store, {"beta1": 0.1}, {})
    session = studies.join()
    claim(session)
    steering.enqueue(store, {"beta1": 0.2}, {})
    with pytest.raises(InputError, match="trial 0 is running, trial 7 is unknown; only queued"):
        steering.dequeue(store, [0, 1, 7])
    assert [one.number for one in upcoming(store)] == [1]


def test_the_queue_as_text_and_json(sqlite: Studies, tuner: Tuner) -> None:
    sqlite.create(BASELINE, trials=4)
    code, text, errors = tuner("queue", "s")
    assert (code, errors) == (0, "")
    lines = [line.split() for line in text.splitlines()]
    assert lines[1] == ["0", "baseline", "beta1=0.5"]
    assert " ".join(lines[2]) == "Then the sampler random chooses 3 new trials."
    assert " ".join(lines[3]).startswith("No worker is running; start one with: ")
    assert f"worker s --storage {sqlite.url}" in text
    found = json.loads(tuner("queue", "s", "--json")[1])
    assert (found["paused"], found["new"]) == (0, 3)
    assert found["waiting"][0]["params"] == {"beta1": 0.5}
    assert tuner("dequeue", "s", "--all")[1] == "Removed trial 0 from the queue of study 's'.\n"
    assert tuner("dequeue", "s", "--all")[1] == "Study 's' has no queued trials.\n"
    text = "No trials are waiting for a worker.\nThe sampler random "
    assert tuner("queue", "s")[1].startswith(text)
    assert tuner("dequeue", "s")[0] == tuner("dequeue", "s", "0", "--all")[0] == 2


def test_a_missing_worker_is_named_until_there_is_one(sqlite: Studies, tuner: Tuner) -> None:
    sqlite.create(trials=1)
    looks = [("status", "s"), ("list",), ("trials", "s"), ("queue", "s")]
    for words in looks:
        assert "No worker is running; start one with: " in tuner(*words)[1], words
    session = sqlite.join()
    for words in looks:
        assert "No worker" not in tuner(*words)[1], words
    run(session, [1.0], Complete())
    session.leave_at_once()
    for words in looks:
        assert "No worker" not in tuner(*words)[1], words


def test_a_spent_budget_asks_for_no_worker(sqlite: Studies, tuner: Tuner) -> None:
    sqlite.create(BASELINE + "[budget]\nepochs = 1\n", trials=3)
    session = sqlite.join()
    run(session, [1.0], Complete())
    session.leave_at_once()
    for words in (("status", "s"), ("list",), ("queue", "s")):
        assert "No worker" not in tuner(*words)[1], words
    text = tuner("queue", "s")[1]
    assert "budget.epochs: all 1 epochs are trained. Unfinished trials: 2 not begun" in text
    assert "chooses" not in text
    assert json.loads(tuner("queue", "s", "--json")[1])["new"] == 0


def test_lines_of_text_are_left_to_the_terminal_to_wrap(
    sqlite: Studies, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sqlite.create(trials=1)
    run(sqlite.join(), [1.0], Complete())
    [best] = [line for line in tuner("status", "s")[1].splitlines() if line.startswith("Best: ")]
    assert "beta1=" in best
    assert "learning_rate=" in best


def numbers(text: str) -> list[int]:
    return [found["number"] for found in json.loads(text)]


def test_trials_are_sorted_and_selected(sqlite: Studies, tuner: Tuner) -> None:
    sqlite.create(trials=9)
    session = sqlite.join()
    run(session, [30.0], Complete())
    run(session, [10.0], Prune("bad"))
    run(session, [20.0], Complete())
    run(session, [], Fail("a bug"))
    session.report(running := claim(session), epoch(1, 5.0), [])
    assert running.number == 4
    asked = {
        (): [0, 1, 2, 3, 4],
        ("--sort", "value"): [1, 2, 0, 3, 4],
        ("--sort", "-value"): [0, 2, 1, 3, 4],
        ("--sort", "-trial", "--top", "2"): [4, 3],
        ("--top", "1"): [1],
        ("--state", "complete", "--state", "failed"): [0, 2, 3],
        ("--state", "complete", "--top", "1"): [2],
    }
    for words, expected in asked.items():
        assert numbers(tuner("trials", "s", *words, "--json")[1]) == expected, words
    by_rate = numbers(tuner("trials", "s", "--sort", "learning_rate", "--json")[1])
    rates = [sqlite.store().trial(number).params["learning_rate"] for number in by_rate]
    assert rates == sorted(rates)
    assert "expected one of: trial, value, epochs, " in tuner("trials", "s", "--sort", "x")[2]
    assert "expected one of: complete, pruned, " in tuner("trials", "s", "--state", "x")[2]
