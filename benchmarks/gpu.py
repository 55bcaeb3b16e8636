"""Measure open questions on a machine with a GPU, in nine minutes.

    make bench-gpu
    PYTHONPATH=. python benchmarks/gpu.py [--quick] [--only PART] [--minutes 9] [--out FILE]

Each part runs in its own process with its own time limit; a part that fails is reported in a line.
The output goes line by line to the terminal and to the machine's section of RESULTS.md, so a run
that is killed leaves what it has measured. Parts, most important first: step time next to PyTorch,
compiler options, exact resumption, the same numbers as a CPU's, several processes on the device
(with NVIDIA's MPS too), packed lanes, and evaluation. The code of the parts is in ``gpu_parts.py``.

Nothing is installed: this Python needs JAX, Flax and Optax; PyTorch is left out if it is missing.
``--quick`` runs everything at tiny sizes, also on a CPU, without limits for the parts. It writes
only to ``--out``, and its numbers mean nothing.
"""

import argparse
import importlib.util
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Part(NamedTuple):
    """Something to measure, by its name in ``gpu_parts.py``."""

    name: str
    seconds: float  # that it may take
    title: str


PARTS = (
    Part("speed", 190, "Training compared with PyTorch"),
    Part("options", 75, "Compiler options"),
    Part("resume", 55, "Resuming from a checkpoint: arrays that differ"),
    Part("numbers", 40, "One epoch here and on a CPU: relative differences"),
    Part("workers", 75, "Several processes on the device: trial-epochs per second"),
    Part("packed", 75, "Packed lanes: trial-epochs per second"),
    Part("evaluation", 30, "Evaluation in an epoch of the quickstart"),
)
NEEDED, COMPARED = ("numpy", "jax", "flax", "optax"), "torch"


class Section:
    """The section of this machine in a file of results, written again with every line."""

    def __init__(self, path: Path | None, heading: str) -> None:
        self._path, self._lines = path, [f"## {heading}", ""]
        found = path.read_text() if path and path.exists() else "# Measurements\n"
        sections = re.split(r"^(?=## )", found, flags=re.M)
        self._rest = "".join(x for x in sections if not x.startswith(f"## {heading}\n")).rstrip()

    def add(self, line: str) -> None:
        print(line, flush=True)
        self._lines.append(line)
        if self._path is not None:
            self._path.write_text("\n".join([self._rest, "", *self._lines, ""]))


def machine() -> str:
    """The name of the GPU, or of the processor without one."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
            return done.stdout.splitlines()[0].strip()
    return f"CPU ({platform.machine()})"


def versions() -> str:
    """Versions of the compared software."""
    found = [f"Python {platform.python_version()}"]
    for name in (*NEEDED, COMPARED):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def missing() -> list[str]:
    """Packages that are needed and can't be imported."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def run(command: list[str], environment: dict[str, str], seconds: float) -> Iterator[str]:
    """Run a command; yield its output and the reason if it failed, as lines."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            process_group=0,  # so that the processes that it starts can be ended with it
        )
        late = threading.Event()

        def expire() -> None:
            late.set()
            stop(process)

        timer = threading.Timer(seconds, expire)
        timer.start()
        assert process.stdout is not None
        try:
            yield from (line.rstrip() for line in process.stdout)
            code = process.wait()
        finally:
            timer.cancel()
            stop(process)
            process.stdout.close()
        errors.seek(0)
        lines = errors.read().split("\n")
        if late.is_set():
            yield f"- stopped after {seconds:.0f} s"
        elif code:
            last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
            yield f"- failed: {last.strip()[:200]}"


def stop(process: "subprocess.Popen[str]") -> None:
    """End a process and those that it started; first let it clean up."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        os.killpg(process.pid, signal.SIGKILL)


def measure(section: Section, parts: list[Part], quick: bool, seconds: float) -> None:
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as cache:
        # The parts share compiled programs, but find none of an earlier run.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        if quick:  # the numbers mean nothing then: compile fast
            environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        for part in parts:
            section.add("")
            section.add(f"### {part.title}")
            section.add("")
            left = min(math.inf if quick else part.seconds, until - time.monotonic())
            if left < 5:
                section.add("- left out: no time was left")
                continue
            command = [sys.executable, str(HERE / "gpu_parts.py"), part.name, *["--quick"] * quick]
            for line in run(command, environment, left):
                section.add(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS])
    parser.add_argument("--minutes", type=float, default=9, help="for everything; default 9")
    parser.add_argument("--out", type=Path, help="file of results; default RESULTS.md")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if absent := missing():
        sys.exit(f"missing: {', '.join(absent)}; install these packages for {sys.executable}")
    out = args.out or (None if args.quick else HERE / "RESULTS.md")
    section = Section(out, f"On one {machine()}")
    section.add(f"`make bench-gpu`{', --quick' * args.quick}, {date.today()}; {versions()}.")
    if importlib.util.find_spec(COMPARED) is None:
        section.add(f"{COMPARED} is missing here, so nothing is compared with it.")
    parts = [part for part in PARTS if args.only is None or part.name in args.only]
    measure(section, parts, args.quick, 60 * args.minutes)


if __name__ == "__main__":
    main()
