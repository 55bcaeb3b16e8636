"""Checkpoints: the state of a trial between epochs, from which any worker can resume it.

A checkpoint is one file with a checksum: the whole ``GanState`` and the best generator so far. Its
name contains the epoch and the lease's token, so a worker that lost its trial can't overwrite the
files of the new owner. The last two are kept: the older one is used if the newest is damaged, or if
its epoch was never reported.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from tuner.errors import InputError, StorageError, TunerError
from tuner.files.background import BackgroundWriter
from tuner.files.folders import MAX_ARRAY_BYTES
from tuner.files.serialization import Arrays, decode, encode, pack, unpack
from tuner.files.study_files import StudyFiles
from tuner.gan.state import GanState, abstract_state
from tuner.trial import Hyperparameters, Program, TrialConfig

KEPT = 2
CHECKPOINTS = "checkpoints"  # the folder with all trials' checkpoints
_NAME = re.compile(rf"{CHECKPOINTS}/trial-(\d{{5,}})/epoch-\d{{6,}}-\d{{6,}}\.safetensors")
_LATER = ("scheduled", "augment_some", "augment_adapts")  # fields of Program
_STATE, _GENERATOR, _SAMPLES = "state", "generator", "samples"


class KeptGenerator(NamedTuple):
    """The generator of a trial's best epoch so far, packed on the host, with samples."""

    epoch: int
    arrays: Arrays
    samples: NDArray[Any] | None = None  # uint8 (n, h, w, c)


class Checkpoint(NamedTuple):
    """A trial after ``epoch`` epochs; ``state`` is packed for writing, a ``GanState`` when read."""

    epoch: int
    state: Any
    kept: KeptGenerator | None


def pack_state(state: GanState) -> Arrays:
    """Return a state as host arrays, with its key as plain integers."""
    return pack(state._replace(key=jax.random.key_data(state.key)))


def unpack_state(config: TrialConfig, arrays: Arrays, origin: str) -> GanState:
    """Return the state on the device; InputError if ``arrays`` do not fit the program."""
    like = abstract_state(config.program)
    key = jax.eval_shape(jax.random.key_data, like.key)
    state: GanState = jax.device_put(unpack(like._replace(key=key), arrays, origin))
    return state._replace(key=jax.random.wrap_key_data(state.key))


def encode_checkpoint(config: TrialConfig, checkpoint: Checkpoint) -> bytes:
    """Return a packed checkpoint as the content of a file."""
    arrays = {f"{_STATE}{name}": x for name, x in checkpoint.state.items()}
    about: dict[str, Any] = {"epoch": checkpoint.epoch, "config": _signature(config)}
    if checkpoint.kept is not None:
        about["kept"] = checkpoint.kept.epoch
        arrays |= {f"{_GENERATOR}{name}": x for name, x in checkpoint.kept.arrays.items()}
        if checkpoint.kept.samples is not None:
            arrays[_SAMPLES] = checkpoint.kept.samples
    return encode(arrays, about)


def decode_checkpoint(config: TrialConfig, data: bytes, origin: str) -> Checkpoint:
    """Read a checkpoint of this trial; InputError if it is damaged or another trial's."""
    arrays, about = decode(data, origin)
    if about.get("config") != _signature(config):
        raise InputError(f"{origin}: this checkpoint belongs to another trial")
    state = unpack_state(config, _with_prefix(arrays, _STATE), origin)
    epoch, kept = about.get("epoch"), about.get("kept", 0)
    if not (isinstance(epoch, int) and isinstance(kept, int) and 0 <= kept <= epoch):
        raise InputError(f"{origin}: damaged: epoch {epoch!r:.40}, best epoch {kept!r:.40}")
    samples = arrays.get(_SAMPLES)
    if samples is not None and (samples.dtype != np.uint8 or samples.ndim != 4):
        raise InputError(f"{origin}: damaged: samples of {samples.dtype} {samples.shape}")
    generator = KeptGenerator(kept, _with_prefix(arrays, _GENERATOR), samples) if kept else None
    return Checkpoint(epoch, state, generator)


