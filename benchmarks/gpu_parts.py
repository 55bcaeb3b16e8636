"""The parts of ``gpu.py``: each measures something on this machine's device and prints Markdown.

    python benchmarks/gpu_parts.py PART [--quick]

All train the tutorial's DCGAN on random images. Needs JAX, Flax and Optax only, and PyTorch for its
side of the first part.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lanes
import numpy as np
import train_speed
from default_trial import alternate, default_numbers, default_program, epoch_of, random_images
from numpy.typing import NDArray

from tuner.gan import training
from tuner.gan.sampling import (
    CHUNK,
    discriminate,
    fixed_latents,
    generate,
    generator_of,
    padded,
)
from tuner.gan.state import abstract_state, init_state
from tuner.gan.training import begin_epoch, normalise, train_epoch
from tuner.metrics.diagnostics import discriminator_auc
from tuner.metrics.evaluate import reference_statistics, scores
from tuner.metrics.extractors import joined, random_extractor, train_classifier
from tuner.trial import Hyperparameters
from tuner.xla import compiler_options


class Scale(NamedTuple):
    """How much to measure."""

    widths: Sequence[int]
    batches: Sequence[int]  # those of interest first
    steps: int  # iterations of an epoch
    rounds: int
    workers: Sequence[int]
    epochs: int  # that each worker trains at a time
    slots: Sequence[int]
    samples: int
    options: Sequence[str]  # of the second part
    exact: Sequence[str]  # options for exact resumption
    precisions: Sequence[str]  # of matrix products, compared with a CPU's numbers
    patience: float  # seconds for compiling a batch size of the first part

    @property
    def ends(self) -> list[int]:
        """The smallest and the largest width."""
        return sorted({self.widths[0], self.widths[-1]})


COMMAND_BUFFERS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE"
EXCLUDED, DETERMINISTIC = "nondeterministic ops excluded", "deterministic ops"
OPTIONS: dict[str, dict[str, Any]] = {
    "XLA's defaults": {},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "the epoch in command buffers": {"xla_gpu_enable_command_buffer": COMMAND_BUFFERS},
    EXCLUDED: {"xla_gpu_exclude_nondeterministic_ops": True},
    DETERMINISTIC: {"xla_gpu_deterministic_ops": True},
}
TUNERS = "tuner's own"  # options
# 78 batches of 64 are an epoch of 5,000 images, as in the quickstart.
FULL = Scale(
    *((16, 32, 64), (64, 256, 32, 128), 78, 5, (1, 2, 4, 8, 12), 5, (1, 4, 8, 16), 2000),
    options=(TUNERS, *OPTIONS),
    exact=("XLA's defaults", EXCLUDED, DETERMINISTIC),
    precisions=("as tuner trains", "highest"),
    patience=75,
)
QUICK = Scale(
    *((2,), (64,), 1, 1, (1, 2), 1, (2,), 64),
    options=(TUNERS, EXCLUDED),
    exact=(EXCLUDED,),
    precisions=("as tuner trains",),
    patience=600,
)
BATCH = 64


def options_named(name: str) -> dict[str, Any]:
    """Compiler options. On a CPU tuner's come first: the others are ignored there."""
    own = compiler_options(jax.default_backend()) or {}
    if name == TUNERS:
        return dict(own)
    return OPTIONS[name] | (own if jax.default_backend() == "cpu" else {})


def compile_with(options: dict[str, Any]) -> Any:
    """Training, compiled with these options in place of tuner's."""
    return jax.jit(
        training._train_steps._function,
        static_argnums=(0, 8, 9),
        donate_argnums=(1, 2),
        compiler_options=options,
    )


def device() -> str:
    """The device, as PyTorch names it."""
    return "cpu" if jax.default_backend() == "cpu" else "cuda"


def table(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:150]


def speed(scale: Scale) -> None:
    """Step time next to PyTorch"""
    sizes = scale.widths, scale.batches, scale.steps, scale.rounds
    train_speed.compare(*sizes, device(), scale.patience)


