#!/usr/bin/env bash
# Score answers: exact match and F1 over all gold answers, recall of the passages, with intervals.
#   evaluate.sh                                  the run's own answers         8_evaluate/         report.html
#   evaluate.sh <name>                           those of retro_generate.sh    8_evaluate_<name>/  report_<name>.html
#   evaluate.sh <prediction file> <questions>    one prediction a line, as the original tools write them, against a
#                                                question file                 8_evaluate_plain_<prediction file>/
# Settings may follow, as section.setting=value. Variables:
#   CONFIG    the run's YAML file (default: none)
#   RUN_DIR   where the run lies (default: what the YAML file says, else runs/default)
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=tools/retro/launch.sh
source "$here/../launch.sh"

given=()
while (($#)) && [[ $1 != *=* ]]; do
  given+=("$1")
  shift
done

flags=()
add run_dir "${RUN_DIR:-}"
case ${#given[@]} in
  0) ;;
  1) add generate.name "${given[0]}" ;;
  2) flags=(--plain "${given[0]}" --questions "${given[1]}") ;;
  *) stop "usage: evaluate.sh [<name> | <prediction file> <question file>] [section.setting=value …]" ;;
esac
launch 1 evaluate "${flags[@]}" ${CONFIG:+"$CONFIG"} "${settings[@]}" "$@"
