# Every target sets up .venv first if it is missing or older than what it is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# `make results RECIPES=hopper-medium MACHINE=gpu` for one of them, or for a GPU.
RECIPES ?=
MACHINE ?= cpu

.PHONY: install demo test test-slow lint format bench results

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[maze,dev]"
	touch $@

demo: install
	$(BIN)/vgp demo

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

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
