"""Retries after transient errors."""

import time

import pytest

from tuner.errors import InputError, LeaseLostError, StorageError
from tuner.study import retrying
from tuner.study.retrying import LIMIT, Retrier


class Failing:
    """Raises ``error`` the first ``times`` calls, then returns."""

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


def test_transient_errors_are_retried_until_success(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    messages: list[str] = []
    attempt = Failing(9)
    retrier = Retrier(messages.append)
    assert retrier(attempt) == "done"
    assert attempt.calls == 10
    assert messages == ["db: it is away; trying again for up to 600 s", "recovered; continuing"]
    assert all(0.05 <= pause <= 2.0 for pause in pauses)
    assert pauses[0] <= 0.1
    assert all(pause >= 1.0 for pause in pauses[5:])  # they grow to at most two seconds
    assert len(set(pauses)) == 9  # random, so that workers do not retry in step
    assert retrier.retries == 9
    assert retrier(attempt) == "done"
    assert len(messages) == 2
    assert retrier.retries == 9


@pytest.mark.parametrize(
    "error",
    [StorageError("db: no such table"), InputError("wrong"), LeaseLostError("lost"), KeyError("x")],
)
def test_permanent_errors_are_not_retried(error: Exception) -> None:
    messages: list[str] = []
    attempt = Failing(1, error)
    retrier = Retrier(messages.append)
    with pytest.raises(type(error)) as caught:
        retrier(attempt)
    assert caught.value is error
    assert (attempt.calls, messages, retrier.last_trouble, retrier.retries) == (1, [], None, 0)


def test_retries_stop_at_the_limit() -> None:
    messages: list[str] = []
    attempt = Failing(1000)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"^db: it is away; gave up after 0.3 s$") as caught:
        Retrier(messages.append, limit=0.3)(attempt)
    assert 0.3 <= time.monotonic() - began < 3
    assert not caught.value.transient
    assert attempt.calls > 2
    assert len(messages) == 1


def test_changes_of_the_clock_do_not_stop_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps a day forward and back."""
    jumps = iter([86_400.0 * (-1) ** i for i in range(1000)])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    retrier = Retrier(lambda text: None, limit=60)
    before = time.monotonic()
    assert retrier(Failing(3)) == "done"
    assert retrier.last_trouble is not None
    assert before <= retrier.last_trouble <= time.monotonic()


def test_retries_outlast_a_restart_of_the_database() -> None:
    assert LIMIT >= 300
    assert retrying.LONGEST_PAUSE <= 5
