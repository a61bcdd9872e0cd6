"""The errors that end a command with one line instead of a traceback."""


class UsageError(ValueError):
    """Something the user can put right: a flag, a path, an environment's name.

    Raised on every rank alike (see `Communicator.on_root`); the command prints its text
    once and exits with code 2.
    """


class DivergedError(FloatingPointError):
    """Training has left the range of numbers.

    Raised on all ranks alike, which ends the job with exit code 1.
    """


class EnvironmentFault(Exception):
    """An environment returned something that can't be trained on, such as a NaN.

    Raised on the one rank that saw it, which ends the job with exit code 1.
    """
