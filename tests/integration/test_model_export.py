"""Exported generators give the images of tuner's own, in every format; what is written where."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import command_line
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import study_databases
from artifacts import PROGRAM
from flax import nnx
from jax import export
from PIL import Image
from safetensors.numpy import load_file
from study_databases import Studies, run

import tuner
from tuner.cli.writing import check_folder, write_folder
from tuner.errors import InputError, TunerError
from tuner.files.serialization import encode_generator, pack
from tuner.files.study_files import open_files
from tuner.gan.networks import GENERATORS
from tuner.gan.sampling import Generator, generate
from tuner.gan.state import abstract_generator
from tuner.run import model_export
from tuner.run.model_export import CHECKED, JAX_EXPORT, MAKERS, ONNX, export_model
from tuner.run.onnx_model import onnx_model
from tuner.run.standalone import network_source
from tuner.run.stored_generators import ImageGenerator
from tuner.spec.traits import CONDITIONAL, NETWORKS
from tuner.study.verdict import Complete
from tuner.trial import Program
from tuner.views.model_readme import FORMATS

sqlite = study_databases.sqlite
ALONE = (
    "import sys; sys.modules |= {'tuner': None, 'safetensors': None}\n"
    "sys.argv = ['draw.py', *sys.argv[1:]]\n"
)


def program(name: str, **changes: Any) -> Program:
    """A very narrow program, conditioned on classes where the network can be."""
    classes = 4 if name in CONDITIONAL else 0
    like = PROGRAM._replace(generator=name, discriminator=name, width=1, image_shape=(32, 32, 3))
    norm = NETWORKS[name].norms[0]
    return like._replace(generator_norm=norm, classes=classes)._replace(**changes)


def random_generator(like: Program) -> ImageGenerator:
    """Random weights, and batch statistics that differ from those of a new network."""
    rng = np.random.default_rng(0)

    def fill(x: Any) -> Any:
        return np.float32(rng.normal(scale=0.3, size=x.shape))

    params, statistics = jax.tree.map(fill, abstract_generator(like))
    statistics = jax.tree.map(lambda x: np.abs(x) + np.float32(0.1), statistics)
    return ImageGenerator(like, Generator(params, statistics))


def expected(generator: ImageGenerator, n: int, seed: int) -> tuple[list[Any], np.ndarray]:
    """The arguments and the images of a call, before they are rounded to bytes."""
    latents = generator.latents(n, seed)
    (chunk,) = generate(generator.program, generator.weights, latents)
    return [x for x in latents if x is not None], np.asarray(chunk.images)[:n]


def check_images(generator: ImageGenerator, files: dict[str, bytes], n: int) -> None:
    """Draw ``n`` images with the stored programs and with tuner."""
    given, images = expected(generator, n, seed=3)
    assert images.std() > 0.05
    scale = max(1.0, np.abs(images).max())
    loaded = export.deserialize(bytearray(files[JAX_EXPORT]))
    assert loaded.platforms == ("cpu", "cuda", "rocm", "tpu")
    np.testing.assert_allclose(loaded.call(*given), images, rtol=0, atol=1e-5 * scale)
    session = onnxruntime.InferenceSession(files[ONNX], providers=["CPUExecutionProvider"])
    (found,) = session.run(["images"], dict(zip(("z", "labels"), given, strict=False)))
    np.testing.assert_allclose(found, images, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stored_program_gives_the_same_images(name: str) -> None:
    generator = random_generator(program(name))
    files = export_model(generator, FORMATS, {})  # which compares the images of the script
    check_images(generator, files, CHECKED)  # of the number that the export has compiled
    if name == "dcgan":
        check_images(generator, files, 5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_source_of_a_network_stands_alone(name: str) -> None:
    """It builds the same network, without tuner, and can be trained further."""
    like = program(name)
    kind: Any = GENERATORS[name]
    source = network_source(kind, like)
    assert "tuner" not in source.replace("tuner export-model", "").replace("tuner.spec.traits", "")
    assert "class Discriminator" not in source
    space: dict[str, Any] = {"__name__": "network"}
    exec(source, space)
    assert tuple(space["PROGRAM"]) == tuple(like)
    pair = (GENERATORS[name], like), (space["Generator"], space["PROGRAM"])
    original, network = (nnx.eval_shape(lambda k=k, p=p: k(p, rngs=nnx.Rngs(0))) for k, p in pair)
    ours, theirs = (
        [(path, x.shape, x.dtype) for path, x in nnx.to_flat_state(nnx.state(net))]
        for net in (original, network)
    )
    assert ours == theirs
    labels = jnp.zeros(2, jnp.int32) if like.classes else None

    def loss(net: Any) -> Any:
        return jnp.square(net(jnp.ones((2, like.latent_dim)), labels, train=True)).mean()

    assert jax.tree.leaves(nnx.eval_shape(nnx.grad(loss), network))


def test_every_format_has_instructions() -> None:
    assert tuple(MAKERS) == FORMATS


def test_a_format_with_other_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    function = model_export._function

    def other(generator: ImageGenerator) -> Any:
        images = function(generator)
        return lambda *given: images(*given) + 0.01

    monkeypatch.setattr(model_export, "_function", other)
    for name in ("jax-export", "onnx"):
        with pytest.raises(TunerError, match=f"--format {name}: the exported images differ by"):
            export_model(random_generator(program("infogan")), [name], {})


def test_an_operation_without_translation_is_named() -> None:
    with pytest.raises(ValueError, match="the operation sort"):
        onnx_model(lambda z: jnp.sort(z), {"z": ((2, 3), np.float32)}, "images")


def test_labels_are_checked() -> None:
    draw = random_generator(program("dcgan"))
    assert draw(3, labels=2).shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(draw(3, labels=1), draw(3, labels=[1, 1, 1]))
    assert not np.array_equal(draw(3, labels=1), draw(3, labels=2))
    for wrong in (4, -1, [0, 1], 1.5, [[0, 1, 2]]):
        with pytest.raises(InputError, match="labels: expected a class, or 3 classes, from 0 to 3"):
            draw(3, labels=cast(Any, wrong))
    with pytest.raises(InputError, match="not conditioned on classes"):
        random_generator(program("infogan"))(3, labels=0)


# Commands


@pytest.fixture
def study(sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studies:
    """A study of one complete trial with a conditional generator."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    store = sqlite.create()
    generator = random_generator(program("dcgan"))
    files = open_files(store, str(tmp_path / "artifacts"))
    name = "trial-00000-1.safetensors"
    files.write(name, encode_generator(generator.program, pack(generator.weights), {}))
    run(sqlite.join(), [40.0, 30.0, 20.0, 25.0], Complete(), name)
    return sqlite


