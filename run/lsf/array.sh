#!/bin/sh
# Environments times seeds under LSF, each run a job of its own. From the checkout's root:
#
#   bsub <run/lsf/array.sh                                                three by five
#   TRPO_MPI_ENVS="Ant-v4 Humanoid-v4" TRPO_MPI_SEEDS=3 bsub -J "trpo_mpi[1-6]%2" <run/lsf/array.sh
#
# %2 lets two run at a time. Variables as in train.sh, which says what the lines are for;
# run/array_element.sh says which element is which run. LSF counts from 1.
#
#BSUB -J trpo_mpi[1-15]
#BSUB -n 8
#BSUB -R "rusage[mem=2G]"
#BSUB -W 4:00
#BSUB -wa USR1
#BSUB -wt 2
#BSUB -Q 75
#BSUB -r
#BSUB -o trpo_mpi-%J-%I.out

flags=$(sh run/array_element.sh $((LSB_JOBINDEX - 1))) || exit
export TRPO_MPI_ARGS="$flags $TRPO_MPI_ARGS"
exec sh run/lsf/train.sh
