#!/bin/sh
# One run under PBS (OpenPBS, PBS Pro). From the checkout's root:
#
#   qsub -v TRPO_MPI_ARGS="--env Hopper-v4 --seed 1" run/pbs/train.sh
#
# PBS hands neither arguments nor the environment to a script, but what -v names:
#   TRPO_MPI_ARGS          flags of trpo_mpi.run_mujoco
#   TRPO_MPI_VENV          the virtual environment (~/trpo)
#   TRPO_MPI_MPIEXEC       the launcher with its flags (mpiexec)
#   TRPO_MPI_HOURS         hours after which the run stops and is submitted again (3.9)
#   TRPO_MPI_QSUB          flags of qsub for the jobs that go on with the run
#   TRPO_MPI_MAX_RESTARTS  how many of them there may be (100)
#
#PBS -N trpo_mpi
# Ranks: no more than environments (16 unless --num-envs says otherwise), best a divisor of them.
# Two nodes: select=2:ncpus=8:mpiprocs=8:ompthreads=1:mem=16gb
#PBS -l select=1:ncpus=8:mpiprocs=8:ompthreads=1:mem=16gb
# PBS gives no warning before the limit. TRPO_MPI_HOURS is to stay a few minutes below it.
#PBS -l walltime=04:00:00
# PBS itself may start the job again, after a preemption or when a node was lost.
#PBS -r y
#PBS -j oe

deleted=
cd "$PBS_O_WORKDIR" || exit 1
# What the site needs goes here, the module of the MPI library above all:
# module load mpich
PATH="${TRPO_MPI_VENV:-$HOME/trpo}/bin:$PATH"
# More threads would compete with the other ranks for their cores, and change the last bits.
export OMP_NUM_THREADS=1

# An MPI library without PBS in it wants the nodes: TRPO_MPI_MPIEXEC="mpiexec -f $PBS_NODEFILE".
# shellcheck disable=SC2086 # several words in one variable
${TRPO_MPI_MPIEXEC:-mpiexec} -n "$(wc -l <"$PBS_NODEFILE")" \
    python -m trpo_mpi.run_mujoco --resume auto --max-hours "${TRPO_MPI_HOURS:-3.9}" \
    $TRPO_MPI_ARGS &
mpiexec=$!
# `qsig` may reach this shell alone. Open MPI's mpiexec passes USR1 on, and not TERM.
trap 'signalled=yes; kill -USR1 $mpiexec' USR1
trap 'signalled=yes; deleted=yes; kill -USR1 $mpiexec' TERM
code=127
signalled=yes
while [ -n "$signalled" ]; do # which cuts a wait short; what ended meanwhile still has its code
    signalled=
    wait $mpiexec
    waited=$?
    [ $waited -eq 127 ] || code=$waited # 127: the code has been had
done

# Stopped with a checkpoint: start me again, but for a job that qdel has ended.
if [ $code -eq 75 ] && [ -z "$deleted" ]; then
    # qrerun is for operators only, so another job goes on. It starts as this one: its environment
    # is made of what -v names.
    TRPO_MPI_RESTARTS=$((${TRPO_MPI_RESTARTS:-0} + 1))
    if [ $TRPO_MPI_RESTARTS -gt "${TRPO_MPI_MAX_RESTARTS:-100}" ]; then
        echo "train.sh: started again $((TRPO_MPI_RESTARTS - 1)) times, which is enough;" \
            "qsub goes on" >&2
        exit 75
    fi
    export TRPO_MPI_RESTARTS
    names=$(env | sed -n 's/^\(TRPO_MPI_[A-Z_]*\)=.*/\1/p' | paste -s -d , -)
    # shellcheck disable=SC2086 # several flags in one variable
    qsub $TRPO_MPI_QSUB -v "$names" run/pbs/train.sh && exit 0
fi
exit $code
