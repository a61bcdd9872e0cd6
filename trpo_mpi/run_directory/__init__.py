"""The files of a run, written by rank 0 alone; after a failure, by the rank that failed.

The directory is runs/ENV-RECIPE-sSEED by default. Besides the files named here, `evaluate` writes
evaluation.csv and evaluation.json into it, and --tensorboard a directory tensorboard/.
"""

CONFIG = "config.json"
"""Every setting, and the run's machine and software."""
STATUS = "status.json"
"""Whether the run is running, or how it ended."""
PROGRESS = "progress.csv"
"""One row per iteration."""
MONITOR = "monitor.csv"
"""One row per finished episode."""
EVALUATIONS = "evaluations.csv"
"""One row per evaluation during training."""
MODEL = "model.zip"
"""The policy with its normaliser."""
CHECKPOINTS = "checkpoints"
"""Directory of the checkpoints, from which a run is resumed (see `checkpoint`)."""
BEST = f"{CHECKPOINTS}/best.zip"
"""The model with the highest mean return of 100 episodes."""
VIDEOS = "videos"
"""Directory of the videos of --video-every."""
