"""No data from a database or an artifact store is run as code.

Some tests plant payloads in everything that samplers, pruners and workers read from the database.
Others scan the source of every module that a worker imports.
"""

import ast
import contextlib
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import artifacts
import pytest
import sqlalchemy
import study_databases
from optuna.storages._rdb import models
from study_databases import Studies, claim, report, run

import tuner
from tuner.data import silent
from tuner.errors import InputError
from tuner.files.study_files import StudyFiles
from tuner.run.startup import open_evaluator
from tuner.spec.pruners import PrunerSpec
from tuner.spec.samplers import SamplerSpec
from tuner.study import tables
from tuner.study.session import WorkerSession
from tuner.study.verdict import Complete
from tuner.xla import keep_private

sqlite, files = study_databases.sqlite, artifacts.files

PACKAGE = Path(tuner.__file__).parent

# Attributes that Optuna's samplers and pruners, and this package, read from trials and studies.
KEYS = [
    *(f"{prefix}:optimizer:0" for prefix in ("cma", "cmawm", "sepcma")),
    *(f"{prefix}:generation" for prefix in ("cma", "cmawm", "sepcma")),
    *("x_for_tell", "grid_id", "search_space", "constraints", "fixed_params"),
    *("tpe:relative_params:0", "gp:relative_params:0", "completed_rung_0", "completed_rung_1"),
    *("tuner:reason", "tuner:generator", "tuner:machine", "tuner:seed_of", "tuner:baseline"),
]
SPACE = """
[trial]
beta1 = { low = 0.0, high = 0.9, step = 0.1 }
width = { low = 8, high = 24 }
[sampler]
name = "random"
"""


class CreatesFile:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def payloads(path: Path) -> list[str]:
    """A pickle and an expression that create the file, encoded as attribute values."""
    return [
        pickle.dumps(CreatesFile(path)).hex(),
        f"__import__('pathlib').Path({str(path)!r}).touch()",
    ]


def plant(studies: Studies, kind: str, payload: Any) -> None:
    """Write the payload to every attribute of the study and of its finished trials."""
    rows = [{"key": key, "value": json.dumps(payload)} for key in KEYS]
    with studies.engine.begin() as connection:
        for owner, owners in [("trial", "trials WHERE state <> 'RUNNING'"), ("study", "studies")]:
            table = f"{owner}_{kind}_attributes"
            connection.execute(
                sqlalchemy.text(
                    f"INSERT OR REPLACE INTO {table} ({owner}_id, key, value_json) "
                    f"SELECT {owner}_id, :key, :value FROM {owners}"
                ),
                rows,
            )


def clear(studies: Studies, payload: Any) -> None:
    for owner, kind in itertools.product(("trial", "study"), ("system", "user")):
        statement = f"DELETE FROM {owner}_{kind}_attributes WHERE value_json = :value"
        studies.rows(statement, value=json.dumps(payload))


def names_of(spec: Any) -> list[str]:
    """Names that a study file accepts for a sampler or a pruner."""
    kinds = spec.__args__[0].__args__
    return [kind.model_fields["name"].default for kind in kinds]


def attack(studies: Studies, marker: Path, changes: dict[str, Any]) -> None:
    """Change the stored study file, plant each payload, and let workers run trials."""
    studies.create(SPACE, trials=40)
    run(studies.join(), [40.0] * 4, Complete())
    [(stored,)] = studies.rows("SELECT spec FROM tuner_studies")
    changed = json.dumps(json.loads(stored) | changes)
    studies.rows("UPDATE tuner_studies SET spec = :spec", spec=changed)
    done = 0
    for payload, kind in itertools.product(payloads(marker), ("system", "user")):
        plant(studies, kind, payload)
        session = WorkerSession(studies.store(), study_databases.MACHINE, studies.messages.append)
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError), session.joined():
            run(session, [60.0] * 4, Complete())
            claimed = claim(session)
            report(session, claimed, [60.0])
            session.pruner_decision(claimed, 1)
            done += 1
        assert not marker.exists(), (payload, kind)
        clear(studies, payload)
    assert done  # at least one payload was read without breaking the worker


@pytest.mark.parametrize("sampler", names_of(SamplerSpec))
def test_no_sampler_runs_code_from_the_database(
    sampler: str, sqlite: Studies, tmp_path: Path
) -> None:
    if sampler == "gp":
        pytest.importorskip("torch")
    startup = {"n_startup_trials": 1} if sampler in ("tpe", "cmaes", "gp") else {}
    attack(sqlite, tmp_path / "marker", {"sampler": {"name": sampler, **startup}})


