"""Networks of somebody's own: imported where the worker was told to, hashed, tried for shapes.

A study names them ``package.module:Class``. A database must not be able to make a worker run
code, so nothing is imported whose package was not allowed to this process by whoever started it.
"""

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tuner.combinations import values_of
from tuner.conditions import branches
from tuner.errors import InputError
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.settings import Range, is_own_network, nearest
from tuner.spec import StudySpec
from tuner.study.space import trial_config
from tuner.trial import Premises, Program
from tuner.xla import abstract

Sources = tuple[tuple[str, str], ...]  # a network's name, and a hash of its package's code

_TRIED = 2  # images, when shapes are looked at


def named_in(spec: StudySpec) -> list[str]:
    """The networks that a study's trials may use."""
    trials = [branch.trial for branch in branches(spec.trial)]
    settings = [s for trial in trials for s in (trial.generator, trial.discriminator)]
    return list(dict.fromkeys(str(v) for setting in settings for v in values_of(setting) or []))


def admit(names: Iterable[str], allowed: Collection[str]) -> Sources:
    """Import the networks among ``names`` that are not tuner's own, for this process to use.

    InputError where one is of a package that is not ``allowed``, is not to be found, or can't be
    imported.
    """
    return tuple((name, _admit(name, allowed)) for name in names if is_own_network(name))


def _admit(name: str, allowed: Collection[str]) -> str:
    module_name, _, class_name = name.partition(":")
    package = module_name.partition(".")[0]
    if package not in allowed:
        raise InputError(
            f"{name}: found a network of the package {package!r}, which this process was not "
            f"allowed to import; expected --allow {package}, from somebody who trusts its code"
        )
    if os.getcwd() not in sys.path:  # a package beside the study file need not be installed
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, class_name, None)
    except (Exception, SystemExit) as error:  # whatever somebody's module does while imported
        text = f"{name}: can't be imported: {_first_words(error)}"
        raise InputError(text + _place(error, package)) from None
    if found is None:
        hint = nearest(class_name, vars(module))
        raise InputError(f"{name}: found no {class_name} in {module_name}, expected one{hint}")
    if not (isinstance(found, type) and issubclass(found, nnx.Module)):
        raise InputError(f"{name}: found {found!r}, expected a subclass of flax.nnx.Module")
    GENERATORS[name] = DISCRIMINATORS[name] = found
    return _hash(package)


def _hash(package: str) -> str:
    """Of all Python files of the package: a class may lean on any of them."""
    origin = sys.modules[package].__file__
    places = [Path(place) for place in getattr(sys.modules[package], "__path__", [])]
    files = {place: sorted(place.rglob("*.py")) for place in places}
    if not places and origin is not None:  # a single module
        files = {Path(origin).parent: [Path(origin)]}
    digest = hashlib.sha256()
    for place, paths in files.items():
        for path in paths:
            digest.update(f"{path.relative_to(place).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def try_all(spec: StudySpec, premises: Premises) -> None:
    """Try every pair of networks in which one is not tuner's own: before a trial is begun."""
    for branch in branches(spec.trial):
        there = spec.model_copy(update={"trial": branch.trial})
        point = {
            name: setting.low if isinstance(setting, Range) else setting.values[0]
            for name, setting in branch.trial.searched().items()
        }
        for generator in values_of(branch.trial.generator) or []:
            for discriminator in values_of(branch.trial.discriminator) or []:
                pair = {"generator": generator, "discriminator": discriminator}
                if any(map(is_own_network, pair.values())):
                    try_shapes(trial_config(there, point | pair, 0, premises).program)


def try_shapes(program: Program) -> None:
    """Run both networks on nothing but shapes. InputError where one fails, or where images or
    logits are not of the shape that they are to be."""
    batch = (_TRIED, *program.image_shape)
    labels = abstract((_TRIED,), jnp.int32) if program.classes else None
    z = abstract((_TRIED, program.latent_dim), jnp.float32)
    images = _shape_of("generator", program, (z, labels), {"train": True})
    _compare("generator", program, f"noise {z.shape}", images, batch)
    rate, key = abstract((), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    given = (abstract(batch, jnp.float32), labels)
    for source in (key, None):  # while it trains, and when it is judged
        named = {"rate": rate, "key": source, "train": True}
        logits = _shape_of("discriminator", program, given, named)
        _compare("discriminator", program, f"images {batch}", logits, (_TRIED,))


def _shape_of(
    side: str, program: Program, given: tuple[object, ...], named: dict[str, object]
) -> object:
    train = {"train": named.pop("train")}

    def run(given: tuple[object, ...], named: dict[str, object]) -> object:
        kinds = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}[side]
        kind: Callable[..., Any] = kinds[getattr(program, side)]
        network = kind(program, rngs=nnx.Rngs(0))
        return network(*given, **named, **train)

    try:
        found = jax.eval_shape(run, given, named)
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        name = str(getattr(program, side))
        text = f"trial.{side} {name}: {_first_words(error)}"
        raise InputError(text + _place(error, name.partition(".")[0])) from None
    return getattr(found, "shape", type(found).__name__)


def _first_words(error: BaseException) -> str:
    """The error's kind and its first paragraph, in one line."""
    paragraph = str(error).split("\n\n")[0]
    return f"{type(error).__name__}: {' '.join(paragraph.split())}"[:400]


def _place(error: BaseException, package: str) -> str:
    """Where in the package's own code the error arose, as far down as that goes; nothing for one
    that arose elsewhere, or that names its place itself."""
    deepest = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            deepest = Path(frame.f_code.co_filename), line
    if deepest is None or isinstance(error, SyntaxError):
        return ""
    path, line = deepest
    here = Path.cwd()
    return f", at {path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def _compare(side: str, program: Program, given: str, found: object, expected: object) -> None:
    if found != expected:
        what = "images" if side == "generator" else "logits"
        raise InputError(
            f"trial.{side}: {getattr(program, side)} made {what} {found} of {given}, expected "
            f"{expected} (width {program.width}, latent_dim {program.latent_dim})"
        )
