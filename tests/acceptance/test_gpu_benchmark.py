"""The benchmark of a machine with a GPU, run on a CPU at tiny sizes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
from default_trial import LONG, SHAPE, default_numbers, default_program
from processes import is_running, wait_until

from tuner.spec.loading import parse_spec
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo

ROOT = Path(__file__).parents[2]
EARLIER = "# Measurements\n\nRatios are medians.\n\n## A sweep\n\n| 1 |\n"


def benchmark(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark on a CPU."""
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--quick", "--out", str(out), *words],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=840,
    )


def parts_of(text: str) -> dict[str, list[str]]:
    """The lines of each part of a section, without empty ones."""
    found = {}
    for part in text.split("\n### ")[1:]:
        title, *lines = part.split("\n")
        found[title] = [line for line in lines if line]
    return found


@pytest.mark.timeout(900)
def test_every_part_measures_on_a_cpu_and_the_results_go_to_the_machines_section(
    tmp_path: Path,
) -> None:
    out = tmp_path / "RESULTS.md"
    out.write_text(f"{EARLIER}\n## On one {gpu.machine()}\n\nold\n\n## Another\n\nkept\n")
    done = benchmark(out, "--minutes", "13")
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text.startswith(f"{EARLIER}\n## Another\n\nkept\n\n## On one {gpu.machine()}\n")
    assert "old" not in text
    section = text[text.index("## On one") :]
    assert done.stdout.strip() in section
    found = parts_of(section)
    assert list(found) == [part.title for part in gpu.PARTS]
    for title, lines in found.items():
        header, _, *rows = (line for line in lines if line.startswith("|"))
        assert rows, lines
        assert all(row.count("|") == header.count("|") for row in rows), title
        problems = [line for line in lines if not line.startswith("|")]
        assert not [line for line in problems if not line.startswith("- MPS: ")], title
    exact = found["Resuming from a checkpoint: arrays that differ"]
    assert exact[-1].count(" 0 of ") == 2, "bitwise on a CPU"


def test_a_part_for_which_no_time_is_left_is_a_line(tmp_path: Path) -> None:
    done = benchmark(tmp_path / "new.md", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    found = parts_of((tmp_path / "new.md").read_text())
    assert len(found) == len(gpu.PARTS)
    assert all(lines == ["- left out: no time was left"] for lines in found.values())


def test_a_part_that_fails_is_a_line() -> None:
    command = [sys.executable, "-c", "print('| 1 |', flush=True); import nothing_like_it"]
    assert list(gpu.run(command, dict(os.environ), 60)) == [
        "| 1 |",
        "- failed: ModuleNotFoundError: No module named 'nothing_like_it'",
    ]


def test_a_part_that_takes_too_long_ends_with_all_its_processes() -> None:
    """What it printed is kept."""
    begin = "import subprocess; p = subprocess.Popen(['sleep', '300']); print(p.pid, flush=True)"
    command = [sys.executable, "-c", f"{begin}; p.wait()"]
    began = time.monotonic()
    sleeper, stopped = gpu.run(command, dict(os.environ), 1)
    assert stopped == "- stopped after 1 s"
    assert time.monotonic() - began < 60
    wait_until(lambda: not is_running(int(sleeper)), "its process has ended")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("numpy", "nothing_like_it"))
    assert gpu.missing() == ["nothing_like_it"]


def test_the_default_trial_is_that_of_an_empty_study_file() -> None:
    for width, batch in ((64, 64), (16, 32)):
        spec = parse_spec(
            {"study": {"epochs": LONG}, "trial": {"width": width, "batch_size": batch}}, "empty"
        )
        expected = trial_config(spec, {}, 0, DatasetInfo(SHAPE, 5000))
        program = default_program(width, batch)
        assert program == expected.program
        assert default_numbers(program, 5000) == expected.hyperparameters
