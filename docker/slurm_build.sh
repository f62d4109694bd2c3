#!/usr/bin/env bash
# Builds one data set by a SLURM job array. Once, on a login node, in the repository, which the nodes see under the same path:
#
#   bash docker/slurm_build.sh 100 config=configs/build/audioset.yaml source.root=/data/audioset out=/data/shards/audioset_train
#
# That submits 100 slices, and a job that finishes the data set after them; if a slice has failed, it says which shards are missing.
# A slice that is preempted, requeued or submitted again keeps its whole shards: the same line goes on where everything was.
# sbatch's own options come by its environment variables (SBATCH_PARTITION, SBATCH_ACCOUNT), another Python by PYTHON.
#SBATCH --job-name=shards
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

build=("${PYTHON:-.venv/bin/python}" -m pipelines.build executor=slice)
case "${1:-}" in
slice)
    # srun hands signals on to the build, but not the number of cores.
    exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        "${build[@]}" "slice=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "processes=$SLURM_CPUS_PER_TASK" "${@:2}"
    ;;
finish)
    exec srun "${build[@]}" slice=finish "${@:2}"
    ;;
*[!0-9]* | "" | 0*)
    echo "usage: bash docker/slurm_build.sh SLICES config=... source.root=... out=...   (got '${1:-}')" >&2
    exit 2
    ;;
*)
    array=$(sbatch --parsable --array="0-$(($1 - 1))" "$0" slice "${@:2}")
    sbatch --parsable --dependency="afterany:${array%%;*}" --cpus-per-task=1 "$0" finish "${@:2}"
    ;;
esac
