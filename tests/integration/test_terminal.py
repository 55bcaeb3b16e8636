"""Terminal views: a running study, one trial and its samples."""

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import study_databases
from builders import epoch, spec_of
from PIL import Image
from postgres import Postgres
from processes import Running
from screens import Screen
from study_databases import MACHINE, Studies, claim, report, run, spec
from trials import rendered

from tuner.cli.trials import newest_picture
from tuner.epoch_report import EpochReport
from tuner.files.study_files import open_files
from tuner.study.database import Database
from tuner.study.records import Ownership, TrialRecord
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudySnapshot
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail
from tuner.study.workers import WorkerRecord
from tuner.views.images import inline_image
from tuner.views.status import status_view
from tuner.views.trial_detail import trial_view

sqlite = study_databases.sqlite
Command = Callable[..., tuple[int, str, str]]

ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"  # the alternate screen
# A terminal's answers to queries: its attributes (4 means sixels), kitty's protocol, cell size.
SIXELS, NO_SIXELS, KITTY = "\x1b[?62;4c", "\x1b[?62;22c", "\x1b_Gi=1;OK\x1b\\"
CELLS = "\x1b[6;20;10t"
SIXEL_START, KITTY_START = "\x1bP", "\x1b_G.*,f=100,"  # of a picture


