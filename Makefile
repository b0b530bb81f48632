# `make quickstart` walks the whole road on real text, `make test` checks the code. Each works alone on a Linux machine
# that has Python 3.11, bash and make: both first make .venv, with the exact versions of constraints.txt.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
# Where torch comes from when pip's own sources do not have the CPU build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= $(shell grep '^torch==' constraints.txt)
EXTRAS := quickstart,milvus-lite,eval,serve,dev

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOCK := build/lock

.PHONY: help quickstart test lint format lock clean

help:  ## Show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

quickstart: $(INSTALLED)  ## Corpus to answers on Python's own documentation; leaves runs/quickstart/report.html
	@PATH="$(abspath $(BIN)):$$PATH" bash tools/retro/examples/quickstart.sh

# Two processes with one thread each, and a file's tests all in one of them, so that what they share is made once. On two
# cores 2,850 tests take about 8 minutes; those of tests/parallel start up to four processes of their own.
test: lint  ## Everything that must pass: lint, then all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(INSTALLED)  ## ruff and mypy, changing nothing
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(INSTALLED)  ## Let ruff format the code and mend what it can
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

lock:  ## Resolve all versions anew into constraints.txt (a newer torch: make lock TORCH=torch==X.Y.Z+cpu)
	@$(call require_python)
	rm -rf $(LOCK)
	$(PYTHON) -m venv $(LOCK)
	$(call install,$(LOCK)/bin/python,)
	{ sed '/^[^#]/,$$d' constraints.txt; $(LOCK)/bin/python -m pip freeze --all --exclude pip --exclude instruct-retro; } \
	  > $(LOCK)/constraints.txt
	mv $(LOCK)/constraints.txt constraints.txt
	rm -rf $(LOCK)

clean:  ## Remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find retro tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last. An environment without it was cut short and may hold half a package that pip takes for whole, so it is
# made from nothing; one that is only older than its inputs is brought up to date.
$(INSTALLED): pyproject.toml constraints.txt
	@$(call require_python)
	@echo "Installing into $(VENV): about 2.3 GB, a minute or two on a fast line"
	@test -f $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	$(call install,$(BIN)/python,--constraint constraints.txt)
	$(BIN)/python -m pip check
	touch $@

# The lock holds for one Python only; another would resolve to other wheels.
define require_python
$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null || { \
	  echo "make: '$(PYTHON)' is no Python 3.11 with venv and pip, which constraints.txt is made for." \
	    "Install it (Debian, Ubuntu: python3.11 and python3.11-venv)," \
	    "or say where it is: make test PYTHON=/path/to/python3.11" >&2; exit 2; }
endef

# $(1): python of the environment, $(2): more options for pip. The CPU build of torch goes first and alone: left to the
# dependencies, pip would take the CUDA build from PyPI, with 19 packages of CUDA libraries.
define install
$(1) -m pip install --quiet --no-deps "$(TORCH)" 2> /dev/null \
	  || $(1) -m pip install --quiet --no-deps --index-url "$(TORCH_INDEX)" "$(TORCH)"
	$(1) -m pip install --quiet $(2) hatchling editables "setuptools>=80"
	$(1) -m pip install --quiet $(2) --no-build-isolation --editable ".[$(EXTRAS)]"
endef
