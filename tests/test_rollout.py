"""Collected batches against environments that keep their own account of every step."""

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_envs import Constant, Counter, Faulty, Noisy
from toy_policies import mlp_policy, sample
from toy_training import toy_trainer, train

from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.errors import EnvironmentFault
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.policies.acting import Actor
from trpo_mpi.rollout import Batch, Sampler
from trpo_mpi.state import COLUMN, seed_sequence


class Rollout:
    """A sampler with a policy that acts at random; `make` is one function, or one per column."""

    def __init__(self, make: Any, columns: list[int]) -> None:
        makers = make if isinstance(make, list) else [make] * len(columns)
        self.envs = ColumnEnvs(makers, columns)
        self.policy = mlp_policy(3, self.envs.single_action_space, (4,))
        self.actor = Actor(self.policy, self.policy.initialise(np.random.default_rng(0)))
        self.normalizer = ObservationNormalizer(Moments.none(3))
        seeds = [seed_sequence(7, COLUMN, column) for column in columns]
        self.sampler = Sampler(self.envs, seeds, self.policy)

    def collect(self, horizon: int) -> Batch:
        return self.sampler.collect(self.actor, self.normalizer, horizon)


HORIZONS = (5, 1, 17, 8, 2, 30)


@pytest.fixture(scope="module")
def counted() -> tuple[Rollout, list[Batch]]:
    rollout = Rollout(Counter, [0, 1, 2])
    return rollout, [rollout.collect(horizon) for horizon in HORIZONS]


def joined(batches: list[Batch], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch, name) for batch in batches], axis=1)


def test_no_step_is_lost_or_counted_twice(counted: tuple[Rollout, list[Batch]]) -> None:
    """Before step n an environment has taken n steps, and step n gives reward n + 1."""
    rollout, batches = counted
    total = sum(HORIZONS)
    taken = joined(batches, "raw_observations")[:, :, 0]
    assert np.array_equal(taken, np.tile(np.arange(total), (3, 1)))
    assert np.array_equal(joined(batches, "rewards"), np.tile(np.arange(1, total + 1), (3, 1)))
    for i, env in enumerate(rollout.envs.envs):
        assert env.total == total  # type: ignore[attr-defined]
        assert joined(batches, "actions")[i].tolist() == env.actions  # type: ignore[attr-defined]


def test_an_episodes_first_observation_is_its_resets(counted: tuple[Rollout, list[Batch]]) -> None:
    """Number in the episode starts at 0 right after the step that ended the one before."""
    _, batches = counted
    observations = joined(batches, "raw_observations")
    starts = observations[:, :, 2] == 0
    ended = joined(batches, "terminated") | joined(batches, "truncated")
    assert np.array_equal(starts[:, 1:], ended[:, :-1])
    assert np.array_equal(joined(batches, "ended"), ended)


def test_terminated_and_truncated_are_kept_apart(counted: tuple[Rollout, list[Batch]]) -> None:
    """Episodes end truly after 3 steps, by a limit after 4, by both after 5, and so on."""
    _, batches = counted
    terminated, truncated = joined(batches, "terminated"), joined(batches, "truncated")
    ends = [3, 7, 12, 15, 19, 24, 27, 31, 36, 39, 43, 48, 51, 55, 60, 63]
    for i in range(3):
        assert (np.flatnonzero(terminated[i] | truncated[i]) + 1).tolist() == ends
        assert (np.flatnonzero(terminated[i]) + 1).tolist() == [n for n in ends if n % 12 != 7]
        assert (np.flatnonzero(truncated[i]) + 1).tolist() == [n for n in ends if n % 12 != 3]


def test_cuts_are_limits_and_batch_ends_with_the_observation_after(
    counted: tuple[Rollout, list[Batch]],
) -> None:
    """The final one of the episode that was cut, never the next one's first; none if termination
    came with the limit."""
    _, batches = counted
    start = 0
    for batch in batches:
        horizon = batch.rewards.shape[1]
        expected = {}
        for i in range(3):
            for t in range(horizon):
                episode = batch.raw_observations[i, t, 1]
                if batch.truncated[i, t] and not batch.terminated[i, t]:
                    expected[i, t] = [start + t + 1, episode, 4]
            if not batch.ended[i, -1]:
                _, episode, number = batch.raw_observations[i, -1]
                expected[i, horizon - 1] = [start + horizon, episode, number + 1]
        given = dict(zip(batch.cuts, map(np.ndarray.tolist, batch.cut_observations), strict=True))
        assert given == expected
        assert len(batch.cuts) == len(given)
        start += horizon


