#!/usr/bin/env bash
# All stages on the documentation inside the running Python: corpus, database, index, neighbors, a Retro and two GPTs
# pretrained, perplexity, instruction tuning, answers, scores. Makes runs/pystdlib/ below the repository, with
# report.html in it. Safe to rerun: stages that are complete are skipped, a stopped one goes on.
# `make pipeline` installs what is needed and calls this; more settings may follow, as in train.steps=100.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

if ! command -v retro > /dev/null; then
  echo "pipeline.sh: the command 'retro' is not on the PATH. Run 'make pipeline', or '. .venv/bin/activate' first." >&2
  exit 2
fi

# The embedder lies in an installed package: nothing needs the network from here on.
export HF_HUB_OFFLINE=1
command=(retro run tools/retro/examples/configs/pystdlib.yaml "$@")
echo "${command[*]}"
exec "${command[@]}"
