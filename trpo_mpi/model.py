"""A trained policy, with all that acting or further training needs."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.config import Atari, Config
from trpo_mpi.envs.make import make_env
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.policies.acting import Actor, safe_blocks
from trpo_mpi.policies.policy import POLICIES, Architecture, Policy, ValueNetwork
from trpo_mpi.state import CRITIC, POLICY, seed_sequence


@dataclass
class Model:
    """Parameters and normalisers, with their environment, architecture and spaces."""

    env: str
    architecture: Architecture
    spaces: Spaces
    theta: np.ndarray
    """Policy parameters, (P,) float32."""
    phi: np.ndarray
    """Critic parameters, float32."""
    normalizer: ObservationNormalizer
    return_moments: Moments | None
    adam: dict[str, Any]
    """The critic's Adam: steps, m, v."""
    atari: Atari | None = None
    """How the game is presented to the policy, if it is a game of ale-py."""
    time_feature: bool = False
    """Whether observations end with the elapsed fraction of the time limit."""
    reward_scale: float = 1.0
    """`Config.reward_scale` of its run, by which the critic's values are scaled."""
    iteration: int | None = None
    """The iteration of its run after which it was saved; None if the file does not say."""
    timesteps: int | None = None
    """Time steps of its run until then; None if the file does not say."""

    def make_env(
        self, render_mode: str | None = None, env_id: str | None = None
    ) -> gym.Env[Any, Any]:
        """Make an environment as in training, of another id if one is given.

        Raises as `envs.make.make_env` does.
        """
        return make_env(env_id or self.env, render_mode, self.atari, self.time_feature)

    def actor(self) -> Actor:
        """The policy, for acting on normalised observations."""
        policy = self.make_policy()
        return Actor(policy, self.theta, safe_blocks(policy, self.theta), alone=True)

    def make_policy(self) -> Policy:
        """The policy, without its parameters."""
        return self.architecture.make_policy(self.spaces.observation, self.spaces.action)

    def make_critic(self) -> ValueNetwork:
        """The critic, without its parameters."""
        return ValueNetwork(self.make_policy(), self.spaces.observation, self.architecture)

    def check_sizes(self) -> None:
        """Raise `ValueError` unless every array has the size that the networks and spaces need."""
        size = self.spaces.observation_size
        critic = self.make_critic().num_parameters
        wanted = [
            ("theta", self.theta, self.make_policy().num_parameters),
            ("phi", self.phi, critic),
            ("adam_m", self.adam["m"], critic),
            ("adam_v", self.adam["v"], critic),
        ]
        for name, moments, length in (
            ("observation", self.normalizer.moments, size),
            ("return", self.return_moments, 1),
        ):
            if moments is not None:
                wanted.append((f"{name}_mean", moments.mean, length))
                wanted.append((f"{name}_m2", moments.m2, length))
        for name, array, length in wanted:
            if array.shape != (length,):
                raise ValueError(f"{name} has shape {array.shape} and not ({length},)")

    def check_network(self, source: str) -> None:
        """Raise `UsageError` unless the user's own network, if any, fits these parameters.

        Such a network needs TensorFlow to be set up.
        """
        if self.architecture.network is None:
            return  # the file's reader has checked the sizes of built-in ones
        try:
            self.check_sizes()
        except UsageError:
            raise
        except ValueError as error:
            name = self.architecture.network
            raise UsageError(f"{source} was made with another network {name!r}: {error}") from None

    def check_fits(self, config: Config, spaces: Spaces, source: str) -> None:
        """Raise `UsageError`, naming the difference, unless a run can start from this model."""
        self.spaces.check_same(source, spaces, "the run")
        normalized = self.normalizer.moments is not None
        images = POLICIES[self.architecture.policy].images
        for what, mine, its in (
            *(
                (field.name, getattr(self.architecture, field.name), getattr(config, field.name))
                for field in dataclasses.fields(Architecture)
            ),
            ("normalize_observations", normalized, config.normalize_observations and not images),
            ("normalize_returns", self.return_moments is not None, config.normalize_returns),
            ("reward_scale", self.reward_scale, config.reward_scale),
        ):
            if mine != its:
                raise UsageError(f"{source} has {what} {mine}, but the run has {its}")


def initial_model(config: Config, spaces: Spaces) -> Model:
    """The model that a new run starts from."""
    architecture = Architecture.of(config)
    policy = architecture.make_policy(spaces.observation, spaces.action, config.init_logstd)
    critic = ValueNetwork(policy, spaces.observation, architecture)
    theta, phi = (
        part.initialise(np.random.default_rng(seed_sequence(config.seed, key)))
        for part, key in ((policy, POLICY), (critic, CRITIC))
    )
    if config.shared_vf_coef:
        phi = np.concatenate([theta[: policy.encoder_size], phi[policy.encoder_size :]])
    normalised = config.normalize_observations and not policy.images
    moments = Moments.none(spaces.observation_size) if normalised else None
    return Model(
        env=config.env,
        architecture=architecture,
        spaces=spaces,
        theta=theta,
        phi=phi,
        normalizer=ObservationNormalizer(moments, policy.observation_type),
        return_moments=Moments.none(1) if config.normalize_returns else None,
        adam={"steps": 0, "m": np.zeros_like(phi), "v": np.zeros_like(phi)},
        atari=config.atari,
        time_feature=config.time_feature,
        reward_scale=config.reward_scale,
    )
