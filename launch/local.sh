#!/usr/bin/env bash
# Trains or evaluates on this machine, on all its GPUs, or on the CPU if it has none.
usage="usage: bash launch/local.sh [--simulate N] [--processes N] --config=RECIPE [ARGUMENTS of mbh_jax.main]
  --simulate N    use N simulated CPU devices in each process
  --processes N   start N processes joined by --distributed, each with its share of the GPUs"
# When one process fails, the others have GRACE seconds (default 120) to save and end. The exit code
# is the worst of all processes: any error is worse than 74, which is worse than 75, then 0.
# After SIGTERM or Ctrl-C the processes finish the step, save and end with 75, and the same command
# resumes the run. A second SIGTERM or Ctrl-C kills them.
# XLA_FLAGS is passed on to XLA; docs/launching.md lists flags for GPUs.
set -euo pipefail

simulate='' processes=1
while [[ ${1:-} =~ ^--(simulate|processes)(=(.*))?$ ]]; do
  name=${BASH_REMATCH[1]} value=${BASH_REMATCH[3]}
  [ -n "${BASH_REMATCH[2]}" ] || { value=${2:-}; shift; }
  if ! [[ $value =~ ^[1-9][0-9]*$ ]]; then
    echo "error: --$name: ${value:-nothing} is not a whole number of at least 1" >&2
    exit 2
  fi
  printf -v "$name" %s "$value"
  shift || true
done
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
  echo "$usage" >&2
  exit $(($# ? 0 : 2))
fi

gpus=0
if [ -n "$simulate" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$simulate"
elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -ra visible <<< "$CUDA_VISIBLE_DEVICES"
  gpus=${#visible[@]}
elif command -v nvidia-smi > /dev/null; then
  gpus=$(nvidia-smi --list-gpus | grep --count '^GPU' || true)
fi
if ((gpus % processes)); then
  echo "error: --processes $processes: cannot divide $gpus GPUs evenly" >&2
  exit 2
fi

# shellcheck source=launch/venv.sh
source "$(dirname "$0")/venv.sh" "$( ((gpus)) && echo '[gpu]')"

# Inside a SLURM allocation its variables describe other processes than these.
unset "${!SLURM_@}"
run=("$python" -m mbh_jax.main)
if ((processes == 1)); then
  exec "${run[@]}" "$@"
fi

# Without this gRPC would connect to localhost through a web proxy.
if [ -n "${grpc_proxy:-}${https_proxy:-}${http_proxy:-}" ]; then
  export no_proxy="${no_proxy:+$no_proxy,}localhost"
fi
free_port='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
port=$("$python" -c "$free_port")
export JAX_COORDINATOR_BIND_ADDRESS=localhost:$port
run+=(--distributed --coordinator="localhost:$port" --num_processes="$processes")

# Separate process groups: Ctrl-C reaches only this shell, which passes it on exactly once.
set -m
children=()
for ((id = 0; id < processes; id++)); do
  if ((gpus)); then
    share=$((gpus / processes))
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((id * share)) $(((id + 1) * share - 1)))
    export JAX_LOCAL_DEVICE_IDS
  fi
  "${run[@]}" --process_id="$id" "$@" &
  children[id]=$!
done

signal_children() { kill "-$1" "${children[@]}" 2> /dev/null || true; }
stopping=''
# shellcheck disable=SC2317,SC2329  # called by the trap
stop() {
  signal_children "${stopping:-TERM}"
  stopping=KILL
}
trap stop TERM INT HUP

rank() { case $1 in 0) echo 0 ;; 75) echo 1 ;; 74) echo 2 ;; *) echo 3 ;; esac; }
worst=0 deadline=''
exec {never}<> <(:)
while ((${#children[@]})); do
  read -r -t 0.5 -u "$never" || true # a pause that a signal ends
  for id in "${!children[@]}"; do
    kill -0 "${children[id]}" 2> /dev/null && continue
    code=0
    wait "${children[id]}" || code=$?
    unset "children[id]"
    ((code)) || continue
    echo "process $id ended with exit code $code" >&2
    (($(rank $code) > $(rank $worst))) && worst=$code
    deadline=${deadline:-$((SECONDS + ${GRACE:-120}))}
  done
  if [ -n "$deadline" ] && ((SECONDS >= deadline)); then signal_children KILL; fi
done
exit "$worst"
