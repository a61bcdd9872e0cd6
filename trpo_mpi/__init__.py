"""TRPO for Gymnasium environments, data-parallel over MPI ranks.

Importing the package loads neither TensorFlow nor MPI; the commands do, once
their flags are known to be right::

    python -m trpo_mpi.run_mujoco --env Hopper-v4
    mpirun -np 16 python -m trpo_mpi.run_mujoco --env Hopper-v4
"""

__version__ = "0.1.0"
