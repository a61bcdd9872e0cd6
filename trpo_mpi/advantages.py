"""Generalised advantage estimation, and the discounted return that scales rewards."""

import numpy as np


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    ended: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """GAE(gamma, lambda), Schulman et al. 2016, eq. 16, of each episode on its own.

    delta_t = r_t + gamma * (1 - terminated_t) * V(s_t+1) - V(s_t)
    A_t = delta_t + gamma * lambda * (1 - ended_t) * A_t+1

    A time limit or the end of the batch cuts the recursion but keeps V(s_t+1); a termination
    cuts both.

    Args:
        rewards, values: (E, T) float64; values are V(s_t).
        next_values: (E, T) V of the observation after step t: where an episode ended, of its final
            observation, never of the next episode's first.
        terminated, ended: (E, T) bool; ended is terminated or truncated.

    Returns (E, T) float64.
    """
    deltas = rewards + gamma * np.where(terminated, 0.0, next_values) - values
    carry = gamma * lam * ~ended
    advantages = np.empty_like(deltas)
    running = np.zeros(len(deltas))
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + carry[:, t] * running
        advantages[:, t] = running
    return advantages


def discounted_returns(
    rewards: np.ndarray, ended: np.ndarray, start: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Discounted sum of each episode's rewards *so far*: R_t = gamma * R_t-1 + r_t.

    Rewards are divided by the standard deviation of R (Engstrom et al. 2020, `Implementation
    matters`, section 2). `start` (E,) is R at the end of the previous batch.

    Returns R (E, T), and the `start` of the next batch (E,).
    """
    returns = np.empty_like(rewards)
    running = start
    for t in range(rewards.shape[1]):
        running = gamma * running + rewards[:, t]
        returns[:, t] = running
        running = np.where(ended[:, t], 0.0, running)
    return returns, running
