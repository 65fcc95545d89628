# Two commands start here: `make quickstart` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart install test test-faults check format bench docs clean

quickstart: .venv/installed
	$(BIN)/ssl-sweep run experiments/quickstart.yaml

install: .venv/installed

# two files at a time: much of what a test does is to wait for the processes that it has started
test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# takes all memory, from what runs beside it too
ALL_MEMORY := tests/faults/test_out_of_memory.py
# the driver killed twenty times in one sweep, the service twenty times; a full disk, all memory taken, Ctrl-C and SIGTERM;
# folders, runs in MLflow, inodes and the clock pulled away; a disk that becomes read-only; two drivers started at once;
# PostgreSQL, MLflow, S3, Ray, a node, a worker of a gang and the head killed; workers and drivers stopped; two sweeps at once;
# fifty sweeps in a row, 2,000 trials of one driver: what is left behind, and what grows
test-faults: .venv/installed-test
	SSL_SWEEP_FAULTS=20 $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist loadfile --ignore $(ALL_MEMORY)
	SSL_SWEEP_FAULTS=20 $(BIN)/python -m pytest $(ALL_MEMORY)

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python .ci/check_links.py

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-test
	$(BIN)/python -m tests.bench.orchestration
	$(BIN)/python -m tests.bench.first_step
	$(BIN)/python -m tests.bench.table
	$(BIN)/python -m tests.bench.stage_cache
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.bench.service_load

# the reference of the spec's keys is written from the code
docs: .venv/installed
	$(BIN)/python -m ssl_sweep.spec.reference experiments/SPEC.md

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ssl_sweep needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (PyTorch is large: a few minutes)"
	$(INSTALL) --editable .
	@touch $@

.venv/installed-test: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing into .venv (PyTorch is large: a few minutes)"
	$(INSTALL) --editable ".[test,check]"
	@touch $@
