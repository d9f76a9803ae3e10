#!/usr/bin/env bash
# Goes from a fresh machine to a trained and evaluated network in under ten minutes on two cores:
# .venv, installation, phantom head CTs, TFRecords, training, evaluation, prediction, pictures.
#   bash launch/quickstart.sh [--config.KEY=VALUE ...]     arguments for training and evaluation
# If it is stopped, the same command resumes it. Remove runs/quickstart to start from the beginning.
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
# A scan as a user has it: the first of the test patients.
scan=$(sed -n '2s/,.*//p' runs/quickstart/evaluation/test*/per_case.csv | head -n 1)
"$python" -m mbh_jax.predict --model runs/quickstart --output runs/quickstart/predicted \
  --input "data/raw/phantom/images/$scan.nii.gz" --html --overwrite
echo "curves, pictures and tables: runs/quickstart; to open in a browser: report.html in"
echo "runs/quickstart/evaluation/test, and the page of a predicted scan: runs/quickstart/predicted/$scan.html"
