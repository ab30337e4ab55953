# Every target sets up .venv first if it is missing or older than what it is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# `make lock`: the tool that writes the lock, and UPGRADE=--upgrade.
UV ?= 0.13.9
UPGRADE ?=
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-package torch --no-annotate --no-header --quiet

# `make results RECIPES=hopper-medium MACHINE=gpu` for one of them, or for a GPU; ACCELERATOR=gpu trains the small
# networks on a GPU.
RECIPES ?=
MACHINE ?= cpu
ACCELERATOR ?=

# `make bench BENCH="--json FILE"`: options of benchmarks.plan_latency.
BENCH ?=

.PHONY: install lock demo docs notebooks test test-slow test-gpu test-browser test-lowest wheel dist lint format bench results

install: $(VENV)/.installed

# __init__.py holds the version, which is installed with the package.
# torch comes first, as the build that suits the machine (CPU or CUDA); all else must have a hash of requirements.lock.
$(VENV)/.installed: pyproject.toml constraints.txt requirements.lock vgp_lightning/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

# What the site, the pages and their tests need besides: Sphinx, Gradio and Playwright, which a newcomer need not wait for.
$(VENV)/.installed-all: $(VENV)/.installed requirements-all.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-all.lock
	$(BIN)/python -m pip check
	touch $@

# Write requirements-all.lock (exact versions with hashes, for all platforms), requirements.lock (of these, those that
# make install takes) and constraints.txt (all versions, for pip install --constraint). Versions stay as they are where the bounds allow it; UPGRADE=--upgrade takes the newest.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV)
	$(BIN)/uv pip compile pyproject.toml --all-extras $(LOCK) $(UPGRADE) --output-file requirements-all.lock
	$(BIN)/uv pip compile pyproject.toml $(addprefix --extra ,maze program tables dev) --constraint requirements-all.lock \
	  $(LOCK) --output-file requirements.lock
	$(BIN)/python docs/constraints.py

demo: install
	$(BIN)/vgp demo

# As many processes as cores, with one thread each: the tests' tensors are small. More threads, which some tests take, wait
# without holding the cores of the other processes.
test: install
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu

# Opens reports, the site and vgp play in headless Chromium: $CHROMIUM, or /usr/bin/chromium.
test-browser: $(VENV)/.installed-all
	$(BIN)/python -m pytest -m browser

# The oldest versions that pyproject.toml allows, in an environment of its own; old versions may warn.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv==$(UV)
	$(VENV)-lowest/bin/uv pip install --no-config --python $(VENV)-lowest/bin/python --resolution lowest-direct \
	  --editable ".[maze,program,tables,dev]"
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VENV)-lowest/bin/python -m pytest --numprocesses auto -W default

# The site: docs/_build/html/index.html. Warnings are errors, and every link inside of it is checked.
docs: $(VENV)/.installed-all
	$(BIN)/sphinx-build -W --keep-going -q -E -a -c docs -d docs/_build/doctrees . docs/_build/html

# Run the notebooks and store them with their output.
notebooks: install
	$(BIN)/python docs/notebooks.py

wheel: install
	PYTHON=$(PYTHON) VENV=$(VENV) .ci/wheel.sh

# What is published: wheel and sdist in dist/.
dist: install
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/twine check --strict dist/*

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.plan_latency $(BENCH)
	$(BIN)/python -m benchmarks.train_throughput

results: install
	$(BIN)/python -m benchmarks.results $(RECIPES) --machine $(MACHINE) $(addprefix --accelerator ,$(ACCELERATOR))
