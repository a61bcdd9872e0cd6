"""`export`: a SavedModel that acts as the policy does, where there is TensorFlow alone."""

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import Run
from test_model_file import BOX, DISCRETE, make_model

from trpo_mpi import saved_model
from trpo_mpi.config import Config
from trpo_mpi.envs.spaces import Spaces, flattener
from trpo_mpi.errors import UsageError
from trpo_mpi.export import main
from trpo_mpi.model import Model, initial_model
from trpo_mpi.run_directory import model_file

SHAPED = gym.spaces.Box(-0.5, 0.5, (2, 3), np.float64)
CHOICES = gym.spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 5], [-2, 1]])
BITS = gym.spaces.MultiBinary((2, 3))
FLAT = gym.spaces.Box(-np.inf, np.inf, (5,), np.float64)
IMAGE = gym.spaces.Box(0, 255, (36, 40, 2), np.uint8)
CHANNELS_FIRST = gym.spaces.Box(-1, 1, (3, 36, 40), np.float32)
NESTED = gym.spaces.Dict(
    {
        "where": gym.spaces.Box(-9, 9, (2, 2), np.float32),
        "which one": gym.spaces.Discrete(3, start=-1),
        "both": gym.spaces.Tuple([CHOICES, gym.spaces.MultiBinary(2)]),
    }
)
CASES: dict[str, tuple[str, gym.Space[Any], gym.Space[Any], dict[str, Any]]] = {
    "box": ("MlpPolicy", FLAT, BOX, {}),
    "raw": ("MlpPolicy", FLAT, BITS, {"normalize_observations": False}),
    "nested": ("MlpPolicy", NESTED, DISCRETE, {"activation": "elu"}),
    "choice": ("MlpPolicy", gym.spaces.Discrete(4, start=2), CHOICES, {}),
    "lstm": ("MlpLstmPolicy", FLAT, SHAPED, {}),
    "lnlstm": ("MlpLnLstmPolicy", FLAT, CHOICES, {}),
    "cnn": ("CnnPolicy", IMAGE, DISCRETE, {}),
    "nature": ("CnnPolicy", CHANNELS_FIRST, BOX, {"cnn": "nature"}),
    "cnnlstm": ("CnnLstmPolicy", IMAGE, BITS, {}),
    "cnnlnlstm": ("CnnLnLstmPolicy", IMAGE, SHAPED, {}),
    "own": ("MlpLstmPolicy", FLAT, BOX, {"network": "toy_own:network"}),
}
ROWS, STEPS = 5, 3

ACT = """
import sys
sys.modules["trpo_mpi"] = None  # importing it is an error
import numpy as np, tensorflow as tf
for name in sys.argv[1:]:
    act = tf.saved_model.load(name).signatures["serving_default"]
    given, results, state = dict(np.load(name + ".npz")), {}, {}
    recurrent = "state" in act.structured_input_signature[1]
    if recurrent:
        shape = act.structured_input_signature[1]["state"].shape
        state = {"state": tf.zeros((len(given["0/mask"]), shape[1]))}
    for step in range(3):
        inputs = {k[2:]: tf.constant(x) for k, x in given.items() if k[0] == str(step)}
        mask = inputs.pop("mask")
        out = act(**inputs, **state)
        if recurrent:
            state = {"state": out["state"] * mask[:, None]}
        results |= {f"{step}/{k}": x.numpy() for k, x in out.items()}
    np.savez(name + "-out.npz", **results)
"""


def model_of(policy: str, observation: Any, action: Any, more: dict[str, Any]) -> Model:
    """A model whose parameters and moments are all different from 0 and 1."""
    model = initial_model(
        Config(policy=policy, net_arch=(7, 6), lstm_units=5, **more), Spaces(observation, action)
    )
    stream = np.random.default_rng(3)
    model.theta = model.theta + stream.normal(0, 0.3, len(model.theta)).astype(np.float32)
    moments = model.normalizer.moments
    if moments is not None:
        size = len(moments.mean)
        # Deviations from below the floor to above 1; some observations are clipped.
        moments.merge(9.0, stream.normal(size=size), stream.choice([1e-3, 0.5, 30], size))
    return model


def leaves(observations: list[Any], name: str = "observation") -> dict[str, np.ndarray]:
    """A batch as the exported policy takes it."""
    first = observations[0]
    if isinstance(first, dict):
        parts = {k.replace(" ", "_"): [o[k] for o in observations] for k in first}
    elif isinstance(first, tuple):
        parts = {str(i): [o[i] for o in observations] for i in range(len(first))}
    else:
        return {name: np.stack(observations)}
    return {k: x for key, p in parts.items() for k, x in leaves(p, f"{name}_{key}").items()}