def _signature(config: TrialConfig) -> list[Any]:
    """The identity of the trial: the same as in earlier versions if no later field is used."""
    program, hyperparameters, seed, _ = config
    fields = program._asdict()
    del fields["clips"]  # which follows from the hyperparameters
    later = {name: fields.pop(name) for name in _LATER}
    numbers = hyperparameters._asdict()
    later |= {name: numbers.pop(name) for name in Hyperparameters._field_defaults}
    defaults = Program._field_defaults | Hyperparameters._field_defaults
    used = {name: value for name, value in later.items() if value != defaults[name]}
    program_fields = [list(x) if isinstance(x, tuple) else x for x in fields.values()]
    signature: list[Any] = [program_fields, [*numbers.values()], seed]
    return [*signature, json.loads(json.dumps(used))] if used else signature


def _with_prefix(arrays: Arrays, prefix: str) -> Arrays:
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def folder_of(number: int) -> str:
    """The folder with the checkpoints of trial ``number``."""
    return f"{CHECKPOINTS}/trial-{number:05d}"


def trial_of(name: str) -> int | None:
    """The trial that a checkpoint file belongs to; None for any other file."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def load_latest(
    files: StudyFiles,
    number: int,
    config: TrialConfig,
    reported: int,
    announce: Callable[[str], None],
) -> Checkpoint | None:
    """Load the newest undamaged checkpoint up to epoch ``reported``; None if there is none."""
    names = filter(_NAME.fullmatch, files.names(folder_of(number)))
    for name in sorted(names, reverse=True):
        try:
            if (data := files.read(name, MAX_ARRAY_BYTES)) is None:
                continue
            checkpoint = decode_checkpoint(config, data, files.locate(name))
        except StorageError:
            raise
        except TunerError as error:  # damaged, or not a regular file
            announce(f"{error}; falling back to the previous checkpoint")
            continue
        if checkpoint.epoch <= reported:
            return checkpoint
    return None


class CheckpointWriter(BackgroundWriter):
    """Writes a trial's checkpoints in the background; only the newest one waits to be written."""

    def __init__(
        self,
        files: StudyFiles,
        number: int,
        token: int,
        config: TrialConfig,
        announce: Callable[[str], None],
    ) -> None:
        """``number`` is the trial's, ``token`` that of its lease."""
        self._config, self._token, self._folder = config, token, folder_of(number)
        super().__init__(
            files, "the checkpoint", announce, self._remove_old, capacity=1, optional=False
        )

    def offer(self, checkpoint: Checkpoint) -> None:
        """Write a packed checkpoint soon; it replaces one that is still waiting."""
        make = partial(encode_checkpoint, self._config, checkpoint)
        self.submit(self._name(checkpoint.epoch), make)

    def write(self, checkpoint: Checkpoint) -> int:
        """Write a packed checkpoint now and remove older ones; returns its size in bytes.

        StorageError if the store is unavailable.
        """
        self.close(seconds=10)
        data = encode_checkpoint(self._config, checkpoint)
        name = self._name(checkpoint.epoch)
        self._files.write(name, data)
        with suppress(StorageError):
            for old in filter(_NAME.fullmatch, self._files.own_names(self._folder)):
                if old < name:  # a newer one is the trial's next owner's
                    self._files.remove(old)
        return len(data)

    def _name(self, epoch: int) -> str:
        return f"{self._folder}/epoch-{epoch:06d}-{self._token:06d}.safetensors"

    def remove_all(self) -> None:
        """Remove the checkpoints of a trial that has ended."""
        self.close(seconds=10)
        self._files.remove_all(self._folder)

    def _remove_old(self, name: str) -> None:
        with suppress(StorageError):
            names = filter(_NAME.fullmatch, self._files.own_names(self._folder))
            for old in sorted(names)[:-KEPT]:
                self._files.remove(old)
