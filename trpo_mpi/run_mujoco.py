"""Train a policy on a MuJoCo environment, or any other of Gymnasium's.

python -m trpo_mpi.run_mujoco                                       one process, no MPI needed
mpirun -np 16 python -m trpo_mpi.run_mujoco --env Hopper-v4         16 ranks
srun --mpi=pmi2 -n 32 python -m trpo_mpi.run_mujoco --env Ant-v4    in a Slurm job, with MPICH
"""

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

    from trpo_mpi import training_command

    startup.run(lambda: training_command.main("run_mujoco"))
