#!/usr/bin/env bash
# Sourced by the scripts of this folder: the run, the set, and how steps are started.
#   CONFIG   YAML of a run (retro/recipes/instruct_rag/config.yaml is one to start from)
#   DATASET  PopQA, TriviaQA, NaturalQuestions, ASQA, 2WikiMultiHopQA, or a set of yours
#   RETRO_PRINT_ONLY=1   print the command, run nothing
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/../../launch.sh"

[[ -n ${CONFIG:-} ]] || stop "CONFIG is not set; give the YAML file of a run, CONFIG=run.yaml"
add recipe.instruct_rag.set "${DATASET:-}"

# until_step <step> <settings …>: the recipe's steps up to this one, in one process; what is complete is skipped.
until_step() {
  local name=$1
  shift
  launch 1 recipe instruct_rag run "$CONFIG" "$name" --until "${settings[@]}" "$@"
}
