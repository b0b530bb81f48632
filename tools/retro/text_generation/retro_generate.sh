#!/usr/bin/env bash
# Answer the questions of a task with a tuned checkpoint. Makes <run>/7_generate_<name>/, where <name> is
# <task>_<ft neighbors>_<K>_<size>_<split>_<sampling>_<checkpoint step>; evaluate.sh <name> scores it.
#   retro_generate.sh <task> <size> <sampling> <split> <start> <num> <checkpoint step> <ft neighbors> <model card> \
#                     <checkpoint> <K> [retrieve] [section.setting=value …]
#   DATA=questions RUN_DIR=runs/big retro_generate.sh nq 43b greedy test 0 20000 1000 5 pp1 <checkpoint> 2
#     <size>              what the checkpoint has: a check        <sampling>   greedy, topk (of 40) or topp (0.9)
#     <split>             train, valid, dev or test
#     <start> <num>       a slice of the questions; slices, also side by side on several machines, join to the whole
#     <checkpoint step>   which of the checkpoints below <checkpoint>
#     <ft neighbors>      passages in the prompt                  <K>          passages that the encoder reads
#     <model card>        pp1: one pipeline stage, the only one there is
#     <retrieve>          1: with passages (default); 0: closed-book, neither prompt nor encoder sees any. The original
#                         defaults to 0, so that its own example, which asks for 5 and 2 passages, reads none
# Passages are those that come with the questions; generate.passages_from=retriever searches the run's index instead.
# Beside the answers with all that belongs to them stands the original's file, one line a question:
# retro-generate-<task>_<ft neighbors>_<K>_<size>_<split>_<sampling>_<start>_<num>_<checkpoint step>.txt
# Variables:
#   DATA      folder of the questions, <DATA>/<task>/<task>_QA_<split>.json (default: what the YAML file says, else the
#             questions that the corpus stage derived)
#   CONFIG    the run's YAML file (default: none). It must ask as the checkpoint was tuned: generate.style and so on
#   RUN_DIR   the run whose corpus the checkpoint was trained on (default: what the YAML file says, else the one
#             that <checkpoint> lies in)
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=tools/retro/launch.sh
source "$here/../launch.sh"

usage="<task> <size> <greedy|topk|topp> <split> <start> <num> <checkpoint step> <ft neighbors> <pp1> <checkpoint> <K>"
need 11 "$usage [0|1] [section.setting=value …]" "$@"
task=$1 size=$2 split=$4 step=$7 shown=$8 card=$9 checkpoint=${10} read=${11}
case $3 in
  greedy) temperature=0 top_k=0 top_p=1 ;;
  topk) temperature=1 top_k=40 top_p=1 ;;
  topp) temperature=1 top_k=0 top_p=0.9 ;;
  *) stop "no sampling '$3'; needs greedy, topk or topp" ;;
esac
[[ $card == pp1 ]] || stop "model card '$card': needs pp1, one pipeline stage"
name=${task}_${shown}_${read}_${size}_${split}_$3_$step
mode=with_passages rest=12
case ${12:-} in
  0) mode=closed_book rest=13 name+=_closed_book ;;
  1) rest=13 ;;
  "" | *=*) ;;
  *) stop "retrieve '${12}': needs 0 or 1" ;;
esac

need_run "$checkpoint" "${@:rest}"
if [[ -n ${DATA:-} ]]; then settings+=("generate.data=$DATA" "generate.questions=[]"); fi
settings+=("generate.name=$name" "generate.task=$task" "generate.size=$size" "generate.split=$split")
settings+=("generate.checkpoint=$checkpoint" "generate.step=$step" "generate.sampling.temperature=$temperature")
settings+=("generate.sampling.top_k=$top_k" "generate.sampling.top_p=$top_p" "generate.plain_output=true")
settings+=("generate.start=$5" "generate.count=$6" "generate.contexts_in_prompt=$shown" "generate.passages=$read")
settings+=("generate.settings=[$mode]")
launch 1 generate ${CONFIG:+"$CONFIG"} "${settings[@]}" "${@:rest}"
