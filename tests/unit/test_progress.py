"""Progress of a worker in a terminal and in a log."""

import io

import pytest
from builders import epoch
from rich.console import Console
from trials import claim_of, shown

from tuner.study.sinks import Ending, Released
from tuner.study.verdict import Complete, Fail, Prune
from tuner.views.progress import LiveProgress, PlainProgress, outcome


def shown_text(view: LiveProgress) -> str:
    return "\n".join(shown(view._render()))


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Released("released, to be resumed"), "released, to be resumed"),
        (Complete(), "complete"),
        (Prune("bad"), "pruned: bad"),
        (Fail("a bug"), "failed: a bug"),
    ],
)
def test_an_outcome_as_text(ending: Ending, text: str) -> None:
    assert outcome(ending) == text


def test_plain_progress_prints_a_line_per_event() -> None:
    console = Console(file=(file := io.StringIO()), width=40)
    claim = claim_of(7)
    view = PlainProgress(console)
    view.started(claim)
    view.epoch(claim, epoch(2, 123.456, d_auc=None))
    view.ended(claim, Prune("bad [1,2]"))
    times, lines = zip(*(line.split(" ", 1) for line in file.getvalue().splitlines()), strict=True)
    assert all(len(time.split(":")) == 3 for time in times)
    assert lines[0] == "trial 7 starts: learning_rate=0.0002123 batch_size=64"
    assert lines[1].startswith("trial 7 epoch 2/4 FID 123.5 loss ratio 1.5 variance ratio 0.9")
    assert lines[1].endswith("16,000 images/s evaluation 20%")
    assert lines[2] == "trial 7 pruned: bad [1,2]"


def test_plain_progress_names_the_predecessor_of_a_resumed_trial() -> None:
    console = Console(file=(file := io.StringIO()), width=200)
    history = (epoch(1, 30.0), epoch(2, 20.0))
    claim = claim_of(7)._replace(history=history, predecessor="worker a on b")
    view = PlainProgress(console)
    view.started(claim)
    view.ended(claim, Released("released, to be resumed"))
    lines = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert lines[0].startswith(
        "trial 7 continues after epoch 2 (trained by worker a on b): learning_rate="
    )
    assert lines[1] == "trial 7 released, to be resumed"


def test_live_progress_shows_the_epochs_of_a_resumed_trial() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    claim = claim_of(7)._replace(history=(epoch(1, 30.0), epoch(2, 20.0)))
    view = LiveProgress(console, finished=0, total=5, objective="fid")
    with view.live:
        view.started(claim)
        line = shown(view._render())[1].split()
        assert line[:3] == ["7", "2/4", "20"]
        view.ended(claim, Released("lost to another worker"))
        view.epoch(claim, epoch(3, 10.0))  # arrives late
        text = shown_text(view)
    assert "trial 7 lost to another worker" in text
    assert "0/5 trials" in text
    assert "2/4" not in text


def test_live_progress_shows_running_trials_and_totals() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    claim, other = claim_of(7), claim_of(8)
    view = LiveProgress(console, finished=2, total=5, objective="fid")
    with view.live:
        for one in (claim, other):
            view.started(one)
        assert "trial 7: compiling and training its first epoch here, 0 s" in shown_text(view)
        view.epoch(claim, epoch(1, 30.0))
        assert "trial 7: compiling" not in shown_text(view)
        view.epoch(other, epoch(1, None))
        lines = [line.split() for line in shown(view._render())]
        assert lines[1] == [
            *("7", "1/4", "30", "1.5", "16,000", "20%", "15", "s"),
            *("learning_rate=0.0002123", "batch_size=64"),
        ]
        assert lines[2][:5] == ["8", "1/4", "-", "1.5", "16,000"]
        assert " ".join(lines[3]).endswith("2/5 trials, best FID here 30 (trial 7)")
        view.ended(claim, Complete())
        view.ended(other, Fail("a bug"))
        text = shown_text(view)
    assert "3/5 trials" in text
    assert "learning_rate" not in text


def test_progress_is_a_bar_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = LiveProgress(console, finished=0, total=5, objective="fid")
    with view.live:
        view.announce("decoding images: 500 of 1,000", 0.5)
        [_, _, line] = shown(view._render())
        view.announce("starting JAX")
        [_, _, later] = shown(view._render())
    assert line.count("━") == 15
    assert line.endswith("decoding images: 500 of 1,000")
    assert later.strip() == "starting JAX"


def test_progress_in_a_log_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = PlainProgress(Console(file=out, width=100))
    for second in range(25):
        monkeypatch.setattr("tuner.views.progress.time.monotonic", lambda now=second: float(now))
        view.announce(f"decoding images: {second} of 25", second / 25)
    assert [line.split()[3] for line in out.getvalue().splitlines()] == ["0", "10", "20"]
