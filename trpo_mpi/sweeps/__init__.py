"""The parts of `sweep`: which runs there are, where they run, and what their results are."""