def call(*words: str) -> int:
    return command_line.call("export-model", "s", *words)


def test_the_exported_script_draws_the_images_of_tuner_without_it(
    study: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--to", "exported") == 0
    assert capsys.readouterr().out == "Generator of trial 0: exported\n"
    folder = tmp_path / "exported"
    assert sorted(os.listdir(folder)) == [
        *("README.md", "draw.py", "generator.safetensors", "network.py", "samples.png"),
    ]
    moved = shutil.move(folder, tmp_path / "elsewhere")
    code = ALONE + "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, "--count", "9", "--seed", "5", "--out", "images.png"],
        cwd=moved,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    draw = tuner.open_study("s", study.url).best.generator()
    with Image.open(Path(moved, "images.png")) as picture:
        tiles = np.asarray(picture).reshape(3, 32, 3, 32, 3).swapaxes(1, 2).reshape(9, 32, 32, 3)
    difference = np.abs(tiles.astype(int) - draw(9, seed=5))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert tiles.std() > 1
    readme = Path(moved, "README.md").read_text()
    assert "FID 20 in the search: one seed, not confirmed" in readme
    assert "| learning_rate | 0.00" in readme
    weights = load_file(Path(moved, "generator.safetensors"))
    assert {"dense.kernel", "norm1.mean", "deconv1.kernel"} <= set(weights)


def test_the_instructions_of_the_readme_work(study: Studies, tmp_path: Path) -> None:
    assert call("--to", "all", *(w for f in FORMATS for w in ("--format", f))) == 0
    text = (tmp_path / "all" / "README.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == len(FORMATS)
    check = "assert images.shape == (16, 32, 32, 3), images.shape\n"
    done = subprocess.run(
        [sys.executable, "-c", ALONE + "sys.path.insert(0, '')\n" + check.join([*blocks, ""])],
        cwd=tmp_path / "all",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_generator_in_python_draws_what_samples_draw(study: Studies) -> None:
    best = tuner.open_study("s", study.url).best
    draw = best.generator()
    images = draw(4, seed=2)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    for image, sample in zip(images, best.samples(4, seed=2), strict=True):
        np.testing.assert_array_equal(image, np.asarray(sample))
    assert repr(draw) == "<ImageGenerator dcgan: 32x32x3, 4 classes>"
    paths = draw.interpolation(4, 3, seed=2).reshape(4, 3, 32, 32, 3)
    np.testing.assert_array_equal(paths[:, 0], images)
    labels = draw.latents(4, 2).labels
    assert labels is not None
    ends = draw(4, seed=3, labels=labels.tolist())
    np.testing.assert_allclose(paths[:, 2].astype(int), ends.astype(int), atol=1)
    assert (paths[:, 1] != paths[:, 0]).any()
    for label, row in enumerate(draw.by_class(3, 4, seed=2).reshape(3, 4, 32, 32, 3)):
        np.testing.assert_array_equal(row, draw(4, seed=2, labels=label))
    with pytest.raises(InputError, match="samples: found n = 0, expected at least 1"):
        draw(0)


def test_nothing_of_the_user_is_replaced(
    study: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for words in ((), ("--force",)):
        assert call("--to", "mine", *words) == 2
        assert capsys.readouterr().err.endswith(
            "--to: mine can't be written: the folder is not empty: it has thesis.txt\n"
        )
    assert call("--to", "no/folder") == 2
    assert "can't be written: No such file or directory" in capsys.readouterr().err
    assert call("--to", "x", "--format", "pickle") == 2
    assert "--format: found 'pickle', expected one of: flax, jax-export, onnx" in (
        capsys.readouterr().err
    )
    assert call("--to", "x", "--trial", "7") == 2
    assert "has no trial 7" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_folders_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, {"a": b"1", "b": b"2"})
    with pytest.raises(InputError, match=r"not empty: it has a, b$"):
        check_folder(folder)
    assert check_folder(folder, force=["a", "b", "c"]) == folder
    with pytest.raises(InputError, match="can't be written: No such file"):
        write_folder(folder, {"c": b"3", "no/such": b"4"})
    assert sorted(os.listdir(folder)) == ["a", "b"]
    write_folder(folder, {"c": b"3"})
    assert os.listdir(folder) == ["c"]
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(InputError, match="it exists and is not a folder"):
        check_folder(folder / "c")


# Custom networks

OWN = """
import jax.numpy as jnp
from flax import nnx

from .parts import LAYERS
from tuner.gan.layers import Dense, leaky_relu


class Mine(nnx.Module):
    def __init__(self, program, *, rngs):
        self.shape = program.image_shape
        self.first = Dense(program.latent_dim, LAYERS, rngs=rngs)
        self.last = Dense(LAYERS, 32 * 32 * 3, rngs=rngs)

    def __call__(self, z, labels=None, *, train):
        return jnp.tanh(self.last(leaky_relu(self.first(z)))).reshape(-1, *self.shape)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a custom network."""
    package = tmp_path / "ownpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("# How many.\nLAYERS = 5\n")
    (package / "models.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ownpackage", "ownpackage.parts", "ownpackage.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return package


def exported_own(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    import importlib

    models: Any = importlib.import_module("ownpackage.models")
    monkeypatch.setitem(GENERATORS, "ownpackage.models:Mine", models.Mine)
    like = program("infogan", generator_norm="none")
    return export_model(
        random_generator(like._replace(generator="ownpackage.models:Mine")), ["flax"], {}
    )


def test_a_custom_network_comes_along(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = exported_own(monkeypatch)["network.py"].decode()
    assert "# How many.\nLAYERS = 5\n" in source
    assert "ownpackage import" not in source
    assert source.endswith("Generator = Mine\n")


def test_code_that_cannot_come_along_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own / "models.py").write_text(
        OWN.replace("from .parts import LAYERS\n", "from ownpackage import parts\n").replace(
            "LAYERS", "parts.LAYERS"
        )
    )
    with pytest.raises(InputError, match=r"--format flax: .* can't be exported: NameError"):
        exported_own(monkeypatch)


def test_weights_record_where_they_come_from() -> None:
    data = export_model(random_generator(program("infogan")), ["flax"], {"study": "s"})
    header = data["generator.safetensors"]
    length = int.from_bytes(header[:8], "little")
    about = json.loads(header[8 : 8 + length])["__metadata__"]
    assert json.loads(about["study"]) == "s"
    assert json.loads(about["program"])["generator"] == "infogan"
