"""What people look at in the terminal: a study as it runs, one trial, its samples."""

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workplace
from builders import epoch
from PIL import Image
from postgres import Postgres
from processes import Running
from rich.console import Console, RenderableType
from screens import Screen
from workplace import MACHINE, Studies, claim, report, run, spec

from tuner.cli import main
from tuner.cli.showing import newest_picture
from tuner.run.files import open_files
from tuner.study.database import Database
from tuner.study.history import Stint
from tuner.study.membership import Membership
from tuner.study.present import Latest, Present
from tuner.study.store import StudyStore, TrialRecord, WorkerRecord
from tuner.study.verdict import Complete, Fail
from tuner.views.inline import inline
from tuner.views.showing import trial_view
from tuner.views.watching import present_view

sqlite = workplace.sqlite
Command = Callable[..., tuple[int, str, str]]

ENTERS, LEAVES = "\x1b[?1049h", "\x1b[?1049l"  # a screen of its own
# A terminal's answers to what it knows (4 are sixels), to kitty's protocol, to its cells' size.
SIXELS, NO_SIXELS, KITTY = "\x1b[?62;4c", "\x1b[?62;22c", "\x1b_Gi=1;OK\x1b\\"
CELLS = "\x1b[6;20;10t"
SIXEL, KITTYS = "\x1bP", "\x1b_G.*,f=100,"  # as what pictures begin


@pytest.fixture
def tuner_here(
    sqlite: Studies, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command line as a person gives it: exit code, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tuner", *words, "--storage", sqlite.url])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


def shown(view: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(view)
    return capture.get().splitlines()


def png() -> bytes:
    data = io.BytesIO()
    Image.new("L", (60, 40), 200).save(data, format="PNG")
    return data.getvalue()


def ended_study(studies: Studies) -> StudyStore:
    """Of two trials, the first one better."""
    store = studies.make(trials=2)
    member = studies.join()
    run(member, [30.0, 25.0, None, 20.0], Complete())
    run(member, [300.0, 27.0], Complete())
    member.leave_at_once()
    return store


# Watching

LONG = WorkerRecord("abcdef123456", "a-machine-with-a-long-name", 12, "", True, 2.6, 17, 12)
PRESENT = Present(
    total=100,
    trials={"COMPLETE": 30, "PRUNED": 40, "FAIL": 1, "RUNNING": 3, "WAITING": 2},
    epochs={"COMPLETE": 1500, "PRUNED": 400, "FAIL": 3, "RUNNING": 40},
    running={
        17: Latest(12, 1234.56789, 1.2345e-05, 123_456.7, 10.0),
        18: Latest(),
        19: Latest(50, None, None, None, 9.0),
    },
    workers=[
        LONG._replace(device="NVIDIA H100 80GB HBM3"),
        LONG._replace(device="cpu", trial=18),
        LONG._replace(device="cpu", trial=None),
        LONG._replace(device="cpu", trial=19, alive=False, seen=3500.0),
    ],
    best=TrialRecord(4, "COMPLETE", {"width": 8}, 25.5, (), "all epochs trained", None, {}),
)


def test_eighty_columns_cut_names_and_no_number() -> None:
    lines = shown(present_view(PRESENT, spec(epochs=50)), 80)
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["100", "30", "40", "3", "1", "1,943", "1h08m"]
    assert lines[2] == "Best: trial 4, FID 25.5, width=8"
    [head] = [line for line in lines if line.startswith("worker ")]
    rows = lines[lines.index(head) + 1 :][: len(PRESENT.workers)]
    assert rows[0].split()[-6:] == ["17", "12/50", "1235", "1.234e-05", "123,457", "3s"]
    assert rows[1].split()[-6:] == ["18", "0/50", "-", "-", "-", "3s"]
    assert rows[2].split()[-6:] == ["-", "-", "-", "-", "-", "3s"]
    assert rows[3].split()[-7:] == ["19", "50/50", "-", "-", "-", "lost", "58m20s"]
    assert "…" in rows[0]
    assert "Without a living worker: trial 19" in lines


def test_wide_terminals_show_names_in_full() -> None:
    text = "\n".join(shown(present_view(PRESENT, spec(epochs=50)), 140))
    for name in ("abcdef123456", "a-machine-with-a-long-name", "NVIDIA H100 80GB HBM3"):
        assert name in text


def test_ages_go_on_while_nothing_new_is_known() -> None:
    text = "\n".join(shown(present_view(PRESENT, spec(epochs=50), age=60.0), 140))
    assert " 1m03s" in text
    assert " lost 59m20s" in text


def test_workers_that_do_not_fit_are_counted() -> None:
    lines = shown(present_view(PRESENT, spec(epochs=50), most=1), 140)
    assert sum(line.startswith("abcdef") for line in lines) == 1
    assert "… and 3 more" in lines


def test_before_anything_runs() -> None:
    empty = Present(3, {}, {}, {}, [], None)
    assert shown(present_view(empty, spec()), 80)[1:] == [
        "        3         0       0        0       0            0          -",
        "No trial is complete yet.",
    ]


def test_a_study_that_has_ended_is_shown_once(sqlite: Studies, tuner_here: Command) -> None:
    ended_study(sqlite)
    code, text, errors = tuner_here("status", "s", "--watch")
    assert (code, errors) == (0, "")
    assert text.count("study s") == 1
    assert re.search(r"^ +2 +2 +0 +0 +0 +6 +0s$", text, re.M)
    assert "Best: trial 0, FID 20, " in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--watch"], "--watch: found no study's name, expected one: tuner status NAME --watch"),
        (["--watch", "--json"], "--watch: found no study's name, expected one: tuner status NAME "),
        (["s", "--watch", "--json"], "--watch: found --json too, expected one of the two"),
        (["s", "--every", "3"], "--every: found it without --watch, expected both"),
        (["s", "--watch", "--every", "0"], "--every: found 0, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "-1"], "--every: found -1, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "nan"], "--every: found nan, expected 0.2 to 3600 seconds"),
        (["s", "--watch", "--every", "1e9"], "--every: found 1e+09, expected 0.2 to 3600 seconds"),
        (["t", "--watch"], "studies.db: found no study 't', expected one of: s"),
    ],
)
def test_what_can_not_be_watched(
    words: list[str], problem: str, sqlite: Studies, tuner_here: Command
) -> None:
    sqlite.make()
    code, text, errors = tuner_here("status", *words)
    assert (code, text, len(errors.splitlines())) == (2, "", 1)
    assert problem in errors