@pytest.fixture
def tuner(sqlite: Studies, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the database: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        code = command_line.call(*words, "--storage", sqlite.url)
        return (code, *capsys.readouterr())

    return call


def png() -> bytes:
    data = io.BytesIO()
    Image.new("L", (60, 40), 200).save(data, format="PNG")
    return data.getvalue()


def ended_study(studies: Studies) -> StudyStore:
    """A finished study of two trials, the first one better."""
    store = studies.create(trials=2)
    session = studies.join()
    run(session, [30.0, 25.0, None, 20.0], Complete())
    run(session, [300.0, 27.0], Complete())
    session.leave_at_once()
    return store


# status --watch


def running(number: int, *reports: EpochReport) -> TrialRecord:
    return TrialRecord(number, "RUNNING", {}, None, reports, None, None, {})


NOTHING_MEASURED: dict[str, Any] = {"loss_ratio": None, "train_seconds": 0.0}
LONG_NAMES = WorkerRecord("abcdef123456", "a-machine-with-a-long-name", 12, "", True, 2.6, 17, 12)
SNAPSHOT = StudySnapshot(
    total=100,
    trials={"COMPLETE": 30, "PRUNED": 40, "FAIL": 1, "RUNNING": 3, "WAITING": 2},
    epochs={"COMPLETE": 1500, "PRUNED": 400, "FAIL": 3, "RUNNING": 40},
    running={
        17: running(
            17,
            *(epoch(n, 1234.56789, train_seconds=9.0) for n in range(1, 12)),
            epoch(12, None, loss_ratio=1.2345e-05, train_seconds=9.0, images=13_333_324),
        ),
        18: running(18),
        19: running(19, *(epoch(n, None, **NOTHING_MEASURED) for n in range(1, 51))),
    },
    workers=[
        LONG_NAMES._replace(device="NVIDIA H100 80GB HBM3"),
        LONG_NAMES._replace(device="cpu", trial=18),
        LONG_NAMES._replace(device="cpu", trial=None),
        LONG_NAMES._replace(device="cpu", trial=19, alive=False, seen=3500.0),
    ],
    best=TrialRecord(4, "COMPLETE", {"width": 8}, 25.5, (), "all epochs trained", None, {}),
)


def test_eighty_columns_cut_names_but_no_number() -> None:
    lines = rendered(status_view(SNAPSHOT, spec(epochs=50)), 80)
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["100", "30", "40", "0", "3", "1", "1,943", "1", "h", "08", "min"]
    assert lines[2] == "Best: trial 4, FID 25.5 (one seed), width=8"
    [head] = [line for line in lines if line.startswith("worker ")]
    rows = lines[lines.index(head) + 1 :][: len(SNAPSHOT.workers)]
    assert rows[0].split()[-7:] == ["17", "12/50", "1235", "1.234e-05", "123,457", "3", "s"]
    assert rows[1].split()[-7:] == ["18", "0/50", "-", "-", "-", "3", "s"]
    assert rows[2].split()[-7:] == ["-", "-", "-", "-", "-", "3", "s"]
    assert rows[3].split()[-10:] == [
        *("19", "50/50", "-", "-", "-", "lost", "58", "min", "20", "s"),
    ]
    assert "…" in rows[0]
    assert "Without a live worker: trial 19" in lines


def test_wide_terminals_show_names_in_full() -> None:
    text = "\n".join(rendered(status_view(SNAPSHOT, spec(epochs=50)), 140))
    for name in ("abcdef123456", "a-machine-with-a-long-name", "NVIDIA H100 80GB HBM3"):
        assert name in text


def test_ages_grow_without_new_data() -> None:
    text = "\n".join(rendered(status_view(SNAPSHOT, spec(epochs=50), age=60.0), 140))
    assert " 1 min 03 s" in text
    assert " lost 59 min 20 s" in text


def test_the_time_left_says_what_it_assumes() -> None:
    asha = spec_of("[study]\nepochs = 50")
    for ahead, assumed in ((None, "running trials train all epochs"), (90, "1 in 3 trials passes")):
        view = status_view(SNAPSHOT._replace(epochs_ahead=ahead), asha)
        assert assumed in " ".join(rendered(view, 140))


def test_workers_show_what_they_are_doing_and_for_how_long() -> None:
    worker = LONG_NAMES._replace(doing="compiling", doing_seconds=80.0)
    lost = worker._replace(alive=False, trial=19)
    snapshot = SNAPSHOT._replace(workers=[worker, lost, LONG_NAMES._replace(trial=None)])
    for width in (80, 140):
        lines = rendered(status_view(snapshot, spec(epochs=50), age=4.0), width)
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert re.search(r" compiling 1 min 24 s +17 +12/50 ", text)
        assert re.search(r" - +19 +50/50 ", text)  # what it did last no longer counts
        assert re.search(r" - +- +- +- ", text)


def test_workers_that_do_not_fit_are_counted() -> None:
    lines = rendered(status_view(SNAPSHOT, spec(epochs=50), max_workers=1), 140)
    assert sum(line.startswith("abcdef") for line in lines) == 1
    assert "… and 3 more" in lines


def test_a_study_without_trials_has_a_status() -> None:
    empty = StudySnapshot(3, {}, {}, {}, [], None)
    lines = rendered(status_view(empty, spec()), 80)
    assert lines[1:3] == [
        "    3         0       0       0        0       0            0          -",
        "No trial is complete yet.",
    ]
    assert lines[3].startswith("No worker is running; start one with: ")
    assert lines[3].endswith("tuner worker s")


def test_a_study_that_has_ended_is_shown_once(sqlite: Studies, tuner: Command) -> None:
    ended_study(sqlite)
    code, text, errors = tuner("status", "s", "--watch")
    assert (code, errors) == (0, "")
    assert text.count("study s") == 1
    assert re.search(r"^ +2 +2 +0 +0 +0 +0 +6 +0 s$", text, re.M)
    assert "Best: trial 0, FID 20 (one seed), " in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--watch"], "--watch needs the name of a study: tuner status NAME --watch"),
        (["--watch", "--json"], "--watch needs the name of a study: tuner status NAME "),
        (["s", "--watch", "--json"], "--watch can't be combined with --json"),
        (["s", "--every", "3"], "--every needs --watch"),
        (["s", "--watch", "--every", "0"], "--every: found 0, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "-1"], "--every: found -1, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "nan"], "--every: found nan, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "1e9"], "--every: found 1e+09, expected 0.2 to 3600 seconds"),
        (["t", "--watch"], "studies.db: no study 't', expected one of: s"),
    ],
)
def test_invalid_watch_options_are_refused(
    words: list[str], problem: str, sqlite: Studies, tuner: Command
) -> None:
    sqlite.create()
    code, text, errors = tuner("status", *words)
    assert (code, text, len(errors.splitlines())) == (2, "", 1)
    assert problem in errors


