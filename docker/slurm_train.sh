#!/usr/bin/env bash
# Trains on several nodes of a SLURM cluster. Submit on a login node, from the repository, which all nodes must share under the same path:
#
#   sbatch --nodes=2 --gpus-per-node=8 docker/slurm_train.sh NAME config=configs/train/sound_and_language.yaml
#
# The run folder is runs/NAME (out=DIR: DIR/NAME), on a file system that all nodes share. Five minutes before the time limit the run saves a checkpoint
# and exits, and the job requeues itself; likewise on preemption, if the cluster sends a signal. A cancelled job is not requeued. The same command resumes.
# Environment variables: SBATCH_PARTITION, SBATCH_ACCOUNT, PYTHON (interpreter), ACCELERATE_CONFIG (for example another precision).
#SBATCH --job-name=denseav
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

case "${1:-}" in
*=* | */* | "")
    echo "usage: sbatch --nodes=N --gpus-per-node=G docker/slurm_train.sh NAME config=...   (got '${1:-}')" >&2
    exit 2
    ;;
esac
name=$1 out=runs
shift
for argument in "$@"; do
    case $argument in out=*) out=${argument#out=} ;; esac
done

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD=${hosts%%$'\n'*} NODES=$SLURM_JOB_NUM_NODES GPUS=${SLURM_GPUS_ON_NODE:-1} PORT=$((20000 + SLURM_JOB_ID % 20000)) PYTHON=${PYTHON:-.venv/bin/python}
rm -f "$out/$name/REQUEUE"
cancelled=''
trap 'cancelled=yes' TERM
srun --ntasks-per-node=1 --kill-on-bad-exit=0 bash docker/train_node.sh "$out/$name" "$@" "name=$name" &
step=$!
trap 'kill -USR1 "$step" 2>/dev/null || true' USR1 # srun forwards it to every node
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do
    code=0
    wait "$step" || code=$?
done
if [ -f "$out/$name/REQUEUE" ] && [ -z "$cancelled" ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