@pytest.mark.parametrize("pruner", names_of(PrunerSpec))
def test_no_pruner_runs_code_from_the_database(
    pruner: str, sqlite: Studies, tmp_path: Path
) -> None:
    bound = {"upper": 100.0} if pruner == "threshold" else {}
    attack(sqlite, tmp_path / "marker", {"pruner": {"name": pruner, **bound}})


def test_a_database_cannot_name_networks_to_import(
    sqlite: Studies, files: StudyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "hostile.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()")
    monkeypatch.syspath_prepend(tmp_path)
    sqlite.create(SPACE)
    for network in ("generator", "discriminator"):
        [(stored,)] = sqlite.rows("SELECT spec FROM tuner_studies")
        spec = json.loads(stored)
        spec["trial"][network] = ["dcgan", "hostile:Generator"]
        sqlite.rows("UPDATE tuner_studies SET spec = :spec", spec=json.dumps(spec))
        with pytest.raises(InputError, match="add --allow hostile"):
            open_evaluator(sqlite.store(), files, silent)
    assert not marker.exists()


def test_no_column_is_unpickled() -> None:
    every = [*models.BaseModel.metadata.tables.values(), *tables.metadata.tables.values()]
    kinds = {type(column.type) for table in every for column in table.columns}
    assert sqlalchemy.String in kinds
    assert not any(issubclass(kind, sqlalchemy.PickleType) for kind in kinds)


