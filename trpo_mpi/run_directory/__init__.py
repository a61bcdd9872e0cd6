"""What a run leaves behind, written by rank 0 alone; of a failure, a line by the rank that failed.

In runs/Hopper-v4-default-s0, by default:

- config.json: every setting, and what it ran on
- status.json: whether it runs, or how it ended
- progress.csv: a row an iteration
- monitor.csv: a row a finished episode
- model.zip: the policy with its normaliser
- checkpoints/: all that going on takes; see `checkpoint`
"""
