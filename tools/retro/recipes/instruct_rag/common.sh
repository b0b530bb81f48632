#!/usr/bin/env bash
# Sourced by the scripts of this folder: the run, the set, and how a step is started.
#   CONFIG   YAML of a run (retro/recipes/instruct_rag/config.yaml is one to start from)
#   DATASET  PopQA, TriviaQA, NaturalQuestions, ASQA, 2WikiMultiHopQA, or a set of yours
#   RETRO_PRINT_ONLY=1   print the commands, run nothing
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../../launch.sh"

[[ -n ${CONFIG:-} ]] || stop "CONFIG is not set; give the YAML file of a run, CONFIG=run.yaml"
add recipe.instruct_rag.set "${DATASET:-}"

# step <name> <settings …>: one step of the recipe, in one process.
step() {
  local name=$1
  shift
  (launch 1 recipe instruct_rag run "$CONFIG" "$name" "${settings[@]}" "$@")
}
