"""Inception features and FID compared with PyTorch implementations.

    python benchmarks/inception.py

prints tables that compare, in float32 with the same random weights: every block's output with that
of torch-fidelity's network; the FID between sets of Fashion-MNIST, by each convention, with the FID
of the package of that name (clean-fid offers no network without its weights, so its resizing and
its distance are used around torch-fidelity's network); and images per second.

    python benchmarks/inception.py --golden

rewrites tests/golden/inception.npz instead, with the same bytes every time on one machine, from
torch-fidelity's network in float64 and the resizing of torch-fidelity and pytorch-fid. Weights and
images are not stored: tests/inception_weights.py computes them.

Needs torch==2.13.0, torchvision==0.28.*, torch-fidelity==0.4.0, pytorch-fid==0.3.0 and
clean-fid==0.1.35 (installed with ``--no-deps`` they accept any torch), requests and tqdm,
scipy < 1.18, and Fashion-MNIST's files in the folder ``--data`` (by default where Debian's package
dataset-fashion-mnist puts them).
"""

import functools
import hashlib
import importlib
import statistics
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from default_trial import alternate
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from tuner.data import read_idx
from tuner.files.inception_weights import load_inception
from tuner.metrics.fid import frechet_distance, reference
from tuner.metrics.inception import CHUNK, block_outputs, inception_features, weight_shapes
from tuner.metrics.resizing import CONVENTIONS, prepare
from tuner.xla import jit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
rule = importlib.import_module("inception_weights")

# torchvision's layers are needed, but not its operators, which are compiled for one exact torch.
# Its module _meta_registrations can't be imported without the operators.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("_meta_registrations")
fidelity = importlib.import_module("torch_fidelity")
fidelity_network = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
pytorch_fid = importlib.import_module("pytorch_fid.fid_score")
pytorch_fid_network: Any = importlib.import_module("pytorch_fid.inception")
clean_fid = importlib.import_module("cleanfid.fid")

SETS = {"tops": (0, 2, 4, 6), "other tops": (0, 2, 4, 6), "shoes": (5, 7, 9)}  # and their classes
PAIRS = (("tops", "other tops"), ("tops", "shoes"))
BATCH = 32

Arrays = dict[str, NDArray[Any]]
Images = NDArray[np.uint8]


def fidelity_net(path: Path) -> Any:
    """torch-fidelity's network with the state dict in the file."""
    extractor = fidelity_network.FeatureExtractorInceptionV3
    return extractor("inception", ["2048"], feature_extractor_weights_path=str(path))


def write_weights(path: Path, images: list[Images]) -> None:
    """Write a file in the published format, with random weights calibrated on these images."""
    shapes = weight_shapes()
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    state |= {name: torch.zeros(shape) for name, shape in shapes.items() if rule.recorded(name)}
    for name, array in rule.draw_weights(shapes).items():
        laid_out = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        state[name] = torch.from_numpy(laid_out.copy())
    torch.save(state, path)
    net = fidelity_net(path).double()
    inputs = torch.cat([their_input("torch-fidelity", some) for some in images])
    calibrate(net, inputs.double())
    torch.save(net.float().state_dict(), path)


def calibrate(net: Any, x: torch.Tensor) -> None:
    """Set each batch norm's statistics to those of its input, rounded to float16."""

    def measure(layer: Any, y: torch.Tensor) -> None:
        layer.bn.running_mean.copy_(y.mean((0, 2, 3)).half())
        layer.bn.running_var.copy_(y.var((0, 2, 3)).half())

    handles = [
        layer.conv.register_forward_hook(lambda _, __, y, layer=layer: measure(layer, y))
        for layer in net.modules()
        if hasattr(layer, "bn")
    ]
    their_blocks(net, x)
    for handle in handles:
        handle.remove()


