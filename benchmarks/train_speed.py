"""Training speed compared with plain PyTorch: the same DCGAN on the same machine.

    make bench
    python benchmarks/train_speed.py --width 16 --width 64 --batch 64

Each contender runs in its own process, which trains one epoch on random images for each line on
stdin. They take turns, so other load on the machine affects all; the first epoch of each
(compilation, warm-up) is left out. Prints medians, ranges, and the ratio of time per step. On a
GPU both sides multiply in TF32, and torch.compile is measured too, with CUDA graphs
(``reduce-overhead``) and without.
"""

import argparse
import functools
import importlib.util
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Case(NamedTuple):
    """A training task for the contenders."""

    width: int
    batch: int


Epoch = Callable[[], object]  # trains an epoch
LONGEST = 300.0  # seconds to wait for an epoch


def tuner_epoch(case: Case, images: NDArray[np.uint8], device: str) -> Epoch:
    import jax
    from default_trial import epoch_of

    if device == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit(f"JAX found {jax.default_backend()}, expected a GPU: install jax[cuda13]")
    return epoch_of(jax.device_put(images), *case)


def torch_epoch(
    case: Case, images: NDArray[np.uint8], device: str, mode: str | None = None
) -> Epoch:
    import torch
    from torch_dcgan import Trainer

    torch.set_float32_matmul_precision("high")  # TF32, as JAX on a GPU
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Trainer(tensor, *case, device, mode).epoch


CONTENDERS: dict[str, Callable[[Case, NDArray[np.uint8], str], Epoch]] = {
    "tuner": tuner_epoch,
    "pytorch": torch_epoch,
    "pytorch-compiled": functools.partial(torch_epoch, mode="default"),
    "pytorch-graphs": functools.partial(torch_epoch, mode="reduce-overhead"),
}


def contenders(device: str) -> list[str]:
    """Names of the contenders that can run here."""
    if importlib.util.find_spec("torch") is None:
        return ["tuner"]
    return list(CONTENDERS) if device == "cuda" else ["tuner", "pytorch"]


def serve(contender: str, steps: int, device: str) -> None:
    """Train the epochs that each line on stdin requests; print their seconds, or why it failed.

    A line has a width, a batch size and the number of epochs. A case is first trained for one more
    epoch, so that the seconds exclude compilation.
    """
    random, runs = np.random.default_rng(0), dict[Case, Epoch]()
    for line in sys.stdin:
        width, batch, epochs = map(int, line.split())
        case = Case(width, batch)
        try:
            if case not in runs:
                images = random.integers(0, 256, (steps * case.batch, 32, 32, 1), np.uint8)
                runs[case] = CONTENDERS[contender](case, images, device)
                runs[case]()
            began = time.perf_counter()
            for _ in range(epochs):
                runs[case]()
            print(time.perf_counter() - began, flush=True)
        except Exception as error:  # of JAX, PyTorch or their compilers
            print(f"{type(error).__name__}: {error}".splitlines()[0][:150], flush=True)


class Server:
    """A process that serves a contender. A thread reads its answers, so waiting can end."""

    def __init__(self, contender: str, steps: int, device: str) -> None:
        options = ["--steps", str(steps), "--device", device]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", contender, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line.strip())
        self._answers.put("the process ended")

    def begin(self, case: Case, epochs: int = 1) -> None:
        """Begin to train; ``seconds`` waits for the end."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{case.width} {case.batch} {epochs}\n")
            self._process.stdin.flush()

    def seconds(self, within: float) -> float:
        """The seconds of the epochs that were begun; raises ContenderError."""
        try:
            answer = self._answers.get(timeout=max(0.0, within))
            return float(answer)
        except queue.Empty:
            raise ContenderError("not ready in time") from None
        except ValueError:
            raise ContenderError(answer) from None

    def end(self, seconds: float = 5.0) -> None:
        """Let the process end by itself, then kill it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ContenderError(Exception):
    """A contender can't train a case."""


class Comparison:
    """Servers of contenders, one for each width; all of them compile at the same time."""

    def __init__(self, names: Sequence[str], widths: Sequence[int], steps: int, device: str):
        self._steps = steps
        self._servers = {
            (width, name): Server(name, steps, device) for width in widths for name in names
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.end()

    def prepare(self, batch: int, within: float) -> list[str]:
        """Compile all cases of a batch size. Drops servers that fail: one line for each."""
        until, problems = time.monotonic() + within, []
        for (width, _), server in self._servers.items():
            server.begin(Case(width, batch))
        for (width, name), server in list(self._servers.items()):
            try:
                server.seconds(until - time.monotonic())
            except ContenderError as problem:
                problems.append(f"{name}, width {width}, batch {batch}: {problem}")
                self._servers.pop((width, name)).end(0)
        return problems

    def measure(self, case: Case, rounds: int) -> dict[str, list[float]]:
        """Seconds per step of each contender, which take turns."""
        own = {name: s for (width, name), s in self._servers.items() if width == case.width}
        seconds: dict[str, list[float]] = {name: [] for name in own}
        for _ in range(rounds):
            for name, server in own.items():
                server.begin(case)
                with suppress(ContenderError):
                    seconds[name].append(server.seconds(LONGEST) / self._steps)
        return {name: found for name, found in seconds.items() if found}


def row(case: Case, names: Sequence[str], seconds: Mapping[str, list[float]]) -> str:
    """A row of the table: milliseconds per step with their range, then tuner's relative time."""
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    cells = [str(case.width), str(case.batch)]
    for name in names:
        milliseconds = [1e3 * x for x in seconds.get(name, ())]
        low, high = min(milliseconds, default=0.0), max(milliseconds, default=0.0)
        found = f"{statistics.median(milliseconds):.2f} ({low:.2f} to {high:.2f})" if high else "-"
        cells.append(found)
    fastest = min((x for name, x in medians.items() if name != "tuner"), default=None)
    others = (medians.get("pytorch"), fastest)
    cells += [f"{medians['tuner'] / x:.2f}" if x and "tuner" in medians else "-" for x in others]
    return f"| {' | '.join(cells)} |"


def compare(
    widths: Sequence[int],
    batches: Sequence[int],
    steps: int,
    rounds: int,
    device: str,
    within: float = LONGEST,
) -> None:
    """Print a table; a contender must compile a batch size ``within`` seconds."""
    names, problems = contenders(device), list[str]()
    print(f"| width | batch | {', ms | '.join(names)}, ms | tuner / pytorch | tuner / fastest |")
    print(f"|{' --- |' * (len(names) + 4)}", flush=True)
    with Comparison(names, widths, steps, device) as comparison:
        for batch in batches:
            problems += comparison.prepare(batch, within)
            for width in widths:
                case = Case(width, batch)
                print(row(case, names, comparison.measure(case, rounds)), flush=True)
    for problem in problems:
        print(f"- {problem}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, action="append", help="default: 16 and 64")
    parser.add_argument("--batch", type=int, action="append", help="default: 64")
    parser.add_argument("--steps", type=int, default=24, help="steps per epoch")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.steps, args.device)
    else:
        compare(args.width or [16, 64], args.batch or [64], args.steps, args.rounds, args.device)


if __name__ == "__main__":
    main()
