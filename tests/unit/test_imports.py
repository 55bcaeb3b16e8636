"""Allowed imports between packages, read from the source."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tuner"
JAX = ("jax", "jaxlib", "flax", "optax")
DATABASE = ("optuna", "sqlalchemy")
# Packages that each package may import from, in addition to itself.
MAY_IMPORT = {
    "spec": (),
    "data": ("spec",),
    "gan": ("spec",),
    "metrics": ("spec",),
    "study": ("spec",),
    "views": ("spec", "study"),
    "tracking": ("spec", "study"),
    "notify": ("spec", "study", "views"),
    "files": ("spec", "gan", "metrics", "study"),
    "launch": ("spec", "study", "notify"),
    "dashboard": ("spec", "study", "views", "files"),
    "run": ("spec", "data", "gan", "metrics", "study", "files"),
}
FRONT_ENDS = ("cli", "api", "notebook")  # these may import everything
COMMON = (
    *("environment", "epoch_report", "errors", "hints", "interrupts", "jax_variables", "paths"),
    *("phases", "trial", "version", "web", "worker_command", "xla"),
)


def modules() -> dict[str, Path]:
    """All modules of the package by dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """All modules, and names in them, that the file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def part(name: str) -> str:
    """The package or module directly inside tuner that contains a module."""
    return name.split(".")[1]


def edges() -> dict[str, set[str]]:
    """Dotted names of the tuner modules that each tuner module imports."""
    known = modules()
    found = {}
    for name, path in known.items():
        named = {i if i in known else i.rpartition(".")[0] for i in imports(path)}
        found[name] = (named & set(known)) - {name, "tuner"}
    return found


def test_packages_import_one_way() -> None:
    parts = {part(name) for name in modules() if name != "tuner"}
    assert parts == {*MAY_IMPORT, *FRONT_ENDS, *COMMON}, "a part that has no rule"
    wrong = {
        f"{name} imports {imported}"
        for name, found in edges().items()
        for imported in found
        if name != "tuner" and not may_import(part(name), part(imported))
    }
    assert wrong == set()


def may_import(importer: str, imported: str) -> bool:
    if importer in FRONT_ENDS or importer == imported:
        return True
    return imported in (*COMMON, *MAY_IMPORT.get(importer, ()))


def test_there_are_no_import_cycles() -> None:
    found = edges()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for imported in sorted(found[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in found:
        visit(name, ())


@pytest.mark.parametrize("package", ["spec", "data", "study", "views"])
def test_some_packages_do_not_import_jax(package: str) -> None:
    files = {name: path for name, path in modules().items() if within(name, (f"tuner.{package}",))}
    assert files
    found = {
        f"{n} imports {i}" for n, path in files.items() for i in imports(path) if within(i, JAX)
    }
    assert found == set()


def test_import_checks_find_violations() -> None:
    """If no imports were found, the rules above would hold trivially."""
    found = imports(modules()["tuner.study.study_row"])
    assert {"optuna", "sqlalchemy.select", "tuner.study.database.Database"} <= found
    assert any(within(name, ("jax",)) for name in imports(modules()["tuner.run.worker"]))


def test_only_study_uses_the_database() -> None:
    users = {n for n, path in modules().items() if any(within(i, DATABASE) for i in imports(path))}
    assert users
    assert all(within(name, ("tuner.study",)) for name in users), users


def test_one_module_uses_optunas_internals() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(".storages._" in found for found in imports(path))
    }
    assert users == {"tuner.study.optuna_internals"}
