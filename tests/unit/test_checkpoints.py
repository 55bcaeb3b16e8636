"""A trial's state between epochs: read back to the bit, refused where damaged, written in time."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import PREMISES, RANGES, spec_of

from tuner.errors import InputError, StorageError, TunerError
from tuner.gan.state import GanState, abstract_state
from tuner.run.artifacts import encode
from tuner.run.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    KeptGenerator,
    decode_checkpoint,
    encode_checkpoint,
    folder_of,
    load_latest,
    pack_state,
    unpack_state,
)
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store
from tuner.spec import OPTIMIZERS
from tuner.study.space import trial_config
from tuner.trial import TrialConfig

Said = list[str]


def config_of(number: int = 0, **program: Any) -> TrialConfig:
    config = trial_config(spec_of(RANGES), {"learning_rate": 1e-3, "beta1": 0.5}, number, PREMISES)
    small = config.program._replace(width=2, latent_dim=8, batch_size=8, generator_optimizer="sgd")
    small = small._replace(discriminator_optimizer="sgd")
    return config._replace(program=small._replace(**program))


CONFIG = config_of()


def random_state(config: TrialConfig, seed: int = 0) -> GanState:
    """Any bits at all, also those of numbers that are none."""
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(rng.integers(0, 2**32, 2, np.uint32)))
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        return jax.device_put(np.frombuffer(rng.bytes(size), leaf.dtype).reshape(leaf.shape))

    state: GanState = jax.tree.map(fill, abstract_state(config.program))
    return state


def bits(state: GanState) -> Any:
    """All that a state is, key and all, comparable."""
    plain = state._replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_flatten_with_path(plain)[0]
    kinds = jax.tree.structure(plain)
    return kinds, [
        (str(path), x.dtype, x.shape, getattr(x, "weak_type", False), np.asarray(x).tobytes())
        for path, x in leaves
    ]


PROGRAMS = [
    {"generator_optimizer": optimizer, "ema": ema}
    for optimizer in OPTIMIZERS
    for ema in (False, True)
]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_state_comes_back_to_the_bit(program: dict[str, Any]) -> None:
    config = config_of(**program)
    state = random_state(config)
    samples = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    arrays = {"['x']": np.arange(3.0), "zero": np.array(1.5, np.float32)}
    kept = KeptGenerator(2, arrays, samples)
    checkpoint = Checkpoint(3, pack_state(state), kept)
    found = decode_checkpoint(config, encode_checkpoint(config, checkpoint), "here")
    assert bits(found.state) == bits(state)
    assert jnp.issubdtype(found.state.key.dtype, jax.dtypes.prng_key)
    assert found.state.step.shape == ()
    assert (found.state.ema is not None) == program["ema"]
    assert found.epoch == 3
    assert found.kept is not None
    assert found.kept.epoch == 2
    assert {k: x.tobytes() for k, x in found.kept.arrays.items()} == {
        k: x.tobytes() for k, x in kept.arrays.items()
    }
    np.testing.assert_array_equal(found.kept.samples, samples)


def checkpoint_of(epoch: int, config: TrialConfig = CONFIG) -> Checkpoint:
    """A packed one, told from others by its bits."""
    return Checkpoint(epoch, pack_state(random_state(config, seed=epoch)), None)


def test_another_trials_checkpoint_is_refused() -> None:
    data = encode_checkpoint(CONFIG, checkpoint_of(1))
    rates = CONFIG.hyperparameters._replace(generator_learning_rate=1e-4)
    for other in (
        config_of(number=1),
        config_of(batch_size=16),
        config_of(loss="minimax"),
        CONFIG._replace(hyperparameters=rates),
    ):
        with pytest.raises(InputError, match=r"^here: found a checkpoint of another trial$"):
            decode_checkpoint(other, data, "here")
    assert decode_checkpoint(CONFIG._replace(epochs=99), data, "here").epoch == 1
    with pytest.raises(InputError, match=r"^here: found a checkpoint of another trial$"):
        decode_checkpoint(CONFIG, encode(checkpoint_of(1).state, {"epoch": 1}), "here")


def test_a_state_of_another_program_is_refused() -> None:
    packed = pack_state(random_state(config_of(width=4)))
    with pytest.raises(InputError, match=r"^here: found .*, expected "):
        unpack_state(CONFIG, packed, "here")
    with pytest.raises(InputError, match=r"^here: found .* None, expected "):
        unpack_state(
            config_of(generator_optimizer="adam"), pack_state(random_state(CONFIG)), "here"
        )


def test_damage_anywhere_is_found() -> None:
    data = encode_checkpoint(CONFIG, checkpoint_of(1))
    rng = np.random.default_rng(0)
    head = int.from_bytes(data[:8], "little") + 8
    positions = [*rng.integers(0, head, 100), *rng.integers(head, len(data), 300), len(data) - 1]
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            found = decode_checkpoint(CONFIG, bytes(damaged), "here")
        except InputError:
            continue
        raise AssertionError(f"{found.epoch} read from a file with byte {position} damaged")


@pytest.fixture
def files(tmp_path: Path) -> StudyFiles:
    return StudyFiles(open_store(str(tmp_path)), "study").begin("a token")


def written(files: StudyFiles, epoch: int, token: int = 1, number: int = 5) -> str:
    """A checkpoint as a worker would have left it; its name."""
    name = f"{folder_of(number)}/epoch-{epoch:06d}-{token:06d}.safetensors"
    files.write(name, encode_checkpoint(CONFIG, checkpoint_of(epoch)))
    return name


def latest(files: StudyFiles, reported: int, said: Said | None = None) -> int | None:
    """The epoch gone on from; None for the beginning."""
    announce = (said if said is not None else []).append
    found = load_latest(files, 5, CONFIG, reported, announce)
    if found is not None:
        assert bits(found.state) == bits(random_state(CONFIG, seed=found.epoch))
    return found and found.epoch


def test_the_newest_checkpoint_is_gone_on_from(files: StudyFiles) -> None:
    assert latest(files, 9) is None
    for epoch in (9, 10, 2):
        written(files, epoch)
    written(files, 99, number=6)
    assert latest(files, 99) == 10
    assert latest(files, 10) == 10


def test_later_ones_than_were_reported_are_passed_over(files: StudyFiles) -> None:
    """Its worker was gone before it could report that epoch."""
    said: Said = []
    for epoch in (3, 4):
        written(files, epoch)
    assert latest(files, 3, said) == 3
    assert latest(files, 2, said) is None
    assert said == []


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_the_one_before_serves_where_the_newest_is_damaged(
    files: StudyFiles, damage: bytes | None
) -> None:
    said: Said = []
    for epoch in (3, 4):
        name = written(files, epoch)
    data = files.read(name)
    assert data is not None
    files.write(name, data[:-7] if damage is None else damage)
    assert latest(files, 9, said) == 3
    assert len(said) == 1
    assert said[0].startswith(f"{files.locate(name)}: found a damaged file")
    assert said[0].endswith("the one before it is used")


def test_of_two_owners_checkpoints_the_later_owners_is_taken(files: StudyFiles) -> None:
    written(files, 3, token=2)
    other = f"{folder_of(5)}/epoch-{3:06d}-{1:06d}.safetensors"
    files.write(other, encode_checkpoint(CONFIG, checkpoint_of(3)._replace(kept=None)))
    files.write(other, b"of the one that lost the trial")
    said: Said = []
    assert latest(files, 9, said) == 3
    assert said == []


# Writing


class Troubled(StudyFiles):
    """A store that fails, or hangs, as it is told to."""

    def __init__(self, files: StudyFiles) -> None:
        super().__init__(files.store, "study")
        self.error: Exception | None = None
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.attempts: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        self.attempts.append(name)
        self.hangs.set()
        assert self.goes_on.wait(20)
        if self.error is not None:
            raise self.error
        super().write(name, data)


AWAY = StorageError("s3://bucket: can't be written: it is away", transient=True)


@pytest.fixture
def troubled(files: StudyFiles) -> Troubled:
    return Troubled(files)


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def writer(troubled: Troubled, said: Said) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(troubled, 5, 7, CONFIG, said.append)
    yield made
    troubled.goes_on.set()
    made.close()
    made._thread.join(20)
    assert not made._thread.is_alive()


def epochs_in(files: StudyFiles) -> list[str]:
    return [name.rpartition("/")[2] for name in files.names(folder_of(5))]


def soon(found: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_last_two_are_kept(writer: CheckpointWriter, files: StudyFiles) -> None:
    for epoch in (1, 2, 3):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    assert epochs_in(files) == [
        "epoch-000002-000007.safetensors",
        "epoch-000003-000007.safetensors",
    ]
    assert latest(files, 3) == 3
    writer.remove_all()
    assert epochs_in(files) == []


def test_nothing_to_write_is_written_at_once(writer: CheckpointWriter) -> None:
    assert writer.flush(0)


def test_offering_does_not_wait_and_the_newest_replaces_what_waits(
    writer: CheckpointWriter, troubled: Troubled
) -> None:
    troubled.goes_on.clear()
    writer.offer(checkpoint_of(1))
    assert troubled.hangs.wait(20)
    for epoch in (2, 3, 4):
        writer.offer(checkpoint_of(epoch))
    assert not writer.flush(0.05)
    troubled.goes_on.set()
    assert writer.flush(20)
    assert [name[-25:-19] for name in troubled.attempts] == ["000001", "000004"]


def test_a_store_that_is_away_is_tried_again_and_said_once(
    writer: CheckpointWriter, troubled: Troubled, said: Said
) -> None:
    troubled.error = AWAY
    writer.offer(checkpoint_of(1))
    assert not writer.flush(0.05)
    soon(lambda: said)
    writer.offer(checkpoint_of(2))  # the newer one is tried at once
    soon(lambda: len(troubled.attempts) == 2)
    troubled.error = None
    assert writer.flush(20)
    assert epochs_in(troubled) == ["epoch-000002-000007.safetensors"]
    assert said == [f"{AWAY}; training goes on, the checkpoint is tried again"]


def test_closing_does_not_wait_for_a_store_that_is_away(
    writer: CheckpointWriter, troubled: Troubled
) -> None:
    troubled.error = AWAY
    writer.offer(checkpoint_of(1))
    soon(lambda: troubled.attempts)
    began = time.monotonic()
    writer.close()
    writer._thread.join(20)
    assert not writer._thread.is_alive()
    assert time.monotonic() - began < 1.5


def test_what_can_not_be_removed_now_is_no_failure(
    writer: CheckpointWriter, troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise AWAY

    monkeypatch.setattr(troubled, "remove", fail)
    for epoch in (1, 2, 3):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    assert len(epochs_in(troubled)) == 3


@pytest.mark.parametrize("by", ["offer", "flush"])
def test_what_does_not_pass_is_raised_next_time(
    by: str, writer: CheckpointWriter, troubled: Troubled, said: Said
) -> None:
    troubled.error = TunerError("disk: can't be written: No space left on device")
    writer.offer(checkpoint_of(1))
    soon(lambda: writer._failure)
    with pytest.raises(TunerError, match="No space left on device"):
        writer.offer(checkpoint_of(2)) if by == "offer" else writer.flush(20)
    assert said == []


def test_a_bug_of_ours_does_not_pass_for_success(
    writer: CheckpointWriter, troubled: Troubled
) -> None:
    troubled.error = ZeroDivisionError("a bug")
    writer.offer(checkpoint_of(1))
    with pytest.raises(TunerError, match=r"a checkpoint can't be written: ZeroDivisionError"):
        writer.flush(20)


def test_a_full_disk_is_said_by_the_next_call(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("can't mount a disk here")
    try:
        files = StudyFiles(open_store(str(folder)), "study").begin("a token")
        writer = CheckpointWriter(files, 5, 1, CONFIG, print)
        writer.offer(checkpoint_of(1))
        with pytest.raises(TunerError, match="can't be written: No space left on device") as caught:
            writer.flush(20)
        assert not isinstance(caught.value, StorageError)
        writer.close()
        assert files.names(folder_of(5)) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)
