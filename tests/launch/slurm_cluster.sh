#!/usr/bin/env bash
# Starts a SLURM cluster of one node on localhost, as root, for the tests of launch/slurm.sbatch.
#   bash tests/launch/slurm_cluster.sh start FOLDER    then export SLURM_CONF=FOLDER/slurm.conf
#   bash tests/launch/slurm_cluster.sh stop FOLDER
# It needs Debian's slurm-wlm and munge. Jobs of the partition `urgent` send those of `main` back to
# the queue. The node has four simulated GPUs, which are device files that do nothing.
set -euo pipefail
command=${1:-} folder=$(realpath "${2:?folder}")

case $command in
  start)
    mkdir -p "$folder"/{state,spool,log}
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 400 "$folder/munge.key"
    for gpu in 0 1 2 3; do
      [ -e "$folder/gpu$gpu" ] || mknod "$folder/gpu$gpu" c 1 3
    done
    printf 'Name=gpu File=%s\n' "$folder/gpu[0-3]" > "$folder/gres.conf"
    node=$(hostname -s)
    cat > "$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=5,requeue_delay=1
KillWait=300
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) Gres=gpu:4 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES PriorityTier=1 GraceTime=300 MaxTime=INFINITE
PartitionName=urgent Nodes=$node PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE
CONF
    export SLURM_CONF=$folder/slurm.conf
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
      --pid-file "$folder/munged.pid" --log-file "$folder/log/munged" --seed-file "$folder/munge.seed"
    slurmctld -c
    slurmd
    for _ in {1..60}; do
      [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" = idle ] && exit 0
      sleep 0.5
    done
    echo "error: the node does not become idle; see $folder/log" >&2
    exit 1
    ;;
  stop)
    for daemon in slurmd slurmctld munged; do
      if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
    done
    ;;
  *)
    echo "usage: bash tests/launch/slurm_cluster.sh start|stop FOLDER" >&2
    exit 2
    ;;
esac