def test_a_log_gets_one_snapshot_after_another(
    sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.create(trials=1)
    session = sqlite.join()
    claimed = claim(session)
    words = ("status", "s", "--watch", "--every", "0.2", "--storage", sqlite.url)
    with Running(tmp_path, environment, *words) as watch:
        for number in (1, 2):
            session.report(claimed, epoch(number, 40.0 + number), [])
            watch.wait_for(rf"^{session.worker} .* 0 +{number}/4 +4{number} +1.5 +16,000 +\d+ s$")
        session.finish(claimed, Complete())
        session.leave_at_once()
        assert watch.wait() == 0
    assert watch.errors == ""
    assert "\x1b" not in watch.text
    assert re.search(r"^ +1 +1 +0 +0 +0 +0 +2 +0 s$", watch.text.split("study s")[-1], re.M)


def test_a_terminal_shows_workers_until_the_last_has_left(
    sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.create(trials=2)
    sessions = [sqlite.join(), sqlite.join()]
    claims = [claim(session) for session in sessions]
    report(sessions[0], claims[0], [40.0])
    words = ("status", "s", "--watch", "--every", "0.2", "--storage", sqlite.url)
    with Screen(tmp_path, environment, *words) as screen:
        first = rf"{sessions[0].worker} .* 0 +1/4 +40 +1.5 +16,000 "
        second = rf"{sessions[1].worker} .* 1 +0/4 +- +- +- "
        text = screen.frame(first, second, r"refreshed every 0.2 s; press Ctrl-C to leave")
        assert max(len(line) for line in text.splitlines()) == 120  # the screen is filled
        screen.resize(20, 70)
        text = screen.frame(r"1/4 +40 ", r"0/4 +- ", r"^.{1,70}\r?\n")
        assert max(len(line) for line in text.splitlines()) == 70
        screen.resize(20, 100)
        report(sessions[1], claims[1], [35.0])
        text = screen.frame(r" 0 +1/4 +40 ", r" 1 +1/4 +35 ")
        for session, claimed in zip(sessions, claims, strict=True):
            session.finish(claimed, Complete())
            session.leave_at_once()
        assert screen.wait() == 0
        before, after = screen.shown.split(LEAVE_SCREEN)
        assert ENTER_SCREEN in before
        best = r"Best: trial 1, FID 35 \(one seed\), "
        assert re.search(rf"\n +2 +2 +0 +0 +0 +0 +2 +0 s *\r\n.*{best}", after, re.S)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_leaving_restores_the_terminal(
    how: str, sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.create()
    worker = sqlite.join().worker
    with Screen(tmp_path, environment, "status", "s", "--watch", "--storage", sqlite.url) as screen:
        screen.frame(worker)
        if how == "Ctrl-C":
            screen.press("\x03")
        else:
            screen.signal(signal.SIGTERM)
        assert screen.wait() == 0
        after = screen.shown.split(LEAVE_SCREEN)[1]
        assert worker in after  # the last snapshot stays
        assert screen.shown.rindex("\x1b[?25h") > screen.shown.rindex("\x1b[?25l")  # the cursor
        assert "Traceback" not in screen.shown


def test_watch_waits_for_an_unreachable_database(
    postgres: Postgres, tmp_path: Path, environment: dict[str, str]
) -> None:
    url = postgres.new_database()
    Database(url, create=True).rdb.engine.dispose()
    studies = Studies(url)
    store = studies.create()
    session = WorkerSession(store, MACHINE, print)
    words = ("status", "s", "--watch", "--every", "0.5")
    with_storage = environment | {"TUNER_STORAGE": url}
    with (
        Screen(tmp_path, with_storage, *words) as screen,
        Running(tmp_path, with_storage, *words) as log,
    ):
        screen.frame("No trial is complete yet")
        log.wait_for("No trial is complete yet")
        postgres.stop()
        try:
            text = screen.frame(r"as of \d+ s ago; trying again", "No trial is complete yet")
            line = log.wait_for("the database failed: .*; trying again")[0]
        finally:
            postgres.start()
        assert "p4ss" not in text + line
        with session.joined():
            run(session, [7.0], Complete())
        screen.frame("Best: trial 0, FID 7 ", r"press Ctrl-C to leave")
        log.wait_for("Best: trial 0, FID 7 ")
        log.signal(signal.SIGINT)
        assert log.wait() == 0
        assert log.errors == ""
    studies.close()


# One trial


def record(**changes: Any) -> TrialRecord:
    reports = tuple(epoch(n, None if n % 2 else 200.0 / n) for n in range(1, 31))
    made = TrialRecord(
        *(3, "COMPLETE", {"learning_rate": 2.123456e-4, "loss": "hinge"}, 6.667, reports),
        *("all epochs trained", None, {"device": "cpu", "jax": "0.10"}),
    )
    return made._replace(**changes)


OWNERSHIP = Ownership("here", "cpu", "abc", 1, 29, 1e9, 1e9 + 60)


def test_a_trial_view_has_settings_curve_epochs_and_owners() -> None:
    lines = rendered(trial_view(spec(epochs=30), record(), [OWNERSHIP], None, 80), 80)
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines]
    assert lines[0] == (
        "Trial 3 of s, complete, FID 6.667 (the best of its epochs): all epochs trained"
    )
    assert ["learning", "rate", "0.0002123"] in words
    assert ["loss", "hinge"] in words
    assert ["epochs", "30", "of", "30"] in words
    [line] = [line for line in lines if line.startswith("FID ")]
    assert line.rstrip() == f"FID          {' '.join('█▆▅▄▄▃▃▂▂▂▁▁▁▁▁')}  6.667 to 100, logarithmic"
    rows = [line for line in words if line[:1] and line[0].isdigit() and line[-2:] == ["5", "s"]]
    assert len(rows) == 20  # of the 30 epochs
    assert (rows[0][:2], rows[-1][:2]) == (["1", "-"], ["30", "6.667"])
    [owner] = [line for line in words if line[:3] == ["1", "to", "29"]]
    assert owner[3:6] + owner[-5:] == ["abc", "here", "cpu", "1", "min", "00", "s", "later"]


def test_a_trial_without_epochs_shows_its_failure() -> None:
    failed = record(state="FAIL", value=None, reports=(), reason="a [bug]", machine={})
    lines = rendered(trial_view(spec(), failed, [], "Traceback:\n  in f\n", 80), 80)
    assert lines[0] == "Trial 3 of s, fail: a [bug]"
    assert [line.rstrip() for line in lines[-2:]] == ["Traceback:", "  in f"]


def test_show_prints_the_trial(sqlite: Studies, tuner: Command) -> None:
    ended_study(sqlite)
    code, text, errors = tuner("show", "s", "0")
    assert (code, errors) == (0, "")
    assert text.startswith("Trial 0 of s, complete, FID 20 (the best of its epochs)")
    assert re.search(r"^FID +█▅ ▁ +20 to 30 *$", text, re.M)
    assert not any(word in text.lower() for word in ("samples", "traceback", "\x1b"))


def test_show_prints_json(sqlite: Studies, tmp_path: Path, tuner: Command) -> None:
    store = ended_study(sqlite)
    code, text, errors = tuner("show", "s", "1", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(text)
    assert (found["number"], found["value"], found["epochs"]) == (1, 27.0, 4)
    assert [report["fid"] for report in found["reports"]] == [300.0, 27.0]
    [owner] = found["stints"]
    assert (owner["first_epoch"], owner["last_epoch"], owner["device"]) == (1, 2, "cpu")
    assert (found["picture"], found["traceback"]) == (None, None)
    files = open_files(store, str(tmp_path / "files"))
    files.write("pictures/trial-00001/samples-epoch-0003.png", png())
    found = json.loads(tuner("show", "s", "1", "--json")[1])
    place = Path(found["picture"])
    assert place.name == "samples-epoch-0003.png"
    assert place.read_bytes() == png()


def test_show_starts_no_jax(sqlite: Studies, tmp_path: Path, environment: dict[str, str]) -> None:
    """Importing JAX takes seconds and device memory."""
    files = open_files(ended_study(sqlite), str(tmp_path / "files"))
    files.write("pictures/trial-00000/samples-epoch-0003.png", png())
    words = ["tuner", "show", "s", "0", "--storage", sqlite.url]
    code = f"import sys, tuner.cli\nsys.argv = {words}\ntry: tuner.cli.main()\n"
    code += "except SystemExit: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Samples: " in done.stdout
    loaded = done.stdout.split()
    assert "tuner.files.study_files" in loaded
    assert not {"jax", "flax", "textual_image"} & set(loaded)


def test_show_of_a_failed_trial_has_its_traceback(sqlite: Studies, tuner: Command) -> None:
    sqlite.create()
    session = sqlite.join()
    session.finish(claim(session), Fail("a bug"), traceback="Traceback: in f")
    assert "Traceback: in f" in tuner("show", "s", "0")[1]
    assert json.loads(tuner("show", "s", "0", "--json")[1])["traceback"] == "Traceback: in f"


@pytest.mark.parametrize(
    ("trial", "problem"),
    [
        ("2", "study 's' has no trial 2; its trials are 0 to 1"),
        ("-1", "-1"),
        ("x", "valid integer"),
    ],
)
def test_a_missing_trial_is_refused(
    trial: str, problem: str, sqlite: Studies, tuner: Command
) -> None:
    ended_study(sqlite)
    code, text, errors = tuner("show", "s", trial)
    assert (code, text) == (2, "")
    assert problem in errors


# Samples


def test_the_newest_picture_is_that_of_the_latest_epoch(sqlite: Studies, tmp_path: Path) -> None:
    files = open_files(sqlite.create(), str(tmp_path))
    assert newest_picture(files, 1) is None
    for name in ("trial-00001/curves-9999.svg", "trial-00002/samples-epoch-0009.png"):
        files.write(f"pictures/{name}", b"of no matter")
    assert newest_picture(files, 1) is None
    for number in (3, 12, 100, 5):
        files.write(f"pictures/trial-00001/samples-epoch-{number}.png", png())
    assert newest_picture(files, 1) == "pictures/trial-00001/samples-epoch-100.png"


def test_without_a_terminal_the_path_is_shown(
    sqlite: Studies, tmp_path: Path, tuner: Command
) -> None:
    files = open_files(ended_study(sqlite), str(tmp_path / "files"))
    files.write("pictures/trial-00000/samples-epoch-0003.png", png())
    code, text, errors = tuner("show", "s", "0")
    assert (code, errors) == (0, "")
    place = files.locate("pictures/trial-00000/samples-epoch-0003.png")
    assert text.splitlines()[-1] == f"Samples: {place}"
    assert inline_image(png()) is None


def test_a_trial_is_shown_without_its_files(
    sqlite: Studies, tmp_path: Path, tuner: Command
) -> None:
    store = ended_study(sqlite)
    open_files(store, str(tmp_path / "files"))
    (tmp_path / "files" / store.folder / "token").unlink()
    code, text, errors = tuner("show", "s", "0")
    assert (code, errors) == (0, "")
    assert text.startswith("Trial 0 of s")
    assert "No samples: artifacts: no files of study 's'" in text


def test_a_report_counts_the_trials_without_samples(
    sqlite: Studies, tmp_path: Path, tuner: Command
) -> None:
    store = sqlite.create(trials=2)
    session = sqlite.join()
    for fid in (20.0, 30.0):
        run(session, [fid], Complete(), artifact="missing.safetensors")
    files = open_files(store, str(tmp_path / "files"))
    files.write("pictures/trial-00000/samples-epoch-000001.png", png())
    code, text, errors = tuner("report", "s", "--out", str(tmp_path / "report.html"))
    assert (code, errors) == (0, "")
    assert "Samples of 1 of 2 trials are missing: " in text
    assert "Real images are missing: " in text
    code, text, errors = tuner("report", "s", "--images", "--out", str(tmp_path / "report.html"))
    assert (code, errors) == (0, "")
    assert text.splitlines()[-1].startswith("Nothing is drawn: ")
    code, text, errors = tuner("report", "s", "--compare", "7")
    assert (code, text) == (2, "")
    assert "has no trial 7" in errors


@pytest.mark.parametrize(
    ("answers", "data", "drawn"),
    [
        (SIXELS + CELLS, png(), SIXEL_START),
        (SIXELS, png(), SIXEL_START),  # with the default cell size
        (NO_SIXELS + KITTY + CELLS, png(), KITTY_START),
        (SIXELS + CELLS, png()[:60], None),
        (NO_SIXELS, png(), None),
    ],
    ids=["sixels", "of unknown size", "kitty", "a damaged picture", "no pictures"],
)
def test_terminals_with_graphics_draw_the_samples(
    answers: str,
    data: bytes,
    drawn: str | None,
    sqlite: Studies,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    files = open_files(ended_study(sqlite), str(tmp_path / "files"))
    files.write("pictures/trial-00000/samples-epoch-0003.png", data)
    words = ("show", "s", "0", "--storage", sqlite.url)
    with Screen(tmp_path, environment, *words, typed=answers) as screen:
        assert screen.wait() == 0
    after = screen.shown.split("Trial 0 of s")[1]  # the terminal echoes its answers first
    found = [start for start in (SIXEL_START, KITTY_START) if re.search(start, after)]
    assert found == ([] if drawn is None else [drawn])
    assert "samples-epoch-0003.png" in after
    assert "Traceback" not in screen.shown


def test_samples_are_written_only_as_png(tmp_path: Path, tuner: Command) -> None:
    code, text, errors = tuner("sample", "s", "--out", str(tmp_path / "s2.jpg"))
    assert (code, text) == (2, "")
    assert errors == f"tuner: --out: {tmp_path}/s2.jpg: found '.jpg', expected .png\n"
