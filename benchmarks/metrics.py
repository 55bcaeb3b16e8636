"""Time, memory and results of the metrics compared with those of other packages.

    python benchmarks/metrics.py

compares, on features (n, 2048) with a power-law spectrum like that of images: FID of n = 1,000,
5,000 and 10,000 generated samples against 10,000 real ones; KID; precision and recall, which tuner
and prdc compute together with density and coverage. The real side, which tuner computes once per
study and the others every time, is timed separately for FID, and included for the others. The
contenders take turns, each in its own process, whose peak memory beyond the features is shown.

    python benchmarks/metrics.py --large

instead measures the memory of KID, precision and recall for 50,000 real samples.

Needs torch==2.13.0, torch-fidelity==0.4.0, pytorch-fid==0.3.0 and torchvision==0.28.* (installed
with ``--no-deps`` they accept any torch), requests and tqdm, prdc==0.2, and scipy < 1.18.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import resource
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from tuner.metrics.fid import Reference, frechet_distance, moments, reference
from tuner.metrics.kid import kernel_distance
from tuner.metrics.prdc import compute_prdc, radii

DIMENSIONS = 2048
Features = NDArray[np.float32]
Result = tuple[float, ...]


class Known(NamedTuple):
    """Statistics of the real side, which are not part of a contender's time."""

    side: Reference
    covariance: NDArray[np.float64]


Contender = Callable[[Features, Features, Known], Result]


def features(count: int, seed: int, exponent: float) -> Features:
    """Draw samples whose covariance has eigenvalues i^-exponent along random directions."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    deviations = np.arange(1.0, DIMENSIONS + 1) ** (-exponent / 2)
    samples = rng.standard_normal((count, DIMENSIONS), np.float32) * deviations.astype(np.float32)
    drawn: Features = samples @ directions.astype(np.float32) + np.float32(0.1)
    return drawn


def our_fid(real: Features, fake: Features, known: Known) -> Result:
    return (frechet_distance(known.side, fake),)


def our_reference_statistics(real: Features, fake: Features, known: Known) -> Result:
    return (reference(real).trace,)


def scipy_fid(real: Features, fake: Features, known: Known) -> Result:
    """The formula with SciPy's matrix square root, in float64; the real moments are known."""
    mean, covariance = moments(fake)
    root = np.real(scipy.linalg.sqrtm(known.covariance @ covariance))
    shift = np.square(mean - known.side.mean).sum()
    return (float(shift + known.side.trace + np.trace(covariance) - 2 * np.trace(root)),)


def pytorch_fid(real: Features, fake: Features, known: Known) -> Result:
    """pytorch-fid's distance; the real moments are known."""
    package = import_package("pytorch_fid.fid_score")
    mean, covariance = fake.mean(axis=0), np.cov(fake, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about an argument that SciPy drops
        distance = package.calculate_frechet_distance(
            known.side.mean, known.covariance, mean, covariance
        )
    return (float(distance),)


def fidelity_fid(real: Features, fake: Features, known: Known) -> Result:
    """torch-fidelity's distance; the real moments are known."""
    package, torch = import_package("torch_fidelity.metric_fid"), import_package("torch")
    generated = package.fid_features_to_statistics(torch.from_numpy(fake))
    mean = known.side.mean.astype(generated["mu"].dtype)
    covariance = known.covariance.astype(generated["sigma"].dtype)
    distances = package.fid_statistics_to_metric(
        generated, {"mu": mean, "sigma": covariance}, verbose=False
    )
    return tuple(distances.values())


def our_kid(real: Features, fake: Features, known: Known) -> Result:
    return tuple(kernel_distance(real, fake))


def fidelity_kid(real: Features, fake: Features, known: Known) -> Result:
    package, torch = import_package("torch_fidelity.metric_kid"), import_package("torch")
    scores = package.kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), verbose=False
    )
    return tuple(scores.values())


def our_precision_recall(real: Features, fake: Features, known: Known) -> Result:
    scores = compute_prdc(real, radii(real), fake)
    return scores.precision, scores.recall


def fidelity_precision_recall(real: Features, fake: Features, known: Known) -> Result:
    package, torch = import_package("torch_fidelity.metric_prc"), import_package("torch")
    scores = package.prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), verbose=False
    )
    return tuple(scores.values())[:2]


