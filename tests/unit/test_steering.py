"""What people do to a study while workers run it: enqueue, retry, prune, stop, delete."""

import re

import pytest
import workplace
from builders import PREMISES, epoch
from workplace import LONG_AGO, RANDOM, Studies, claim, report, run

from tuner.errors import InputError, StorageError
from tuner.study import steering
from tuner.study.membership import Idle
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = workplace.url, workplace.studies, workplace.sqlite

SPACE = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
width = { low = 8, high = 16, step = 4 }
optimizer = ["adam", "sgd"]
"""
POINT = {"beta1": 0.5, "learning_rate": 1e-3}


def test_a_point_is_read_from_words(sqlite: Studies) -> None:
    store = sqlite.make(SPACE)
    words = ["learning_rate=2e-4", "batch_size=64", "width=12", "optimizer=sgd"]
    point = steering.parse_point(store, words)
    assert point == {"learning_rate": 2e-4, "batch_size": 64, "width": 12, "optimizer": "sgd"}
    assert [type(value) for value in point.values()] == [float, int, int, str]
    assert steering.parse_point(store, ["optimizer='adam'"]) == {"optimizer": "adam"}
    assert steering.parse_point(store, ["learning_rate=0.01"]) == {"learning_rate": 0.01}
    assert steering.parse_point(store, []) == {}


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["batch_size"], ["found 'batch_size', expected key=value"]),
        (["batch_size=48"], ["batch_size: found 48, expected one of 32, 64"]),
        (["batch_size="], ["batch_size: found ''"]),
        (["width=10"], ["width: found 10, expected 8 plus a multiple of 4"]),
        (["width=99"], ["width: found 99, expected 8 to 16"]),
        (["learning_rate=1"], ["learning_rate: found 1, expected 0.0001 to 0.01"]),
        (["learning_rate=nan"], ["learning_rate: found nan"]),
        (["learning_rate=true"], ["learning_rate: found True"]),
        (["optimizer=adm"], ["optimizer: found 'adm'"]),
        (["momentum=0.5"], ["momentum: found 0.5, but trial.momentum is fixed"]),
        (["batch_sice=32"], ["batch_sice: found an unknown key, expected a key of [trial]"]),
        (["x=1", "width=9", "y"], ["x: ", "width: ", "found 'y'"]),
    ],
)
def test_all_that_is_wrong_with_a_point_is_said(
    words: list[str], lines: list[str], sqlite: Studies
) -> None:
    with pytest.raises(InputError) as caught:
        steering.parse_point(sqlite.make(SPACE), words)
    for found, expected in zip(str(caught.value).splitlines(), lines, strict=True):
        assert found.startswith(expected)


def test_what_does_not_apply_to_a_choice_is_said(sqlite: Studies) -> None:
    when = "optimizer = ['adam', 'sgd']\n[trial.when.optimizer.sgd]\nmomentum = [0.5, 0.9]\n"
    store = sqlite.make(f"[trial]\n{when}")
    line = "momentum: found 0.5, but trial.momentum is not searched with optimizer = adam, expected"
    with pytest.raises(InputError, match=f"^{line}"):
        steering.parse_point(store, ["optimizer=adam", "momentum=0.5"])
    point = {"optimizer": "sgd", "momentum": 0.5}
    assert steering.parse_point(store, ["optimizer=sgd", "momentum=0.5"]) == point


def test_the_grid_needs_whole_points(sqlite: Studies) -> None:
    grid = "[trial]\nbatch_size = [32, 64]\nwidth = [8, 16]\n[sampler]\nname = 'grid'\n"
    store = sqlite.make(grid)
    with pytest.raises(InputError, match="found no width, but the grid sampler needs all"):
        steering.parse_point(store, ["batch_size=32"])
    words = ["batch_size=32", "width=8"]
    assert steering.parse_point(store, words) == {"batch_size": 32, "width": 8}


def test_what_is_enqueued_is_tried_next(studies: Studies) -> None:
    store = studies.make(trials=3)
    member = studies.join()
    claimed = claim(member)
    assert steering.enqueue(store, dict(POINT), {}) == 3
    member.finish(claimed, Complete())
    assert run(member, [1.0], Complete()).params == POINT
    assert run(member, [1.0], Complete()).params != POINT
    assert member.claim(PREMISES) is Idle.ENDED


def test_the_sampler_chooses_what_is_not_given(studies: Studies) -> None:
    store = studies.make()
    steering.enqueue(store, {"beta1": 0.5}, {})
    params = claim(studies.join()).params
    assert params["beta1"] == 0.5
    assert 1e-4 <= params["learning_rate"] <= 1e-2


def test_the_total_is_raised_only_where_there_is_no_room(studies: Studies) -> None:
    store = studies.make(trials=3)
    member = studies.join()
    run(member, [1.0], Complete())
    run(member, [1.0], Fail("a bug"))  # which leaves its room to another
    totals = [steering.enqueue(store, dict(POINT), {}) for _ in range(3)]
    assert totals == [3, 3, 4]
    for _ in range(3):
        assert run(member, [1.0], Complete()).params == POINT
    assert member.claim(PREMISES) is Idle.ENDED
    assert steering.enqueue(store, dict(POINT), {}) == 5
    assert run(member, [1.0], Prune("bad")).params == POINT


def test_a_trial_is_tried_again_as_a_new_one(studies: Studies) -> None:
    store = studies.make(RANDOM + "[[baseline]]\nbeta1 = 0.5\n", trials=2)
    member = studies.join()
    first = claim(member)
    report(member, first, [50.0])
    member.finish(first, Fail("a bug"), artifact="first.safetensors", traceback="line 3")
    other = run(member, [1.0], Complete())
    assert steering.retry(store, 0) == 2
    again = claim(member)
    assert (again.number, again.params) == (2, first.params)
    assert again.params != other.params
    record = store.trial(2)
    assert (record.reason, record.artifact, record.reports) == (None, None, ())
    baselines = [trial.user_attrs.get("tuner:baseline") for trial in studies.trials()]
    assert baselines == [True, None, True]
    assert steering.retry(store, 1) == 3
    member.finish(again, Complete())
    assert claim(member).params == other.params


def test_a_trial_is_tried_again_with_the_same_random_numbers(studies: Studies) -> None:
    store = studies.make(trials=2)
    member = studies.join()
    first = run(member, [50.0], Complete())
    second = run(member, [50.0], Complete())
    assert steering.retry(store, 1, exactly=True) == 3
    third = claim(member)
    assert (third.number, third.config) == (2, second.config)
    assert first.config.seed != second.config.seed
    report(member, third, [50.0])
    member.finish(third, Complete())
    steering.retry(store, 2)
    assert [store.trial(number).seed_of for number in (1, 2)] == [None, 1]
    fourth = run(member, [50.0], Complete())
    assert fourth.config.hyperparameters == second.config.hyperparameters
    assert fourth.config.seed not in (first.config.seed, second.config.seed)
    steering.retry(store, 2, exactly=True)
    assert claim(member).config == second.config  # of a trial that was one such itself


def test_a_baseline_that_never_got_parameters_is_tried_again(studies: Studies) -> None:
    store = studies.make(RANDOM + "[[baseline]]\nbeta1 = 0.5\n")
    member = studies.join()
    run(member, [], Fail("a bug"))
    studies.rows("DELETE FROM trial_params")
    steering.retry(store, 0)
    assert claim(member).params["beta1"] == 0.5


def test_only_what_has_ended_is_tried_again(studies: Studies) -> None:
    store = studies.make()
    with pytest.raises(InputError, match="found no trial 0, expected one that has begun"):
        steering.retry(store, 0)
    claim(studies.join())
    with pytest.raises(InputError, match="found trial 0 running, expected one that has ended"):
        steering.retry(store, 0)
    assert len(studies.trials()) == 1


def test_a_wish_to_prune_comes_with_the_next_report(studies: Studies) -> None:
    store = studies.make()
    member = studies.join()
    claimed = claim(member)
    assert member.report(claimed, epoch(1), []) is None
    steering.request_prune(store, 0, "enough of it")
    assert member.report(claimed, epoch(2), [epoch(1)]) == "enough of it"
    member.finish(claimed, Prune("enough of it"))
    with pytest.raises(InputError, match="found trial 0 PRUNED, expected a running one"):
        steering.request_prune(store, 0, "once more")
    with pytest.raises(InputError, match="found no trial 1, expected 0 to 0"):
        steering.request_prune(store, 1, "what is not there")
    assert claim(member).number == 1
    assert studies.leases()[1][6] is None


def test_a_wish_to_prune_outlives_the_worker(studies: Studies) -> None:
    store = studies.make()
    claim(studies.join())
    steering.request_prune(store, 0, "enough")
    studies.rows(LONG_AGO)
    member = studies.join()
    assert member.report(claim(member), epoch(1), []) == "enough"


def test_a_trial_of_plain_optunas_can_not_be_told_so(studies: Studies) -> None:
    """Its program does not listen. What is said is no contradiction."""
    store = studies.make()
    studies.plain().ask()
    with pytest.raises(InputError, match="found trial 0") as caught:
        steering.request_prune(store, 0, "enough")
    assert not re.search("RUNNING, expected a running one", str(caught.value))


def test_a_study_that_is_deleted_meanwhile_is_one_line(studies: Studies) -> None:
    store = studies.make()
    steering.delete(studies.store())
    for act in (
        lambda: steering.enqueue(store, dict(POINT), {}),
        lambda: steering.delete(store),
        lambda: store.trials(),
        lambda: store.remaining(),
        lambda: store.raise_total(9),
        lambda: store.bind({"data": "abc"}),
    ):
        with pytest.raises(StorageError) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(store.database.place)
