"""DINOv2 and CLIP as feature extractors, with small networks in files as published."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import vit_rule as rule
from builders import spec_of
from safetensors.numpy import save_file

from tuner.errors import InputError
from tuner.metrics import vit
from tuner.metrics.vit_weights import published_shapes
from tuner.run.sharing import load_published_extractor


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, size in rule.SIZES.items():
        monkeypatch.setitem(vit.ARCHITECTURES, kind, size)


def write(path: Path, kind: str) -> Path:
    shapes = published_shapes(rule.SIZES[kind])
    save_file({name: rule.draw(name, shape) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("kind", rule.SIZES)
def test_features_agree_with_transformers_in_chunks(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", kind)
    spec = spec_of(f"[metrics]\nfeatures = '{kind}'\nweights = '{path}'")
    extractor = load_published_extractor(spec)
    assert extractor is not None
    with np.load(Path(__file__).parents[1] / "golden" / "vit.npz") as golden:
        resized, expected = golden["resized"], golden[f"{kind}/features"]
    found = extractor(np.tile(resized, (7, 1, 1, 1)))  # more than one call of the network
    assert found.shape == (21, rule.SIZES[kind].features)
    np.testing.assert_allclose(found, np.tile(expected, (7, 1)), rtol=1e-4, atol=1e-5)
    assert extractor.classes(found) is None


def test_files_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", "dinov2")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    line = f"[metrics]\nfeatures = 'dinov2'\nweights = '{path}'\nweights_sha256 = '{{}}'"
    assert load_published_extractor(spec_of(line.format(digest))) is not None
    with pytest.raises(InputError, match=f"found SHA-256 {digest}, expected {'0' * 64}"):
        load_published_extractor(spec_of(line.format("0" * 64)))
    clip = spec_of(f"[metrics]\nfeatures = 'clip'\nweights = '{path}'")
    with pytest.raises(InputError, match="found no array; this is the file of another network"):
        load_published_extractor(clip)
    path.write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_published_extractor(clip)
    with pytest.raises(InputError, match=r"give the path of model.safetensors of openai/clip"):
        load_published_extractor(spec_of("[metrics]\nfeatures = 'clip'"))
    missing = spec_of("[metrics]\nfeatures = 'dinov2-base'\nweights = 'missing'")
    with pytest.raises(InputError, match=r"missing: can't be read: .*facebook/dinov2-base"):
        load_published_extractor(missing)