def their_input(convention: str, images: Images) -> torch.Tensor:
    """The network's input (n, 3, 299, 299) as the package makes it from images (n, h, w, c)."""
    colours = np.broadcast_to(images, (*images.shape[:3], 3))
    x = torch.from_numpy(colours.transpose(0, 3, 1, 2).copy()).float()
    if convention == "pytorch-fid":
        return 2 * functional.interpolate(x / 255, (299, 299), mode="bilinear") - 1
    if convention == "torch-fidelity":
        resize = fidelity_network.interpolate_bilinear_2d_like_tensorflow1x
        x = resize(x, size=(299, 299), align_corners=False)
    else:
        resized = np.stack(list(map(clean_fid.build_resizer("clean"), colours)))
        x = torch.from_numpy(resized.transpose(0, 3, 1, 2))
    return (x - 128) / 128


def their_blocks(net: Any, x: torch.Tensor) -> Arrays:
    """Each block's output (n, h, w, c), after pooling if that follows, and the ``features``."""
    outputs: Arrays = {}
    block = ""
    with torch.inference_mode():
        for name, layer in net.named_children():
            x = layer(x)
            if name == "AvgPool":
                break
            block = block if name.startswith("MaxPool") else name
            outputs[block] = x.permute(0, 2, 3, 1).numpy().copy()
    return outputs | {"features": x.flatten(1).numpy()}


def write_golden(folder: Path) -> None:
    path = folder / "random.pth"
    write_weights(path, rule.calibration_images())
    state = torch.load(path)
    images = rule.two_images()
    net = fidelity_net(path).double()
    outputs = their_blocks(net, their_input("torch-fidelity", images).double())
    golden: dict[str, Any] = {"features": outputs.pop("features").astype(np.float32)}
    for name, output in outputs.items():
        golden[f"block/{name}"] = rule.sample_block(output).astype(np.float32)
    for kind in rule.RECORDED:
        pieces = [array.numpy() for name, array in sorted(state.items()) if name.endswith(kind)]
        golden[kind] = np.concatenate(pieces).astype(np.float16)
    for convention in ("pytorch-fid", "torch-fidelity"):
        for height, width in rule.SIZES:
            x = their_input(convention, rule.noise(1, height, width, 1)).permute(0, 2, 3, 1)
            golden[f"{convention}/{height}x{width}"] = rule.sample_input(x.numpy())[..., 0]
    target = ROOT / "tests" / "golden" / "inception.npz"
    np.savez_compressed(target, **golden)
    print(f"{target}: {target.stat().st_size:,} bytes")


@functools.partial(jit, static_argnums=2)
def our_features(weights: Any, images: Any, convention: str) -> jax.Array:
    return inception_features(weights, images, convention)


def relative(found: Any, expected: Any) -> float:
    """Euclidean length of the difference, relative to that of ``expected``."""
    expected = np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def compare_blocks(path: Path, weights: Any, images: Images) -> None:
    x = their_input("torch-fidelity", images)
    theirs = their_blocks(fidelity_net(path), x)
    exact = their_blocks(fidelity_net(path).double(), x.double())
    ours = jit(lambda w, x: block_outputs(w, prepare(x, "torch-fidelity")))(weights, images)
    ours["features"] = our_features(weights, jnp.asarray(images), "torch-fidelity")
    print("| output | ours, theirs | ours, float64 | theirs, float64 |\n| --- | --- | --- | --- |")
    for name, expected in exact.items():
        pairs = ((ours[name], theirs[name]), (ours[name], expected), (theirs[name], expected))
        print(f"| {name} |", *(f"{relative(*pair):.1e} |" for pair in pairs))


def choose_sets(folder: Path, count: int) -> dict[str, Images]:
    """Choose ``count`` images (28, 28, 1) for each of SETS, no image twice."""
    images = read_idx(folder / "train-images-idx3-ubyte.gz")[..., None]
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    chosen: dict[str, Images] = {}
    used = np.zeros(len(labels), bool)
    for name, classes in SETS.items():
        picked = np.flatnonzero(np.isin(labels, classes) & ~used)[:count]
        used[picked] = True
        chosen[name] = images[picked]
    return chosen


