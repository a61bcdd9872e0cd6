"""Train a policy on a MuJoCo environment, or any other of Gymnasium's.

python -m trpo_mpi.run_mujoco                                       one process, no MPI needed
mpirun -np 16 python -m trpo_mpi.run_mujoco --env Hopper-v4         16 ranks
srun --mpi=pmi2 --kill-on-bad-exit=1 -n 32 python -m trpo_mpi.run_mujoco    in a Slurm job
"""

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

    from trpo_mpi import training_command

    startup.run(lambda: training_command.main("run_mujoco"))
