#!/usr/bin/env bash
# From a fresh machine to a trained, evaluated network in under ten minutes on two cores:
# .venv, installation, phantom head CTs, TFRecords, training, evaluation, pictures.
#   bash launch/quickstart.sh [--config.KEY=VALUE ...]     arguments go to training and evaluation
# Killed and run again it goes on where it was; remove runs/quickstart to begin anew.
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" ""

if [ ! -d data/phantom/head_ct ]; then
  "$python" -m data_prep.phantom --output data/raw/phantom --num_volumes 60 --seed 0 --size 128 \
    --prevalence even --workers 2 --overwrite
  "$python" -m data_prep.build_tfrecords --source data/raw/phantom --output data/phantom
fi
run=("$python" -m mbh_jax.main --config=configs/quickstart.py --workdir=runs/quickstart "$@")
"${run[@]}"
"${run[@]}" --mode=evaluate --config.eval.split=test
echo "curves, pictures and tables: runs/quickstart"
