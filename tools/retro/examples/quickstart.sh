#!/usr/bin/env bash
# What retrieval is worth, in four acts: a small chat model answers questions about the documentation of the Python packages
# on this machine, predicts a newer version of a text with the older one at hand, a small Retro learns to read neighbors,
# and a database changes under a model. Makes runs/quickstart/ below the repository, with index.html. Safe to rerun.
# `make quickstart` installs what is needed and calls this; options of `retro quickstart` may follow: --questions 100.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

if ! command -v retro > /dev/null; then
  echo "quickstart.sh: the command 'retro' is not on the PATH. Run 'make quickstart', or '. .venv/bin/activate' first." >&2
  exit 2
fi

# The model lies in an installed package: nothing needs the network from here on.
export HF_HUB_OFFLINE=1
command=(retro quickstart "$@")
echo "${command[*]}"
exec "${command[@]}"
