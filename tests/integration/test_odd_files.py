"""Irregular and damaged files: one-line errors, in bounded time and memory."""

import json
import os
import resource
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifacts
import numpy as np
import pytest
import study_databases
from artifacts import CONFIG, checkpoint_of, resumed_epoch, write_checkpoint
from safetensors.numpy import save
from study_databases import Studies

from tuner.errors import InputError, StorageError, TunerError
from tuner.files import serialization
from tuner.files.checkpoints import CheckpointWriter, encode_checkpoint, folder_of, trial_of
from tuner.files.folders import DirectoryStore
from tuner.files.inception_weights import load_inception
from tuner.files.serialization import decode, encode, pack
from tuner.files.study_files import StudyFiles
from tuner.metrics.extractors import random_extractor

files, sqlite = artifacts.files, study_databases.sqlite
Create = Callable[[Path], object]
LARGE = 784 * 10**9  # bytes, of a sparse file


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGE)


def socket_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        before = os.getcwd()  # the path of a socket has at most 107 characters
        os.chdir(path.parent)
        here.bind(path.name)
        os.chdir(before)


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


EPOCHS: list[Any] = [None, "4", 4.0, [4], {}]
IRREGULAR: dict[str, Create] = {
    "a pipe": os.mkfifo,
    "a socket": socket_file,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a pipe behind a link": linked_pipe,
    "a link to itself": lambda path: path.symlink_to(path),
    "a file that claims to be huge": sparse,
}


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """Limit memory, so that reading a huge file fails before it exhausts the machine."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (8 * 10**9, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.mark.parametrize("create", IRREGULAR.values(), ids=IRREGULAR)
def test_an_irregular_file_is_refused_in_one_line(tmp_path: Path, create: Create) -> None:
    store = DirectoryStore(tmp_path)
    (tmp_path / "study").mkdir()
    create(tmp_path / "study" / "a")
    with pytest.raises(TunerError, match=f"^{tmp_path}/study/a: can't be read: ") as caught:
        store.read("study/a")
    assert "\n" not in str(caught.value)
    store.write("study/a", b"a file")
    assert store.read("study/a") == b"a file"
    assert Path("/dev/zero").is_char_device()


def test_too_deeply_nested_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    folder = os.open(tmp_path / "study", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        deeper = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(folder)
    store = DirectoryStore(tmp_path)
    for use in (store.names, store.remove_all):
        with pytest.raises(TunerError, match="nested too deeply") as caught:
            use("study")
        assert "\n" not in str(caught.value)
    os.system(f"rm -rf {tmp_path}/study")


# Checkpoints


@pytest.mark.parametrize("create", IRREGULAR.values(), ids=IRREGULAR)
def test_irregular_checkpoints_fall_back_to_the_previous_one(
    files: StudyFiles, create: Create
) -> None:
    write_checkpoint(files, 3)
    path = Path(files.locate(write_checkpoint(files, 4)))
    path.unlink()
    create(path)
    messages: list[str] = []
    assert resumed_epoch(files, 9, messages) == 3
    [line] = messages
    assert line.startswith(f"{path}: can't be read: ")
    assert line.endswith("; falling back to the previous checkpoint")


def _with_metadata(change: dict[str, Any]) -> bytes:
    arrays, about = decode(encode_checkpoint(CONFIG, checkpoint_of(4)), "")
    return encode(arrays, {k: v for k, v in (about | change).items() if v is not None})


@pytest.mark.parametrize(
    "data",
    [
        *(_with_metadata({"epoch": epoch}) for epoch in EPOCHS),
        *(_with_metadata({"kept": kept}) for kept in ("3", -1, 5, [3], {"a": 1})),
        encode({"x": np.zeros(1)}, {"epoch": 4, "config": 3}),
        save({"x": np.zeros(1)}, {"epoch": "[" * 100_000}),
        save({"x": np.zeros(1)}, {"epoch": "1" * 10_000}),
    ],
)
def test_a_checkpoint_with_wrong_metadata_is_skipped(files: StudyFiles, data: bytes) -> None:
    write_checkpoint(files, 3)
    name = write_checkpoint(files, 4)
    files.write(name, data)
    messages: list[str] = []
    assert resumed_epoch(files, 9, messages) == 3
    [line] = messages
    reason = line.removeprefix(f"{files.locate(name)}: ")
    assert reason.startswith(("damaged", "this checkpoint belongs to another trial; "))
    assert len(line) < 600


@pytest.mark.parametrize("shape", [[-1], [10**18, 10**18], [2**63], [784 * 10**9]])
def test_headers_that_claim_more_than_the_file_holds_are_refused(shape: list[int]) -> None:
    header = {"x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(8)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"^here: damaged"):
        decode(data, "here")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


def test_unrelated_files_among_checkpoints_are_kept(files: StudyFiles) -> None:
    unrelated = [
        *("checkpoints/notes.txt", "checkpoints/trial-x/a", "checkpoints/trial-00005-copy/b"),
        *(f"{folder_of(5)}/zzz", f"{folder_of(5)}/epoch-zzz", "checkpoints/trial-/c"),
    ]
    for name in unrelated:
        files.write(name, b"unrelated")
        assert trial_of(name) is None
    writer = CheckpointWriter(files, 5, 1, CONFIG, print)
    for epoch in (1, 2, 3):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    writer.close()
    assert resumed_epoch(files, 9) == 3
    kept = [name for name in files.names("checkpoints") if trial_of(name) == 5]
    folder = folder_of(5)
    assert kept == [f"{folder}/epoch-00000{n}-000001.safetensors" for n in (2, 3)]
    assert all(files.read(name) == b"unrelated" for name in unrelated)


# Generators


@pytest.mark.parametrize(
    "change",
    [
        *({"width": width} for width in (0, -1, "4", None, 10**30, 2**20, [4], 4.0, True)),
        *({"generator": name} for name in ("gan", "", 3, None, ["dcgan"], "os:system")),
        *({"image_shape": shape} for shape in ([32, 32], [0, 32, 1], 32, [2**20, 2**20, 1], "x")),
        *({"latent_dim": n} for n in (0, 10**12)),
        *({"classes": n} for n in (-1, 10**12)),
        {"penalties": "r1"},
        {"penalties": [[]]},
        {"loss": {"a": 1}},
        {"ema": "yes"},
        {"generator_norm": "layer"},
    ],
    ids=str,
)
def test_a_hostile_program_is_one_line(files: StudyFiles, change: dict[str, Any]) -> None:
    fields = artifacts.PROGRAM._asdict() | change
    files.write("g", encode(pack(artifacts.generator()), {"program": fields}))
    problem = "(damaged program: |the network |dcgan can't be built for )"
    with pytest.raises(InputError, match=f"^{files.locate('g')}: {problem}") as caught:
        serialization.load_generator(files, "g")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("program", [None, [], "dcgan", 3, [1, 2], {}, {"a": {}}], ids=repr)
def test_an_invalid_program_is_refused_in_one_line(files: StudyFiles, program: Any) -> None:
    files.write("g", encode(pack(artifacts.generator()), {"program": program}))
    problem = "(not a tuner generator file|this generator was written by another version of tuner)"
    with pytest.raises(InputError, match=f"^{files.locate('g')}: {problem}") as caught:
        serialization.load_generator(files, "g")
    assert "\n" not in str(caught.value)


def test_a_large_generator_is_read(files: StudyFiles) -> None:
    """The size limit of pictures does not apply to generators."""
    made = pack(artifacts.generator()) | {"more": np.zeros(70_000_000, np.uint8)}
    files.write("g", serialization.encode_generator(artifacts.PROGRAM, made, {}))
    assert serialization.load_generator(files, "g")[0] == artifacts.PROGRAM


# Shared reference statistics and extractors


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros((9, 1))},
        {"root": np.zeros((9, 8))},
        {"features": np.zeros((40, 8), np.float32)},
        {"radii": np.zeros((2, 41))},
        {"radii": np.zeros((1, 12))},
        {"shares": np.zeros((3, 1))},
        {"shares": np.zeros(3, np.uint8)},
    ],
)
def test_inconsistent_statistics_are_refused(change: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    sound: dict[str, Any] = {"mean": rng.random(9), "root": rng.random((9, 9))}
    sound["shares"] = rng.random(3)
    sound |= {"features": rng.random((40, 9), np.float32), "radii": rng.random((2, 12))}
    assert serialization.decode_reference_statistics(encode(sound, {"trace": 1.5}), "here")
    with pytest.raises(InputError, match=r"^here: damaged: the statistics are inconsistent"):
        serialization.decode_reference_statistics(encode(sound | change, {"trace": 1.5}), "here")
    traces: list[Any] = ["1", None, [], float("inf"), 1]
    for trace in traces:
        with pytest.raises(InputError, match=r"^here: damaged: the statistics are inconsistent"):
            serialization.decode_reference_statistics(encode(sound, {"trace": trace}), "here")


def test_an_extractor_for_other_images_is_refused() -> None:
    made = random_extractor((32, 32, 1))
    for shape in ((32, 32, 3), (64, 64, 1)):
        with pytest.raises(InputError, match=r"^here: the extractor's weights do not fit"):
            serialization.decode_extractor(serialization.encode_extractor(made), "here", shape)
    others: list[Any] = [("inception", None), ([], None), ("random", "1"), (None, None)]
    for kind, accuracy in others:
        data = serialization.encode_extractor(made._replace(kind=kind, accuracy=accuracy))
        with pytest.raises(InputError, match=r"^here: not a tuner extractor file"):
            serialization.decode_extractor(data, "here", (32, 32, 1))


@pytest.mark.parametrize("create", IRREGULAR.values(), ids=IRREGULAR)
def test_irregular_weight_files_are_refused_in_one_line(tmp_path: Path, create: Create) -> None:
    create(tmp_path / "weights")
    with pytest.raises(InputError, match=f"^{tmp_path}/weights: ") as caught:
        load_inception(str(tmp_path / "weights"))
    assert "\n" not in str(caught.value)


def test_irregular_lock_files_are_refused_in_one_line(sqlite: Studies, tmp_path: Path) -> None:
    address, lock = sqlite.open().address, tmp_path / ".studies.db.lock"
    lock.unlink(missing_ok=True)
    os.mkfifo(lock)
    with pytest.raises(StorageError, match=f"^{tmp_path}/studies.db: "), address.exclusive():
        raise AssertionError("the lock was acquired")
    lock.unlink()
    (tmp_path / "another").write_text("kept")
    lock.symlink_to(tmp_path / "another")
    with address.exclusive():
        assert (tmp_path / "another").read_text() == "kept"
