"""Random checkpoints and generators in an artifact store."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import DATASET, RANGES, SHAPE, spec_of

from tuner.files.checkpoints import (
    Checkpoint,
    encode_checkpoint,
    folder_of,
    load_latest,
    pack_state,
)
from tuner.files.serialization import pack, unpack
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles
from tuner.gan.sampling import Generator
from tuner.gan.state import GanState, abstract_generator, abstract_state
from tuner.study.space import trial_config
from tuner.trial import Program, TrialConfig

PROGRAM = Program("dcgan", "dcgan", 2, 8, SHAPE, 8, "minimax", "sgd", "sgd", 1, False)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def generator() -> Generator:
    rng = np.random.default_rng(0)
    like = Generator(*abstract_generator(PROGRAM))
    packed = pack(
        unpack(like, {k: rng.random(v.shape, np.float32) for k, v in named_leaves(like)}, "")
    )
    random: Generator = unpack(like, packed, "")
    return random


def config_of(number: int = 0, **program: Any) -> TrialConfig:
    config = trial_config(spec_of(RANGES), {"learning_rate": 1e-3, "beta1": 0.5}, number, DATASET)
    small = config.program._replace(width=2, latent_dim=8, batch_size=8, generator_optimizer="sgd")
    small = small._replace(discriminator_optimizer="sgd")
    return config._replace(program=small._replace(**program))


CONFIG = config_of()


def random_state(config: TrialConfig, seed: int = 0) -> GanState:
    """A state of random bits, NaN and infinities included."""
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(rng.integers(0, 2**32, 2, np.uint32)))
        size = int(np.prod(leaf.shape)) * leaf.dtype.itemsize
        return jax.device_put(np.frombuffer(rng.bytes(size), leaf.dtype).reshape(leaf.shape))

    state: GanState = jax.tree.map(fill, abstract_state(config.program))
    return state


def bits(state: GanState) -> Any:
    """A state in a form that compares bit by bit: structure, dtypes, shapes and bytes."""
    plain = state._replace(key=jax.random.key_data(state.key))
    leaves = jax.tree_util.tree_flatten_with_path(plain)[0]
    kinds = jax.tree.structure(plain)
    return kinds, [
        (str(path), x.dtype, x.shape, getattr(x, "weak_type", False), np.asarray(x).tobytes())
        for path, x in leaves
    ]


def checkpoint_of(epoch: int, config: TrialConfig = CONFIG) -> Checkpoint:
    """A checkpoint whose state is seeded by its epoch."""
    return Checkpoint(epoch, pack_state(random_state(config, seed=epoch)), None)


@pytest.fixture
def files(tmp_path: Path) -> StudyFiles:
    return StudyFiles(open_store(str(tmp_path)), "study").begin("a token")


def write_checkpoint(files: StudyFiles, epoch: int, token: int = 1, number: int = 5) -> str:
    """Write a checkpoint as a worker does, and return its name."""
    name = f"{folder_of(number)}/epoch-{epoch:06d}-{token:06d}.safetensors"
    files.write(name, encode_checkpoint(CONFIG, checkpoint_of(epoch)))
    return name


def resumed_epoch(
    files: StudyFiles, reported: int, messages: list[str] | None = None
) -> int | None:
    """The epoch from which a trial resumes; None without a checkpoint."""
    announce = (messages if messages is not None else []).append
    checkpoint = load_latest(files, 5, CONFIG, reported, announce)
    if checkpoint is not None:
        assert bits(checkpoint.state) == bits(random_state(CONFIG, seed=checkpoint.epoch))
    return checkpoint and checkpoint.epoch
