#!/usr/bin/env bash
# Sourced by the scripts below this folder: prints the one `retro` command that a script ends in, and runs it.
#   RETRO_PRINT_ONLY=1   print it, run nothing
set -euo pipefail

# stop <message>: one line to stderr, exit code 2.
stop() {
  echo "$(basename -- "$0"): $1" >&2
  exit 2
}

# need <number of arguments> <usage> <arguments …>
need() {
  local least=$1 usage=$2
  shift 2
  (($# >= least)) || stop "usage: $(basename -- "$0") $usage"
}

# add <setting> <value>: appends setting=value to `settings`, unless the value is empty.
settings=()
add() {
  if [[ -n $2 ]]; then settings+=("$1=$2"); fi
}

# need_run <checkpoint>: sets run_dir to RUN_DIR, or to the run that <checkpoint> lies in, unless CONFIG or a setting says.
need_run() {
  local checkpoint=$1 folder
  shift
  add run_dir "${RUN_DIR:-}"
  if [[ -n ${RUN_DIR:-}${CONFIG:-} || " $* " == *" run_dir="* ]]; then return; fi
  folder=$(realpath -m -- "$checkpoint")
  while [[ $folder != / ]]; do
    if [[ -d $folder/1_corpus ]]; then
      add run_dir "$folder"
      return
    fi
    folder=$(dirname -- "$folder")
  done
  stop "RUN_DIR is not set and $checkpoint lies in no run; give the run whose corpus it was trained on, RUN_DIR=runs/big"
}

# launch <processes> <arguments of retro …>: under torchrun where there is more than one process.
launch() {
  local processes=$1
  shift
  [[ $processes =~ ^[1-9][0-9]*$ ]] || stop "NPROC is '$processes', needs a number of processes"
  local command=(retro "$@")
  if ((processes > 1)); then command=(torchrun --nproc-per-node "$processes" -m retro "$@"); fi
  local line
  printf -v line ' %q' "${command[@]}"
  echo "${line:1}"
  if [[ ${RETRO_PRINT_ONLY:-0} == 1 ]]; then exit 0; fi
  command -v "${command[0]}" > /dev/null || stop "'${command[0]}' is not on the PATH; run '. .venv/bin/activate' first"
  exec "${command[@]}"
}
