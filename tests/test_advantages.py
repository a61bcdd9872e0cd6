"""Advantages against numbers worked by hand, and against values known in closed form."""

import functools

import numpy as np
import pytest
from toy_envs import Constant, Counter
from toy_training import toy_trainer

from trpo_mpi.advantages import discounted_returns, gae
from trpo_mpi.policies.acting import Actor
from trpo_mpi.trainer import Trainer

# One column of six steps. Step 1 ends truly, step 3 by a time limit, step 5 ends the batch.
REWARDS = np.array([[1.0, 4, 3, 4, 5, 6]])
VALUES = np.array([[1.0, 2, 3, 4, 5, 6]])
# After step 1 comes a terminal state whose value counts for nothing; 10 is V(final observation).
NEXT = np.array([[2.0, 99, 4, 10, 6, 8]])
TERMINATED = np.array([[False, True, False, False, False, False]])
ENDED = np.array([[False, True, False, True, False, False]])
# With gamma = lambda = 1/2:
#   delta = 1 + 2/2 - 1, 4 - 2, 3 + 4/2 - 3, 4 + 10/2 - 4, 5 + 6/2 - 5, 6 + 8/2 - 6
#         = 1, 2, 2, 5, 3, 4,  and  A_t = delta_t + A_t+1 / 4 inside an episode
ADVANTAGES = [[1.5, 2, 3.25, 5, 4, 4]]


def test_by_hand() -> None:
    assert gae(REWARDS, VALUES, NEXT, TERMINATED, ENDED, 0.5, 0.5).tolist() == ADVANTAGES


def test_columns_do_not_meet() -> None:
    both = [np.concatenate([x, np.zeros_like(x), x]) for x in (REWARDS, VALUES, NEXT)]
    flags = [np.concatenate([x, np.zeros_like(x), x]) for x in (TERMINATED, ENDED)]
    advantages = gae(*both, *flags, 0.5, 0.5)  # type: ignore[call-arg]
    assert advantages.tolist() == [ADVANTAGES[0], [0.0] * 6, ADVANTAGES[0]]


def test_lambda_0_is_the_temporal_difference_and_1_the_return() -> None:
    deltas = gae(REWARDS, VALUES, NEXT, TERMINATED, ENDED, 0.5, 0.0)
    assert deltas.tolist() == [[1, 2, 2, 5, 3, 4]]
    returns = gae(REWARDS, VALUES, NEXT, TERMINATED, ENDED, 0.5, 1.0) + VALUES
    assert returns.tolist() == [[1 + 4 / 2, 4, 3 + 4 / 2 + 10 / 4, 4 + 10 / 2, 5 + 10 / 2, 10]]


NOTHING = np.zeros_like(ENDED)


@pytest.mark.parametrize(
    ("next_values", "terminated", "ended", "wrong"),
    [
        (NEXT, TERMINATED, NOTHING, [0, 1, 2, 3]),  # leaks over the episodes' edges
        (NEXT, ENDED, ENDED, [2, 3]),  # a time limit taken for a true end
        (VALUES, TERMINATED, ENDED, [0, 2, 3, 4, 5]),  # the value of the state before
    ],
    ids=["leak", "truncation as terminal", "state before"],
)
def test_the_classic_mistakes_would_show(
    next_values: np.ndarray, terminated: np.ndarray, ended: np.ndarray, wrong: list[int]
) -> None:
    """The numbers above tell each mistake from the truth, at the steps that it affects."""
    mistaken = gae(REWARDS, VALUES, next_values, terminated, ended, 0.5, 0.5)
    assert np.flatnonzero(mistaken != ADVANTAGES).tolist() == wrong


def test_discounted_returns_by_hand() -> None:
    """Reward so far, halved at each step; the next batch goes on where this one stopped."""
    rewards = np.array([[1.0, 2, 4, 8], [1, 1, 1, 1]])
    ended = np.array([[False, True, False, False], [False, False, False, True]])
    start = np.array([8.0, 0.0])
    returns, after = discounted_returns(rewards, ended, start, 0.5)
    assert returns.tolist() == [[5, 4.5, 4, 10], [1, 1.5, 1.75, 1.875]]
    assert after.tolist() == [10, 0]
    assert start.tolist() == [8, 0]


GAMMA = 0.9


def rollout_advantages(trainer: Trainer, perfect: object) -> tuple[np.ndarray, np.ndarray]:
    """Values and advantages of a batch as the trainer takes them, with a known critic."""
    trainer.critic.values = perfect  # type: ignore[assignment, method-assign]
    actor = Actor(trainer.policy, trainer.theta)
    trainer._sampler.collect(actor, trainer.normalizer, 3)  # so that batches cut episodes
    batch = trainer._sampler.collect(actor, trainer.normalizer, 32)
    return trainer._advantages(batch, batch.rewards, actor)


RAW = {"normalize_observations": False, "normalize_returns": False, "gamma": GAMMA, "num_envs": 2}


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_constant_reward_has_its_known_value(end: str) -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma); for the k remaining steps of an episode,
    (1 - gamma**k) / (1 - gamma). A critic that knows this leaves no advantage anywhere."""

    def value(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        left = np.inf if end == "truncated" else 5 - observations[:, 2].astype(np.float64)
        return np.broadcast_to((1 - GAMMA**left) / (1 - GAMMA), len(observations))

    trainer = toy_trainer(functools.partial(Constant, end), **RAW)
    values, advantages = rollout_advantages(trainer, value)
    at_steps = np.array([[0, 0, 3], [0, 0, 4], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(values[0, :4], value(at_steps, at_steps))
    np.testing.assert_allclose(advantages, 0, atol=1e-12)


def test_bootstraps_from_the_final_observation_not_the_next_episodes_first() -> None:
    """With lambda 0 each advantage tells which observation's value it was made from."""
    trainer = toy_trainer(Counter, **RAW, lam=0.0)

    def value(rows: np.ndarray, _: np.ndarray) -> np.ndarray:
        return rows.astype(np.float64) @ [0, 100, 1]

    _, advantages = rollout_advantages(trainer, value)
    expected = []
    episode, k = 1, 0  # the first episode's 3 steps went into the batch before
    for reward in range(4, 36):
        over = k + 1 == 3 + episode % 3
        truly = over and episode % 3 != 1
        bootstrap = 0 if truly else 100 * episode + k + 1
        expected.append(reward + GAMMA * bootstrap - (100 * episode + k))
        episode, k = (episode + 1, 0) if over else (episode, k + 1)
    np.testing.assert_allclose(advantages, [expected] * 2, atol=1e-9)
