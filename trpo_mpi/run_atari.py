"""Train a policy on an Atari game of the Arcade Learning Environment; ROMs come with ale-py.

python -m trpo_mpi.run_atari                                        one process, no MPI needed
mpirun -np 16 python -m trpo_mpi.run_atari --env PongNoFrameskip-v4 16 ranks
mpirun -np 16 python -m trpo_mpi.run_atari --env ALE/Breakout-v5    with its sticky actions
"""

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

    from trpo_mpi import training_command

    startup.run(lambda: training_command.main("run_atari"))
