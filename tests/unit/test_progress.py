"""Progress of a worker in a terminal and in a log."""

import io

import pytest
from builders import epoch
from rich.console import Console
from trials import claim_of, shown

from tuner.phases import Phase, PhaseClock
from tuner.study.sinks import Ending, Released
from tuner.study.verdict import Complete, Fail, Prune
from tuner.views.progress import LiveProgress, PlainProgress, outcome


def no_estimate() -> None:
    """An unknown time left."""


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


def test_the_time_left_is_estimated_after_events_and_counts_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, estimates = [100.0], [80.0, 40.0]
    monkeypatch.setattr("tuner.views.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=160)
    view = LiveProgress(console, 0, 5, "fid", lambda: estimates.pop(0))
    view.started(claim_of(7))
    assert " left" not in shown(view._render())[2]
    view.epoch(claim_of(7), epoch(1))
    assert shown(view._render())[2].endswith("about 1 min 20 s left")
    now[0] += 2
    view.epoch(claim_of(7), epoch(2))  # too early for another estimate
    assert shown(view._render())[2].endswith("about 1 min 18 s left")
    now[0] += 3
    view.epoch(claim_of(7), epoch(3))
    assert shown(view._render())[2].endswith("about 40 s left")
    now[0] += 50
    assert shown(view._render())[2].endswith("about 0 s left")


def test_live_progress_shows_the_epochs_of_a_resumed_trial() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    claim = claim_of(7)._replace(history=(epoch(1, 30.0), epoch(2, 20.0)))
    view = LiveProgress(console, finished=0, total=5, objective="fid", seconds_left=no_estimate)
    with view.live:
        view.started(claim)
        line = shown(view._render())[1].split()
        assert line[:4] == ["7", "2/4", "training", "20"]
        view.ended(claim, Released("lost to another worker"))
        view.epoch(claim, epoch(3, 10.0))  # arrives late
        text = shown_text(view)
    assert "trial 7 lost to another worker" in console.file.getvalue()
    assert "0/5 trials" in text
    assert "2/4" not in text


def test_live_progress_shows_running_trials_and_totals() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    claim, other = claim_of(7), claim_of(8)
    view = LiveProgress(console, finished=2, total=5, objective="fid", seconds_left=no_estimate)
    with view.live:
        for one in (claim, other):
            view.started(one)
        view.doing(0, 7, "compiling", 42.3)
        view.doing(1, 8, "", 0.0)
        rows = [line.split() for line in shown(view._render())[1:3]]
        assert [row[:5] for row in rows] == [
            ["7", "0/4", "compiling", "42", "s"],
            ["8", "0/4", "training", "learning_rate=0.0002123", "batch_size=64"],
        ]
        view.epoch(claim, epoch(1, 30.0))
        view.doing(0, 7, "evaluating", 0.4)
        view.epoch(other, epoch(1, None))
        lines = [line.split() for line in shown(view._render())]
        assert lines[1] == [
            *("7", "1/4", "evaluating", "30", "1.5", "16,000", "20%", "15", "s"),
            *("learning_rate=0.0002123", "batch_size=64"),
        ]
        assert lines[2][:6] == ["8", "1/4", "training", "-", "1.5", "16,000"]
        assert " ".join(lines[3]).endswith("2/5 trials, best FID here 30 (trial 7)")
        view.ended(claim, Complete())
        view.ended(other, Fail("a bug"))
        text = shown_text(view)
    assert "3/5 trials" in text
    assert "learning_rate" not in text


def test_live_progress_shows_the_probability_of_augmentation_where_it_adapts() -> None:
    view = LiveProgress(Console(file=io.StringIO(), width=160), 0, 5, "fid", no_estimate)
    view.started(claim_of(7))
    assert "augmentation" not in shown_text(view)
    view.epoch(claim_of(7), epoch(1, augmentation=0.125))
    lines = shown(view._render())
    assert "  loss ratio  augmentation  images/s  " in lines[0]
    assert lines[1].split()[3:7] == ["50", "1.5", "0.125", "16,000"]


def test_progress_is_a_bar_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    view = LiveProgress(console, finished=0, total=5, objective="fid", seconds_left=no_estimate)
    with view.live:
        view.announce("decoding images: 500 of 1,000", 0.5)
        [*_, line] = shown(view._render())
        view.announce("5,000 images")
        [_, _, later] = shown(view._render())
    assert line.count("━") == 15
    assert line.endswith("decoding images: 500 of 1,000")
    assert later.strip() == "starting JAX"


def test_workers_without_a_trial_show_what_they_are_doing() -> None:
    now = [100.0]
    clock = PhaseClock(now=lambda: now[0])
    view = LiveProgress(Console(file=io.StringIO(), width=80), 0, 5, "fid", no_estimate)
    view.follow(clock)
    assert len(shown(view._render())) == 2  # nothing worth a line
    with clock.phase(Phase.OTHER, "loading images"):
        now[0] += 12
        assert shown(view._render())[2:] == ["loading images 12 s"]
    view.started(claim_of(7))
    with clock.phase(Phase.EVALUATION):
        now[0] += 3
        assert shown(view._render())[1].split()[:5] == ["7", "0/4", "evaluating", "3", "s"]


def test_several_workers_without_a_trial_are_told_apart() -> None:
    view = LiveProgress(Console(file=io.StringIO(), width=80), 0, 5, "fid", no_estimate)
    view.doing(0, None, "compiling", 90.0)
    view.doing(1, None, "waiting for a trial", 5.0)
    view.doing(2, 7, "training", 5.0)
    lines = shown(view._render())[2:]
    assert lines == ["worker 0: compiling 1 min 30 s", "worker 1: waiting for a trial 5 s"]


def test_a_taken_over_trial_names_the_lost_worker() -> None:
    claim = claim_of(7)._replace(lost="north:4711, last seen 45 s ago", predecessor="worker a on b")
    claim = claim._replace(history=(epoch(1, 30.0),))
    console = Console(file=(file := io.StringIO()), width=200)
    PlainProgress(console).started(claim)
    lines = [line.split(" ", 1)[1] for line in file.getvalue().splitlines()]
    assert lines[0] == "took over trial 7 from north:4711, last seen 45 s ago"
    assert lines[1].startswith("trial 7 continues after epoch 1 (trained by worker a on b): ")
    file.truncate(0)
    LiveProgress(console, 0, 5, "fid", no_estimate).started(claim)
    assert "took over trial 7 from north:4711, last seen 45 s ago\n" in file.getvalue()


def test_progress_in_a_log_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = PlainProgress(Console(file=out, width=100))
    for second in range(25):
        monkeypatch.setattr("tuner.views.progress.time.monotonic", lambda now=second: float(now))
        view.announce(f"decoding images: {second} of 25", second / 25)
    assert [line.split()[3] for line in out.getvalue().splitlines()] == ["0", "10", "20"]
