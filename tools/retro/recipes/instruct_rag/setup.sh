#!/usr/bin/env bash
# Make an environment with all that the recipe needs on a CPU: the folder .venv of the repository, exact versions.
#   [VENV=folder] [PYTHON=python3.12] bash setup.sh
# With conda: `conda env create --file environment.yml` in the repository's folder. On GPUs: docs/install.md.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/../../../.."

exec make quickstart-env ${VENV:+VENV="$VENV"} ${PYTHON:+PYTHON="$PYTHON"}
