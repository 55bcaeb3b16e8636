"""Custom networks: import them if allowed, hash their code, and check their shapes.

A study names them ``package.module:Class``. A study in a database must not be able to make a worker
run code, so only packages that the user of this process allows are imported.
"""

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from tuner.errors import InputError
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.spec.branches import branches
from tuner.spec.kinds import did_you_mean, is_custom_network
from tuner.spec.parameters import Range, values_of
from tuner.spec.study import StudySpec
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo, Program
from tuner.xla import abstract

Sources = tuple[tuple[str, str], ...]  # names of networks, and hashes of their packages' code

_BATCH_SIZE = 2  # for checking shapes


def networks_of(spec: StudySpec) -> list[str]:
    """List the networks that a study's trials may use."""
    trials = [branch.trial for branch in branches(spec.trial)]
    settings = [s for trial in trials for s in (trial.generator, trial.discriminator)]
    return list(dict.fromkeys(str(v) for setting in settings for v in values_of(setting) or []))


def import_allowed(names: Iterable[str], allowed: Collection[str]) -> Sources:
    """Import the custom networks among ``names`` and register them; return hashes of their code.

    InputError if a network's package is not ``allowed``, or if it is missing or fails to import.
    """
    return tuple(
        (name, _import_network(name, allowed)) for name in names if is_custom_network(name)
    )


def _import_network(name: str, allowed: Collection[str]) -> str:
    """Import and register one network; return the hash of its package."""
    found, digest = import_object(name, allowed)
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        raise InputError(f"{name}: found {found!r}, expected a subclass of flax.nnx.Module")
    GENERATORS[name] = DISCRIMINATORS[name] = found
    return digest


def import_object(name: str, allowed: Collection[str]) -> tuple[Any, str]:
    """Import ``package.module:object``; return it with a hash of its package's code.

    InputError if the package is not ``allowed``, or if it is missing or fails to import.
    """
    module_name, _, class_name = name.partition(":")
    package = module_name.partition(".")[0]
    if package not in allowed:
        raise InputError(
            f"{name}: importing the package {package!r} is not allowed; if you trust its code, add "
            f"--allow {package}"
        )
    _AllowedPackages.names.update(allowed)
    if _AllowedPackages not in sys.meta_path:
        sys.meta_path.insert(0, _AllowedPackages)
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, class_name, None)
    except (Exception, SystemExit) as error:  # a custom module may raise anything
        raise InputError(f"{name}: can't be imported: {describe_error(error, package)}") from None
    if found is None:
        hint = did_you_mean(class_name, vars(module))
        raise InputError(f"{name}: {module_name} has no {class_name}{hint}")
    return found, _hash(package)


class _AllowedPackages:
    """Finds allowed packages in the working directory, so that they need not be installed.

    Finds nothing else there, since it could shadow a library.
    """

    names: ClassVar[set[str]] = set()

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name not in cls.names:
            return None
        return PathFinder.find_spec(name, [os.getcwd()], target)


def _hash(package: str) -> str:
    """Hash all Python files of a package, because a class may depend on any of them."""
    module = sys.modules[package]
    folders = [Path(place) for place in getattr(module, "__path__", [])]
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not folders and module.__file__ is not None:  # a single module
        files = [(Path(module.__file__).parent, Path(module.__file__))]
    digest = hashlib.sha256()
    for folder, path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_all_shapes(spec: StudySpec, dataset: DatasetInfo) -> None:
    """Check the shapes of every pair of networks that includes a custom one."""
    for branch in branches(spec.trial):
        branch_spec = spec.model_copy(update={"trial": branch.trial})
        point = {
            name: setting.low if isinstance(setting, Range) else setting.values[0]
            for name, setting in branch.trial.searched().items()
        }
        for generator in values_of(branch.trial.generator) or []:
            for discriminator in values_of(branch.trial.discriminator) or []:
                pair = {"generator": generator, "discriminator": discriminator}
                if any(map(is_custom_network, pair.values())):
                    check_shapes(trial_config(branch_spec, point | pair, 0, dataset).program)


def check_shapes(program: Program) -> None:
    """Trace both networks on abstract arrays.

    InputError if one fails, or if its images or logits have the wrong shape.
    """
    batch = (_BATCH_SIZE, *program.image_shape)
    labels = abstract((_BATCH_SIZE,), jnp.int32) if program.classes else None
    z = abstract((_BATCH_SIZE, program.latent_dim), jnp.float32)
    _check_network("generator", program, f"noise {z.shape}", batch, z, labels)
    images, rate = abstract(batch, jnp.float32), abstract((), jnp.float32)
    for key in (jax.eval_shape(lambda: jax.random.key(0)), None):  # in training, in evaluation
        options = {"rate": rate, "key": key}
        given = f"images {batch}"
        _check_network("discriminator", program, given, (_BATCH_SIZE,), images, labels, **options)


def _check_network(
    side: Literal["generator", "discriminator"],
    program: Program,
    given: str,
    expected: tuple[int, ...],
    *arrays: Any,
    **options: Any,
) -> None:
    """Trace one network; ``given`` describes its input, ``expected`` is the shape of its output."""
    name = getattr(program, side)
    registered, result = {
        "generator": (GENERATORS, "images"),
        "discriminator": (DISCRIMINATORS, "logits"),
    }[side]

    def run(arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
        network: Any = registered[name]
        return network(program, rngs=nnx.Rngs(0))(*arrays, **options, train=True)

    try:
        returned = jax.eval_shape(run, arrays, options)
    except (Exception, SystemExit) as error:  # custom code may raise anything
        reason = describe_error(error, name.partition(".")[0])
        raise InputError(f"trial.{side}: {name}: {reason}") from None
    shape = getattr(returned, "shape", type(returned).__name__)
    if shape != expected:
        raise InputError(
            f"trial.{side}: {name} returned {result} {shape} for {given}, expected {expected} "
            f"(width {program.width}, latent_dim {program.latent_dim})"
        )


def describe_error(error: BaseException, package: str) -> str:
    """The error's type and first paragraph in one line, followed by the deepest line of the
    package's code, if any, unless the error already contains its location."""
    paragraph = " ".join(str(error).split("\n\n")[0].split())
    text = f"{type(error).__name__}: {paragraph}"[:400]
    places = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    if not places or isinstance(error, SyntaxError):
        return text
    path, line = places[-1]
    here = Path.cwd()
    return f"{text}, at {path.relative_to(here) if path.is_relative_to(here) else path}:{line}"
