#!/usr/bin/env bash
# Pretrain a Retro or a GPT on a prepared run, then measure perplexity: 5_pretrain/ of the run. Safe to rerun: it goes
# on from the last checkpoint.
#   pretrain_model.sh [flags and settings]
#     --skip-train                                         only measure perplexity
#     --load CHECKPOINT --finetune [--no-load-optim]       start at step 0 from the weights of a GPT or a Retro
#     --dry-run                                            print layers, parameters and memory
#     section.setting=value …                              any other setting, last, so it wins
# Settings come from a config file, and from those of these variables that are set:
#   CONFIG         the run's YAML file (default: configs/pystdlib.yaml beside this script)
#   RUN_DIR        where the run lies, stages 1 to 4 complete (default: what the YAML file says)
#   SIZE           row of the size table, tiny … 43b         ADD_RETRIEVER  1 for Retro, 0 for a GPT
#   STEPS LR WARMUP_STEPS MICRO_BATCH GLOBAL_BATCH SEQ_LENGTH
#   TENSOR         processes that share each layer           NPROC          processes on this machine (default 1)
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=tools/retro/launch.sh
source "$here/../launch.sh"

case ${ADD_RETRIEVER:-} in
  "") retrieval= ;;
  0) retrieval=false ;;
  1) retrieval=true ;;
  *) stop "ADD_RETRIEVER is '$ADD_RETRIEVER', needs 0 or 1" ;;
esac
add run_dir "${RUN_DIR:-}"
add model.size "${SIZE:-}"
add model.retrieval "$retrieval"
add model.sequence_length "${SEQ_LENGTH:-}"
add train.steps "${STEPS:-}"
add train.lr "${LR:-}"
add train.warmup_steps "${WARMUP_STEPS:-}"
add train.micro_batch "${MICRO_BATCH:-}"
add train.global_batch "${GLOBAL_BATCH:-}"
add parallel.tensor "${TENSOR:-}"
launch "${NPROC:-1}" pretrain "${CONFIG:-$here/configs/pystdlib.yaml}" "${settings[@]}" "$@"
