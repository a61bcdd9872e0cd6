"""How much memory a batch takes, and whether this machine has it; checked before allocation."""

from pathlib import Path

import numpy as np

from trpo_mpi.config import Config
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import Grid
from trpo_mpi.policies.policy import (
    POLICIES,
    Architecture,
    Policy,
    ValueNetwork,
    observation_type,
)

GIB = 2**30
CGROUPS = {
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
    "memory": (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_",
    ),
}
"""Control groups of versions 2 and 1, by their names in /proc/self/cgroup: their root folder, the
files of their limit and of their usage, and the prefix of the names in memory.stat."""


def bytes_of_a_step(config: Config, spaces: Spaces) -> int:
    """Bytes that a time step of one environment takes in a batch, most of them its observation."""
    images = POLICIES[config.policy].images
    kind = np.dtype(observation_type(spaces.observation, images))
    # As collected, padded, and as the update's tensors.
    copies = 6 if config.vf_two_batches else 3
    each = copies * kind.itemsize
    if config.normalize_observations and not images:
        each += 8  # the raw observation
    size = spaces.observation_size
    layers = 0.0  # which all Fisher-vector products of a policy step share, with their inputs
    if images and config.algo in ("trpo", "npg"):
        inputs = 2 * kind.itemsize * size
        layers = config.fisher_fraction * (inputs + 4 * _activations(config, spaces))
    return int(size * each + layers) + 200


def bytes_of_work(config: Config, spaces: Spaces) -> int:
    """Bytes per time step of a column of images that a rank takes while it works on one."""
    if not POLICIES[config.policy].images:
        return 0
    return 4 * spaces.observation_size + 2 * 4 * _activations(config, spaces)


def _activations(config: Config, spaces: Spaces) -> int:
    policy = _built_in(config, spaces)
    return policy.encoder.activations if policy else 0


def _built_in(config: Config, spaces: Spaces) -> Policy | None:
    """None for a user's own network, which can't be made before TensorFlow is set up."""
    if config.network is not None:
        return None
    return Architecture.of(config).make_policy(spaces.observation, spaces.action)


def check_batch(config: Config, grid: Grid, spaces: Spaces, ranks: int, columns: int) -> str | None:
    """Raise `UsageError` if a node lacks the memory for a batch of its ranks' `columns`.

    Batches of whole episodes may be smaller: then return a warning, if there is cause.
    """
    each = bytes_of_a_step(config, spaces) * columns + bytes_of_work(config, spaces) * ranks
    needed, free = each * grid.horizon, available()
    if free is None or needed <= free:
        return None
    memory = f"{needed / GIB:.1f} GiB of the memory of a node, which has {free / GIB:.1f} GiB free"
    if grid.episodes:
        number = grid.episodes * grid.num_envs
        return f"--episodes-per-batch {number} takes up to {memory}, if episodes are that long"
    fits = int(grid.horizon * free / needed) * grid.num_envs
    advice = f"{fits} would fit" if fits else "not one time step of each environment fits"
    raise UsageError(f"--timesteps-per-batch {grid.timesteps} takes {memory}; {advice}")


def check_networks(config: Config, spaces: Spaces, ranks: int, columns: int) -> None:
    """Raise `UsageError` if the networks of a node's ranks, for their columns, do not fit there.

    Not of a user's own network, whose parameters only Keras can count.
    """
    policy = _built_in(config, spaces)
    if policy is None:
        return
    critic = ValueNetwork(policy, spaces.observation, Architecture.of(config))
    parameters = policy.num_parameters + critic.num_parameters
    # Float32: the parameters and Adam's moments with what computing them takes, about twelve
    # vectors of each rank; and a copy and its gradient of each column that is worked on together.
    copies = 12 * ranks + 2 * (ranks if policy.one_column else columns)
    needed, free = 4 * parameters * copies, available()
    if free is not None and needed > free:
        raise UsageError(
            f"the networks have {parameters:,} parameters, which with {columns} environments take "
            f"{needed / GIB:.1f} GiB of the memory of a node, which has {free / GIB:.1f} GiB free; "
            "choose smaller layers or fewer environments"
        )


def available() -> int | None:
    """Bytes that processes here can still allocate; None if the system does not say."""
    found = [_meminfo(), *_cgroups()]
    known = [x for x in found if x is not None]
    return min(known) if known else None


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        return None


def _cgroups() -> list[int]:
    """Bytes that each of the job's control groups leaves; under Slurm, of the memory requested."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for kinds, group in (line.split(":", 2)[1:] for line in lines):
        if kinds in CGROUPS:
            root, *names = CGROUPS[kinds]
            folder = Path(root) / group.lstrip("/")
            left += [_left(place, *names) for place in (folder, *folder.parents)]
    return [x for x in left if x is not None]


def _left(place: Path, limit: str, used: str, prefix: str) -> int | None:
    """Bytes that one control group leaves; None if it has no limit."""
    try:
        most, taken = (int((place / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        # The file cache counts as used, but is freed on demand.
        cache = sum(int(stat[f"{prefix}{kind}_file"]) for kind in ("inactive", "active"))
    except (OSError, ValueError, LookupError):
        return None
    return max(0, most - taken + cache)
