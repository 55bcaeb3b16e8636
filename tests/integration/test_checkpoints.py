"""Checkpoints: exact round trips, damage, choice of the newest, background writes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import artifacts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from artifacts import (
    CONFIG,
    bits,
    checkpoint_of,
    config_of,
    random_state,
    resumed_epoch,
    write_checkpoint,
)
from disks import mounted
from numpy.typing import NDArray
from study_databases import eventually

from tuner.errors import InputError, StorageError, TunerError
from tuner.files import background
from tuner.files.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    KeptGenerator,
    decode_checkpoint,
    encode_checkpoint,
    folder_of,
    pack_state,
    trial_of,
    unpack_state,
)
from tuner.files.serialization import decode, encode
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.spec.traits import OPTIMIZERS
from tuner.trial import TrialConfig

PROGRAMS = [
    {"generator_optimizer": optimizer, "ema": ema}
    for optimizer in OPTIMIZERS
    for ema in (False, True)
] + [{"generator_optimizer": "adam", "ema": False, "augment_adapts": True}]

files = artifacts.files


def test_a_checkpoint_names_its_trial_as_earlier_versions_did() -> None:
    """Unless the trial uses a setting that they did not have."""

    def written(config: TrialConfig) -> Any:
        return decode(encode_checkpoint(config, checkpoint_of(3)), "here")[1]["config"]

    program, numbers, seed = written(CONFIG)
    assert len(program) == 21  # without clips and later fields
    assert numbers == list(CONFIG.hyperparameters[:22])
    assert seed == CONFIG.seed
    scheduled = CONFIG._replace(
        program=CONFIG.program._replace(scheduled=("r1",)),
        hyperparameters=CONFIG.hyperparameters._replace(r1_final=0.5),
    )
    *before, later = written(scheduled)
    assert before == [program, numbers, seed]
    assert later == {"scheduled": ["r1"], "r1_final": 0.5}
    with pytest.raises(InputError, match="belongs to another trial"):
        decode_checkpoint(CONFIG, encode_checkpoint(scheduled, checkpoint_of(3)), "here")


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_state_round_trips_bit_for_bit(program: dict[str, Any]) -> None:
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
    assert (found.state.adaptive is not None) == ("augment_adapts" in program)
    assert (found.state.ema is not None) == program["ema"]
    assert found.epoch == 3
    assert found.kept is not None
    assert found.kept.epoch == 2
    assert {k: x.tobytes() for k, x in found.kept.arrays.items()} == {
        k: x.tobytes() for k, x in kept.arrays.items()
    }
    np.testing.assert_array_equal(found.kept.samples, samples)


def test_the_best_epoch_may_be_the_last_or_missing() -> None:
    kept = KeptGenerator(3, {"x": np.zeros(1)})
    data = encode_checkpoint(CONFIG, checkpoint_of(3)._replace(kept=kept))
    found = decode_checkpoint(CONFIG, data, "here").kept
    assert found is not None
    assert (found.epoch, list(found.arrays), found.samples) == (3, ["x"], None)
    assert decode_checkpoint(CONFIG, encode_checkpoint(CONFIG, checkpoint_of(3)), "").kept is None


@pytest.mark.parametrize(
    "samples", [np.zeros((4, 2, 2, 3), np.float32), np.zeros((2, 2, 3), np.uint8)]
)
def test_samples_that_are_not_images_are_refused(samples: NDArray[Any]) -> None:
    kept = KeptGenerator(1, {"x": np.zeros(1)}, samples)
    data = encode_checkpoint(CONFIG, checkpoint_of(1)._replace(kept=kept))
    with pytest.raises(InputError, match=f"^here: damaged: samples of {samples.dtype} "):
        decode_checkpoint(CONFIG, data, "here")


@pytest.mark.parametrize(("epoch", "best"), [(3, 4), (3, -1), (3, "2"), (None, 1)])
def test_impossible_epochs_are_refused(epoch: Any, best: Any) -> None:
    kept = KeptGenerator(best, {"x": np.zeros(1)})
    data = encode_checkpoint(CONFIG, checkpoint_of(3)._replace(epoch=epoch, kept=kept))
    with pytest.raises(InputError, match=f"^here: damaged: epoch {epoch}, best epoch {best!r}$"):
        decode_checkpoint(CONFIG, data, "here")


def test_another_trials_checkpoint_is_refused() -> None:
    data = encode_checkpoint(CONFIG, checkpoint_of(1))
    rates = CONFIG.hyperparameters._replace(generator_learning_rate=1e-4)
    for other in (
        config_of(number=1),
        config_of(batch_size=16),
        config_of(loss="minimax"),
        CONFIG._replace(hyperparameters=rates),
    ):
        with pytest.raises(InputError, match=r"^here: this checkpoint belongs to another trial$"):
            decode_checkpoint(other, data, "here")
    assert decode_checkpoint(CONFIG._replace(epochs=99), data, "here").epoch == 1
    with pytest.raises(InputError, match=r"^here: this checkpoint belongs to another trial$"):
        decode_checkpoint(CONFIG, encode(checkpoint_of(1).state, {"epoch": 1}), "here")


def test_a_state_of_another_program_is_refused() -> None:
    packed = pack_state(random_state(config_of(width=4)))
    with pytest.raises(InputError, match=r"^here: found .*, expected "):
        unpack_state(CONFIG, packed, "here")
    with pytest.raises(InputError, match=r"^here: .* is missing, expected "):
        unpack_state(
            config_of(generator_optimizer="adam"), pack_state(random_state(CONFIG)), "here"
        )


def test_damage_anywhere_is_detected() -> None:
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


def test_a_name_tells_the_trial_of_a_checkpoint() -> None:
    for number in (0, 5, 123456):
        assert trial_of(f"{folder_of(number)}/epoch-000003-000001.safetensors") == number
    for other in (f"{folder_of(5)}/samples.png", "generators/epoch-000003-000001.safetensors"):
        assert trial_of(other) is None


def test_the_newest_checkpoint_is_resumed(files: StudyFiles) -> None:
    assert resumed_epoch(files, 9) is None
    for epoch in (9, 10, 2):
        write_checkpoint(files, epoch)
    write_checkpoint(files, 99, number=6)
    assert resumed_epoch(files, 99) == 10
    assert resumed_epoch(files, 10) == 10


def test_checkpoints_of_unreported_epochs_are_skipped(files: StudyFiles) -> None:
    """Their worker died after writing and before reporting the epoch."""
    messages: list[str] = []
    for epoch in (3, 4):
        write_checkpoint(files, epoch)
    assert resumed_epoch(files, 3, messages) == 3
    assert resumed_epoch(files, 2, messages) is None
    assert messages == []


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    files: StudyFiles, damage: bytes | None
) -> None:
    messages: list[str] = []
    for epoch in (3, 4):
        name = write_checkpoint(files, epoch)
    data = files.read(name)
    assert data is not None
    files.write(name, data[:-7] if damage is None else damage)
    assert resumed_epoch(files, 9, messages) == 3
    assert len(messages) == 1
    assert messages[0].startswith(f"{files.locate(name)}: damaged")
    assert messages[0].endswith("falling back to the previous checkpoint")


def test_a_checkpoint_that_vanishes_is_skipped(
    files: StudyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker removes it after the listing."""
    messages: list[str] = []
    newest = [write_checkpoint(files, epoch) for epoch in (3, 4)][-1]
    names = files.names(folder_of(5))
    files.remove(newest)
    monkeypatch.setattr(files, "names", lambda folder: names)
    assert resumed_epoch(files, 9, messages) == 3
    assert messages == []