def options(scale: Scale) -> None:
    """Step time by compiler options"""
    table("width", "options", "ms/step", "relative time")
    problems = []
    for width in scale.ends:
        runs: dict[str, Callable[[], object]] = {}
        for name in scale.options:
            run = _epoch_with(options_named(name), scale, width)
            try:
                run()
            except Exception as error:  # of XLA: an option may be unknown, or not compile
                problems.append(f"- width {width}, {name}: {one_line(error)}")
            else:
                runs[name] = run
        found = alternate(runs, scale.rounds)
        medians = {name: statistics.median(seconds) for name, seconds in found.items()}
        for name, median in medians.items():
            relative = median / next(iter(medians.values()))
            row(width, name, f"{1e3 * median / scale.steps:.3f}", f"{relative:.2f}")
    for problem in problems:
        print(problem, flush=True)


def _epoch_with(options: dict[str, Any], scale: Scale, width: int) -> Callable[[], None]:
    compiled = compile_with(options)
    images = jax.device_put(random_images(scale.steps * BATCH))
    epoch = epoch_of(images, width, BATCH)

    def run() -> None:
        training._train_steps.compiled = compiled
        epoch()

    return run


class Job(NamedTuple):
    """Epochs to train in another process, which saves its arrays after each."""

    out: str  # files OUT-1.npz, OUT-2.npz and so on
    width: int
    iterations: int  # of an epoch
    epochs: tuple[int, int]  # from and to, counted from 0
    start: str = ""  # the file to continue from
    options: str = TUNERS
    precision: str | None = None  # of matrix products


def run_jobs(text: str) -> None:
    """Run the jobs of a JSON list, one after the other."""
    for fields in json.loads(text):
        job = Job(*fields)
        with jax.default_matmul_precision(job.precision):
            _run_job(job)


def _run_job(job: Job) -> None:
    program = default_program(job.width, BATCH)
    images = jax.device_put(random_images(job.iterations * BATCH))
    numbers = Hyperparameters(*map(jnp.float32, default_numbers(program, len(images), 2)))
    training._train_steps.compiled = compile_with(options_named(job.options))
    state = init_state(program, numbers, 0)
    if job.start:
        arrays = jax.device_put(load(job.start)[:-4])
        state = jax.tree.unflatten(jax.tree.structure(abstract_state(program)), arrays)
        state = state._replace(key=jax.random.wrap_key_data(state.key))
    for epoch in range(*job.epochs):
        state, losses = train_epoch(program, state, numbers, images, None, epoch, 2)
        plain = state._replace(key=jax.random.key_data(state.key))
        arrays = jax.device_get([*jax.tree.leaves(plain), *losses])
        np.savez(saved(job.out, epoch + 1), *arrays)


def saved(out: str, epochs: int) -> str:
    """The file with a job's arrays after the given number of epochs."""
    return f"{out}-{epochs}.npz"


def load(path: str) -> list[NDArray[Any]]:
    """The leaves of the state, then the four losses."""
    with np.load(path) as found:
        return [found[f"arr_{i}"] for i in range(len(found.files))]


@contextmanager
def running(*jobs: Job, **environment: str) -> Iterator[Callable[[], None]]:
    """A process that runs jobs; yields a function that waits for it and raises if it failed."""
    process = subprocess.Popen(
        [sys.executable, __file__, "jobs", json.dumps(jobs)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | environment,
    )

    def wait() -> None:
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors.strip().rpartition("\n")[2])

    try:
        yield wait
    finally:
        process.kill()
        process.wait()


def different(ours: str, theirs: str) -> str:
    """How many arrays of two files differ, and by how much of their size at most."""
    pairs = list(zip(load(ours), load(theirs), strict=True))
    unequal = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
    return f"{len(unequal)} of {len(pairs)}{f', {largest(unequal):.1e}' if unequal else ''}"


