#!/usr/bin/env bash
# Tune a model on the rationales (InstructRAG-FT), in <run_dir>/recipe_instruct_rag/tune. Continues from its last checkpoint.
#   CONFIG=run.yaml [DATASET=PopQA] [NUM_DEVICE=4] [PER_DEVICE_BATCH_SIZE=1] bash train.sh [section.setting=value …]
# The global batch is GLOBAL_BATCH (128, as published): devices x batch of a device x accumulation. One that does not
# divide is refused.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

devices=${NUM_DEVICE:-4} each=${PER_DEVICE_BATCH_SIZE:-1} batch=${GLOBAL_BATCH:-128}
for one in "NUM_DEVICE $devices" "PER_DEVICE_BATCH_SIZE $each" "GLOBAL_BATCH $batch"; do
  [[ ${one#* } =~ ^[1-9][0-9]*$ ]] || stop "${one% *} is '${one#* }', needs a whole number above 0"
done
if ((batch % (devices * each))); then
  nearest=$((batch / (devices * each) * devices * each))
  stop "GLOBAL_BATCH is $batch, needs a multiple of NUM_DEVICE x PER_DEVICE_BATCH_SIZE = $((devices * each)), such as $((nearest > 0 ? nearest : devices * each))"
fi
echo "global batch $batch = $devices devices x $each x $((batch / (devices * each))) steps of accumulation"
launch "$devices" recipe instruct_rag run "$CONFIG" tune "${settings[@]}" \
  "recipe.instruct_rag.tune.train.micro_batch=$each" "recipe.instruct_rag.tune.train.global_batch=$batch" "$@"
