#!/usr/bin/env bash
# BHSD from download to a table beside the published results: fetches label_192.zip, converts it,
# trains configs/strong.py, evaluates, and prints the Dice of every class by three rules.
usage="usage: bash launch/bhsd.sh [--fold K] [--source PATH] [--name NAME] [--config.KEY=VALUE ...]
  --fold K        test on fold K (0 to 4) of five; without it, on the official split's 96 volumes
  --source PATH   label_192.zip or a folder laid out like it, which is already here
  --name NAME     of the folders data/NAME* and runs/NAME* (default bhsd)
Other arguments go to training and evaluation. A run that is stopped goes on with the same command."
set -euo pipefail

fold='' source_path='' name=bhsd
while [[ ${1:-} =~ ^--(fold|source|name)(=(.*))?$ ]]; do
  option=${BASH_REMATCH[1]} value=${BASH_REMATCH[3]}
  [ -n "${BASH_REMATCH[2]}" ] || { value=${2:-}; shift; }
  if [ -z "$value" ]; then
    echo "error: --$option: give a value" >&2
    exit 2
  fi
  case $option in
    fold) fold=$value ;;
    source) source_path=$(realpath -- "$value") ;;
    name) name=$value ;;
  esac
  shift || true
done
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "$usage"
  exit 0
fi
if [[ -n $fold && ! $fold =~ ^[0-4]$ ]]; then
  echo "error: --fold $fold: give a number from 0 to 4" >&2
  exit 2
fi

gpu=''
if command -v nvidia-smi > /dev/null && nvidia-smi --list-gpus | grep --quiet '^GPU'; then
  gpu='[gpu]'
fi
# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" "$gpu"

if [ -z "$source_path" ]; then
  "$python" -m data_prep.download --output data/raw
  source_path=data/raw/label_192.zip
fi
run=$name${fold:+_fold$fold}
split=${fold:+kfold:5/$fold}
if [ ! -d "data/$run/head_ct" ]; then
  "$python" -m data_prep.build_tfrecords --source "$source_path" --output "data/$run" \
    --split "${split:-official}" --workers "$(nproc)"
fi
command=("$python" -m mbh_jax.main --config=configs/strong.py --workdir="runs/$run"
  --config.data.dir="data/$run" "$@")
"${command[@]}"
"${command[@]}" --mode=evaluate --config.eval.split=test --config.eval.checkpoint=best
"$python" -m benchmarks.published "runs/$run/evaluation/test/summary.json"