def largest(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """The largest Euclidean norm of a difference, relative to the first array's."""
    sizes = [(float(np.linalg.norm(a - b)), float(np.linalg.norm(a))) for a, b in pairs]
    return max(error / max(size, 1e-30) for error, size in sizes)


def resume(scale: Scale) -> None:
    """Arrays that differ after resuming from a checkpoint"""
    table("compiler options", "resumed in the same process", "in another process")
    # Another machine has none of this one's compiled programs, so each process compiles its own.
    alone = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if scale is FULL else {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        jobs = {
            name: Job(f"{folder}/{i}", scale.widths[0], scale.steps, (0, 2), options=name)
            for i, name in enumerate(scale.exact)
        }
        checkpoint = {name: saved(job.out, 1) for name, job in jobs.items()}
        again = {
            name: job._replace(start=checkpoint[name], epochs=(1, 2)) for name, job in jobs.items()
        }
        same = {name: job._replace(out=f"{job.out}-same") for name, job in again.items()}
        other = {name: job._replace(out=f"{job.out}-other") for name, job in again.items()}
        for stage in ([(jobs[n], same[n]) for n in jobs], [(other[n],) for n in jobs]):
            waits = [stack.enter_context(running(*parts, **alone)) for parts in stage]
            for wait in waits:
                wait()
        for name, job in jobs.items():
            straight = saved(job.out, 2)
            found = (different(straight, saved(x[name].out, 2)) for x in (same, other))
            row(name, *found)


def numbers(scale: Scale) -> None:
    """The same trial on this device and on a CPU"""
    table("iterations", "matrix products", "D loss", "G loss", "weights")
    lengths = sorted({1, scale.steps})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        waits = []
        for name in ("cpu", *scale.precisions):
            precision = "highest" if name == "highest" else None
            jobs = [
                Job(f"{folder}/{name}-{n}", scale.widths[0], n, (0, 1), precision=precision)
                for n in lengths
            ]
            platform = {"JAX_PLATFORMS": "cpu"} if name == "cpu" else {}
            waits.append(stack.enter_context(running(*jobs, **platform)))
        for wait in waits:
            wait()
        for n in lengths:
            expected = load(saved(f"{folder}/cpu-{n}", 1))
            for name in scale.precisions:
                pairs = list(zip(expected, load(saved(f"{folder}/{name}-{n}", 1)), strict=True))
                weights = [(a, b) for a, b in pairs[:-4] if a.dtype == np.float32]
                d_loss, g_loss, *_ = (f"{largest([pair]):.1e}" for pair in pairs[-4:])
                row(n, name, d_loss, g_loss, f"{largest(weights):.1e}")


def workers(scale: Scale) -> None:
    """Several processes on the device: trial-epochs per second"""
    table("width", "sharing by", *(f"{n}" for n in scale.workers))
    for name, sharing in (("time slices", nullcontext), ("MPS", mps)):
        try:
            with sharing():
                _measure_workers(scale, name)
        except (train_speed.ContenderError, OSError, subprocess.SubprocessError) as problem:
            print(f"- {name}: {one_line(problem)}", flush=True)


def _measure_workers(scale: Scale, sharing: str) -> None:
    with ExitStack() as stack:
        servers = []
        for _ in range(max(scale.workers)):
            servers.append(train_speed.Server("tuner", scale.steps, device()))
            stack.callback(servers[-1].end)
        for width in scale.ends:
            case = train_speed.Case(width, BATCH)
            _train_together(servers, case, 1)
            speeds = []
            for n in scale.workers:
                seconds = [
                    _train_together(servers[:n], case, scale.epochs) for _ in range(scale.rounds)
                ]
                speeds.append(f"{n * scale.epochs / statistics.median(seconds):.1f}")
            row(width, sharing, *speeds)


def _train_together(
    servers: Sequence[train_speed.Server], case: train_speed.Case, epochs: int
) -> float:
    """The seconds until all jobs have trained the given number of epochs."""
    began = time.perf_counter()
    for server in servers:
        server.begin(case, epochs)
    for server in servers:
        server.seconds(60)
    return time.perf_counter() - began


@contextmanager
def mps() -> Iterator[None]:
    """CUDA's multi-process service, for processes started in this block."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        raise train_speed.ContenderError("nvidia-cuda-mps-control is missing")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUDA_MPS_PIPE_DIRECTORY"] = os.environ["CUDA_MPS_LOG_DIRECTORY"] = folder
        subprocess.run([control, "-d"], check=True, timeout=20)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, timeout=20)


def packed(scale: Scale) -> None:
    """Trials packed in lanes: trial-epochs per second"""
    table("width", "alone", *(f"{k} in a lane" for k in scale.slots))
    for width in scale.ends:
        found = lanes.measure(width, BATCH, scale.steps * BATCH, scale.slots, scale.rounds)
        row(width, *(f"{found[k]:.1f}" if k in found else "-" for k in (0, *scale.slots)))


def evaluation(scale: Scale) -> None:
    """Evaluation in an epoch of the quickstart"""
    images, labels = random_images(scale.steps * BATCH), np.arange(scale.steps * BATCH) % 10
    full = scale is FULL
    extractor = train_classifier(images, labels) if full else random_extractor(images.shape[1:])
    features = extractor(images)
    classes, samples = extractor.class_count, scale.samples
    real = reference_statistics(features, extractor.classes(features), classes, samples)
    program = default_program(scale.widths[0], BATCH)._replace(ema=full)
    numbers = Hyperparameters(*map(jnp.float32, default_numbers(program, len(images))))
    state, on_device = init_state(program, numbers, 0), jax.device_put(images)
    latents = fixed_latents(1, samples, program.latent_dim)
    compared = min(len(images), samples, 1000)
    reals = [padded(normalise(images[:compared])[i : i + CHUNK]) for i in range(0, compared, CHUNK)]
    reals_on_device = jax.device_put(reals)
    spans: dict[bool, list[Any]] = {False: [], True: []}  # whether the next epoch began meanwhile
    begun: training.Epoch | None = None
    for number in range(2 * (scale.rounds + 1)):
        ahead, epoch = number > scale.rounds, number % (scale.rounds + 1)
        times = [time.perf_counter()]
        begun = begun or begin_epoch(program, state, numbers, on_device, None, epoch)
        state, _ = begun.state, begun.losses()
        times.append(time.perf_counter())
        generator = generator_of(program, state, 0)
        chunks = list(generate(program, generator, latents))
        parts = [part for c in chunks for part in extractor.extract(c.pixels, c.length)]
        features = joined(parts, samples)
        times.append(time.perf_counter())
        fakes = [chunk.images for chunk in chunks[: len(reals)]]
        logits = [discriminate(program, state, x, compared) for x in (reals_on_device, fakes)]
        discriminator_auc(*logits)
        times.append(time.perf_counter())
        begun = None
        if ahead:
            copy = jax.tree.map(jnp.copy, state)
            begun = begin_epoch(program, copy, numbers, on_device, None, epoch + 1)
        scores(real, features, extractor.classes(features))
        times.append(time.perf_counter())
        spans[ahead].append(np.diff(times))
    medians = np.median(spans[False][1:], axis=0)
    table(
        *("training", "images and features", "D's AUC", "metrics", "share of evaluation"),
        *("whole epoch", "if the next begins before the metrics"),
    )
    share = medians[1:].sum() / medians.sum()
    whole = [np.median(np.sum(spans[ahead][1:], axis=1)) for ahead in (False, True)]
    row(
        *(f"{1e3 * x:.0f} ms" for x in medians),
        f"{share:.0%}",
        *(f"{1e3 * x:.0f} ms" for x in whole),
    )


PARTS = (speed, options, resume, numbers, workers, packed, evaluation)


def main() -> None:
    name, *rest = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that processes and MPS are ended
    if name == "jobs":
        run_jobs(*rest)
        return
    [part] = (part for part in PARTS if part.__name__ == name)
    part(QUICK if rest else FULL)


if __name__ == "__main__":
    main()
