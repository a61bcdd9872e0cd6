"""What a run leaves behind, written by rank 0 alone; after a failure, by the rank that failed.

The directory is runs/ENV-RECIPE-sSEED by default. Beside the files named here, `evaluate` writes
evaluation.csv and evaluation.json into it, and --tensorboard a directory tensorboard/.
"""

CONFIG = "config.json"
"""Every setting, and what the run ran on."""
STATUS = "status.json"
"""Whether it runs, or how it ended."""
PROGRESS = "progress.csv"
"""One row per iteration."""
MONITOR = "monitor.csv"
"""One row per finished episode."""
EVALUATIONS = "evaluations.csv"
"""One row per evaluation during training."""
MODEL = "model.zip"
"""The policy with its normaliser."""
CHECKPOINTS = "checkpoints"
"""A directory: everything that resuming takes, see `checkpoint`; and best.zip."""
VIDEOS = "videos"
"""A directory: the films of --video-every."""