def fid_of(convention: str, path: Path, folders: tuple[str, str]) -> float:
    """FID of two folders of PNG files by the package that the convention is named after."""
    device = torch.device("cpu")
    if convention == "pytorch-fid":
        # Its network would download the published weights: load ours instead.
        pytorch_fid_network.load_state_dict_from_url = lambda *_, **__: torch.load(path)
        return float(pytorch_fid.calculate_fid_given_paths(folders, BATCH, device, 2048, 0))
    if convention == "torch-fidelity":
        weights = {"feature_extractor_weights_path": str(path), "batch_size": BATCH}
        options = {"fid": True, "cuda": False, "cache": False, "save_cpu_ram": True}
        found = fidelity.calculate_metrics(
            input1=folders[0], input2=folders[1], verbose=False, **options, **weights
        )
        return float(found["frechet_inception_distance"])
    net = fidelity_net(path)

    def features(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(their_blocks(net, (x - 128) / 128)["features"])

    return float(
        clean_fid.compare_folders(*folders, features, "clean", 0, BATCH, device, verbose=False)
    )


def features_of(weights: Any, images: Images, convention: str) -> NDArray[np.floating]:
    chunks = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        padded = np.pad(chunk, ((0, CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)))
        chunks.append(our_features(weights, jnp.asarray(padded), convention)[: len(chunk)])
    return np.concatenate(jax.device_get(chunks))


def compare_distances(path: Path, weights: Any, sets: dict[str, Images], folder: Path) -> None:
    for name, images in sets.items():
        (folder / name).mkdir()
        for i, image in enumerate(images):
            colours = Image.fromarray(np.repeat(image, 3, axis=-1))
            colours.save(folder / name / f"{i:05d}.png")
    print("| convention | sets | FID | FID of the package | difference / traces | / FID |")
    print("| --- | --- | --- | --- | --- | --- |")
    for convention in CONVENTIONS:
        features = {name: features_of(weights, x, convention) for name, x in sets.items()}
        for pair in PAIRS:
            known, other = (reference(features[name]) for name in pair)
            ours = frechet_distance(known, features[pair[1]])
            theirs = fid_of(convention, path, (str(folder / pair[0]), str(folder / pair[1])))
            difference = abs(ours - theirs)
            print(
                f"| {convention} | {pair[0]}, {pair[1]} | {ours:.5f} | {theirs:.5f} "
                f"| {difference / (known.trace + other.trace):.1e} | {difference / theirs:.1e} |",
                flush=True,
            )


def compare_speed(path: Path, weights: Any, images: Images, rounds: int) -> None:
    """Compare images per second, from uint8 images to features in memory, in alternation."""
    net = fidelity_net(path)
    batch = images[:CHUNK]
    tensor = torch.from_numpy(np.repeat(batch, 3, axis=-1).transpose(0, 3, 1, 2).copy())

    def ours() -> None:
        our_features(weights, jnp.asarray(batch), "torch-fidelity").block_until_ready()

    def theirs() -> None:
        with torch.inference_mode():
            net(tensor)

    print("| extractor | images/s | range |\n| --- | --- | --- |")
    for name, seconds in alternate(
        {"tuner": ours, "torch-fidelity, eager": theirs}, rounds
    ).items():
        speeds = [CHUNK / each for each in seconds]
        median = statistics.median(speeds)
        print(f"| {name} | {median:.1f} | {min(speeds):.1f} to {max(speeds):.1f} |")


FASHION = Path("/usr/share/datasets/fashion-mnist")


def main(golden: bool = False, data: Path = FASHION, images: int = 500, rounds: int = 9) -> None:
    warnings.simplefilter("ignore")  # SciPy and Pillow deprecate functions that the packages use
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if golden:
            write_golden(folder)
            return
        path = folder / "random.pth"
        sets = choose_sets(data, images)
        write_weights(path, [chosen[:20] for chosen in sets.values()])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        weights = jax.device_put(load_inception(str(path), digest))
        compare_blocks(path, weights, sets["shoes"][-2:])
        compare_speed(path, weights, sets["tops"], rounds)
        compare_distances(path, weights, sets, folder)


if __name__ == "__main__":
    typer.run(main)
