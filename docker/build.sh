#!/usr/bin/env bash
# Build the image instruct-retro:cpu or instruct-retro:gpu from this repository.
#   docker/build.sh cpu
#   docker/build.sh gpu [tag of nvcr.io/nvidia/pytorch]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  cpu) options=(--file docker/cpu.Dockerfile) ;;
  gpu) options=(--file Dockerfile ${2:+--build-arg "TAG=$2"}) ;;
  *) echo "docker/build.sh: say cpu or gpu" >&2; exit 2 ;;
esac

command=(docker build "${options[@]}" --tag "instruct-retro:$1" .)
echo "${command[*]}"
exec "${command[@]}"
