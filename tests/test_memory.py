"""Whether a batch fits the memory, asked before it is taken."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from trpo_mpi import memory
from trpo_mpi.config import AtariConfig, Config
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import Grid

FRAMES = Spaces(gym.spaces.Box(0, 255, (84, 84, 4), np.uint8), gym.spaces.Discrete(6))
NUMBERS = Spaces(gym.spaces.Box(-1, 1, (11,)), gym.spaces.Box(-1, 1, (3,)))


@pytest.mark.parametrize(
    ("config", "spaces"), [(AtariConfig(), FRAMES), (Config(), NUMBERS)], ids=["Atari", "MuJoCo"]
)
def test_the_advice_fits(config: Config, spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    too_many = Grid(16, 10**7)
    with pytest.raises(UsageError, match="--timesteps-per-batch 160000000 takes") as refusal:
        memory.check_batch(config, too_many, spaces, 2, 16)
    advice = int(str(refusal.value).split()[-3])
    assert advice % 16 == 0
    memory.check_batch(config, Grid(16, advice // 16), spaces, 2, 16)
    with pytest.raises(UsageError):
        memory.check_batch(config, Grid(16, advice // 16 + 1), spaces, 2, 16)
    memory.check_batch(config, Grid(16, advice // 16 * 2), spaces, 1, 8)  # half of them elsewhere


def test_pictures_stay_bytes() -> None:
    assert 2 * 28224 < memory.bytes_of_a_step(AtariConfig(), FRAMES) < 4 * 28224
    flat = AtariConfig(policy="MlpPolicy")
    assert memory.bytes_of_a_step(flat, FRAMES) > 12 * 28224


def test_what_takes_more_is_counted() -> None:
    """Bytes per step of Nature's network, its layers' numbers, and the images as numbers."""
    layers = 20 * 20 * 32 + 9 * 9 * 64 + 7 * 7 * 64 + 512
    small, nature = (AtariConfig(cnn=cnn, fisher_fraction=1.0) for cnn in ("small", "nature"))
    assert memory.bytes_of_a_step(nature, FRAMES) == 5 * 28224 + 4 * layers + 200
    assert memory.bytes_of_a_step(small, FRAMES) < memory.bytes_of_a_step(nature, FRAMES)
    two = AtariConfig(vf_two_batches=True)
    more = memory.bytes_of_a_step(two, FRAMES) - memory.bytes_of_a_step(AtariConfig(), FRAMES)
    assert more == 3 * 28224
    assert memory.bytes_of_work(nature, FRAMES) > 4 * (28224 + layers)
    assert memory.bytes_of_work(Config(), NUMBERS) == 0


def test_a_network_of_the_users_own_is_not_made_yet() -> None:
    """That would start TensorFlow before its threads and devices are chosen."""
    own = AtariConfig(network="nowhere:network")
    assert memory.bytes_of_a_step(own, FRAMES) > 3 * 28224
    assert memory.bytes_of_work(own, FRAMES) == 4 * 28224


def test_not_even_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(UsageError, match="not one time step"):
        memory.check_batch(Config(), Grid(16, 128), NUMBERS, 1, 16)


@pytest.mark.parametrize("kinds", list(memory.CGROUPS), ids=["version 2", "version 1"])
def test_the_cache_of_files_is_not_what_a_job_has_used(kinds: str, tmp_path: Path) -> None:
    _, limit, used, prefix = memory.CGROUPS[kinds]
    (tmp_path / limit).write_text("4000\n")
    (tmp_path / used).write_text("3900\n")
    files = f"{prefix}inactive_file 2000\n{prefix}active_file 500\n"
    (tmp_path / "memory.stat").write_text(f"anon 1400\n{files}")
    assert memory._left(tmp_path, limit, used, prefix) == 4000 - 3900 + 2500
    (tmp_path / limit).write_text("max\n")
    assert memory._left(tmp_path, limit, used, prefix) is None
    assert memory._left(tmp_path / "absent", limit, used, prefix) is None


def test_networks_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    memory.check_networks(Config(), NUMBERS, 4, 64)
    for config, columns in ((Config(net_arch=(4000, 4000)), 4), (Config(), 10**5)):
        with pytest.raises(UsageError, match=f"with {columns} environments take .* 0.9 GiB free"):
            memory.check_networks(config, NUMBERS, 1, columns)
    # A convolutional network has one copy at a time, however many environments there are.
    memory.check_networks(AtariConfig(), FRAMES, 4, 1000)


def test_this_machine_says_what_it_has() -> None:
    free = memory.available()
    assert free is not None
    assert 2**26 < free < 2**46