def test_episodes_have_their_raw_return_and_length(counted: tuple[Rollout, list[Batch]]) -> None:
    """By time step and then environment; those that span batches are whole."""
    _, batches = counted
    returns = {}
    for batch in batches:
        keys = [row[:2] for row in batch.episodes]
        assert keys == sorted(keys)
        for _, column, total, length in batch.episodes:
            returns.setdefault(column, []).append((total, length))
    rewards = iter(range(1, 100))
    lengths = [3 + episode % 3 for episode in range(16)]
    expected = [(sum(next(rewards) for _ in range(length)), length) for length in lengths]
    assert returns == {0: expected, 1: expected, 2: expected}


def test_a_column_alone_is_the_column_among_eight() -> None:
    """Seeds belong to the global index: environment, noise and hence actions are the same."""
    alone, among = Rollout(Noisy, [3]), Rollout(Noisy, list(range(8)))
    for _ in range(2):
        one, eight = alone.collect(20), among.collect(20)
        for name in ("raw_observations", "observations", "actions", "rewards"):
            assert np.array_equal(getattr(one, name)[0], getattr(eight, name)[3])
        assert len({eight.raw_observations[i].tobytes() for i in range(8)}) == 8
        assert len({eight.actions[i].tobytes() for i in range(8)}) == 8
        assert [row for row in eight.episodes if row[1] == 3] == one.episodes


def test_policy_sees_what_the_update_gets() -> None:
    """Normalised by the same snapshot, and every action by the row that is kept."""
    rollout = Rollout(Noisy, [0, 1])
    rollout.normalizer = ObservationNormalizer(Moments(10, np.ones(3), np.full(3, 40.0)))
    noise = [np.random.default_rng(seed_sequence(7, COLUMN, i).spawn(2)[1]) for i in range(2)]
    batch = rollout.collect(6)
    np.testing.assert_allclose(batch.observations, (batch.raw_observations - 1) / 2, atol=1e-6)
    drawn = np.stack([rollout.policy.distribution.draw_noise(s, 6) for s in noise])
    for t in range(6):
        expected = sample(rollout.actor, batch.observations[:, t], drawn[:, t])
        assert np.array_equal(batch.actions[:, t], expected)


@pytest.mark.parametrize(
    ("num_timesteps", "expected"),
    [
        (160, [40, 40, 40, 40]),  # as it divides
        (150, [40, 40, 40, 30]),
        (121, [40, 40, 40]),  # 120 is the nearest that five environments allow
        (123, [40, 40, 40, 5]),  # 125 is
        (163, [40, 40, 40, 40, 5]),
        (32, [30]),
        (3, [5]),
    ],
)
def test_time_steps_are_counted_exactly(num_timesteps: int, expected: list[int]) -> None:
    """The last batch is shortened to end as near to num_timesteps as the grid allows."""
    rows = train(
        toy_trainer(Counter, num_envs=5, timesteps_per_batch=40, num_timesteps=num_timesteps)
    )
    assert [row["timesteps_per_batch"] for row in rows] == expected
    assert [row["timesteps"] for row in rows] == np.cumsum(expected).tolist()


def test_the_seed_decides_everything() -> None:
    """Two runs are one run, and another seed is another, in every vector of its state."""

    def state(seed: int) -> list[bytes]:
        settings = {"num_envs": 3, "timesteps_per_batch": 24, "num_timesteps": 96}
        trainer = toy_trainer(Noisy, **settings, seed=seed)
        train(trainer)
        adam, moments = trainer.critic.adam, trainer.normalizer.moments
        assert moments is not None
        arrays = (trainer.theta, trainer.critic.phi, adam.m, adam.v, moments.mean, moments.m2)
        return [array.tobytes() for array in arrays]

    first, same, other = state(3), state(3), state(4)
    assert first == same
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_limits_on_iterations_episodes_and_return() -> None:
    common = {"num_envs": 5, "timesteps_per_batch": 50}
    trainer = toy_trainer(Counter, **common, max_iterations=3)
    assert len(train(trainer)) == 3
    assert "--max-iterations 3" in str(trainer.finished())
    trainer = toy_trainer(functools.partial(Constant, "terminated"), **common, max_episodes=21)
    rows = train(trainer)
    assert [row["episodes"] for row in rows] == [10, 20, 30]
    # Every episode returns 5; the mean is over the last 100, so it is known from there on.
    trainer = toy_trainer(functools.partial(Constant, "truncated"), **common, stop_return=5.0)
    rows = train(trainer)
    assert [row["episode_return_mean"] for row in rows] == [5.0] * 10
    assert rows[-1]["episodes"] == 100


