"""TensorFlow without Keras until someone asks; GPUs, on a list of devices that is made up."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import Run

from trpo_mpi import tensorflow_setup
from trpo_mpi.errors import UsageError
from trpo_mpi.policies.acting import GPU_IMAGES, IMAGES, BlockwiseForward, safe_blocks
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.tensorflow_setup import choose_gpu, set_up

FOUR = [f"/physical_device:GPU:{i}" for i in range(4)]

ASKING_FOR_KERAS = """
import sys
from trpo_mpi import tensorflow_setup

tensorflow_setup.set_up("-1", 0)
print([name for name in ("keras", "pandas", "matplotlib") if name in sys.modules])
import tensorflow as tf
from tensorflow.keras import layers

print(layers.Dense(3)(tf.ones((1, 2))).shape, tf.keras.optimizers.Adam.__name__)
"""


def test_keras_is_loaded_when_asked_for(python: Run) -> None:
    result = python("-c", ASKING_FOR_KERAS)
    assert result.stdout == "[]\n(1, 3) Adam\n", result.stderr


def test_crashes_are_still_shown_if_asked_for(python: Run) -> None:
    script = "from trpo_mpi import tensorflow_setup; tensorflow_setup.set_up('-1', 0); "
    script += "import faulthandler; faulthandler._sigsegv()"
    result = python("-X", "faulthandler", "-c", script)
    assert "Fatal Python error: Segmentation fault" in result.stderr


@pytest.mark.parametrize(
    ("gpu", "local_rank", "chosen"),
    [
        ("-1", 0, []),
        ("auto", 0, FOUR[:1]),
        ("auto", 3, FOUR[3:]),
        ("auto", 6, FOUR[2:3]),  # more ranks than devices share them
        ("2", 0, FOUR[2:3]),
        ("2", 5, FOUR[2:3]),
    ],
)
def test_which_device_a_rank_uses(gpu: str, local_rank: int, chosen: list[str]) -> None:
    assert choose_gpu(gpu, local_rank, FOUR) == chosen


@pytest.mark.parametrize(
    ("gpu", "devices", "words"),
    [("auto", [], "sees no GPU"), ("0", [], "sees no GPU"), ("4", FOUR, "devices 0 to 3")],
)
def test_a_device_that_is_not_there(gpu: str, devices: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=f"--gpu {gpu}.*{words}"):
        choose_gpu(gpu, 0, devices)


@pytest.mark.parametrize(("gpu", "local_rank", "own"), [("-1", 0, []), ("auto", 1, [1])])
def test_other_devices_are_hidden_and_memory_grows(
    gpu: str, local_rank: int, own: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [SimpleNamespace(name=name) for name in FOUR[:2]]
    chosen = [devices[i] for i in own]
    calls: list[tuple[Any, ...]] = []

    def note(module: Any, name: str) -> None:
        monkeypatch.setattr(module, name, lambda *arguments: calls.append((name, *arguments)))

    monkeypatch.setattr(tf.config, "list_physical_devices", {"GPU": devices}.__getitem__)
    monkeypatch.setattr(tensorflow_setup, "faulthandler", Mock())  # pytest's own stays on
    note(tf.config, "set_visible_devices")
    note(tf.config.experimental, "set_memory_growth")
    note(tf.config.experimental, "enable_tensor_float_32_execution")
    assert set_up(gpu, local_rank) == [device.name for device in chosen]
    assert calls == [
        ("set_visible_devices", chosen, "GPU"),
        *(("set_memory_growth", device, True) for device in chosen),
        ("enable_tensor_float_32_execution", False),
    ]


def test_images_go_to_a_gpu_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """And give the same but for rounding."""
    space = gym.spaces.Box(0, 255, (20, 20, 4), np.uint8)
    policy = Architecture("CnnPolicy").make_policy(space, gym.spaces.Discrete(3))
    theta = policy.initialise(np.random.default_rng(0))
    assert safe_blocks(policy, theta)[-1] in (IMAGES, 1)  # 1 where rows are not exact together
    images = np.random.default_rng(1).integers(0, 256, (5, 1600), np.uint8)
    nothing = np.zeros((5, 0), np.float32)
    by_cpu, _ = BlockwiseForward(policy, theta, (IMAGES,))(images, nothing)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: FOUR[:1])
    blocks = safe_blocks(policy, theta)
    assert blocks == (GPU_IMAGES,)
    together, _ = BlockwiseForward(policy, theta, blocks)(images, nothing)
    np.testing.assert_allclose(together, by_cpu, atol=1e-6)
