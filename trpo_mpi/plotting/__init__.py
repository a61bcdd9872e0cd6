"""Figures of runs: learning curves over seeds, and diagnostics."""