def test_an_unreachable_store_does_not_count_as_damage(
    files: StudyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, most: int) -> bytes | None:
        raise UNREACHABLE

    write_checkpoint(files, 3)
    monkeypatch.setattr(files, "read", fail)
    with pytest.raises(StorageError, match="it is unreachable"):
        resumed_epoch(files, 9)


def test_the_later_owners_checkpoint_is_resumed(files: StudyFiles) -> None:
    write_checkpoint(files, 3, token=2)
    stale = f"{folder_of(5)}/epoch-{3:06d}-{1:06d}.safetensors"
    files.write(stale, encode_checkpoint(CONFIG, checkpoint_of(3)._replace(kept=None)))
    files.write(stale, b"of the owner that lost the trial")
    messages: list[str] = []
    assert resumed_epoch(files, 9, messages) == 3
    assert messages == []


# Writing


class FaultyFiles(StudyFiles):
    """Files whose writes raise ``error`` and block until ``may_continue`` is set."""

    def __init__(self, files: StudyFiles) -> None:
        super().__init__(files.store, "study")
        self.error: Exception | None = None
        self.started = threading.Event()
        self.may_continue = threading.Event()
        self.may_continue.set()
        self.attempts: list[str] = []

    def write(self, name: str, data: bytes) -> None:
        self.attempts.append(name)
        self.started.set()
        assert self.may_continue.wait(20)
        if self.error is not None:
            raise self.error
        super().write(name, data)


UNREACHABLE = StorageError("s3://bucket: can't be written: it is unreachable", transient=True)


@pytest.fixture
def faulty(files: StudyFiles) -> FaultyFiles:
    return FaultyFiles(files)


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def writer(faulty: FaultyFiles, messages: list[str]) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(faulty, 5, 7, CONFIG, messages.append)
    yield made
    faulty.may_continue.set()
    assert made.close(20)


