"""Trying again while something is away: for how long, how often, and what is said of it."""

import time

import pytest

from tuner.errors import InputError, LeaseLostError, StorageError
from tuner.study import patience
from tuner.study.patience import LIMIT, Patience


class Failing:
    """Fails so often, then returns its name."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.calls = 0
        self.error = error or StorageError("db: it is away", transient=True)

    def __call__(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return "done"


def test_what_passes_is_tried_until_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    said: list[str] = []
    attempt = Failing(9)
    patient = Patience(said.append)
    assert patient(attempt) == "done"
    assert attempt.calls == 10
    assert said == ["db: it is away; trying again for up to 600 s", "it answers again"]
    assert all(0.05 <= pause <= 2.0 for pause in pauses)
    assert pauses[0] <= 0.1
    assert all(pause >= 1.0 for pause in pauses[5:])  # they grow, to two seconds at most
    assert len(set(pauses)) == 9  # and are random: workers must not come all at once
    assert patient.retries == 9
    assert patient(attempt) == "done"
    assert len(said) == 2
    assert patient.retries == 9


@pytest.mark.parametrize(
    "error",
    [StorageError("db: no such table"), InputError("wrong"), LeaseLostError("lost"), KeyError("x")],
)
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    said: list[str] = []
    attempt = Failing(1, error)
    patient = Patience(said.append)
    with pytest.raises(type(error)) as caught:
        patient(attempt)
    assert caught.value is error
    assert (attempt.calls, said, patient.last_trouble, patient.retries) == (1, [], None, 0)


def test_it_ends_with_the_limit() -> None:
    said: list[str] = []
    attempt = Failing(1000)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"^db: it is away; gave up after 0.3 s$") as caught:
        Patience(said.append, limit=0.3)(attempt)
    assert 0.3 <= time.monotonic() - began < 3
    assert not caught.value.transient
    assert attempt.calls > 2
    assert len(said) == 1


def test_a_clock_that_is_set_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall-clock time jumps by a day, both ways, at each look at it."""
    jumps = iter([86_400.0 * (-1) ** i for i in range(1000)])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    patient = Patience(lambda text: None, limit=60)
    before = time.monotonic()
    assert patient(Failing(3)) == "done"
    assert patient.last_trouble is not None
    assert before <= patient.last_trouble <= time.monotonic()


def test_workers_outlive_a_restart_of_their_database() -> None:
    assert LIMIT >= 300
    assert patience.LONGEST_PAUSE <= 5
