"""Arrays as files and back, bit for bit."""

from typing import Any

import artifacts
import numpy as np
import pytest
from artifacts import PROGRAM, generator
from builders import SHAPE
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import InputError
from tuner.files import serialization
from tuner.files.serialization import Arrays, decode, encode, pack, unpack
from tuner.files.study_files import StudyFiles
from tuner.metrics.evaluate import reference_statistics
from tuner.metrics.extractors import random_extractor

files = artifacts.files

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
def test_arrays_round_trip(found: Arrays) -> None:
    data = encode(found, ABOUT)
    again, about = decode(data, "here")
    assert same(found, again)
    assert about == ABOUT


def test_arrays_of_any_memory_layout() -> None:
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    for view in (square.T, square[:, ::2], np.asfortranarray(square)):
        assert same(decode(encode({"x": view}, {}), "")[0], {"x": np.array(view, order="C")})


def test_every_flipped_bit_is_detected() -> None:
    data = encode(small(), ABOUT)
    undetected = []
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                decode(bytes(flipped), "here")
            except InputError:
                continue
            undetected.append((position, bit, data[max(0, position - 9) : position + 9]))
    assert undetected == []


def test_every_truncation_is_detected() -> None:
    data = encode(small(), ABOUT)
    for length in range(len(data)):
        with pytest.raises(InputError, match=r"^here: damaged"):
            decode(data[:length], "here")
    with pytest.raises(InputError, match=r"^here: damaged"):
        decode(data + b"\0", "here")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^here: damaged") as caught:
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
def test_invalid_headers_are_refused(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    with pytest.raises(InputError, match=r"^here: damaged") as caught:
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


def test_trees_round_trip() -> None:
    tree: Any = {"a": [np.arange(3.0), {"b": np.float32(2)}], "c": (np.zeros((2, 2), np.int8),)}
    packed = pack(tree)
    again = unpack(tree, packed, "here")
    assert same(pack(again), packed)
    assert isinstance(again["c"], tuple)
    packed["['a'][0]"][0] = 9.0  # packed arrays are copies
    assert tree["a"][0][0] == 0.0


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(2)}, r"found \['a'\] .*\(3,\).*, expected .*\(2,\)"),
        ({"a": np.zeros((3, 1))}, r"found \['a'\] .*\(3,\).*, expected .*\(3, 1\)"),
        ({"a": np.zeros(3), "b": np.zeros(1)}, r"\['b'\] is missing, expected .*\(1,\)"),
    ],
)
def test_a_tree_of_another_shape_is_refused(like: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^here: {message}"):
        unpack(like, {"['a']": np.zeros(3)}, "here")


def test_a_tree_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match=r"found \['a'\]"):
        unpack({"a": np.zeros(3, np.float32)}, {"['a']": np.zeros(3, np.int32)}, "here")


def test_generator_files_round_trip(files: StudyFiles) -> None:
    original = generator()
    files.write(
        "g", serialization.encode_generator(PROGRAM, pack(original), {"trial": 3, "fid": 20.5})
    )
    program, again, about = serialization.load_generator(files, "g")
    assert (program, about) == (PROGRAM, {"trial": 3, "fid": 20.5})
    assert same(pack(again), pack(original))


def test_a_generator_file_without_the_newest_fields_is_read(files: StudyFiles) -> None:
    """As earlier versions wrote it."""
    fields = PROGRAM._asdict()
    for name in ("scheduled", "augment_some"):
        del fields[name]
    files.write("g", encode(pack(generator()), {"program": fields}))
    assert serialization.load_generator(files, "g")[0] == PROGRAM


def test_invalid_generator_files_are_refused(files: StudyFiles) -> None:
    where = files.locate("g")
    with pytest.raises(InputError, match=f"^{where}: no such file"):
        serialization.load_generator(files, "g")
    files.write("g", encode(pack(generator()), {}))
    with pytest.raises(InputError, match=f"^{where}: not a tuner generator file"):
        serialization.load_generator(files, "g")
    fields = PROGRAM._asdict()
    del fields["ema"]
    files.write("g", encode(pack(generator()), {"program": fields}))
    with pytest.raises(
        InputError, match=f"^{where}: this generator was written by another version"
    ):
        serialization.load_generator(files, "g")
    wider = PROGRAM._replace(width=4)
    files.write("g", serialization.encode_generator(wider, pack(generator()), {}))
    with pytest.raises(InputError, match=f"^{where}: found .*, expected "):
        serialization.load_generator(files, "g")


def test_extractors_and_reference_statistics_round_trip() -> None:
    rng = np.random.default_rng(0)
    extractor = random_extractor(SHAPE)._replace(accuracy=0.975)
    again = serialization.decode_extractor(serialization.encode_extractor(extractor), "here", SHAPE)
    assert (again.kind, again.accuracy, again.digest) == ("random", 0.975, extractor.digest)
    real = reference_statistics(rng.random((40, 9)), np.arange(40) % 3, 3, samples=12)
    found = serialization.decode_reference_statistics(
        serialization.encode_reference_statistics(real), "here"
    )
    assert same(pack(found), pack(real))
    assert found.moments.trace == real.moments.trace
    with pytest.raises(InputError, match=r"^here: not a tuner extractor file"):
        serialization.decode_extractor(
            serialization.encode_reference_statistics(real), "here", SHAPE
        )
    with pytest.raises(InputError, match=r"^here: not a file of reference statistics"):
        serialization.decode_reference_statistics(serialization.encode_extractor(extractor), "here")
