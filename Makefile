# Every target sets up .venv first if it is missing or older than what it is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# `make results RECIPES=hopper-medium MACHINE=gpu` for one of them, or for a GPU.
RECIPES ?=
MACHINE ?= cpu

.PHONY: install demo test test-slow wheel lint format bench results

install: $(VENV)/.installed

# __init__.py holds the version, which is installed with the package.
$(VENV)/.installed: pyproject.toml constraints.txt vgp_lightning/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[maze,dev]"
	touch $@

demo: install
	$(BIN)/vgp demo

# One thread a process: the tests' tensors are small, and threads that wait for each other take longer.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

wheel: install
	PYTHON=$(PYTHON) VENV=$(VENV) .ci/wheel.sh

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.plan_latency
	$(BIN)/python -m benchmarks.train_throughput

results: install
	$(BIN)/python -m benchmarks.results $(RECIPES) --machine $(MACHINE)
