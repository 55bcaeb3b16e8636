"""A trial's state between epochs, kept so that any worker can go on with it.

A checkpoint is one file: the whole ``GanState`` and the best generator so far, with a checksum.
Its name holds the epoch and the lease's token, so a worker that lost its trial can't write over
the file of the one that has it now. The last two are kept: where the newest is damaged, or is of
a later epoch than was reported, the one before it serves.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import jax
from numpy.typing import NDArray

from tuner.errors import InputError, StorageError, TunerError
from tuner.gan.state import GanState, abstract_state
from tuner.run.artifacts import Arrays, decode, encode, pack, unpack
from tuner.run.files import StudyFiles
from tuner.trial import TrialConfig

KEPT = 2
CHECKPOINTS = "checkpoints"  # the folder of them all
_STATE, _GENERATOR, _SAMPLES = "state", "generator", "samples"


class KeptGenerator(NamedTuple):
    """The generator of a trial's best epoch so far, packed on the host, and samples of it."""

    epoch: int
    arrays: Arrays
    samples: NDArray[Any] | None = None  # uint8 (n, h, w, c)


class Checkpoint(NamedTuple):
    """A trial after ``epoch`` epochs. ``state`` is packed while it waits to be written."""

    epoch: int
    state: Any
    kept: KeptGenerator | None


def pack_state(state: GanState) -> Arrays:
    """A state as host arrays, its key as plain numbers."""
    return pack(state._replace(key=jax.random.key_data(state.key)))


def unpack_state(config: TrialConfig, arrays: Arrays, origin: str) -> GanState:
    """The state on the device; InputError where it is another program's."""
    like = abstract_state(config.program)
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    state: GanState = jax.device_put(unpack(like._replace(key=key), arrays, origin))
    return state._replace(key=jax.random.wrap_key_data(state.key))


def encode_checkpoint(config: TrialConfig, checkpoint: Checkpoint) -> bytes:
    arrays = {f"{_STATE}{name}": x for name, x in checkpoint.state.items()}
    about: dict[str, Any] = {"epoch": checkpoint.epoch, "config": _signature(config)}
    if checkpoint.kept is not None:
        about["kept"] = checkpoint.kept.epoch
        arrays |= {f"{_GENERATOR}{name}": x for name, x in checkpoint.kept.arrays.items()}
        if checkpoint.kept.samples is not None:
            arrays[_SAMPLES] = checkpoint.kept.samples
    return encode(arrays, about)


def decode_checkpoint(config: TrialConfig, data: bytes, origin: str) -> Checkpoint:
    """InputError for what is damaged, or is another trial's."""
    arrays, about = decode(data, origin)
    if about.get("config") != _signature(config):
        raise InputError(f"{origin}: found a checkpoint of another trial")
    state = unpack_state(config, _under(arrays, _STATE), origin)
    generator = None
    if about.get("kept"):
        packed = _under(arrays, _GENERATOR)
        generator = KeptGenerator(about["kept"], packed, arrays.get(_SAMPLES))
    return Checkpoint(about["epoch"], state, generator)


def _signature(config: TrialConfig) -> list[Any]:
    program, hyperparameters, seed, _ = config
    program_fields = [list(x) if isinstance(x, tuple) else x for x in program]
    return [program_fields, list(hyperparameters), seed]


def _under(arrays: Arrays, prefix: str) -> Arrays:
    found = {name: x for name, x in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): x for name, x in found.items()}


def folder_of(number: int) -> str:
    """Where the checkpoints of trial ``number`` are."""
    return f"{CHECKPOINTS}/trial-{number:05d}"


def number_of(folder: str) -> int:
    """The trial whose checkpoints are in ``folder``."""
    return int(folder.rpartition("-")[2])


def load_latest(
    files: StudyFiles,
    number: int,
    config: TrialConfig,
    reported: int,
    announce: Callable[[str], None],
) -> Checkpoint | None:
    """The newest sound checkpoint that is no later than the last epoch ``reported``."""
    for name in sorted(files.names(folder_of(number)), reverse=True):
        data = files.read(name)
        if data is None:
            continue
        try:
            checkpoint = decode_checkpoint(config, data, files.locate(name))
        except InputError as error:
            announce(f"{error}; the one before it is used")
            continue
        if checkpoint.epoch <= reported:
            return checkpoint
    return None


class CheckpointWriter:
    """Writes one trial's checkpoints from a thread of its own, the newest first.

    While the store can't be reached it tries again, and says so once. What will not pass, like a
    full disk, is raised by the next ``offer`` or ``finish``.
    """

    def __init__(
        self,
        files: StudyFiles,
        number: int,
        token: int,
        config: TrialConfig,
        announce: Callable[[str], None],
    ) -> None:
        self._files, self._config, self._announce = files, config, announce
        self._folder, self._token = folder_of(number), token
        self._wanted: Checkpoint | None = None
        self._busy = self._ended = self._away = False
        self._failure: TunerError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def offer(self, checkpoint: Checkpoint) -> None:
        """Write it soon; one that still waits is dropped for it."""
        with self._changed:
            self._raise()
            self._wanted = checkpoint
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was offered is written; False where that took too long."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._failure or not (self._busy or self._wanted), timeout=seconds
            )
            self._raise()
            return bool(done)

    def close(self) -> None:
        """Stop trying."""
        with self._changed:
            self._ended = True
            self._wanted = None
            self._changed.notify_all()

    def remove_all(self) -> None:
        """The trial has ended: its checkpoints are of no more use."""
        self.close()
        self._thread.join(timeout=10)
        self._files.remove_all(self._folder)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._ended)
                if self._wanted is None:
                    return
                checkpoint, self._wanted = self._wanted, None
                self._busy = True
            try:
                self._write_patiently(checkpoint)
            except TunerError as error:
                self._failure = error
            except Exception as error:  # a bug of ours must not pass for success
                self._failure = TunerError(f"a checkpoint can't be written: {error!r}")
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _write_patiently(self, checkpoint: Checkpoint) -> None:
        data = encode_checkpoint(self._config, checkpoint)
        name = f"{self._folder}/epoch-{checkpoint.epoch:06d}-{self._token:06d}.safetensors"
        failures = 0
        while True:
            try:
                self._files.write(name, data)
            except StorageError as error:
                if not error.transient:
                    raise
                if not self._away:
                    self._announce(f"{error}; training goes on, the checkpoint is tried again")
                self._away = True
                failures += 1
                if self._wait_or_give_up(min(30.0, 2.0**failures)):
                    return
            else:
                self._away = False
                with suppress(StorageError):
                    self._remove_old()
                return

    def _wait_or_give_up(self, seconds: float) -> bool:
        """Whether a newer checkpoint, or the end, made this one needless."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(
                lambda: self._wanted or self._ended, timeout=deadline - time.monotonic()
            )
            return self._wanted is not None or self._ended

    def _remove_old(self) -> None:
        for name in sorted(self._files.names(self._folder))[:-KEPT]:
            self._files.remove(name)
