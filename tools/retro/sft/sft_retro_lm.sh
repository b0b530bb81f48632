#!/usr/bin/env bash
# Tune a pretrained Retro or GPT on instructions. Makes, and goes on with,
# <run>/6_sft/retro-<blend>_pp1_same_format_ctx1_<size>_<global batch>_<lr>/.
#   sft_retro_lm.sh <blend> <size> <global batch> <lr> <checkpoint> [section.setting=value …]
#   DATA=questions RUN_DIR=runs/big sft_retro_lm.sh sft 843m 128 5e-6 runs/big/5_pretrain/retro
#     <blend>        a file below blends/, without its ending, or the path of such a file
#     <size>         what the checkpoint has: a check, its shape comes from the checkpoint itself
#     <lr>           the learning rate of every step: constant, no warm-up unless the config asks for one
#     <checkpoint>   a checkpoint, or a folder whose newest one is taken
# Variables:
#   DATA      folder of the question sets, <DATA>/<set>/<set>_QA_train.json (no default; blends that name it need it)
#   CONFIG    the run's YAML file (default: none, the settings of the paper)
#   RUN_DIR   the run whose corpus the checkpoint was trained on (default: what the YAML file says, else the one
#             that <checkpoint> lies in)
#   NPROC     processes on this machine (default 1)
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=tools/retro/launch.sh
source "$here/../launch.sh"

need 5 "<blend> <size> <global batch> <lr> <checkpoint> [section.setting=value …]" "$@"
blend=$here/blends/$1.yaml
if [[ ! -f $blend ]]; then blend=$1; fi
if [[ ! -f $blend ]]; then
  known=$(basename -s .yaml -- "$here"/blends/*.yaml | paste -sd ' ')
  stop "no blend '$1'; needs one of: $known, or the path of a blend file"
fi

need_run "$5" "${@:6}"
# The blend given is the blend used, whatever sets the config names; likewise the learning rate.
settings+=("sft.data.blend=$blend" "sft.data.sets=[]" "sft.size=$2" "sft.start_from=$5")
settings+=("sft.train.global_batch=$3" "sft.train.lr=$4" "sft.train.schedule=constant")
launch "${NPROC:-1}" sft ${CONFIG:+"$CONFIG"} "${settings[@]}" "${@:6}"