# Packages that handle data from the database or the artifact store.
PACKAGES = (
    *("tuner", "optuna", "cmaes", "sqlalchemy", "alembic", "mako", "psycopg", "psycopg_binary"),
    *("fsspec", "s3fs", "aiobotocore", "botocore", "safetensors", "pydantic", "PIL"),
)
LIST_MODULES = """
import sys
import tuner.cli, tuner.run.startup, tuner.run.worker, tuner.run.fleet, tuner.run.planning
import tuner.files.stores, tuner.run.monitoring, tuner.data, psycopg, s3fs
import fsspec.implementations.local, cmaes, optuna.samplers._cmaes
for name, module in sorted(sys.modules.items()):
    print(f"{name}={getattr(module, '__file__', None)}")
"""
PICKLE_MODULES = ("pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
EVALUATORS = ("eval", "exec", "compile", "__import__")
IMPORTERS = ("import_module", "exec_module", "load_module", "run_path", "run_module")
# Modules that run code, and why no data from a database or an artifact store reaches it.
REVIEWED = {
    "tuner": "imports the modules of its public names, listed in its source",
    "tuner.study": "imports Optuna, under its own name",
    "tuner.cli": "imports the modules of its commands, listed in its source",
    "tuner.hints": "imports optional packages named in the source",
    "tuner.gan.networks": "imports the architectures in tuner.spec.traits.NETWORKS",
    "tuner.data.loading": "imports the loaders in tuner.spec.traits.SOURCES",
    "tuner.views.figures": "imports the plot modules listed in its source",
    "tuner.tracking.runs": "imports the modules of the trackers in tuner.spec.tracking.TRACKERS",
    "tuner.files.gcs": "imports its packages, under their own names",
    "tuner.files.s3": "imports its package, under its own name",
    "tuner.run.custom_networks": "imports networks from packages named by --allow",
    "tuner.files.inception_weights": "torch.load(weights_only=True) of a file named by the user",
    "optuna._imports": "imports modules named in Optuna's source, on first use",
    "optuna.integration": "imports modules named in Optuna's source, on first use",
    "optuna.samplers._cmaes": "unpickles; never constructed: see tuner.study.cma_es",
    "optuna.storages.journal._storage": "unpickles; never constructed, as studies are in SQL",
    "sqlalchemy.sql.sqltypes": "unpickles PickleType columns, which no table has",
    "sqlalchemy.dialects": "imports the dialect of the user's URL",
    "sqlalchemy.dialects.postgresql.asyncpg": "imports the driver of the user's URL",
    "sqlalchemy.dialects.postgresql.pg8000": "imports the driver of the user's URL",
    "sqlalchemy.dialects.postgresql.psycopg2cffi": "imports the driver of the user's URL",
    "sqlalchemy.dialects.sqlite.aiosqlite": "imports the driver of the user's URL",
    "sqlalchemy.engine.default": "imports the modules that its own tests need",
    "sqlalchemy.orm.clsregistry": "evaluates the names in Optuna's declarations of relations",
    "sqlalchemy.sql.lambdas": "compiles lambdas in statements, which are not used here",
    "sqlalchemy.util.langhelpers": "makes wrappers of SQLAlchemy's own functions",
    "sqlalchemy.util.preloaded": "imports SQLAlchemy's own modules",
    "sqlalchemy.util.typing": "evaluates the annotations in Optuna's declarations",
    "alembic.operations.base": "makes wrappers of Alembic's own functions",
    "alembic.util.langhelpers": "makes wrappers of Alembic's own functions",
    "alembic.util.pyfiles": "imports the migrations that come with Optuna",
    "mako._ast_util": "compiles templates, which Alembic uses only for new migrations",
    "mako.codegen": "compiles templates, which Alembic uses only for new migrations",
    "mako.compat": "compiles templates, which Alembic uses only for new migrations",
    "mako.runtime": "compiles templates, which Alembic uses only for new migrations",
    "mako.template": "compiles templates, which Alembic uses only for new migrations",
    "mako.util": "compiles templates, which Alembic uses only for new migrations",
    "fsspec.registry": "imports the file system of a scheme, by fsspec's own table",
    "fsspec.utils": "imports by the names in fsspec's own tables",
    "pydantic": "imports pydantic's own modules",
    "pydantic._internal._validators": "imports for ImportString fields, which no model has",
    "botocore.plugin": "imports plugins that the machine's own AWS configuration names",
    "botocore.vendored.six": "imports modules of the standard library",
    "PIL.Image": "imports Pillow's own plugins",
}


def worker_modules() -> dict[str, Path]:
    """Source files of the modules that a worker imports from PACKAGES."""
    command = [sys.executable, "-c", LIST_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    pairs = [line.split("=", 1) for line in done.stdout.splitlines()]
    return {
        name: Path(file)
        for name, file in pairs
        if name.split(".")[0] in PACKAGES and file.endswith(".py")
    }


def runs_code(tree: ast.AST) -> Iterator[str]:
    """Statements of a module that can run code from elsewhere."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if {n.name.split(".")[0] for n in names} & {
                *PICKLE_MODULES
            }:
                yield ast.unparse(node)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in PICKLE_MODULES:
                yield ast.unparse(node)
            case ast.Call(func=ast.Name(id=name)) if name in (*EVALUATORS, *IMPORTERS):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr=name)) if name in IMPORTERS:
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch" | "jnp"), attr="load")):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load")):
                if "allow_pickle=False" not in ast.unparse(node):
                    yield ast.unparse(node)


def test_nothing_in_a_worker_runs_foreign_code() -> None:
    sources = {name: path.read_text() for name, path in worker_modules().items()}
    assert len(sources) > 500
    assert {*PACKAGES} - {*sources} <= {"psycopg_binary"}
    words = re.compile(
        "|".join([*PICKLE_MODULES, *EVALUATORS, *IMPORTERS, r"(torch|jnp|np|numpy)\.load\("])
    )
    found = {
        name: [*runs_code(ast.parse(source))]
        for name, source in sources.items()
        if name not in REVIEWED
        and words.search(source)  # parsing every module takes ten times as long
    }
    assert {name: what for name, what in found.items() if what} == {}


def test_torch_load_unpickles_only_tensors() -> None:
    source = (PACKAGE / "files" / "inception_weights.py").read_text()
    [load] = [call for call in runs_code(ast.parse(source)) if ".load(" in call]
    assert "weights_only=True" in load


def test_no_module_uses_optunas_own_picklers() -> None:
    names = ("samplers.CmaEsSampler", "JournalStorage", "PickleType")
    for path in PACKAGE.rglob("*.py"):
        assert not [name for name in names if name in path.read_text()], path


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from marshal import loads", "import numpy, joblib.x"),
        *("eval(x)", "exec(x)", "__import__(x)", "importlib.import_module(x)", "torch.load(x)"),
        *("np.load(x)", "np.load(x, allow_pickle=True)", "from runpy import run_path; run_path(x)"),
    ],
)
def test_the_scan_finds_code_that_runs_code(source: str) -> None:
    assert [*runs_code(ast.parse(source))]


def test_compiled_programs_are_closed_to_other_users(tmp_path: Path) -> None:
    """JAX executes the files in its compilation cache."""
    folder = tmp_path / "cache" / "compiled"
    assert keep_private(folder)
    folder.chmod(0o777)
    assert keep_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    assert not keep_private(tmp_path / "file" / "compiled")
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        assert not keep_private(folder)