def test_acts_as_the_policy_without_this_package(tmp_path: Path, python: Run) -> None:
    """In one other process for all models, without this package."""
    wanted: dict[str, list[tuple[Any, ...]]] = {}
    for name, (policy, observation, action, more) in CASES.items():
        model = model_of(policy, observation, action, more)
        saved_model.save(tmp_path / name, model)
        observation.seed(1)
        flatten, actor = flattener(observation), model.actor()
        state, wanted[name], given = actor.begin(ROWS), [], {}
        for step in range(STEPS):
            seen = [observation.sample() for _ in range(ROWS)]
            rows = np.stack([flatten(one).astype(np.float64) for one in seen])
            normalised = model.normalizer(rows)
            parameters, _ = actor.parameters(normalised, state)
            chosen, state = actor.mode(normalised, state)
            acted = actor.distribution.to_environment(chosen)
            wanted[name].append((acted, parameters, state))
            mask = np.arange(ROWS) != step  # another row's episode ends after each step
            state = state * mask[:, None].astype(np.float32)
            inputs = leaves(seen) | {"mask": mask.astype(np.float32)}
            given |= {f"{step}/{key}": x for key, x in inputs.items()}
        np.savez(tmp_path / f"{name}.npz", **given)
    result = python("-c", ACT, *CASES)
    assert result.returncode == 0, result.stderr
    for name, (_, _, action, _) in CASES.items():
        out = np.load(tmp_path / f"{name}-out.npz")
        for step, (acted, parameters, state) in enumerate(wanted[name]):
            np.testing.assert_allclose(out[f"{step}/parameters"], parameters, atol=2e-5, rtol=1e-4)
            mine = out[f"{step}/action"]
            assert (mine.dtype, mine.shape) == (action.dtype, (ROWS, *(action.shape or ())))
            if isinstance(action, gym.spaces.Box):
                np.testing.assert_allclose(mine, acted, atol=2e-5, rtol=1e-4)
            else:
                np.testing.assert_array_equal(mine, acted)
            assert all(action.contains(one) for one in mine)
            if state.size:
                np.testing.assert_allclose(out[f"{step}/state"], state, atol=2e-5, rtol=1e-4)
    # Means beyond the bounds, or clipping would not show.
    means = np.concatenate([p[:, :6] for _, p, _ in wanted["cnnlnlstm"]])
    assert np.abs(means).max() > 0.5


def test_the_command_says_what_there_is(tmp_path: Path, python: Run) -> None:
    model = model_of("MlpLstmPolicy", NESTED, SHAPED, {})
    model_file.save(tmp_path / "model.zip", model)
    result = python("-m", "trpo_mpi.export", ".", "--saved-model", "out")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    _, *lines, last = result.stdout.splitlines()
    assert last.startswith("episodes begin with a state of zeros")
    assert [line.split(maxsplit=2) for line in lines] == [
        ["input", "observation_both_0", "(N, 2, 2)       int64"],
        ["input", "observation_both_1", "(N, 2)          int8"],
        ["input", "observation_where", "(N, 2, 2)       float32"],
        ["input", "observation_which_one", "(N)             int64"],
        ["input", "state", "(N, 10)         float32"],
        ["output", "action", "(N, 2, 3)       float64"],
        ["output", "parameters", "(N, 12)         float32"],
        ["output", "state", "(N, 10)         float32"],
    ]
    assert sorted(os.listdir(tmp_path)) == ["model.zip", "out"]
    again = python("-m", "trpo_mpi.export", ".", "--saved-model", "out")
    assert again.returncode == 2
    assert again.stderr == "export: error: --saved-model out is there already; name another\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--saved-model", "out"], "there is no nowhere"),
        ([".", "--saved-model", "no/out"], "there is no directory no"),
        ([".", "--saved-model", "/proc/out"], "/proc/out can't be written"),
        (["own.zip", "--saved-model", "out"], "name it, --network toy_own:network"),
        (["same.zip", "--saved-model", "out"], "two parts .* would be the input observation_a_b"),
    ],
)
def test_wrong_usage_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trpo_mpi.parallel.startup.unwind_on_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    same = gym.spaces.Dict({key: gym.spaces.Discrete(2) for key in ("a b", "a_b")})
    model_file.save(Path("model.zip"), make_model())
    model_file.save(Path("own.zip"), model_of(*CASES["own"]))
    model_file.save(Path("same.zip"), model_of("MlpPolicy", same, BOX, {}))
    before = sorted(os.listdir())
    with pytest.raises(UsageError, match=message):
        main()
    assert sorted(os.listdir()) == before


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_module: Any, path: str, **_: Any) -> None:
        (Path(path) / "half").touch()
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trpo_mpi.parallel.startup.unwind_on_signals", lambda: None)
    monkeypatch.setattr(tf.saved_model, "save", full)
    monkeypatch.setattr(sys, "argv", ["export", "model.zip", "--saved-model", "out"])
    model_file.save(Path("model.zip"), make_model())
    with pytest.raises(UsageError, match="out can't be written: No space left on device"):
        main()
    assert os.listdir() == ["model.zip"]
