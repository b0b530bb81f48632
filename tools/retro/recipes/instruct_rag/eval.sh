#!/usr/bin/env bash
# Answer and score the test questions of a set, in <run_dir>/recipe_instruct_rag/scores (modes.json, cases.html).
#   CONFIG=run.yaml [DATASET=PopQA] [MODEL=folder, or popqa/contriever] bash eval.sh [section.setting=value …]
# MODEL is a tuned model in place of the run's own; without it the run's settings say what is answered with.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

add recipe.instruct_rag.checkpoint "${MODEL:-}"
until_step scores "$@"
