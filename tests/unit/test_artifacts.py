"""Arrays as bytes and back: to the bit, or refused."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from builders import SHAPE
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import InputError
from tuner.gan.sampling import Generator
from tuner.gan.state import abstract_generator
from tuner.metrics.features import Extractor
from tuner.metrics.suite import real_side
from tuner.run import artifacts
from tuner.run.artifacts import Arrays, decode, encode, pack, unpack
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store
from tuner.trial import Program

PROGRAM = Program("dcgan", "dcgan", 2, 8, SHAPE, 8, "minimax", "sgd", "sgd", 1, False)
ABOUT = {"epoch": 3, "fid": 1.5, "none": None, "name": "x", "list": [1, [2.5, "y"]]}
TYPES = ("f4", "f8", "i4", "i8", "u1", "u4", "?")


def small() -> Arrays:
    return {
        "weights": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float32),
        "step": np.array(7, np.int32),
        "none": np.zeros((0, 3), np.float32),
    }


def same(a: Arrays, b: Arrays) -> bool:
    """Equal to the bit, with shapes and types."""
    described = [{k: (x.dtype, x.shape, x.tobytes()) for k, x in found.items()} for found in (a, b)]
    return described[0] == described[1]


@st.composite
def arrays(draw: st.DrawFn) -> Arrays:
    found: Arrays = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=3)):
        if name == "__metadata__":
            continue
        kind = np.dtype(draw(st.sampled_from(TYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        size = int(np.prod(shape)) * kind.itemsize
        data = draw(st.binary(min_size=size, max_size=size))
        if kind == np.bool_:
            data = bytes(byte & 1 for byte in data)
        found[name] = np.frombuffer(data, kind).reshape(shape)
    return found


@settings(max_examples=100, deadline=None)
@given(arrays())
def test_arrays_come_back_to_the_bit(found: Arrays) -> None:
    data = encode(found, ABOUT)
    again, about = decode(data, "here")
    assert same(found, again)
    assert about == ABOUT


def test_the_layout_of_an_array_does_not_matter() -> None:
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    for view in (square.T, square[:, ::2], np.asfortranarray(square)):
        assert same(decode(encode({"x": view}, {}), "")[0], {"x": np.array(view, order="C")})


def test_every_flipped_bit_is_found() -> None:
    """Anywhere in the file: none goes unnoticed that changes what is read."""
    data = encode(small(), ABOUT)
    unnoticed = []
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                decode(bytes(flipped), "here")
            except InputError:
                continue
            unnoticed.append((position, bit, data[max(0, position - 9) : position + 9]))
    assert unnoticed == []


def test_every_truncation_is_found() -> None:
    data = encode(small(), ABOUT)
    for length in range(len(data)):
        with pytest.raises(InputError, match=r"^here: found a damaged file"):
            decode(data[:length], "here")
    with pytest.raises(InputError, match=r"^here: found a damaged file"):
        decode(data + b"\0", "here")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_whatever_else_is_there_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^here: found a damaged file") as caught:
        decode(data, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"x": 1}',
        b'{"__metadata__": {"a": 1}}',
        b'{"__metadata__": {"a": "{"}}',
        b'{"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}',
    ],
)
def test_odd_headers_are_refused_in_one_line(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    with pytest.raises(InputError, match=r"^here: found a damaged file") as caught:
        decode(data, "here")
    assert "\n" not in str(caught.value)


def test_equal_contents_are_equal_files() -> None:
    arrays = {name: np.full(3, i, np.float32) for i, name in enumerate("zyx")}
    about = {f"key{i}": i for i in range(9)}
    files = {encode(dict(reversed(arrays.items())) if i % 2 else arrays, about) for i in range(20)}
    assert len(files) == 1
    [data] = files
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert decode(data, "here")[1] == about


def test_a_tree_comes_back_as_it_was() -> None:
    tree: Any = {"a": [np.arange(3.0), {"b": np.float32(2)}], "c": (np.zeros((2, 2), np.int8),)}
    packed = pack(tree)
    again = unpack(tree, packed, "here")
    assert same(pack(again), packed)
    assert isinstance(again["c"], tuple)
    packed["['a'][0]"][0] = 9.0  # a copy, whatever becomes of the tree
    assert tree["a"][0][0] == 0.0


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(2)}, r"found \['a'\] .*\(3,\).*, expected .*\(2,\)"),
        ({"a": np.zeros((3, 1))}, r"found \['a'\] .*\(3,\).*, expected .*\(3, 1\)"),
        ({"a": np.zeros(3), "b": np.zeros(1)}, r"found \['b'\] None, expected .*\(1,\)"),
    ],
)
def test_a_tree_of_another_shape_is_refused(like: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^here: {message}"):
        unpack(like, {"['a']": np.zeros(3)}, "here")


def test_a_tree_of_another_type_is_refused() -> None:
    """Not read as if it were of the right one."""
    with pytest.raises(InputError, match=r"found \['a'\]"):
        unpack({"a": np.zeros(3, np.float32)}, {"['a']": np.zeros(3, np.int32)}, "here")


@pytest.fixture
def files(tmp_path: Path) -> StudyFiles:
    return StudyFiles(open_store(str(tmp_path)), "study").begin("a token")


def generator() -> Generator:
    rng = np.random.default_rng(0)
    like = Generator(*abstract_generator(PROGRAM))
    packed = pack(unpack(like, {k: rng.random(v.shape, np.float32) for k, v in shapes(like)}, ""))
    made: Generator = unpack(like, packed, "")
    return made


def shapes(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in found]


def test_a_kept_generator_needs_no_database(files: StudyFiles) -> None:
    made = generator()
    files.write("g", artifacts.encode_generator(PROGRAM, pack(made), {"trial": 3, "fid": 20.5}))
    program, again, about = artifacts.load_generator(files, "g")
    assert (program, about) == (PROGRAM, {"trial": 3, "fid": 20.5})
    assert same(pack(again), pack(made))


def test_what_is_no_kept_generator_is_refused(files: StudyFiles) -> None:
    where = files.locate("g")
    with pytest.raises(InputError, match=f"^{where}: found no such file, expected a generator"):
        artifacts.load_generator(files, "g")
    files.write("g", encode(pack(generator()), {}))
    with pytest.raises(InputError, match=f"^{where}: found no program"):
        artifacts.load_generator(files, "g")
    fields = PROGRAM._asdict()
    del fields["ema"]
    files.write("g", encode(pack(generator()), {"program": fields}))
    with pytest.raises(InputError, match=f"^{where}: found a generator kept by another version"):
        artifacts.load_generator(files, "g")
    wider = PROGRAM._replace(width=4)
    files.write("g", artifacts.encode_generator(wider, pack(generator()), {}))
    with pytest.raises(InputError, match=f"^{where}: found "):
        artifacts.load_generator(files, "g")


def test_measures_come_back_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    extractor = Extractor("random", {"conv1": jax.device_put(rng.random(9, np.float32))}, 0.975)
    again = artifacts.decode_extractor(artifacts.encode_extractor(extractor), "here")
    assert (again.kind, again.accuracy, again.digest) == ("random", 0.975, extractor.digest)
    real = real_side(rng.random((40, 9)), np.arange(40) % 3, 3, samples=12)
    found = artifacts.decode_real_side(artifacts.encode_real_side(real), "here")
    assert same(pack(found), pack(real))
    assert found.moments.trace == real.moments.trace
    with pytest.raises(InputError, match=r"^here: found no extractor"):
        artifacts.decode_extractor(artifacts.encode_real_side(real), "here")
    with pytest.raises(InputError, match=r"^here: found no statistics"):
        artifacts.decode_real_side(artifacts.encode_extractor(extractor), "here")
