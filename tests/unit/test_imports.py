"""Who may import whom, read from the source; and that nothing brings JAX along unasked."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tuner"
SPEC_SIDE = (
    *("errors", "settings", "policies", "spec", "coherence", "combinations", "conditions"),
    *("specfile", "trial", "data", "version", "places"),
)
JAX = ("jax", "jaxlib", "flax", "optax")
DATABASE = ("optuna", "sqlalchemy")
IN_FRONT = ("tuner.cli", "tuner.api", "tuner.notebook")
OUTSIDE_OF_STUDY = ("tuner.run", "tuner.views", *IN_FRONT)


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules, and the names in them, that the file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("importers", "forbidden"),
    [
        (
            tuple(f"tuner.{name}" for name in SPEC_SIDE),
            (*JAX, *DATABASE, "tuner.gan", "tuner.metrics", "tuner.study", *OUTSIDE_OF_STUDY),
        ),
        (("tuner.gan", "tuner.metrics"), (*DATABASE, "tuner.study", *OUTSIDE_OF_STUDY)),
        (("tuner.study",), (*JAX, "tuner.gan", "tuner.metrics", *OUTSIDE_OF_STUDY)),
        (
            ("tuner.views",),
            (*JAX, "tuner.run", "tuner.gan", "tuner.metrics", *IN_FRONT),
        ),
        (("tuner.run",), IN_FRONT),
        (
            (
                *("tuner.gan", "tuner.metrics", "tuner.run", "tuner.views", *IN_FRONT),
                *(f"tuner.{name}" for name in SPEC_SIDE),
            ),
            DATABASE,
        ),
    ],
    ids=["spec side", "networks", "study", "views", "run", "database"],
)
def test_who_may_import_whom(importers: tuple[str, ...], forbidden: tuple[str, ...]) -> None:
    files = {name: path for name, path in modules().items() if within(name, importers)}
    for importer in importers:
        assert any(within(name, (importer,)) for name in files), f"no module {importer}"
    found = {
        f"{name} imports {imported}"
        for name, path in files.items()
        for imported in imports(path)
        if within(imported, forbidden)
    }
    assert found == set()


def test_imports_are_seen() -> None:
    """The rules above would hold for anything if none were seen."""
    found = imports(modules()["tuner.study.store"])
    assert {"optuna", "sqlalchemy.select", "tuner.study.database.Database"} <= found
    assert any(within(name, ("jax",)) for name in imports(modules()["tuner.run.worker"]))


def test_only_study_touches_the_database() -> None:
    users = {n for n, path in modules().items() if any(within(i, DATABASE) for i in imports(path))}
    assert users
    assert all(within(name, ("tuner.study",)) for name in users), users


def test_one_module_leans_on_optunas_internals() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(".storages._" in found for found in imports(path))
    }
    assert users == {"tuner.study.storage"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tuner, tuner.cli", JAX),
        ("import tuner", (*JAX, *DATABASE)),
        # A notebook that only looks leaves the device to those who train on it.
        ("from tuner import open_study", (*JAX, "pandas", "plotly", "IPython")),
        ("import tuner.data", (*JAX, *DATABASE)),
        # Who starts workers must leave the devices to them.
        ("import tuner.run.fleet, tuner.run.files, tuner.study.steering", JAX),
        # Only where somebody asks for metrics.
        ("import tuner.cli, tuner.run.sweep, tuner.run.fleet, tuner.api", ("prometheus_client",)),
        ("import tuner.run.monitoring", JAX),
        ("import tuner.run.stores", (*JAX, *DATABASE, "s3fs", "gcsfs")),
    ],
)
def test_import_brings_along_only_what_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(absent) & set(done.stdout.split())
