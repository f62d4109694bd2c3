#!/usr/bin/env bash
# Builds one data set as a SLURM job array. Run once on a login node, from the repository, which all nodes must share under the same path:
#
#   bash docker/slurm_build.sh 100 config=configs/build/audioset.yaml source.root=/data/audioset out=/data/shards/audioset_train
#
# This submits 100 slices and a dependent job that writes the manifest, or lists the missing shards if a slice failed. Slices are resumable: run the same
# command again, and completed shards are kept.
# Environment variables: CPUS, the cores of each slice (8), which must not be more than a node has; SBATCH_PARTITION, SBATCH_ACCOUNT and the like set
# options of sbatch, PYTHON the interpreter.
#SBATCH --job-name=shards
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --mem-per-cpu=2G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

build=("${PYTHON:-.venv/bin/python}" -m pipelines.build executor=slice)
case "${1:-}" in
slice)
    # srun forwards signals to the build, but not the number of cores.
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
    array=$(sbatch --parsable --array="0-$(($1 - 1))" --cpus-per-task="${CPUS:-8}" "$0" slice "${@:2}")
    sbatch --parsable --dependency="afterany:${array%%;*}" --cpus-per-task=1 "$0" finish "${@:2}"
    ;;
esac
