#!/usr/bin/env bash
# Runs the processes of one machine in a training on several; slurm_train.sh and k8s_train.yaml start it on each machine. By hand, on machine 1 of 2:
#
#   HEAD=host0 NODES=2 NODE=1 GPUS=8 bash docker/train_node.sh runs/language config=configs/train/language.yaml name=language
#
# The first argument is the run folder, the others are arguments of train.py. SIGUSR1 and SIGTERM are forwarded to the training processes, which save a
# checkpoint and exit together on all machines. The launcher ignores both: it would exit, or kill the processes after 30 s. With RESTART=yes the script
# restarts a run that another machine was preempted from, and waits for that machine to come back.
# Exit codes: 0; 75 if this machine received a signal; else the exit code of the launcher (1).
set -euo pipefail

run=$1
shift
node=${NODE:-${SLURM_NODEID:-${JOB_COMPLETION_INDEX:?set NODE to the rank of this machine, from 0}}}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
launch=("${PYTHON:-python}" -m accelerate.commands.launch --config_file "${ACCELERATE_CONFIG:-configs/accelerate/multi_node.yaml}"
    --num_machines "$NODES" --num_processes "$((NODES * GPUS))" --machine_rank "$node"
    --main_process_ip "$HEAD" --main_process_port "${PORT:-29500}")

signaled=''
forward_signal() {
    signaled=yes
    local ranks=()
    read -ra ranks <"/proc/$launcher/task/$launcher/children" || true # the file does not end with a newline
    [ "${#ranks[@]}" = 0 ] || kill -USR1 "${ranks[@]}" || true
}

started=$(mktemp)
trap 'rm -f "$started"' EXIT
while :; do
    touch "$started"
    trap '' USR1 TERM # inherited: the new processes ignore both signals until they install handlers
    "${launch[@]}" -m train "$@" &
    launcher=$!
    trap forward_signal USR1 TERM
    code=0
    wait "$launcher" || code=$?
    while kill -0 "$launcher" 2>/dev/null; do # a signal interrupted the wait
        code=0
        wait "$launcher" || code=$?
    done
    [ "$code" != 0 ] || exit 0
    [ -z "$signaled" ] || exit 75
    [ "${RESTART:-}" = yes ] && [ "$run/REQUEUE" -nt "$started" ] || exit "$code"
done
