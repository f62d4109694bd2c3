#!/usr/bin/env bash
# One machine's part of a training on several, started on each of them by slurm_train.sh or k8s_train.yaml. By hand, on machine 1 of 2:
#
#   HEAD=host0 NODES=2 NODE=1 GPUS=8 bash docker/train_node.sh runs/language config=configs/train/language.yaml name=language
#
# SIGUSR1 and SIGTERM are handed on to the training processes, which save and leave together on all machines. The launcher hears neither: it would die,
# or give them half a minute. With AGAIN=yes a run that another machine had to leave is started again here, and waits for that one to come back.
# Ends with 0, with 75 when this machine was told to leave, or with what the launcher says (1).
set -euo pipefail

run=$1
shift
node=${NODE:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:?NODE says which machine this is}}}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
launch=("${PYTHON:-python}" -m accelerate.commands.launch --config_file "${ACCELERATE_CONFIG:-configs/accelerate/multi_node.yaml}"
    --num_machines "$NODES" --num_processes "$((NODES * GPUS))" --machine_rank "$node"
    --main_process_ip "$HEAD" --main_process_port "${PORT:-29500}")

told=''
hand_on() {
    told=yes
    local ranks=()
    read -ra ranks <"/proc/$launcher/task/$launcher/children" || true # its last line has no end
    [ "${#ranks[@]}" = 0 ] || kill -USR1 "${ranks[@]}" || true
}

started=$(mktemp)
trap 'rm -f "$started"' EXIT
while :; do
    touch "$started"
    trap '' USR1 TERM # what is started now is deaf to both until it listens on its own
    "${launch[@]}" train.py "$@" &
    launcher=$!
    trap hand_on USR1 TERM
    code=0
    wait "$launcher" || code=$?
    while kill -0 "$launcher" 2>/dev/null; do # the wait was ended by a signal
        code=0
        wait "$launcher" || code=$?
    done
    [ "$code" != 0 ] || exit 0
    [ -z "$told" ] || exit 75
    [ "${AGAIN:-}" = yes ] && [ "$run/REQUEUE" -nt "$started" ] || exit "$code"
done
