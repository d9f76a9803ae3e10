#!/usr/bin/env bash
# Training and inference on a GPU, ours against torch.compile, in one call of under nine minutes.
#   bash benchmarks/gpu.sh [OUTPUT]
# Needs no TensorFlow: jax with CUDA, flax, optax, ml_collections, psutil, and torch with CUDA.
# PYTHON is the interpreter (default .venv/bin/python), TORCH_PYTHON that of PyTorch (default the
# same). RECIPE, SIZE, BATCH, DTYPE, ROUNDS, TURN_S and PEERS change what runs, as for benchmarks.train_step.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/benchmarks}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$output"
command -v nvidia-smi >/dev/null && nvidia-smi
options=(
  --recipe "${RECIPE:-flexunet}" --size "${SIZE:-512}" --batch "${BATCH:-2,16}" --dtype "${DTYPE:-bfloat16}"
  --rounds "${ROUNDS:-5}" --turn_s "${TURN_S:-1}" --peers "${PEERS:-ours,torch_compile}"
  --python "torch=${TORCH_PYTHON:-$python}" --python "torch_compile=${TORCH_PYTHON:-$python}"
)
for task in train_step inference; do
  timeout "${LIMIT_S:-260}" "$python" -m "benchmarks.$task" "${options[@]}" \
    --json "$output/$task.json" | tee "$output/$task.md"
done
