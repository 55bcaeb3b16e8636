"""Source of a generator that needs neither tuner nor a custom network's package.

Only what the generator uses is taken: its class, and the functions, classes and constants that its
code names, from whichever of these packages they come.
"""

import ast
import builtins
import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from tuner.errors import InputError
from tuner.trial import Program

_OWN = "tuner"
_HEADER = '"""The network of an exported generator; written by tuner export-model."""'


class _Import(NamedTuple):
    """A name that a module imports."""

    module: str
    name: str  # in that module; empty for the module itself
    alias: str  # in the importing module

    @property
    def line(self) -> str:
        what = f"from {self.module} import {self.name}" if self.name else f"import {self.module}"
        plain = self.name or self.module.partition(".")[0]
        return what if self.alias == plain else f"{what} as {self.alias}"


class _Module:
    """A module's source: what it imports, and the statements that define each of its names."""

    def __init__(self, name: str) -> None:
        file = sys.modules[name].__file__
        assert file is not None
        text = Path(file).read_text()
        self.name, self._lines = name, text.splitlines()
        self.imports: dict[str, _Import] = {}
        self.statements: dict[str, list[ast.stmt]] = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= {found.alias: found for found in self._imported(node)}
            for defined in _defines(node):
                self.statements.setdefault(defined, []).append(node)

    def _imported(self, node: ast.Import | ast.ImportFrom) -> list[_Import]:
        if isinstance(node, ast.Import):
            return [_Import(a.name, "", a.asname or a.name.partition(".")[0]) for a in node.names]
        package = sys.modules[self.name].__package__
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [_Import(module, a.name, a.asname or a.name) for a in node.names]

    def source(self, node: ast.stmt) -> str:
        """A statement's lines, with the comments directly above it."""
        decorators = getattr(node, "decorator_list", [])
        first = min(x.lineno for x in (node, *decorators)) - 1
        while first and self._lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(self._lines[first : node.end_lineno])


def _defines(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines, or changes by calling a method of theirs."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))):
            return [name]
    return []


class _Collector:
    """Collects definitions, each after those that it needs."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages
        self._modules: dict[str, _Module] = {}
        self._origins: dict[str, str] = {}  # modules by the names that they define
        self.imports: dict[str, _Import] = {}
        self.parts: list[str] = []

    def add(self, module_name: str, name: str) -> None:
        """Add the definition of a module's ``name``; InputError if it can't be extracted."""
        if module_name not in self._modules:
            self._modules[module_name] = _Module(module_name)
        module = self._modules[module_name]
        if (found := module.imports.get(name)) is not None:
            self._add_import(module_name, found)
            return
        if self._origins.get(name) == module_name or name not in module.statements:
            return
        self._check_name(name, module_name)
        self._origins[name] = module_name
        for statement in module.statements[name]:
            for used in _names(statement):
                if used in module.statements or used in module.imports:
                    self.add(module_name, used)
            if (source := module.source(statement)) not in self.parts:
                self.parts.append(source)

    def _add_import(self, importer: str, found: _Import) -> None:
        if found.module.partition(".")[0] not in self._packages:
            self._check_name(found.alias, found.module)
            self._origins[found.alias] = found.module
            self.imports[found.alias] = found
        elif found.alias != found.name or found.name == "*":
            raise InputError(
                f"{importer}: found {found.line!r}, which can't be exported; import names from the "
                "package's modules instead: from MODULE import NAME"
            )
        else:
            self.add(found.module, found.name)

    def _check_name(self, name: str, module: str) -> None:
        other = self._origins.get(name, module)
        if other != module:
            raise InputError(f"{module} and {other} both define {name}; rename one to export both")


def _names(node: ast.AST) -> list[str]:
    """The names in a statement that are not built in, in the order of ``ast.walk``."""
    found = dict.fromkeys(x.id for x in ast.walk(node) if isinstance(x, ast.Name))
    return [name for name in found if not hasattr(builtins, name)]


def network_source(kind: type, program: Program) -> str:
    """A module with the class ``Generator`` and its ``PROGRAM``, which imports only libraries.

    InputError if the code of a custom network can't be extracted from its package.
    """
    collector = _Collector({_OWN, kind.__module__.partition(".")[0]})
    collector.add(Program.__module__, Program.__name__)
    collector.add(kind.__module__, kind.__name__)
    fields = "\n".join(f"    {name}={value!r}," for name, value in program._asdict().items())
    imports = "\n".join(sorted({found.line for found in collector.imports.values()}))
    parts = [_HEADER, imports, *collector.parts, f"PROGRAM = Program(\n{fields}\n)"]
    if kind.__name__ != "Generator":
        parts.append(f"Generator = {kind.__name__}")
    return "\n\n\n".join(parts) + "\n"
