#!/bin/bash
# One run under Slurm. After a time limit, a preemption, a requeue or the loss of a node it goes on
# by itself, and ends with the result of a run that nothing has disturbed. From the checkout's root:
#
#   sbatch run/slurm/train.sh --env Hopper-v4 --seed 1
#   sbatch --nodes=2 --ntasks=16 --time=12:00:00 run/slurm/train.sh --num-timesteps 10000000
#
# Flags before the script are sbatch's, and win over the lines below; those behind it go to
# trpo_mpi.run_mujoco. From the environment:
#   TRPO_MPI_VENV          the virtual environment (~/trpo)
#   TRPO_MPI_SRUN          more flags for srun (--mpi=pmi2)
#   TRPO_MPI_MAX_RESTARTS  how often the job may start again (100)
#
#SBATCH --job-name=trpo_mpi
# Ranks: no more than environments (16 unless --num-envs says otherwise), best a divisor of them.
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
# Before the limit each rank gets USR1, and the run stops with a checkpoint and code 75. Slurm may
# send it up to a minute earlier than said; a long iteration wants more time than this.
#SBATCH --signal=USR1@120
# Slurm itself may start the job again, after a preemption or when a node was lost ...
#SBATCH --requeue
# ... and the log of the start before is kept.
#SBATCH --open-mode=append

# What the site needs goes here, the module of the MPI library above all:
# module load mpich
PATH="${TRPO_MPI_VENV:-$HOME/trpo}/bin:$PATH"
# More threads would compete with the other ranks for their cores, and change the last bits.
export OMP_NUM_THREADS=1

# --mpi=pmi2 is for MPICH and Intel MPI; Open MPI wants --mpi=pmix.
# When one rank dies the others would wait for it: end them, so that the job ends.
# shellcheck disable=SC2086 # several flags in one variable
srun --kill-on-bad-exit=1 ${TRPO_MPI_SRUN:---mpi=pmi2} \
    python -m trpo_mpi.run_mujoco --resume auto "$@"
code=$?

if [ $code -eq 75 ]; then # stopped with a checkpoint: start me again
    restarts=${SLURM_RESTART_COUNT:-0}
    if [ "$restarts" -ge "${TRPO_MPI_MAX_RESTARTS:-100}" ]; then
        echo "train.sh: started again $restarts times, which is enough; sbatch goes on" >&2
        exit 75
    fi
    # The id of an array's element may be that of the whole array, and requeue all of it.
    job=$SLURM_JOB_ID
    if [ -n "$SLURM_ARRAY_TASK_ID" ]; then
        job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    fi
    scontrol requeue "$job"
fi
exit $code
