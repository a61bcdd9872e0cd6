#!/bin/sh
# Environments times seeds under PBS, each run a job of its own. From the checkout's root:
#
#   qsub run/pbs/array.sh                                                 three by five
#   qsub -J 0-5 -v TRPO_MPI_ENVS="Ant-v4 Humanoid-v4",TRPO_MPI_SEEDS=3 run/pbs/array.sh
#
# Variables as in train.sh, which says what the lines are for; run/array_element.sh says which
# element is which run. An element that is stopped goes on as a job of train.sh: what is changed in
# the lines here is to be changed there, too.
#
#PBS -N trpo_mpi
#PBS -J 0-14
#PBS -l select=1:ncpus=8:mpiprocs=8:ompthreads=1:mem=16gb
#PBS -l walltime=04:00:00
#PBS -r y
#PBS -j oe

cd "$PBS_O_WORKDIR" || exit 1
flags=$(sh run/array_element.sh "$PBS_ARRAY_INDEX") || exit
export TRPO_MPI_ARGS="$flags $TRPO_MPI_ARGS"
exec sh run/pbs/train.sh
