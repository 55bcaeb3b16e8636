"""Progress output of ``tuner.sweep``, with training replaced."""

import re
from pathlib import Path

import pytest

import tuner
from tuner.study.sinks import TrialSink

STUDY = """
[study]
trials = 1
[data]
source = "gaussians"
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
"""


class Log:
    """A sink that keeps what is announced."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def started(self, claim: object) -> None:
        return None

    def epoch(self, claim: object, report: object) -> None:
        return None

    def ended(self, claim: object, ending: object) -> None:
        return None

    def announce(self, text: str, part: float | None = None) -> None:
        self.lines.append(text)


def test_progress_is_printed_unless_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(store: object, files: object, sink: TrialSink, *_: object, **__: object) -> None:
        sink.announce("training")

    monkeypatch.setattr("tuner.api.run_worker", run)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebook kernels do
    file, url = tmp_path / "s.toml", f"sqlite:///{tmp_path}/s.db"
    file.write_text(STUDY)
    tuner.sweep(file, storage=url, artifacts=tmp_path / "a")
    assert re.fullmatch(r"\d\d:\d\d:\d\d training\n", capsys.readouterr().out)
    log = Log()
    tuner.sweep(file, storage=url, artifacts=tmp_path / "a", progress=False, sinks=[log])
    assert log.lines == ["training"]
    assert tuple(capsys.readouterr()) == ("", "")