def epochs_in(files: StudyFiles) -> list[str]:
    return [name.rpartition("/")[2] for name in files.names(folder_of(5))]


def test_the_last_two_checkpoints_are_kept(writer: CheckpointWriter, files: StudyFiles) -> None:
    for epoch in (1, 2, 3):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    assert epochs_in(files) == [
        "epoch-000002-000007.safetensors",
        "epoch-000003-000007.safetensors",
    ]
    assert resumed_epoch(files, 3) == 3
    writer.remove_all()
    assert epochs_in(files) == []


def test_a_checkpoint_written_at_once_replaces_earlier_ones(
    writer: CheckpointWriter, files: StudyFiles
) -> None:
    """But not that of the trial's next owner."""
    for epoch in (1, 2):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    write_checkpoint(files, 4, token=8)
    checkpoint = checkpoint_of(3)
    assert writer.write(checkpoint) == len(encode_checkpoint(CONFIG, checkpoint))
    assert epochs_in(files) == [
        "epoch-000003-000007.safetensors",
        "epoch-000004-000008.safetensors",
    ]
    assert resumed_epoch(files, 3) == 3


def test_flush_without_a_pending_checkpoint_returns_at_once(writer: CheckpointWriter) -> None:
    assert writer.flush(0)


def test_offering_does_not_block_and_keeps_the_newest(
    writer: CheckpointWriter, faulty: FaultyFiles
) -> None:
    faulty.may_continue.clear()
    writer.offer(checkpoint_of(1))
    assert faulty.started.wait(20)
    for epoch in (2, 3, 4):
        writer.offer(checkpoint_of(epoch))
    assert not writer.flush(0.05)
    faulty.may_continue.set()
    assert writer.flush(20)
    assert [name[-25:-19] for name in faulty.attempts] == ["000001", "000004"]


def test_an_unreachable_store_is_retried_and_announced_once(
    writer: CheckpointWriter,
    faulty: FaultyFiles,
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 60.0)
    faulty.error = UNREACHABLE
    writer.offer(checkpoint_of(1))
    assert not writer.flush(0.05)
    assert eventually(lambda: bool(messages))
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.1)
    writer.offer(checkpoint_of(2))  # the newer one is tried at once
    assert eventually(lambda: len(faulty.attempts) > 2)
    assert "epoch-000002" in faulty.attempts[1]
    faulty.error = None
    assert writer.flush(20)
    assert epochs_in(faulty) == ["epoch-000002-000007.safetensors"]
    assert messages == [f"{UNREACHABLE}; training continues, the checkpoint will be retried"]


def test_closing_does_not_wait_for_an_unreachable_store(
    writer: CheckpointWriter, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 60.0)
    faulty.error = UNREACHABLE
    writer.offer(checkpoint_of(1))
    assert eventually(lambda: bool(faulty.attempts))
    began = time.monotonic()
    assert writer.close(20)
    assert time.monotonic() - began < 1.5


def test_failing_to_remove_old_checkpoints_is_not_an_error(
    writer: CheckpointWriter, faulty: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise UNREACHABLE

    monkeypatch.setattr(faulty, "remove", fail)
    for epoch in (1, 2, 3):
        writer.offer(checkpoint_of(epoch))
        assert writer.flush(20)
    writer.write(checkpoint_of(4))
    assert len(epochs_in(faulty)) == 4


@pytest.mark.parametrize("by", ["offer", "flush"])
def test_permanent_errors_are_raised_by_the_next_call(
    by: str, writer: CheckpointWriter, faulty: FaultyFiles, messages: list[str]
) -> None:
    faulty.error = TunerError("disk: can't be written: No space left on device")
    writer.offer(checkpoint_of(1))
    assert eventually(lambda: writer._failure is not None)
    with pytest.raises(TunerError, match="No space left on device"):
        writer.offer(checkpoint_of(2)) if by == "offer" else writer.flush(20)
    assert messages == []


def test_an_unexpected_error_is_not_taken_for_success(
    writer: CheckpointWriter, faulty: FaultyFiles
) -> None:
    faulty.error = ZeroDivisionError("a bug")
    writer.offer(checkpoint_of(1))
    with pytest.raises(TunerError, match=r"epoch-000001\S*: can't be written: ZeroDivisionError"):
        writer.flush(20)


def test_a_full_disk_is_reported_by_the_next_call(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with mounted(folder, "-o", "size=8k"):
        files = StudyFiles(open_store(str(folder)), "study").begin("a token")
        writer = CheckpointWriter(files, 5, 1, CONFIG, print)
        writer.offer(checkpoint_of(1))
        with pytest.raises(TunerError, match="can't be written: No space left on device") as caught:
            writer.flush(20)
        assert not isinstance(caught.value, StorageError)
        writer.close()
        assert files.names(folder_of(5)) == []
