"""Distributions over actions against scipy, numerical derivatives and their own samples."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from toy_policies import mlp_policy, mode, sample

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.acting import Actor
from trpo_mpi.policies.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    distribution_for,
)
from trpo_mpi.policies.policy import Policy

GAUSSIAN = DiagonalGaussian(gym.spaces.Box(-1, 1, (3,)))
CATEGORICAL = Categorical(gym.spaces.Discrete(4))
MULTI = MultiCategorical(gym.spaces.MultiDiscrete([[2, 3], [4, 2]]))
BERNOULLI = Bernoulli(gym.spaces.MultiBinary((2, 2)))
ALL = pytest.mark.parametrize(
    "distribution",
    [GAUSSIAN, CATEGORICAL, MULTI, BERNOULLI],
    ids=["gauss", "categorical", "multi", "bernoulli"],
)


def parameters(distribution: Distribution, rows: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, distribution.num_parameters))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_gaussian_is_scipys() -> None:
    both = parameters(GAUSSIAN)
    mean, std = both[:, :3], np.exp(both[:, 3:])
    actions = np.random.default_rng(1).normal(mean, std)
    reference = scipy.stats.norm(mean, std)
    log_prob = GAUSSIAN.log_prob(tf.constant(both), tf.constant(actions))
    np.testing.assert_allclose(log_prob, reference.logpdf(actions).sum(1), rtol=1e-12)
    entropy = GAUSSIAN.entropy(tf.constant(both))
    np.testing.assert_allclose(entropy, reference.entropy().sum(1), rtol=1e-12)


def test_categorical_is_scipys() -> None:
    logits = parameters(CATEGORICAL).astype(np.float32)
    p = softmax(logits.astype(np.float64))
    actions = np.array([0, 1, 2, 3, 3, 0])
    expected = [
        scipy.stats.rv_discrete(values=(range(4), row)).logpmf(action)
        for row, action in zip(p, actions, strict=True)
    ]
    log_prob = CATEGORICAL.log_prob(tf.constant(logits), tf.constant(actions))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    entropy = CATEGORICAL.entropy(tf.constant(logits))
    np.testing.assert_allclose(entropy, scipy.stats.entropy(p, axis=1), rtol=1e-5)


def test_gaussian_kl_is_the_integral() -> None:
    """Of p log(p / q), in one dimension at a time."""
    one = DiagonalGaussian(gym.spaces.Box(-1, 1, (1,)))
    old, new = np.array([0.3, -0.2]), np.array([-0.4, 0.5])
    p = scipy.stats.norm(old[0], np.exp(old[1]))
    q = scipy.stats.norm(new[0], np.exp(new[1]))
    integral, _ = scipy.integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -15, 15, epsabs=1e-12
    )
    np.testing.assert_allclose(one.kl(tf.constant(old), tf.constant(new)), integral, rtol=1e-9)


def test_categorical_kl_is_the_sum() -> None:
    old, new = parameters(CATEGORICAL, seed=1), parameters(CATEGORICAL, seed=2)
    expected = scipy.stats.entropy(softmax(old), softmax(new), axis=1)
    np.testing.assert_allclose(CATEGORICAL.kl(tf.constant(old), tf.constant(new)), expected)


@ALL
def test_kl_is_the_mean_log_ratio_of_samples(distribution: Distribution) -> None:
    """KL(old || new), and not the other way round."""
    first = parameters(distribution, 1).astype(np.float32)
    old, new = first + 1, -first
    noise = distribution.draw_noise(np.random.default_rng(3), 200_000)
    if isinstance(distribution, DiagonalGaussian):
        actions = old[:, :3] + np.exp(old[:, 3:]) * noise
    else:
        actions = distribution.choose(old + noise).astype(np.int32)
    log_p, log_q = (distribution.log_prob(tf.constant(x), tf.constant(actions)) for x in (old, new))
    ratio = (log_p - log_q).numpy().astype(np.float64)
    error = 5 * np.std(ratio) / np.sqrt(len(noise))
    kl = float(distribution.kl(tf.constant(old), tf.constant(new))[0])
    backwards = float(distribution.kl(tf.constant(new), tf.constant(old))[0])
    assert abs(np.mean(ratio) - kl) < error < abs(kl - backwards)


@ALL
def test_kl_of_equals_is_zero(distribution: Distribution) -> None:
    old = tf.constant(parameters(distribution), tf.float32)
    assert np.array_equal(distribution.kl(old, old), np.zeros(6))


def test_gaussian_kl_keeps_its_digits_in_a_trust_region() -> None:
    """A KL of 1e-6 from float32 parameters, which 1 - exp(..) would round to its last digit."""
    old = tf.constant(parameters(GAUSSIAN), tf.float32)
    new = old + np.float32(1e-3) * parameters(GAUSSIAN, seed=1).astype(np.float32)
    exact = GAUSSIAN.kl(tf.cast(old, tf.float64), tf.cast(new, tf.float64))
    np.testing.assert_allclose(GAUSSIAN.kl(old, new), exact, rtol=0.01)


@ALL
def test_fisher_product_is_the_hessian_of_kl(distribution: Distribution) -> None:
    for row in parameters(distribution):
        x = tf.Variable(row)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                kl = distribution.kl(tf.constant(row), x)
            gradient = inner.gradient(kl, x)
        hessian = outer.jacobian(gradient, x).numpy()
        products = [
            distribution.fisher_product(tf.constant(row), tf.constant(u)) for u in np.eye(len(row))
        ]
        np.testing.assert_allclose(products, hessian, atol=1e-12)


def act(policy: Policy, theta: np.ndarray, draws: int) -> np.ndarray:
    """Actions of the NumPy actor for one observation of zeros, so that the biases decide."""
    noise = policy.distribution.draw_noise(np.random.default_rng(5), draws)
    return sample(Actor(policy, theta), np.zeros((draws, 2), np.float32), noise)


def test_gaussian_samples_have_the_mean_and_deviation() -> None:
    policy = mlp_policy(2, gym.spaces.Box(-1, 1, (3,)), ())
    mean, std = np.array([1.0, -2.0, 0.0]), np.array([0.5, 1.0, 3.0])
    theta = np.concatenate([np.zeros(6), mean, np.log(std)]).astype(np.float32)
    draws = 100_000
    actions = act(policy, theta, draws)
    for i in range(3):
        assert scipy.stats.kstest(actions[:, i], "norm", (mean[i], std[i])).pvalue > 1e-3
    correlation = np.corrcoef(actions.T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(draws)


def test_categorical_samples_have_the_probabilities() -> None:
    """The largest logit plus Gumbel noise is a sample of the softmax."""
    policy = mlp_policy(2, gym.spaces.Discrete(4), ())
    logits = np.array([0.0, 1.0, -1.0, 2.0])
    actions = act(policy, np.concatenate([np.zeros(8), logits]).astype(np.float32), 100_000)
    counts = np.bincount(actions, minlength=4)
    assert scipy.stats.chisquare(counts, 100_000 * softmax(logits)).pvalue > 1e-3


def multi_parts(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, [2, 5, 9], axis=-1)


def test_multi_categorical_is_scipys() -> None:
    """Its choices are independent: log-probabilities, entropies and KLs add up."""
    old, new = parameters(MULTI), parameters(MULTI, seed=1)
    actions = np.random.default_rng(2).integers(0, [2, 3, 4, 2], (6, 4))
    log_prob, entropy, kl = np.zeros((3, 6))
    for i, (before, after) in enumerate(zip(multi_parts(old), multi_parts(new), strict=True)):
        p = softmax(before)
        log_prob += np.log(p[np.arange(6), actions[:, i]])
        entropy += scipy.stats.entropy(p, axis=1)
        kl += scipy.stats.entropy(p, softmax(after), axis=1)
    given = MULTI.log_prob(tf.constant(old), tf.constant(actions, tf.int32))
    np.testing.assert_allclose(given, log_prob, rtol=1e-12)
    np.testing.assert_allclose(MULTI.entropy(tf.constant(old)), entropy, rtol=1e-12)
    np.testing.assert_allclose(MULTI.kl(tf.constant(old), tf.constant(new)), kl, rtol=1e-12)


def test_bernoulli_is_scipys() -> None:
    logits = parameters(BERNOULLI)
    reference = scipy.stats.bernoulli(1 / (1 + np.exp(-logits)))
    actions = np.random.default_rng(2).integers(0, 2, (6, 4))
    log_prob = BERNOULLI.log_prob(tf.constant(logits), tf.constant(actions, tf.int32))
    np.testing.assert_allclose(log_prob, reference.logpmf(actions).sum(1), rtol=1e-12)
    entropy = BERNOULLI.entropy(tf.constant(logits))
    np.testing.assert_allclose(entropy, reference.entropy().sum(1), rtol=1e-12)


def test_bernoulli_stays_finite_far_out() -> None:
    logits = tf.constant([[200.0, -200.0, 200.0, -200.0]])
    for actions in ([[1, 0, 0, 1]], [[0, 0, 1, 1]]):
        log_prob = BERNOULLI.log_prob(logits, tf.constant(actions, tf.int32))
        assert -401 < float(log_prob[0]) < -199
    assert float(BERNOULLI.entropy(logits)[0]) == 0
    assert float(BERNOULLI.kl(logits, -logits)[0]) == pytest.approx(800)


def test_multi_samples_have_the_probabilities() -> None:
    """Those of each choice; and the choices are independent."""
    space = gym.spaces.MultiDiscrete([2, 3, 4, 2])
    policy = mlp_policy(2, space, ())
    logits, draws = np.array([0, 1, -1, 0, 1, 0, 0, 2, -1, 0.5, 0]), 100_000
    theta = np.concatenate([np.zeros(22), logits]).astype(np.float32)
    actions = act(policy, theta, draws)
    for i, part in enumerate(multi_parts(logits)):
        counts = np.bincount(actions[:, i], minlength=len(part))
        assert scipy.stats.chisquare(counts, draws * softmax(part)).pvalue > 1e-3
    assert np.abs(np.corrcoef(actions.T) - np.eye(4)).max() < 5 / np.sqrt(draws)
    expected = [np.argmax(part) for part in multi_parts(logits)]
    assert mode(Actor(policy, theta), np.zeros((1, 2), np.float32))[0].tolist() == expected


def test_bernoulli_samples_have_the_probabilities() -> None:
    policy = mlp_policy(2, gym.spaces.MultiBinary(4), ())
    logits, draws = np.array([0.0, 1.0, -1.0, 2.0]), 100_000
    theta = np.concatenate([np.zeros(8), logits]).astype(np.float32)
    actions = act(policy, theta, draws)
    for i, logit in enumerate(logits):
        p = 1 / (1 + np.exp(-logit))
        assert scipy.stats.binomtest(int(actions[:, i].sum()), draws, p).pvalue > 1e-3
    assert np.abs(np.corrcoef(actions.T) - np.eye(4)).max() < 5 / np.sqrt(draws)
    assert mode(Actor(policy, theta), np.zeros((1, 2), np.float32))[0].tolist() == [0, 1, 0, 1]


@ALL
def test_noise_is_its_streams(distribution: Distribution) -> None:
    first, same, other = (
        distribution.draw_noise(np.random.default_rng(seed), 50) for seed in (1, 1, 2)
    )
    assert first.shape == (50, distribution.size)
    assert first.dtype == np.float32
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_actions_are_clipped_for_the_environment_only() -> None:
    low, high = np.array([[-1, -2], [0, -np.inf]], np.float32), np.ones((2, 2), np.float32)
    distribution = DiagonalGaussian(gym.spaces.Box(low, high))
    actions = np.array([[-5, -5, -5, -5], [5, 5, 5, 5], [0.5, -1.5, 0.5, 0.5]], np.float32)
    before = actions.copy()
    expected = [[[-1, -2], [0, -5]], [[1, 1], [1, 1]], [[0.5, -1.5], [0.5, 0.5]]]
    assert np.array_equal(distribution.to_environment(actions), expected)
    assert np.array_equal(actions, before)


def test_actions_have_the_spaces_type_and_shape() -> None:
    space = gym.spaces.Box(-1, 1, (2, 3), np.float64)
    actions = DiagonalGaussian(space).to_environment(np.zeros((4, 6), np.float32))
    assert actions.shape == (4, 2, 3)
    assert all(space.contains(action) for action in actions)


def test_clipped_to_limits_that_float32_does_not_hold() -> None:
    """float32(0.1) is more than 0.1."""
    space = gym.spaces.Box(-0.1, 0.1, (1,), np.float64)
    actions = DiagonalGaussian(space).to_environment(np.array([[-5], [5]], np.float32))
    assert actions.tolist() == [[-0.1], [0.1]]


def test_discrete_space_may_start_anywhere() -> None:
    space = gym.spaces.Discrete(3, start=-1)
    actions = Categorical(space).to_environment(np.array([0, 1, 2], np.int32))
    assert actions.tolist() == [-1, 0, 1]
    assert all(action in space for action in actions)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[5, -1], [0, 2]]),
        gym.spaces.MultiBinary((3, 2)),
        gym.spaces.MultiBinary(5),
    ],
    ids=str,
)
def test_chosen_actions_are_of_the_space_and_reach_all_of_it(space: gym.Space[Any]) -> None:
    distribution = distribution_for(space)
    noise = distribution.draw_noise(np.random.default_rng(0), 500)
    actions = distribution.to_environment(distribution.choose(noise))
    assert actions.dtype == space.dtype
    assert all(action in space for action in actions)
    low, high = actions.min(axis=0), actions.max(axis=0)
    if isinstance(space, gym.spaces.MultiDiscrete):
        assert np.array_equal(low, space.start)
        assert np.array_equal(high, space.start + space.nvec - 1)
    else:
        assert (low == 0).all()
        assert (high == 1).all()


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Text(3),
        gym.spaces.Box(0, 5, (2,), np.int64),
        gym.spaces.Dict({"a": gym.spaces.Discrete(2)}),
    ],
    ids=str,
)
def test_other_spaces_are_refused_by_name(space: gym.Space[Any]) -> None:
    with pytest.raises(UsageError, match="must be a Box of floats, Discrete, Multi") as refusal:
        distribution_for(space)
    assert str(space) in str(refusal.value)
