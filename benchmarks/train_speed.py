"""Training speed compared with plain PyTorch: the same DCGAN on the same machine.

    make bench
    python benchmarks/train_speed.py --width 16 --width 64

Each contender runs in its own process, which trains one epoch on random images per line on stdin.
They take turns, so other load on the machine affects all; the first epoch of each (compilation,
warm-up) is left out. Prints medians and the ratio of time per step.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH = 64


def jax_epoch(width: int, images: np.ndarray, device: str) -> Callable[[], object]:
    import jax
    from default_trial import epoch_of

    if device == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit(f"JAX found {jax.default_backend()}, expected a GPU: install jax[cuda13]")
    return epoch_of(jax.device_put(images), width, BATCH)


def torch_epoch(
    width: int, images: np.ndarray, device: str, *, compiled: bool = False
) -> Callable[[], object]:
    import torch
    from torch_dcgan import Trainer

    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Trainer(tensor, width, BATCH, device, compiled).epoch


CONTENDERS: dict[str, Callable[[int, np.ndarray, str], Callable[[], object]]] = {
    "tuner": jax_epoch,
    "pytorch": torch_epoch,
    "pytorch-compiled": lambda *args: torch_epoch(*args, compiled=True),
}


def serve(contender: str, width: int, steps: int, device: str) -> None:
    """Train one epoch for each line on stdin, and print its seconds."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps * BATCH, 32, 32, 1), np.uint8)
    run = CONTENDERS[contender](width, images, device)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)


def measure(
    names: list[str], width: int, steps: int, rounds: int, device: str
) -> dict[str, list[float]]:
    """Seconds per step of each contender, one number per round."""
    options = ["--width", str(width), "--steps", str(steps), "--device", device]
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--serve", name, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in names
    }
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(process.stdout.readline()) / steps)
    for process in processes.values():
        process.communicate()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, action="append", help="default: 16 and 64")
    parser.add_argument("--steps", type=int, default=24, help="steps per epoch")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    widths = args.width or [16, 64]
    if args.serve:
        serve(args.serve, widths[0], args.steps, args.device)
        return
    names = [name for name in CONTENDERS if args.device != "cpu" or name != "pytorch-compiled"]
    for width in widths:
        seconds = measure(names, width, args.steps, args.rounds, args.device)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, median in medians.items():
            low, high = min(seconds[name]), max(seconds[name])
            print(
                f"width {width:3d}  {name:16s}  {1e3 * median:7.2f} ms/step"
                f"  ({1e3 * low:.2f} to {1e3 * high:.2f})  {BATCH / median:8.0f} images/s"
                f"  {median / medians['pytorch']:.2f} of pytorch's time",
                flush=True,
            )


if __name__ == "__main__":
    main()
