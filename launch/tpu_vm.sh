#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM: copies this working tree there, installs it and runs it.
# It needs gcloud, logged in, with a project. The workdir must be on storage that all workers share,
# and every worker must find the records at the same --config.data.dir (docs/launching.md).
# The exit code is that of gcloud. The same command resumes the run.
# PYTHON is the interpreter on the workers (default python3.12); it is installed if it is missing.
usage="usage: bash launch/tpu_vm.sh NAME ZONE --config=RECIPE --workdir=FOLDER [ARGUMENTS of mbh_jax.main]"
set -euo pipefail

if [[ $# -lt 3 || $1 == -* || $2 == -* ]]; then
  echo "$usage" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git ls-files -z --cached --others --exclude-standard \
  | tar --create --gzip --null --files-from=- --ignore-failed-read --file="$archive"

printf -v arguments '%q ' "$@"
python=${PYTHON:-python3.12}
remote="
set -e
mkdir -p mbh_jax
tar --extract --gzip --directory=mbh_jax --file=mbh_jax.tar.gz
if ! command -v $python > /dev/null; then
  sudo add-apt-repository --yes ppa:deadsnakes/ppa
  sudo apt-get install --yes --quiet $python $python-venv
fi
export PYTHON=$python
source mbh_jax/launch/venv.sh '[tpu]'
exec \"\$python\" -m mbh_jax.main --distributed $arguments"

gcloud compute tpus tpu-vm scp "$archive" "$name:mbh_jax.tar.gz" --zone="$zone" --worker=all
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$remote"
