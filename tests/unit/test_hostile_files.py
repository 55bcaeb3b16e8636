"""Hostile study files and command-line arguments."""

import os
import time
from pathlib import Path

import pytest

from tuner.cli.options import parse_duration
from tuner.errors import InputError
from tuner.spec.loading import MAX_PROBLEMS, load_spec

HOSTILE = {
    "a long number": "[study]\ntrials = " + "9" * 5000,
    "a long hexadecimal number": "[study]\ntrials = 0x" + "f" * 100_000,
    "a long octal number in a baseline": "[[baseline]]\nwidth = 0o" + "7" * 50_000,
    "a number of 65 bits": "[trial]\nwidth = [1, 18446744073709551616]",
    "lists nested 5,000 deep": "[trial]\nwidth = " + "[" * 5000 + "]" * 5000,
    "lists nested 200 deep": "[trial]\nwidth = " + "[" * 200 + "]" * 200,
    "tables nested 5,000 deep": "[" + ".".join("a" * 5000) + "]\nb = 1",
    "tables nested by a key": ".".join("a" * 3000) + " = 1",
    "inline tables nested deep": "x = " + "{ a = " * 5000 + "1" + " }" * 5000,
    "100,000 unknown keys": "[trial]\n" + "".join(f"k{i} = 1\n" for i in range(60_000)),
    "1,900 unknown keys": "[trial]\n" + "".join(f"learning_rat{i} = 1\n" for i in range(1900)),
    "1,900 unknown tables": "".join(f"[t{i}]\n" for i in range(1900)),
    "a wrong value of 900 kB": "[trial]\nloss = '" + "x" * 900_000 + "'",
    "a list of 200,000 wrong choices": f"[trial]\nloss = [{'1,' * 200_000}]",
    "a list of 100,000 choices": f"[trial]\nwidth = {[*range(1, 100_000)]}",
    "more than a megabyte": "#" + "x" * 2_000_000,
    "a grid of fine steps": "[trial]\nr1 = { low = 0, high = 1, step = 1e-12 }\n"
    "r2 = { low = 0, high = 1, step = 1e-12 }\n[sampler]\nname = 'grid'",
    "a NUL": "[study]\nname = 'a\0b'",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_study_file_is_refused_at_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert time.process_time() - began < 12  # 2 s on a quiet core with many suggestions
    lines = str(caught.value).splitlines()
    assert len(lines) <= MAX_PROBLEMS + 1
    assert all(line.startswith(f"{path}: ") and len(line) < 1000 for line in lines)


def test_irregular_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.toml").write_bytes("[study]\nname = 'é'".encode("latin-1"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "endless").symlink_to("/dev/zero")
    files = ("pipe", "latin.toml", "loop", "endless", ".", "missing", "s.toml/x", "a\0b", "x" * 300)
    for name in files:
        with pytest.raises(InputError) as caught:
            load_spec(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
    for path in ("/dev/zero", "/dev/tty", "/proc/self/mem"):
        with pytest.raises(InputError, match="can't be read"):
            load_spec(path)


@pytest.mark.parametrize(
    "text", ["9" * 5000 + "d", "9" * 20, "999999999d", "3651d", "٣d", "1h" * 9]
)
def test_too_long_durations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"invalid duration|is too long") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 200
