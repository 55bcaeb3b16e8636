"""Export a stored generator in formats that work without tuner, each checked against its images."""

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, export
from numpy.typing import NDArray

from tuner.errors import InputError, TunerError
from tuner.files.serialization import encode
from tuner.gan.networks import GENERATORS
from tuner.gan.sampling import CHUNK, Latents, generate
from tuner.gan.state import networks
from tuner.run.standalone import network_source
from tuner.run.stored_generators import ImageGenerator
from tuner.version import __version__
from tuner.xla import abstract

Files = dict[str, bytes]
About = Mapping[str, Any]
WEIGHTS, NETWORK, SCRIPT = "generator.safetensors", "network.py", "draw.py"
JAX_EXPORT, ONNX = "generator.jax_export", "generator.onnx"
NAMES = (WEIGHTS, NETWORK, SCRIPT, JAX_EXPORT, ONNX)  # of all files that an export may have
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
CHECKED = 8  # images
TOLERANCE = 1e-3  # of the largest value, if above 1: an eighth of a grey level
_TEMPLATES = Path(__file__).parent / "templates"


def export_model(generator: ImageGenerator, formats: Sequence[str], about: About) -> Files:
    """The files of a generator in these ``formats``, by name; ``about`` is stored with its weights.

    InputError for a custom network that a format can't express, or if a library is missing;
    TunerError if a format gives other images.
    """
    files: Files = {}
    for name in formats:
        files |= MAKERS[name](generator, about)
    return files


def versions() -> dict[str, str]:
    """Versions of tuner and of the libraries that the exported formats depend on."""
    return {"tuner": __version__, "jax": jax.__version__, "flax": flax.__version__}


def _flax(generator: ImageGenerator, about: About) -> Files:
    """Weights, the network's source and a script."""
    program = generator.program
    kind: Any = GENERATORS[program.generator]
    weights = {
        ".".join(map(str, path)): np.asarray(variable[...])
        for state in generator.weights
        for path, variable in nnx.to_flat_state(state)
    }
    files = {
        WEIGHTS: encode(weights, {"program": program._asdict(), **about}),
        NETWORK: network_source(kind, program).encode(),
        SCRIPT: (_TEMPLATES / SCRIPT).read_bytes(),
    }
    try:
        with _imported(files) as script:
            drawn = script.draw(CHECKED, 0)
    except Exception as error:  # a custom network may raise anything
        raise _refusal("flax", program.generator, error) from None
    _check("flax", drawn / 127.5 - 1.0, generator(CHECKED, 0) / 127.5 - 1.0, 2.01 / 255)
    return files


@contextmanager
def _imported(files: Files) -> Iterator[ModuleType]:
    """The exported script as a module, next to the exported network and weights."""
    hidden = sys.modules.pop("network", None)
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        sys.path.insert(0, folder)
        try:
            spec = importlib.util.spec_from_file_location("draw", Path(folder, SCRIPT))
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            yield module
        finally:
            sys.path.remove(folder)
            sys.modules.pop("network", None)
            if hidden is not None:
                sys.modules["network"] = hidden


def _jax_export(generator: ImageGenerator, _: About) -> Files:
    """A StableHLO program with the weights in it, for any number of images."""
    (count,) = export.symbolic_shape("n")
    try:
        exported = export.export(jax.jit(_function(generator)), platforms=PLATFORMS)(
            *_arguments(generator, count)
        )
        data = bytes(exported.serialize())
    except Exception as error:  # a custom network may raise anything
        raise _refusal("jax-export", generator.program.generator, error) from None
    found = export.deserialize(bytearray(data)).call(*_given(_latents(generator)))
    _check("jax-export", np.asarray(found), _expected(generator))
    return {JAX_EXPORT: data}


def _onnx(generator: ImageGenerator, _: About) -> Files:
    """An ONNX model, for any number of images."""
    try:
        import onnxruntime

        from tuner.run.onnx_model import onnx_model
    except ImportError as error:
        raise InputError(
            f"--format onnx: needs {error.name}; install it with pip install 'tuner[onnx]'"
        ) from None
    given = dict(zip(("z", "labels"), _given(_latents(generator)), strict=False))
    try:
        inputs = {name: (x.shape, x.dtype) for name, x in given.items()}
        data: bytes = onnx_model(_function(generator), inputs, "images").SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (found,) = session.run(["images"], given)
    except Exception as error:  # a custom network may raise anything
        raise _refusal("onnx", generator.program.generator, error) from None
    _check("onnx", found, _expected(generator))
    return {ONNX: data}


# By name, in the order of ``views.model_readme.FORMATS``.
MAKERS: dict[str, Callable[[ImageGenerator, About], Files]] = {
    "flax": _flax,
    "jax-export": _jax_export,
    "onnx": _onnx,
}


def _function(generator: ImageGenerator) -> Callable[..., Array]:
    """Latents (n, latent_dim), and labels (n,) if there are classes, to images in [-1, 1]."""
    graph = networks(generator.program).generator
    weights = generator.weights

    def images(z: Array, *labels: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            found: Array = nnx.merge(graph, *weights, copy=True)(z, *labels, train=False)
        return found

    return images


def _arguments(generator: ImageGenerator, count: Any) -> list[Any]:
    """Shapes and types of the arguments for ``count`` images."""
    z = abstract((count, generator.program.latent_dim), jnp.float32)
    return [z, abstract((count,), jnp.int32)] if generator.program.classes else [z]


def _latents(generator: ImageGenerator) -> Latents:
    return generator.latents(CHECKED, 0)


def _given(latents: Latents) -> list[NDArray[Any]]:
    return [latents.z] if latents.labels is None else [latents.z, latents.labels]


def _expected(generator: ImageGenerator) -> NDArray[np.float32]:
    assert CHECKED <= CHUNK
    (chunk,) = generate(generator.program, generator.weights, _latents(generator))
    return np.asarray(chunk.images)[:CHECKED]


def _check(
    name: str, found: NDArray[Any], expected: NDArray[Any], tolerance: float = TOLERANCE
) -> None:
    """Raise TunerError unless both are the same images up to rounding."""
    if found.shape != expected.shape:
        raise TunerError(f"--format {name}: found images {found.shape}, expected {expected.shape}")
    worst = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    if not worst <= tolerance:  # NaN is not
        raise TunerError(
            f"--format {name}: the exported images differ by up to {worst:.3g} from "
            "those of tuner sample; nothing was written"
        )


def _refusal(name: str, network: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = " ".join(f"{error!r}"[:200].split())
    return InputError(f"--format {name}: the network {network!r} can't be exported: {reason}")
