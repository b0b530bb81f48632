#!/usr/bin/env bash
# Run a command in the image that docker/build.sh made, in the folder where this is called; what it writes there belongs
# to the caller. Without a command: retro doctor.
#   docker/run.sh cpu|gpu [command …]
set -euo pipefail

case "${1:-}" in
  cpu) options=() ;;
  # Processes on one node share memory through NCCL; Docker's 64 MB of it and its locked-memory limit are too small.
  gpu) options=(--gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864) ;;
  *) echo "docker/run.sh: say cpu or gpu, then the command" >&2; exit 2 ;;
esac
image="instruct-retro:$1"
shift
[[ -t 0 ]] && options+=(--interactive --tty)

# The caller has neither a name nor a home in the image; torch asks for the one, matplotlib writes to the other.
command=(docker run --rm "${options[@]}" --user "$(id -u):$(id -g)" --env USER=retro --env HOME=/tmp
  --volume "$PWD:/workspace" --workdir /workspace "$image" "$@")
echo "${command[*]}"
exec "${command[@]}"
