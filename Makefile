# Two commands matter: `make demo` and `make test`. Both install into .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test storm lint format bench lock clean

demo: .venv/installed
	$(BIN)/tuner sweep studies/quickstart.toml

# In the order in which they are collected: those that take long, and wait much, come first.
test: .venv/installed
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadscope --no-loadscope-reorder

# Kills workers and restarts Postgres until a study has ended, then looks for what went wrong.
storm: .venv/installed
	$(BIN)/python tests/storm.py --exact --report benchmarks/STORM.md

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PyTorch is what we measure ourselves against; it has an environment of its own.
bench: .venv-bench/installed
	.venv-bench/bin/python benchmarks/train_speed.py

# Versions come from requirements.lock, for every Python that pyproject.toml admits.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tuner needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[demo,test]'
	touch $@

.venv-bench/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[bench]'
	touch $@

# Resolve anew, to the newest versions that pyproject.toml admits.
lock: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock

clean:
	rm -rf .venv .venv-bench
