# Every target sets up what it needs in .venv; the second run starts at once.
#   PYTHON=python3.12 make test    another interpreter (the environment is made anew)
#   VENV=.venv312 make test        another place for it
#   BASE=v1.2 make bench-gate      compare with this commit, branch or tag

PYTHON ?= python3
VENV ?= .venv
ITERATIONS ?= 200000
# What `make bench-gate` compares with; empty: where this branch left origin/main, without such a branch HEAD.
BASE ?=

BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
PYTHON_VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
DEPS := $(VENV)/.deps-$(PYTHON_VERSION)
BUILT := $(VENV)/.built-$(PYTHON_VERSION)
KERNEL_SOURCES := $(shell find src_ext -name '*.pyx' -o -name '*.pxd' 2>/dev/null)
LOCKED_EXTRAS := --extra train --extra demo --extra flows --extra dask --extra dev

.DEFAULT_GOAL := help
.PHONY: help demo lifecycle shipped-model test bench bench-count bench-gate lint format sanitize build wheel lock clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BUILT)  ## watch a simulated city being predicted, about 30 s
	@$(BIN)/etacore demo

lifecycle: $(BUILT)  ## dataset, training, evaluation, promotion on the simulated city, about 2 min
	@$(BIN)/python -m etacore.demo.lifecycle

shipped-model: $(BUILT)  ## the model of models/shipped made anew, into build/shipped-model, some minutes
	@$(BIN)/python -m etacore.demo.lifecycle --shipped-model build/shipped-model

# The tests of the flows mostly wait for a Prefect server: they run beside the others, and are shown after them.
test: $(BUILT)  ## all tests
	@$(BIN)/python -m pytest tests/flows >$(VENV)/flows.log 2>&1 & flows=$$!; \
	$(BIN)/python -m pytest tests --ignore=tests/flows; others=$$?; \
	wait $$flows; flows=$$?; echo 'tests/flows:'; cat $(VENV)/flows.log; \
	exit $$((others | flows))

bench: $(BUILT)  ## all benchmarks beside their peers, held against benchmarks/budgets.toml
	@$(BIN)/python -m benchmarks.report; figures=$$?; $(BIN)/python -m benchmarks.freshness --quick && exit $$figures

bench-count: $(BUILT)  ## instructions of every kernel (needs valgrind), held against benchmarks/budgets.toml
	@$(BIN)/python -m benchmarks.gate count

bench-gate: $(BUILT)  ## this tree beside that of the commit BASE: instructions, and times in alternation
	@$(BIN)/python -m benchmarks.gate compare $(BASE)

lint: $(BUILT)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEPS)  ## let ruff order imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sanitize: $(BUILT)  ## fuzz the kernels under address and undefined-behaviour sanitizers
	@PYTHON=$(abspath $(BIN)/python) ITERATIONS=$(ITERATIONS) sh tests/sanitize.sh

build: $(BUILT)  ## the environment and the compiled kernels

wheel: $(DEPS)  ## dist/*.whl and dist/*.tar.gz
	@rm -rf dist
	@$(BIN)/python -c 'from setuptools import build_meta as b; print(b.build_sdist("dist")); print(b.build_wheel("dist"))'

# Resolved for all supported Python versions at once; needs uv.
lock:  ## pin and hash the dependencies anew
	$(UV) pip compile pyproject.toml $(LOCKED_EXTRAS) --universal --python-version 3.11 --upgrade \
	    --generate-hashes --no-emit-index-url --no-header --no-annotate --output-file requirements.lock
	$(UV) pip compile pyproject.toml --extra flows --extra build --constraint requirements.lock --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --output-file requirements-image.lock
	$(UV) pip compile pyproject.toml --extra flows --extra train --extra dask --extra build \
	    --constraint requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --no-annotate --output-file requirements-training.lock

clean:  ## remove the environment, builds and results
	rm -rf $(VENV) build dist results etacore.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find etacore -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEPS): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	    { echo 'etacore needs Python 3.11, 3.12 or 3.13: set PYTHON=/path/to/python' >&2; exit 1; }
ifneq ($(UV),)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
else
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo '$(PYTHON) cannot make environments: apt-get install python3-venv (or put uv on PATH)' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
endif
	@touch $@

$(BUILT): $(DEPS) pyproject.toml setup.py $(KERNEL_SOURCES)
	@command -v $${CC:-gcc} >/dev/null || { echo 'no C compiler: apt-get install gcc' >&2; exit 1; }
	@$(BIN)/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
	    { echo 'Python.h is missing: apt-get install python3-dev' >&2; exit 1; }
ifneq ($(UV),)
	$(UV) pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
endif
	@touch $@
