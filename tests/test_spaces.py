"""Every observation and action space: flattened, kept in a file, and trained on."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_training import toy_trainer, train

from trpo_mpi.envs.spaces import Spaces, flattener, from_tree, same, to_tree
from trpo_mpi.errors import EnvironmentFault, UsageError
from trpo_mpi.run_directory import archive

BOX = gym.spaces.Box(np.array([[-1, 0], [-np.inf, 2]], "f"), np.array([[1, 1], [3, np.inf]], "f"))
MULTI = gym.spaces.MultiDiscrete([2, 3], start=[1, -1])
ACTIONS = {
    "box": gym.spaces.Box(-1, 1, (2, 2)),
    "discrete": gym.spaces.Discrete(3, start=5),
    "multi-discrete": MULTI,
    "multi-binary": gym.spaces.MultiBinary((2, 2)),
    "small discrete": gym.spaces.Discrete(3, start=-1, dtype=np.int16),
}
OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "box": BOX,
    "integers": gym.spaces.Box(0, 255, (3,), np.uint8),
    "discrete": gym.spaces.Discrete(4, start=-2),
    "multi-discrete": MULTI,
    "multi-binary": gym.spaces.MultiBinary((2, 2)),
    "dict": gym.spaces.Dict({"b": gym.spaces.Discrete(2), "a": BOX}),
    "small discrete": gym.spaces.Discrete(4, dtype=np.int32),
    "one number": gym.spaces.Box(-1, 1, ()),
    "tuple": gym.spaces.Tuple([MULTI, gym.spaces.Dict({"x": gym.spaces.MultiBinary(2)})]),
}
PAIRS = {
    **{f"{name}-box": (space, ACTIONS["box"]) for name, space in OBSERVATIONS.items()},
    **{f"box-{name}": (BOX, space) for name, space in ACTIONS.items()},
}
"""Each observation with one action and each action with one observation."""


class Random(gym.Env[Any, Any]):
    """Observes samples of a space; actions must be of theirs. Reward 1; episodes of 5 steps."""

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 5, False, {}


class Identity(gym.Env[np.ndarray, Any]):
    """Reward for giving back what is observed, as numbers from 0 to 1; 20 steps an episode."""

    def __init__(self, action: gym.Space[Any]) -> None:
        self.action_space = action
        self._size = gym.spaces.flatdim(action)
        self.observation_space = gym.spaces.Box(-1, 1, (self._size,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.action_space.seed(seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        self.target = gym.spaces.flatten(self.action_space, self.action_space.sample())
        return np.asarray(self.target, np.float32)

    def step(self, action: Any) -> Any:
        given = gym.spaces.flatten(self.action_space, action)
        reward = 1 - np.abs(given - self.target).mean()
        if isinstance(self.action_space, gym.spaces.Discrete):
            reward = float(np.array_equal(given, self.target))
        self.steps += 1
        return self._draw(), float(reward), False, self.steps == 20, {}


@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_a_space_survives_its_file(space: gym.Space[Any]) -> None:
    again = from_tree(archive.unpack(archive.pack(to_tree(space))))
    assert again == space
    assert again.dtype == space.dtype
    assert again.seed(1) == space.seed(1)
    first, second = (flattener(s)(s.sample()) for s in (space, again))
    assert np.array_equal(first, second)
    assert len(first) == Spaces(space, ACTIONS["box"]).observation_size


def test_the_order_of_a_dicts_keys_counts() -> None:
    """Flat observations follow it."""
    ab, ba = (
        gym.spaces.Tuple([gym.spaces.Dict([(name, OBSERVATIONS["box"]) for name in names])])
        for names in ("ab", "ba")
    )
    assert same(ab, ab)
    assert not same(ab, ba)
    assert not same(ab[0], gym.spaces.Dict({"a": OBSERVATIONS["box"]}))


def test_flat_observations_by_hand() -> None:
    assert flattener(OBSERVATIONS["discrete"])(-1).tolist() == [0, 1, 0, 0]
    assert flattener(MULTI)(np.array([2, -1])).tolist() == [0, 1, 1, 0, 0]
    assert flattener(BOX)(np.array([[1, 2], [3, 4]])).tolist() == [1, 2, 3, 4]
    both = flattener(OBSERVATIONS["dict"])({"b": 1, "a": np.array([[1, 2], [3, 4]])})
    parts = {"a": [1, 2, 3, 4], "b": [0, 1]}
    order = list(OBSERVATIONS["dict"].spaces)  # type: ignore[attr-defined]
    assert both.tolist() == [x for name in order for x in parts[name]]


@pytest.mark.parametrize(("observation", "action"), PAIRS.values(), ids=PAIRS)
def test_every_space_trains(observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    grid = {"num_envs": 2, "timesteps_per_batch": 32, "num_timesteps": 64}
    trainer = toy_trainer(lambda: Random(observation, action), **grid)
    before = trainer.theta
    *_, row = train(trainer)
    assert row["kl"] <= row["max_kl"]
    assert np.isfinite(trainer.theta).all()
    assert not np.array_equal(trainer.theta, before)


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_identity_is_learned(action: gym.Space[Any]) -> None:
    """95 % of the best return, by the mean of the last 100 episodes in training."""
    trainer = toy_trainer(
        lambda: Identity(action),
        num_envs=8,
        timesteps_per_batch=512,
        num_timesteps=60_000,
        net_arch=(32,),
        gamma=0.0,
        max_kl=0.05,
        init_logstd=-1.0,
        stop_return=19.0,
    )
    *_, row = train(trainer)
    assert row["episode_return_mean"] >= 19.0


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Text(5),
        gym.spaces.Sequence(gym.spaces.Discrete(2)),
        gym.spaces.Dict({"a": gym.spaces.Graph(BOX, None)}),
    ],
    ids=["text", "sequence", "graph"],
)
def test_an_unsupported_observation_space_is_refused_by_name(space: gym.Space[Any]) -> None:
    with pytest.raises(UsageError, match="must be a Box, Discrete") as refusal:
        Spaces(space, ACTIONS["box"]).check()
    assert str(space) in str(refusal.value)


@pytest.mark.parametrize(
    ("observation", "action", "what"),
    [
        (gym.spaces.Box(0, 1, (0,)), BOX, "observation"),
        (gym.spaces.Dict({}), BOX, "observation"),
        (BOX, gym.spaces.Box(0, 1, (3, 0)), "action"),
    ],
)
def test_a_space_without_numbers_is_refused(
    observation: gym.Space[Any], action: gym.Space[Any], what: str
) -> None:
    with pytest.raises(UsageError, match=f"the {what} space .* is empty"):
        Spaces(observation, action).check()


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (gym.spaces.Discrete(4), -1),
        (gym.spaces.Discrete(4, start=2), 1),
        (gym.spaces.Discrete(4, start=2), 6),
        (gym.spaces.MultiDiscrete([3, 2]), np.array([3, 0])),
        (gym.spaces.MultiDiscrete([3, 2]), np.array([0, -1])),
        (gym.spaces.Tuple([gym.spaces.Discrete(2), gym.spaces.Discrete(2)]), (0, -1)),
    ],
    ids=str,
)
def test_a_choice_outside_its_space_is_refused(space: gym.Space[Any], wrong: Any) -> None:
    """Gymnasium would take it for another one."""
    with pytest.raises(ValueError, match="is none of the choices of"):
        flattener(space)(wrong)


@pytest.mark.parametrize("wrong", [{"b": 1}, {"a": np.zeros((2, 2)), "b": 7}, None, 3.0], ids=str)
def test_an_observation_outside_its_space_is_named(wrong: Any) -> None:
    class Wrong(Random):
        def step(self, action: Any) -> Any:
            return wrong, 0.0, False, False, {}

    trainer = toy_trainer(lambda: Wrong(OBSERVATIONS["dict"], ACTIONS["discrete"]), num_envs=2)
    with pytest.raises(EnvironmentFault, match=r"in environment 0 at step 1 .*"):
        trainer.iterate()
