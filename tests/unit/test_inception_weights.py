"""Files of Inception weights: loading, conversion and refusals."""

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tuner.cli import app, prepare
from tuner.errors import InputError
from tuner.files.inception_weights import PUBLISHED_AT, convert_inception, load_inception
from tuner.files.serialization import encode
from tuner.metrics import inception
from tuner.spec.metrics import INCEPTION_SHA256

SHAPES = {"a.conv.weight": (3, 1, 2, 4), "a.bn.bias": (4,)}
SOURCE = "0" * 64


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "weight_shapes", lambda: SHAPES)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype("f4") for name, shape in SHAPES.items()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_copy(path: Path, **changed: Any) -> Path:
    """Write the small network's weights as the converter does."""
    path.write_bytes(encode(weights(), {"kind": "inception", "source_sha256": SOURCE} | changed))
    return path


def write_torch(path: Path) -> Path:
    """Write the small network's state dict with PyTorch."""
    torch = pytest.importorskip("torch")
    state = {
        name: torch.from_numpy(array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array)
        for name, array in weights().items()
    }
    state |= {"fc.bias": torch.zeros(7), "a.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(state, path)
    return path


def equal_weights(found: dict[str, np.ndarray]) -> bool:
    expected = weights()
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


def test_a_copy_of_any_name_is_read(tmp_path: Path) -> None:
    assert equal_weights(load_inception(str(write_copy(tmp_path / "weights.pth")), SOURCE))


def test_pytorch_files_are_read_and_converted(tmp_path: Path) -> None:
    source, target = write_torch(tmp_path / "in"), tmp_path / "out.safetensors"
    assert equal_weights(load_inception(str(source), digest(source)))
    target.write_bytes(convert_inception(source, digest(source)))
    assert equal_weights(load_inception(str(target), digest(source)))
    with pytest.raises(InputError, match=f"with SHA-256 {digest(source)}, expected one with 6726"):
        load_inception(str(target))


def test_the_command_converts(tmp_path: Path) -> None:
    source, target = write_torch(tmp_path / "in"), tmp_path / "out.safetensors"
    command = prepare.convert_inception.__name__.replace("_", "-")
    words = [command, str(source), str(target), "--sha256", digest(source).upper()]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.output) == (0, f"{target}: SHA-256 {digest(target)}\n")


def test_pytorch_files_need_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "in"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"\.\[inception\]', or run tuner convert-inception"):
        load_inception(str(path), digest(path))
    assert equal_weights(load_inception(str(write_copy(path)), SOURCE))


def refusal(path: Path, sha256: str = INCEPTION_SHA256) -> str:
    """The one-line error from loading a file, which equals that from converting it."""
    with pytest.raises(InputError) as caught:
        load_inception(str(path), sha256)
    with pytest.raises(InputError) as converted:
        convert_inception(path, sha256)
    assert str(converted.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"<html>not found</html>")
    assert refusal(path) == (
        f"{path}: found 22 bytes with SHA-256 {digest(path)}, expected 95,628,359 bytes with "
        f"SHA-256 {INCEPTION_SHA256}, as published at {PUBLISHED_AT}"
    )
    assert refusal(path, SOURCE).endswith(f"{digest(path)}, expected SHA-256 {SOURCE}")


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_missing_or_irregular_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    if kind == "folder":
        path.mkdir()
    problem = "No such file or directory" if kind == "missing" else "a folder, not a file"
    expected = f"{path}: can't be read: {problem}; give the Inception weights"
    assert refusal(path).startswith(expected)
    assert refusal(path).endswith(PUBLISHED_AT)


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    path = write_copy(tmp_path / "copy")
    data = path.read_bytes()
    for damaged in (data[:-1], data[:100], data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: damaged"):
            load_inception(str(path), SOURCE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "extractor"}, "this file contains no Inception weights"),
        ({"source_sha256": "1" * 64}, f"SHA-256 {'1' * 64}, expected one with {SOURCE}"),
    ],
)
def test_another_copy_is_refused(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    path = write_copy(tmp_path / "copy", **changed)
    with pytest.raises(InputError, match=message):
        load_inception(str(path), SOURCE)


def test_a_copy_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(
        encode({"a.bn.bias": weights()["a.bn.bias"]}, {"kind": "inception", "source_sha256": ""})
    )
    with pytest.raises(InputError, match=r"'a\.conv\.weight': found no array"):
        load_inception(str(path), "")


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path, evidence = tmp_path / "in", tmp_path / "it ran"
    torch.save({"a.bn.bias": Payload(evidence)}, path)
    assert "not weights saved by PyTorch" in refusal(path, digest(path))
    assert not evidence.exists()
    torch.load(path, weights_only=False)
    assert evidence.exists(), "the payload works"


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": "text"}, None])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "in"
    torch.save(content, path)
    assert "not weights saved by PyTorch" in refusal(path, digest(path))


def test_files_torch_cannot_read_are_refused(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "in")
    data = path.read_bytes()
    for cut in (data[:-30], data[:50], b"", b"\x80\x02."):
        path.write_bytes(cut)
        assert "not weights saved by PyTorch" in refusal(path, digest(path))
