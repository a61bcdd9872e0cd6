"""Every setting of the algorithms reaches them."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from toy_envs import Noisy
from toy_training import toy_trainer


@cache
def learnt(**settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of policy and critic after three iterations."""
    trainer = toy_trainer(Noisy, num_envs=2, timesteps_per_batch=32, **{"vf_batch": 16, **settings})
    for _ in range(3):
        trainer.iterate()
    return trainer.theta, trainer.critic.phi


@pytest.mark.parametrize(
    ("algo", "changes"),
    [
        ("trpo", {"entcoeff": 0.1}),
        ("npg", {"entcoeff": 0.1}),
        ("ppo", {"entcoeff": 0.1}),
        ("kl-penalty", {"entcoeff": 0.1}),
        ("kl-penalty", {"policy_iters": 3}),
        ("kl-penalty", {"policy_stepsize": 1e-4}),
        ("kl-penalty", {"max_kl": 1e-5}),
        ("ppo", {"policy_iters": 3}),
        ("ppo", {"policy_stepsize": 1e-4}),
        ("ppo", {"policy_batch": 16}),
        ("ppo", {"clip_range": 1e-3}),
        ("ppo", {"stop_kl": 1e-9}),
        ("ppo", {"max_grad_norm": 1e-9}),
        ("trpo", {"gamma": 0.9}),
        ("trpo", {"lam": 0.5}),
        ("trpo", {"max_kl": 1e-3}),
        ("trpo", {"cg_iters": 2}),
        ("trpo", {"cg_damping": 1.0}),
        ("trpo", {"fisher_fraction": 1.0}),
        ("trpo", {"activation": "relu"}),
        ("trpo", {"reward_scale": 0.1}),
        ("trpo", {"vf_iters": 2}),
        ("trpo", {"vf_batch": 32}),
        ("trpo", {"vf_stepsize": 1e-4}),
        ("trpo", {"vf_clip": 1e-3}),
        ("trpo", {"vf_two_batches": True}),
        ("trpo", {"normalize_observations": False}),
        ("trpo", {"normalize_returns": False}),
        ("trpo", {"clip_rewards": True}),
    ],
    ids=str,
)
def test_a_setting_changes_what_is_learnt(algo: str, changes: dict[str, Any]) -> None:
    """The parameters of the policy, of the critic, or of both."""
    pairs = zip(learnt(algo=algo), learnt(algo=algo, **changes), strict=True)
    assert not all(np.array_equal(one, other) for one, other in pairs)
