#!/bin/sh
# Which run is element N (from 0) of an array of environments times seeds, as flags of the trainer.
#
#   sh run/array_element.sh 7        --env Walker2d-v4 --seed 2
#
# All seeds of the first environment come first. TRPO_MPI_ENVS lists the environments,
# TRPO_MPI_SEEDS is the number of seeds; an element behind the last run is an error.
index=$1
seeds=${TRPO_MPI_SEEDS:-5}
number=$((index / seeds))
for env in ${TRPO_MPI_ENVS:-Hopper-v4 Walker2d-v4 HalfCheetah-v4}; do
    if [ $number -eq 0 ]; then
        echo "--env $env --seed $((index % seeds))"
        exit 0
    fi
    number=$((number - 1))
done
echo "array_element.sh: there is no run $index: the array is larger than TRPO_MPI_ENVS times" \
    "TRPO_MPI_SEEDS ($seeds)" >&2
exit 2
