#!/bin/bash
# Snakemake as a small SLURM job, where nothing may run on the login node for long. Arguments are Snakemake's:
#
#   sbatch slurm/controller.sh --profile slurm --configfile config/demo.yaml
#
# It writes controller-<id>.log, submits the jobs, and ends with them. `scancel --batch --signal=INT <id>` is its Ctrl-C:
# it cancels the jobs too. Five minutes before its own time is over it does the same, and SLURM starts it again; jobs go
# on from their checkpoints. Longer is better: sbatch --time=7-0 slurm/controller.sh ...
#
# With SNAKEMAKE set to another command, that one runs: a whole workflow in one job, in a container (slurm/README.md).
#SBATCH --job-name=jaxrnn-controller
#SBATCH --output=controller-%j.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
controller=$SLURM_JOB_ID
# This job's size is not that of those which it submits.
for name in "${!SLURM_@}"; do
    [ "$name" = SLURM_CONF ] || unset "$name"
done

again=
stopped=
# shellcheck disable=SC2317  # traps call it
stop() {
    trap '' INT TERM USR1 # once: a second INT would cut short what Snakemake does about the first
    stopped=yes
    kill -INT "$running"
}
trap stop INT TERM
trap 'again=yes; stop' USR1

# Runs a command until it has ended, beside the traps; its exit code is $code then.
run() {
    (trap - INT; exec "$@") & # background jobs are born deaf to INT
    running=$!
    while wait "$running"; code=$?; kill -0 "$running" 2>/dev/null; do :; done
}

# shellcheck disable=SC2086  # the command may be several words
run ${SNAKEMAKE:-snakemake} "$@"
# Snakemake's exit code where another controller may live (REFUSED in workflow/rules/common.smk). One that was killed hard
# on another node counts as alive for DEAD_SECONDS (jaxrnn/lock.py), and this job may be it, started again by SLURM.
if [ "$code" -eq 75 ]; then
    echo "Trying once more in 120 seconds, when a dead controller is known to be dead"
    run sleep 120
    code=75
    # shellcheck disable=SC2086
    [ "$stopped" ] || run ${SNAKEMAKE:-snakemake} "$@"
fi
if [ "$again" ] && [ "$code" -ne 0 ]; then
    echo "The controller's time is over; SLURM starts job $controller again"
    trap - TERM
    scontrol requeue "$controller"
    sleep 60 # until SLURM ends this one
fi
exit "$code"
