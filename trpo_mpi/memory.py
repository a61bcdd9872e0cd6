"""What a batch takes of the memory, and whether this machine has it; asked before it is taken."""

from pathlib import Path

import numpy as np

from trpo_mpi.config import Config, Grid
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.policies.policy import POLICIES, observation_type

GIB = 2**30


def bytes_of_a_step(config: Config, spaces: Spaces) -> int:
    """Bytes that a time step of one environment takes in a batch, most of it its observation."""
    images = POLICIES[config.policy].images
    kind = np.dtype(observation_type(spaces.observation, images))
    # As collected, padded, and as the update's tensors.
    each = 3 * kind.itemsize
    if config.normalize_observations and not images:
        each += 8  # as it was given
    return spaces.observation_size * each + 200


def check_batch(config: Config, grid: Grid, spaces: Spaces, columns: int) -> None:
    """Raise `UsageError` where a node has not the memory for the `columns` that its ranks own."""
    needed = bytes_of_a_step(config, spaces) * grid.horizon * columns
    free = available()
    if free is not None and needed > free:
        each, kind = grid.episodes or grid.horizon, "episode" if grid.episodes else "time step"
        fits = int(each * free / needed) * grid.num_envs
        advice = f"{fits} would fit" if fits else f"not one {kind} of each environment fits"
        raise UsageError(
            f"--{kind.replace(' ', '')}s-per-batch {each * grid.num_envs} takes "
            f"{'up to ' if grid.episodes else ''}{needed / GIB:.1f} GiB of the memory of "
            f"a node, which has {free / GIB:.1f} GiB free; {advice}"
        )


def available() -> int | None:
    """Bytes that processes here can still have; None where the system does not say."""
    found = [_meminfo(), *_cgroup()]
    known = [x for x in found if x is not None]
    return min(known) if known else None


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        return None


def _cgroup() -> list[int]:
    """What the job's control groups leave, in Slurm's case the memory that was asked for."""
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::")[2]
    except (OSError, IndexError):
        return []
    left = []
    folder = Path("/sys/fs/cgroup") / group.lstrip("/")
    for place in (folder, *folder.parents):
        try:
            limit = (place / "memory.max").read_text().strip()
            used = int((place / "memory.current").read_text())
            if limit != "max":
                left.append(max(0, int(limit) - used))
        except (OSError, ValueError):
            continue
    return left
