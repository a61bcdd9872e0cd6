"""The only place that knows MPI: start-up and abort, ranks and columns, the exact sum."""
