#!/bin/bash
# Environments times seeds under Slurm, each run a job of its own that goes on by itself. From the
# checkout's root:
#
#   sbatch run/slurm/array.sh                                             three by five
#   TRPO_MPI_ENVS="Ant-v4 Humanoid-v4" TRPO_MPI_SEEDS=3 sbatch --array=0-5%2 run/slurm/array.sh
#
# %2 lets two run at a time. Flags and variables as in train.sh, which says what the lines are for;
# run/array_element.sh says which element is which run.
#
#SBATCH --job-name=trpo_mpi
#SBATCH --array=0-14
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

flags=$(sh run/array_element.sh "$SLURM_ARRAY_TASK_ID") || exit
# shellcheck disable=SC2086 # these are four words
exec bash run/slurm/train.sh $flags "$@"
