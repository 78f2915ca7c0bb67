# Needs make and Python 3.11 or newer. Every target first installs what it runs on into .venv.

.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
# CPU=1 is remembered in .venv for later calls; CPU=0 goes back to torch's usual build.
CPU ?= $(wildcard $(VENV)/.installed-cpu)
CPU_ONLY := $(filter-out 0,$(CPU))
INSTALLED := $(VENV)/.installed$(if $(CPU_ONLY),-cpu)
OTHER_BUILD := $(filter-out $(INSTALLED),$(wildcard $(VENV)/.installed $(VENV)/.installed-cpu))
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
export DO_NOT_TRACK := true
# Without bytecode every start compiles torch and MLflow again; uv leaves that to the first one.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
# The machine's uv where there is one that works, else the one that the rule below puts into .venv.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(VENV)/bin/uv)

.PHONY: help demo try test test-all test-cluster check repro ablation price long modern bench ui table weights sync lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## the rows of the published networks on the embedded sample, offline, in minutes
	protodl demo

try: $(INSTALLED) ## draw or bring images and see why a trained network decides as it does; PORT=8018
	protodl try $(if $(PORT),--port $(PORT))

PYTEST := python -m pytest -n auto --maxprocesses 4 --dist loadscope
test: $(INSTALLED) ## run the tests, offline
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(INSTALLED) ## the tests and the long runs that break something on purpose
	PROTODL_TESTS=cold $(PYTEST) $(ARGS)

test-cluster: $(INSTALLED) ## trainings on Ray nodes that die, hang or differ, all on this machine
	python -m pytest tests/pipeline/test_cluster.py $(ARGS)

check: $(INSTALLED) ## style, types, import order, params.yaml and dvc.yaml
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	protodl check
	dvc stage list dvc.yaml studies/*/dvc.yaml >/dev/null

repro: $(INSTALLED) ## the whole table on the full data; ROW=mnist-small-deconv for one row, JOBS=2 in parallel
	protodl run $(ROW) $(if $(JOBS),-j $(JOBS))

ablation: $(INSTALLED) ## what each part of the recipe does, in short trainings; JOBS=2 in parallel, ON=auto on Ray
	python -m studies.run ablation $(if $(JOBS),-j $(JOBS))$(if $(ON), --on $(ON))

price: $(INSTALLED) ## what the explanations cost in accuracy: the whole table again without; JOBS, ON
	python -m studies.run price $(if $(JOBS),-j $(JOBS))$(if $(ON), --on $(ON))

long: $(INSTALLED) ## what two rows reach with about ten times the epochs; JOBS, ON
	python -m studies.run long $(if $(JOBS),-j $(JOBS))$(if $(ON), --on $(ON))

modern: $(INSTALLED) ## what prototypes cost modern networks, and whether they decide; JOBS, ON
	python -m studies.run modern $(if $(JOBS),-j $(JOBS))$(if $(ON), --on $(ON))

bench: $(INSTALLED) ## measure the speed beside the port's way of training; the machine should be idle
	python -m benchmarks.run

ui: $(INSTALLED) ## open the runs in MLflow's web interface; PORT=5001 for another port
	protodl ui $(if $(PORT),--port $(PORT))

table: $(INSTALLED) ## print the results table and put it into the README
	protodl table --write README.md

weights: $(INSTALLED) ## renew the weights that come with the clone, after `make repro`
	python -m protodl.pipeline.ship

sync: $(INSTALLED) ## put runs that MLflow lacks into it, from the committed logs
	protodl sync

lock: $(INSTALLED) ## pin the packages of pyproject.toml in requirements.txt; ARGS=--upgrade for new versions
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-header --quiet --output-file requirements.txt $(ARGS)

clean: ## remove the demo and the tools' caches; data, models and runs stay
	rm -rf .demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
	find protodl stages studies tests -name __pycache__ -type d -prune -exec rm -rf {} +

# requirements.txt as constraints on pyproject.toml, not as the list itself: it names the CUDA
# libraries, which a CPU-only torch does not ask for.
$(INSTALLED): requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV)$(if $(CPU_ONLY), (CPU-only torch), (torch's usual build; CPU-only machines: make CPU=1 ...))"
	@$(UV) pip install $(if $(CPU_ONLY),--torch-backend cpu) \
		$(if $(OTHER_BUILD),--reinstall-package torch --reinstall-package torchvision) -c requirements.txt -r pyproject.toml --extra dev
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(OTHER_BUILD)
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@if [ "$(UV)" = uv ]; then uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
	else "$(PYTHON)" -m venv $(VENV) && $@ -m pip install --quiet --disable-pip-version-check uv; fi