def faulty(monkeypatch: pytest.MonkeyPatch, fault: str, tmp_path: Path) -> Rollout:
    """Three environments for columns 4, 5 and 6, of which 5 goes wrong at its tenth step: its
    episodes are of 3, 4 and 5 steps, so that is the third of the third."""
    settings = {"FAULT": fault, "FAULT_RANK": "0", "FAULT_MADE": "1", "FAULT_STEP": "10"}
    for name, value in (settings | {"FAULT_TIME": str(tmp_path / "time")}).items():
        monkeypatch.setenv(name, value)
    for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Faulty, "made", 3)
    return Rollout(Faulty, [4, 5, 6])


@pytest.mark.parametrize("fault", ["observation", "reward"])
def test_a_nan_names_environment_and_step(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rollout = faulty(monkeypatch, fault, tmp_path)
    rollout.collect(9)
    with pytest.raises(EnvironmentFault, match=f"{fault} .*environment 5 at step 3 of its episode"):
        rollout.collect(1)


def test_a_nan_in_a_final_observation_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Although the next episode's first observation has taken its place."""
    rollout = faulty(monkeypatch, "final", tmp_path)
    monkeypatch.setenv("FAULT_STEP", "7")
    rollout.collect(6)
    with pytest.raises(EnvironmentFault, match=r"observation .*environment 5 at step 4 of"):
        rollout.collect(1)


def test_a_nan_at_the_start_is_seen() -> None:
    class Born(Counter):
        def observe(self) -> np.ndarray:
            return np.array([np.nan, 0, 0])

    with pytest.raises(EnvironmentFault, match=r"observation .*environment 2 "):
        Rollout(Born, [2])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_opposite_infinities_do_not_hide_each_other() -> None:
    class Infinite(Counter):
        def observe(self) -> np.ndarray:
            return np.array([np.inf, -np.inf, 0]) if self.total == 2 else np.zeros(3)

    rollout = Rollout(Infinite, [0])
    with pytest.raises(EnvironmentFault, match=r"observation .*environment 0 at step 2"):
        rollout.collect(3)


def test_a_raising_environment_keeps_its_error_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = faulty(monkeypatch, "raise", tmp_path)
    with pytest.raises(ValueError, match="the toy broke") as caught:
        rollout.collect(20)
    notes = getattr(caught.value, "__notes__", [capsys.readouterr().out.strip()])
    assert notes == ["in environment 5 at step 3 of its episode"]


class Sampling(Counter):
    """Starts at an observation that it draws from its space, and tells `game` in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 1, (3,), np.float64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        *result, _ = super().step(action)
        return *result, {"game": "chess"}


def test_the_seed_is_that_of_the_spaces_too() -> None:
    first, again, other = (
        ColumnEnvs([Sampling] * 2, range(2)).reset(seed=seeds)[0]
        for seeds in ([3, 4], [3, 4], [3, 5])
    )
    assert np.array_equal(first, again)
    assert np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
    assert not np.array_equal(first[0], first[1])


def test_a_wrapper_with_a_space_of_its_own_leaves_none_unseeded() -> None:
    def make() -> gym.Env[Any, Any]:
        wide = gym.spaces.Box(0, 2, (3,), np.float64)
        return gym.wrappers.TransformObservation(Sampling(), lambda x: 2 * x, wide)

    first, again = (ColumnEnvs([make], range(1)).reset(seed=[3])[0] for _ in range(2))
    assert np.array_equal(first, again)


def test_an_info_called_game_is_the_environments_own() -> None:
    envs = ColumnEnvs([Sampling], range(1))
    envs.reset(seed=[3])
    infos = [envs.step(np.zeros(1, np.int64))[4] for _ in range(3)]
    assert "final_obs" in infos[-1]
    assert infos[-1]["games"] == {}


class Paying(Counter):
    """Pays what it is told to."""

    pays: Any = 1.0

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.pays, *rest


@pytest.mark.parametrize("reward", [2, np.float32(2), np.array(2.0), np.array([2.0]), [2.0]])
def test_a_reward_may_be_any_single_number(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paying, "pays", reward)
    envs = ColumnEnvs([Paying], range(1))
    envs.reset(seed=[3])
    assert envs.step(np.zeros(1, np.int64))[1].tolist() == [2.0]


@pytest.mark.parametrize("reward", [np.zeros(2), "much", None])
def test_another_reward_is_refused(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paying, "pays", reward)
    envs = ColumnEnvs([Paying], range(1))
    envs.reset(seed=[3])
    with pytest.raises(EnvironmentFault, match=r"a reward is not .* in environment 0 at step 1"):
        envs.step(np.zeros(1, np.int64))