def test_a_log_has_a_snapshot_after_the_other(
    sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.make(trials=1)
    member = sqlite.join()
    claimed = claim(member)
    words = ("status", "s", "--watch", "--every", "0.2", "--storage", sqlite.url)
    with Running(tmp_path, environment, *words) as watch:
        for number in (1, 2):
            member.report(claimed, epoch(number, 40.0 + number), [])
            watch.says(rf"^{member.worker} .* 0 +{number}/4 +4{number} +1.5 +16,000 +\d+s$")
        member.finish(claimed, Complete())
        member.leave_at_once()
        assert watch.ends() == 0
    assert watch.errors == ""
    assert "\x1b" not in watch.text
    assert re.search(r"^ +1 +1 +0 +0 +0 +2 +0s$", watch.text.split("study s")[-1], re.M)


def test_a_terminal_shows_workers_until_the_last_has_left(
    sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.make(trials=2)
    members = [sqlite.join(), sqlite.join()]
    claims = [claim(member) for member in members]
    report(members[0], claims[0], [40.0])
    words = ("status", "s", "--watch", "--every", "0.2", "--storage", sqlite.url)
    with Screen(tmp_path, environment, *words) as screen:
        first = rf"{members[0].worker} .* 0 +1/4 +40 +1.5 +16,000 "
        second = rf"{members[1].worker} .* 1 +0/4 +- +- +- "
        text = screen.frame(first, second, r"read every 0.2s; Ctrl-C leaves")
        assert max(len(line) for line in text.splitlines()) == 120  # the screen is filled
        screen.resize(20, 70)
        text = screen.frame(r"1/4 +40 ", r"0/4 +- ", r"^.{1,70}\r?\n")
        assert max(len(line) for line in text.splitlines()) == 70
        screen.resize(20, 100)
        report(members[1], claims[1], [35.0])
        text = screen.frame(r" 0 +1/4 +40 ", r" 1 +1/4 +35 ")
        for member, claimed in zip(members, claims, strict=True):
            member.finish(claimed, Complete())
            member.leave_at_once()
        assert screen.ends() == 0
        before, after = screen.shown.split(LEAVES)
        assert ENTERS in before
        assert re.search(r"\n +2 +2 +0 +0 +0 +2 +0s *\r\n.*Best: trial 1, FID 35, ", after, re.S)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_who_leaves_finds_the_terminal_as_it_was(
    how: str, sqlite: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    sqlite.make()
    worker = sqlite.join().worker
    with Screen(tmp_path, environment, "status", "s", "--watch", "--storage", sqlite.url) as screen:
        screen.frame(worker)
        if how == "Ctrl-C":
            screen.press("\x03")
        else:
            screen.signal(signal.SIGTERM)
        assert screen.ends() == 0
        after = screen.shown.split(LEAVES)[1]
        assert worker in after  # what was known stays
        assert screen.shown.rindex("\x1b[?25h") > screen.shown.rindex("\x1b[?25l")  # the cursor
        assert "Traceback" not in screen.shown


def test_a_database_that_is_away_is_waited_for(
    postgres: Postgres, tmp_path: Path, environment: dict[str, str]
) -> None:
    url = postgres.new_database()
    Database(url, create=True).rdb.engine.dispose()
    studies = Studies(url)
    store = studies.make()
    member = Membership(store, MACHINE, print)
    words = ("status", "s", "--watch", "--every", "0.5")
    there = environment | {"TUNER_STORAGE": url}
    with (
        Screen(tmp_path, there, *words) as screen,
        Running(tmp_path, there, *words) as log,
    ):
        screen.frame("No trial is complete yet")
        log.says("No trial is complete yet")
        postgres.stop()
        try:
            text = screen.frame(r"was known \d+s ago; trying again", "No trial is complete yet")
            line = log.says("the database failed: .*; trying again")[0]
        finally:
            postgres.start()
        assert "p4ss" not in text + line
        with member:
            run(member, [7.0], Complete())
        screen.frame("Best: trial 0, FID 7, ", r"Ctrl-C leaves")
        log.says("Best: trial 0, FID 7, ")
        log.signal(signal.SIGINT)
        assert log.ends() == 0
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


STINT = Stint("here", "cpu", "abc", 1, 29, 1e9, 1e9 + 60)


def test_trial_view() -> None:
    lines = shown(trial_view(spec(epochs=30), record(), [STINT], None, 80), 80)
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
    rows = [line for line in words if line[:1] and line[0].isdigit() and line[-1] == "5s"]
    assert len(rows) == 20  # of 30
    assert (rows[0][:2], rows[-1][:2]) == (["1", "-"], ["30", "6.667"])
    [stint] = [line for line in words if line[:3] == ["1", "to", "29"]]
    assert stint[3:6] + stint[-2:] == ["abc", "here", "cpu", "1m00s", "later"]


def test_a_trial_that_failed_before_its_first_epoch() -> None:
    failed = record(state="FAIL", value=None, reports=(), reason="a [bug]", machine={})
    lines = shown(trial_view(spec(), failed, [], "Traceback:\n  in f\n", 80), 80)
    assert lines[0] == "Trial 3 of s, fail: a [bug]"
    assert [line.rstrip() for line in lines[-2:]] == ["Traceback:", "  in f"]


def test_show(sqlite: Studies, tuner_here: Command) -> None:
    ended_study(sqlite)
    code, text, errors = tuner_here("show", "s", "0")
    assert (code, errors) == (0, "")
    assert text.startswith("Trial 0 of s, complete, FID 20 (the best of its epochs)")
    assert re.search(r"^FID +█▅ ▁ +20 to 30 *$", text, re.M)
    assert not any(word in text.lower() for word in ("samples", "traceback", "\x1b"))


def test_show_as_json(sqlite: Studies, tmp_path: Path, tuner_here: Command) -> None:
    store = ended_study(sqlite)
    code, text, errors = tuner_here("show", "s", "1", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(text)
    assert (found["number"], found["value"], found["epochs"]) == (1, 27.0, 4)
    assert [report["fid"] for report in found["reports"]] == [300.0, 27.0]
    [stint] = found["stints"]
    assert (stint["first_epoch"], stint["last_epoch"], stint["device"]) == (1, 2, "cpu")
    assert (found["picture"], found["traceback"]) == (None, None)
    files = open_files(store, str(tmp_path / "files"))
    files.write("pictures/trial-00001/samples-epoch-0003.png", png())
    found = json.loads(tuner_here("show", "s", "1", "--json")[1])
    place = Path(found["picture"])
    assert place.name == "samples-epoch-0003.png"
    assert place.read_bytes() == png()


def test_show_starts_no_jax(sqlite: Studies, tmp_path: Path, environment: dict[str, str]) -> None:
    """Which takes seconds, and a device's memory."""
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
    assert "tuner.run.files" in loaded
    assert not {"jax", "flax", "textual_image"} & set(loaded)


def test_show_of_a_failed_trial_has_its_traceback(sqlite: Studies, tuner_here: Command) -> None:
    sqlite.make()
    member = sqlite.join()
    member.finish(claim(member), Fail("a bug"), traceback="Traceback: in f")
    assert "Traceback: in f" in tuner_here("show", "s", "0")[1]
    assert json.loads(tuner_here("show", "s", "0", "--json")[1])["traceback"] == "Traceback: in f"


@pytest.mark.parametrize(
    ("trial", "problem"),
    [("2", "study 's': found no trial 2, expected 0 to 1"), ("-1", "-1"), ("x", "valid integer")],
)
def test_no_such_trial(trial: str, problem: str, sqlite: Studies, tuner_here: Command) -> None:
    ended_study(sqlite)
    code, text, errors = tuner_here("show", "s", trial)
    assert (code, text) == (2, "")
    assert problem in errors


# Its samples


def test_the_newest_picture_is_that_of_the_latest_epoch(sqlite: Studies, tmp_path: Path) -> None:
    files = open_files(sqlite.make(), str(tmp_path))
    assert newest_picture(files, 1) is None
    for name in ("trial-00001/curves-9999.svg", "trial-00002/samples-epoch-0009.png"):
        files.write(f"pictures/{name}", b"of no matter")
    assert newest_picture(files, 1) is None
    for number in (3, 12, 100, 5):
        files.write(f"pictures/trial-00001/samples-epoch-{number}.png", png())
    assert newest_picture(files, 1) == "pictures/trial-00001/samples-epoch-100.png"


def test_without_a_terminal_the_path_is_shown(
    sqlite: Studies, tmp_path: Path, tuner_here: Command
) -> None:
    files = open_files(ended_study(sqlite), str(tmp_path / "files"))
    files.write("pictures/trial-00000/samples-epoch-0003.png", png())
    code, text, errors = tuner_here("show", "s", "0")
    assert (code, errors) == (0, "")
    place = files.locate("pictures/trial-00000/samples-epoch-0003.png")
    assert text.splitlines()[-1] == f"Samples: {place}"
    assert inline(png()) is None


def test_files_that_are_gone_hide_no_trial(
    sqlite: Studies, tmp_path: Path, tuner_here: Command
) -> None:
    store = ended_study(sqlite)
    open_files(store, str(tmp_path / "files"))
    (tmp_path / "files" / store.folder / "token").unlink()
    code, text, errors = tuner_here("show", "s", "0")
    assert (code, errors) == (0, "")
    assert text.startswith("Trial 0 of s")
    assert "without samples: artifacts: found no files of study 's'" in text


@pytest.mark.parametrize(
    ("answers", "data", "drawn"),
    [
        (SIXELS + CELLS, png(), SIXEL),
        (SIXELS, png(), SIXEL),  # in cells of the usual size
        (NO_SIXELS + KITTY + CELLS, png(), KITTYS),
        (SIXELS + CELLS, png()[:60], None),
        (NO_SIXELS, png(), None),
    ],
    ids=["sixels", "of unknown size", "kitty", "a damaged picture", "no pictures"],
)
def test_a_terminal_that_knows_pictures_draws_it(
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
        assert screen.ends() == 0
    after = screen.shown.split("Trial 0 of s")[1]  # what was typed is echoed before
    found = [start for start in (SIXEL, KITTYS) if re.search(start, after)]
    assert found == ([] if drawn is None else [drawn])
    assert "samples-epoch-0003.png" in after
    assert "Traceback" not in screen.shown


def test_samples_are_drawn_as_png_alone(
    sqlite: Studies, tmp_path: Path, tuner_here: Command
) -> None:
    code, text, errors = tuner_here("sample", "s", "--out", str(tmp_path / "s2.jpg"))
    assert (code, text) == (2, "")
    assert errors == f"tuner: --out: {tmp_path}/s2.jpg: found '.jpg', expected .png\n"
