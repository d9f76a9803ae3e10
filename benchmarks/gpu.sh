#!/usr/bin/env bash
# Measures on a GPU: training step and inference against torch.compile, where the time of a training
# step goes, and each convolution of the network. One call takes less than nine minutes.
#   bash benchmarks/gpu.sh [OUTPUT]        OUTPUT is a folder (default: runs/benchmarks)
# It needs jax with CUDA, flax, optax, ml_collections, nibabel, and torch with CUDA, but no TensorFlow.
# PYTHON is the interpreter (default: .venv/bin/python), TORCH_PYTHON that of PyTorch (default: the same).
# RECIPE, SIZE, BATCH, DTYPE, BASELINES, REPEATS and TIMED_SECONDS set the options of
# benchmarks.train_step. Of lists, the profile and the convolutions use the last entry.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/benchmarks}
python=${PYTHON:-.venv/bin/python}
size=${SIZE:-512} batches=${BATCH:-2,16} dtype=${DTYPE:-bfloat16} recipe=${RECIPE:-flexunet}
mkdir -p "$output"
command -v nvidia-smi >/dev/null && nvidia-smi
failed=0
# run NAME LIMIT_S MODULE ARGUMENTS: if one fails or takes too long, the next ones still run.
run() {
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" -m "$@" | tee "$output/$name.md" || failed=1
}
options=(
  --recipe "$recipe" --size "$size" --batch "$batches" --dtype "$dtype"
  --repeats "${REPEATS:-5}" --seconds "${TIMED_SECONDS:-1}"
  --baselines "${BASELINES:-ours,torch_compile}"
  --python "torch=${TORCH_PYTHON:-$python}" --python "torch_compile=${TORCH_PYTHON:-$python}"
)
run train_step 220 benchmarks.train_step "${options[@]}" --json "$output/train_step.json"
run inference 140 benchmarks.inference "${options[@]}" --json "$output/inference.json"
one=(--recipe "$recipe" --size "${size##*,}" --batch "${batches##*,}" --dtype "${dtype##*,}")
# Without CUDA graphs, which would hide the operations inside them.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=" \
  run profile_step 80 benchmarks.profile_step "${one[@]}"
run conv_lowering 90 benchmarks.conv_lowering "${one[@]}"
exit "$failed"
