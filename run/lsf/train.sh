#!/bin/sh
# One run under LSF. After a time limit or the loss of a host it goes on by itself. From the
# checkout's root; bsub wants the script as its input, and takes the environment along:
#
#   TRPO_MPI_ARGS="--env Hopper-v4 --seed 1" bsub <run/lsf/train.sh
#   TRPO_MPI_ARGS="--env Ant-v4" bsub -n 16 -R "span[ptile=8]" -W 12:00 <run/lsf/train.sh
#
#   TRPO_MPI_ARGS    flags of trpo_mpi.run_mujoco
#   TRPO_MPI_VENV    the virtual environment (~/trpo)
#   TRPO_MPI_MPIRUN  the launcher with its flags (mpirun)
#
#BSUB -J trpo_mpi
# Ranks: no more than environments (16 unless --num-envs says otherwise), best a divisor of them.
#BSUB -n 8
#BSUB -R "rusage[mem=2G]"
#BSUB -W 4:00
# Two minutes before the limit the job gets USR1: the run stops with a checkpoint and code 75 ...
#BSUB -wa USR1
#BSUB -wt 2
# ... for which LSF queues the job again. How often is the queue's MAX_JOB_REQUEUE.
#BSUB -Q 75
# It also does so when a host is lost.
#BSUB -r
# -o, not -oo: the log of the start before is kept.
#BSUB -o trpo_mpi-%J.out

# What the site needs goes here, the module of the MPI library above all:
# module load mpich
PATH="${TRPO_MPI_VENV:-$HOME/trpo}/bin:$PATH"
# More threads would compete with the other ranks for their cores, and change the last bits.
export OMP_NUM_THREADS=1

# LSF signals all processes of the job. This shell is to live on and give the code; by a trap, since
# what a shell ignores its children ignore as well. INT and TERM are bkill's.
killed=
trap : USR1 USR2
trap 'killed=yes' INT TERM

# An MPI library without LSF in it wants the hosts: TRPO_MPI_MPIRUN="mpirun -f $LSB_DJOB_HOSTFILE".
# shellcheck disable=SC2086 # several words in one variable
${TRPO_MPI_MPIRUN:-mpirun} -n "$LSB_DJOB_NUMPROC" \
    python -m trpo_mpi.run_mujoco --resume auto $TRPO_MPI_ARGS
code=$?

if [ $code -eq 75 ] && [ -n "$killed" ]; then
    code=1 # there is a checkpoint, but nobody wants the job again
fi
exit $code