def package_prdc(real: Features, fake: Features, known: Known) -> Result:
    scores = import_package("prdc").compute_prdc(real, fake, nearest_k=3)
    return float(scores["precision"]), float(scores["recall"])


def import_package(name: str) -> Any:
    """Import a module without the part of torchvision that is compiled for one exact torch."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta"))
    return importlib.import_module(name)


FID: dict[str, Contender] = {
    "tuner": our_fid,
    "SciPy's sqrtm": scipy_fid,
    "pytorch-fid": pytorch_fid,
    "torch-fidelity": fidelity_fid,
}
KID: dict[str, Contender] = {"tuner": our_kid, "torch-fidelity": fidelity_kid}
PRECISION_RECALL: dict[str, Contender] = {
    "tuner": our_precision_recall,
    "torch-fidelity": fidelity_precision_recall,
    "prdc": package_prdc,
}
PARTS = ("fid", "kid", "neighbours")


def measure(
    contender: Contender, real: Features, fake: Features, known: Known
) -> tuple[float, float, Result]:
    """Seconds, additional megabytes, and the result, measured in a separate process."""
    here, there = multiprocessing.Pipe()

    def work(connection: Connection) -> None:
        with contextlib.suppress(ImportError):  # loading packages does not count
            few = np.random.default_rng(0).random((1000, 4), np.float32)
            contender(few, few, known_statistics(few))
        before, started = peak_megabytes(), time.perf_counter()
        result = contender(real, fake, known)
        connection.send((time.perf_counter() - started, peak_megabytes() - before, result))

    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    there.close()
    measured: tuple[float, float, Result] = here.recv()
    process.join()
    return measured


def known_statistics(real: Features) -> Known:
    return Known(reference(real), moments(real)[1])


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def compare(
    title: str, contenders: dict[str, Contender], real: Features, fake: Features, rounds: int
) -> None:
    known = known_statistics(real)
    measured: dict[str, list[tuple[float, float, Result]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            measured[name].append(measure(contender, real, fake, known))
    ours = statistics.median(seconds for seconds, _, _ in measured["tuner"])
    for name, runs in measured.items():
        times = [seconds for seconds, _, _ in runs]
        median = statistics.median(times)
        result = ", ".join(f"{value:.8g}" for value in runs[0][2])
        print(
            f"| {title} | {name} | {median:.2f} ({min(times):.2f} to {max(times):.2f}) | "
            f"{median / ours:.1f} | {max(memory for _, memory, _ in runs):,.0f} | {result} |",
            flush=True,
        )


def large() -> None:
    """Measure memory for 50,000 real samples.

    Memory does not depend on the number of generated samples, which are processed in chunks, so few
    of them are used to save time.
    """
    real, fake = features(50_000, 1, 1.0), features(2_000, 2, 1.1)
    known = Known(Reference(np.zeros(1), np.zeros((1, 1)), 0.0), np.zeros((1, 1)))

    def prdc_without_radii(real: Features, fake: Features, known: Known) -> Result:
        return tuple(compute_prdc(real, np.ones((2, len(real))), fake))

    print("| | MB beyond the features | seconds |\n| --- | --- | --- |")
    contenders = {"KID": our_kid, "precision and recall, 2,000 rows": prdc_without_radii}
    for name, contender in contenders.items():
        seconds, memory, _ = measure(contender, real, fake, known)
        print(f"| {name} | {memory:,.0f} | {seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    if options.large:
        large()
        return
    real = features(10_000, 1, 1.0)
    print("| | | seconds (least to most) | times tuner's | MB | result |")
    print("| --- | --- | --- | --- | --- | --- |")
    fake = features(5_000, 2, 1.1)
    if "fid" in options.parts:
        for count in (1_000, 5_000, 10_000):
            some = features(count, 2, 1.1)
            compare(f"FID, n = {count:,}", FID, real, some, options.rounds)
        compare("real side, once", {"tuner": our_reference_statistics}, real, fake, options.rounds)
    if "kid" in options.parts:
        compare("KID, n = 5,000", KID, real[:5000], fake, options.rounds)
        compare("KID, n = 1,000 (one subset)", KID, real[:1000], fake[:1000], options.rounds)
    if "neighbours" in options.parts:
        contenders, title = PRECISION_RECALL, "precision, recall, n = 5,000"
        compare(title, contenders, real[:5000], fake, options.rounds)


if __name__ == "__main__":
    main()
