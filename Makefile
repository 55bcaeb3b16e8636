# The main targets are `make demo` and `make test`. Both install into .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-unit gpu-check mutants storm lint format docs migration bench bench-sweep \
	bench-search bench-gpu lock clean

demo: .venv/installed
	$(BIN)/tuner sweep studies/quickstart.toml

# Tests run in collection order, so that the long ones, which mostly wait, start first: two processes
# keep two cores half busy.
test: .venv/installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses 4 --dist loadscope --no-loadscope-reorder

# Only tests that need no process, database or connection: for use while working.
test-unit: .venv/installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/unit --numprocesses 2

# Compiles training for a GPU that need not be there, and checks what an iteration launches.
gpu-check: .venv-gpu/installed
	JAX_PLATFORMS=cpu PYTHONPATH=.venv-gpu $(BIN)/python -m pytest tests/integration/test_gpu_programs.py \
		--numprocesses 2

# Makes one small change at a time to the modules named in pyproject.toml, and lists the changes that
# no test notices. ONLY="tuner.spec.branches*" limits it to one module.
mutants: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock mutmut
	JAX_PLATFORMS=cpu $(BIN)/mutmut run $(ONLY)
	$(BIN)/mutmut results

# Kills workers and restarts Postgres until a study has ended, then checks the results.
storm: .venv/installed
	$(BIN)/python tests/storm.py --exact --report benchmarks/STORM.md

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Updates the parts of docs/ that repeat the code, then renders the pages to site/index.html.
docs: .venv/installed
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict --quiet

# Writes the database migration for changed tables: make migration MESSAGE="A new metric"
migration: .venv/installed
	$(BIN)/python -m tuner.study.migrations "$(MESSAGE)"
	$(BIN)/ruff format --quiet tuner/study/migrations/versions

# PyTorch, the baseline of the comparison, is installed in a separate environment.
bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/train_speed.py

bench-sweep: .venv-bench/installed
	.venv-bench/bin/python benchmarks/sweep.py

# Trains nothing: replays recorded learning curves.
bench-search: .venv/installed
	$(BIN)/python benchmarks/search.py

# Takes nine minutes on a machine with a GPU. Installs nothing: PYTHON needs JAX with CUDA, Flax, Optax
# and PyTorch.
bench-gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/gpu.py

# requirements.lock pins versions for every Python that pyproject.toml allows.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tuner needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[demo,docs,test]'
	touch $@

.venv-bench/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[bench,demo]'
	touch $@

# The packages of the extra gpu-check alone, outside .venv: where they are installed, every process
# that imports JAX looks for a GPU.
.venv-gpu/installed: .venv/installed
	rm -rf .venv-gpu
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock --no-deps \
		--target .venv-gpu jax-cuda12-pjrt jax-cuda12-plugin
	touch $@

# Updates requirements.lock to the newest versions that pyproject.toml allows.
lock: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock

clean:
	rm -rf .venv .venv-bench .venv-gpu site
