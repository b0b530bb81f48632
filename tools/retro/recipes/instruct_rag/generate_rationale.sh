#!/usr/bin/env bash
# Rationales for the training questions of a run, in <run_dir>/recipe_instruct_rag/rationales. Safe to rerun: replies are
# kept as they come.
#   CONFIG=run.yaml [DATASET=PopQA] bash generate_rationale.sh [section.setting=value …]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

until_step rationales "$@"
