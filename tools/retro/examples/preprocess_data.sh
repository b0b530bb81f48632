#!/usr/bin/env bash
# Text to neighbors: the preprocessing tasks under the names that the original tools give them.
#   preprocess_data.sh <task> [section.setting=value …]
#     db-build                             corpus and chunk database     1_corpus/  2_db/
#     index-train  index-add  index-build  embeddings and Faiss index    3_index/   (one stage here, whichever is named)
#     query-neighbors                      neighbors of every chunk      4_neighbors/
#     build                                all of these
# A task begins with what is still missing before it; what is complete is skipped, what was stopped goes on.
# Any number of these may run at once on one shared run directory, on one machine or many: they share the blocks of
# every stage, and one that dies loses nothing but its block. As a Slurm array:
#   sbatch --array=0-15 --cpus-per-task=8 tools/retro/examples/preprocess_data.sh build run_dir=/shared/run
# Variables:
#   WORKERS   processes to start here (default: 1); on a machine with GPUs, one for each
#   CONFIG    the run's YAML file (default: configs/pystdlib.yaml beside this script)
#   RUN_DIR   where the run lies (default: what the YAML file says)
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=tools/retro/launch.sh
source "$here/../launch.sh"

tasks="db-build|index-train|index-add|index-build|query-neighbors|build"
need 1 "<$tasks> [section.setting=value …]" "$@"
case $1 in
  db-build) last=db ;;
  index-train | index-add | index-build) last=index ;;
  query-neighbors | build) last=neighbors ;;
  *) stop "no task '$1'; needs one of $tasks" ;;
esac
shift

add run_dir "${RUN_DIR:-}"
workers=()
if [[ -n ${WORKERS:-} ]]; then
  [[ $WORKERS =~ ^[1-9][0-9]*$ ]] || stop "WORKERS is '$WORKERS', needs a number of processes"
  workers=(--workers "$WORKERS")
fi
launch 1 run --until "$last" "${workers[@]}" "${CONFIG:-$here/configs/pystdlib.yaml}" "${settings[@]}" "$@"
