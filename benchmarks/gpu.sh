#!/usr/bin/env bash
# Ours on a GPU against torch.compile, each convolution's lowerings and where a step's time goes, in
# one call of under nine minutes.
#   bash benchmarks/gpu.sh [OUTPUT]
# Needs no TensorFlow: jax with CUDA, flax, optax, ml_collections, psutil, and torch with CUDA.
# PYTHON is the interpreter (default .venv/bin/python), TORCH_PYTHON that of PyTorch (default the same).
# RECIPE, SIZE, BATCH, DTYPE, ROUNDS, TURN_S and PEERS change what runs, as for benchmarks.train_step;
# of lists, the profile and the convolutions (FlexUNet's) take the last size, batch and dtype.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/benchmarks}
python=${PYTHON:-.venv/bin/python}
size=${SIZE:-512} batches=${BATCH:-2,16} dtype=${DTYPE:-bfloat16} recipe=${RECIPE:-flexunet}
mkdir -p "$output"
command -v nvidia-smi >/dev/null && nvidia-smi
failed=0
# run NAME SECONDS MODULE ARGUMENTS: one that fails or takes too long does not keep the others back.
run() {
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" -m "$@" | tee "$output/$name.md" || failed=1
}
contest=(
  --recipe "$recipe" --size "$size" --batch "$batches" --dtype "$dtype"
  --rounds "${ROUNDS:-5}" --turn_s "${TURN_S:-1}" --peers "${PEERS:-ours,torch_compile}"
  --python "torch=${TORCH_PYTHON:-$python}" --python "torch_compile=${TORCH_PYTHON:-$python}"
)
run train_step 220 benchmarks.train_step "${contest[@]}" --json "$output/train_step.json"
run inference 140 benchmarks.inference "${contest[@]}" --json "$output/inference.json"
one=(--size "${size##*,}" --batch "${batches##*,}" --dtype "${dtype##*,}")
# Without CUDA graphs, which would hide the operations in them.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=" \
  run profile_step 80 benchmarks.profile_step --recipe "$recipe" "${one[@]}"
run conv_lowering 90 benchmarks.conv_lowering "${one[@]}"
exit "$failed"
