"""Plays episodes with a policy that does not learn from them, and summarises their returns.

Episode k of a seed draws its start and its noise from streams of its own, which training never
draws from: it is the same on any rank, at any time, and whatever else is played.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.config import Config
from trpo_mpi.envs.make import check_env
from trpo_mpi.envs.spaces import Spaces, flattener
from trpo_mpi.envs.vector import GAME, as_number, close, seeded_reset
from trpo_mpi.envs.watchdog import Watchdog
from trpo_mpi.errors import EnvironmentFault, UsageError
from trpo_mpi.model import Model
from trpo_mpi.normalization import ObservationNormalizer
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.acting import Actor
from trpo_mpi.run_directory import model_file
from trpo_mpi.state import EPISODE, seed_sequence


def mode_of(deterministic: bool) -> str:
    """How actions are chosen, in a word."""
    return "deterministic" if deterministic else "stochastic"


@dataclass(frozen=True)
class Summary:
    """Statistics of episodes: undiscounted raw returns, and lengths in time steps."""

    episodes: int
    return_mean: float
    return_std_error: float | None
    """Standard error of the mean; None for a single episode."""
    return_median: float
    return_min: float
    return_max: float
    length_mean: float

    @classmethod
    def of(cls, results: np.ndarray) -> "Summary":
        """Summarise (episodes, 2) returns and lengths."""
        returns, lengths = results.T
        n = len(returns)
        return cls(
            episodes=n,
            return_mean=float(returns.mean()),
            return_std_error=float(returns.std(ddof=1)) / math.sqrt(n) if n > 1 else None,
            return_median=float(np.median(returns)),
            return_min=float(returns.min()),
            return_max=float(returns.max()),
            length_mean=float(lengths.mean()),
        )


def load_model(run: str, which: str, network: str | None) -> Model:
    """Load the model that DIR names, with the user-defined network that `network` names."""
    model = model_file.load(run, "DIR", which)
    own = model.architecture.network
    if own is not None and network is None:
        raise UsageError(f"DIR {run} has a network of its own: name it, --network {own}")
    if own is not None:
        model.architecture = replace(model.architecture, network=network)
    return model


def check_environment(model: Model, run: str, spaces_of: Callable[..., Spaces] = check_env) -> None:
    """Raise `UsageError` unless the model's environment can be made here, with the same spaces."""
    try:
        spaces = spaces_of(model.env, False, model.atari, model.time_feature)
    except UsageError as error:
        reason = str(error).removeprefix("--env ")
        raise UsageError(f"DIR {run} needs an environment: {reason}") from None
    model.spaces.check_same(f"DIR {run}", spaces, f"{model.env} here")


class Behaviour:
    """A policy with its normaliser, both fixed, for playing one episode after another."""

    def __init__(
        self, actor: Actor, normalizer: ObservationNormalizer, deterministic: bool
    ) -> None:
        self._actor, self._normalizer = actor, normalizer
        self._deterministic = deterministic
        self.begin()

    def begin(self) -> None:
        """Start an episode: reset the recurrent state."""
        self._state = self._actor.begin(1)

    def __call__(self, observation: np.ndarray, noise: np.random.Generator) -> np.ndarray:
        """The environment's action for a flat observation; `noise` is the episode's stream."""
        rows, distribution = self._normalizer(observation[None]), self._actor.distribution
        if self._deterministic:
            actions, self._state = self._actor.mode(rows, self._state)
        else:
            drawn = distribution.draw_noise(noise, 1)
            actions, self._state = self._actor.sample(rows, drawn, self._state)
        action: np.ndarray = distribution.to_environment(actions)[0]
        return action


def play_episodes(
    env: gym.Env[Any, Any],
    act: Behaviour,
    comm: Communicator,
    episodes: int,
    seed: int,
    watchdog: Watchdog | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> np.ndarray:
    """Play this rank's share of the episodes and gather all: (episodes, 2) returns and lengths.

    Args:
        env: this rank's environment.
        act: the policy.
        comm: the ranks, all of which call this.
        episodes: number of episodes, over all ranks.
        seed: of the episodes.
        watchdog: told of each call into the environment.
        should_stop: whether this rank is to stop; the episodes it then omits are NaN.
    """
    shares = np.array_split(np.arange(episodes), comm.size)
    rows = np.full((len(shares[comm.rank]), 2), np.nan)
    for row, number in zip(rows, shares[comm.rank], strict=True):
        played = play_episode(env, act, seed, int(number), watchdog, should_stop)
        if played is None:
            break
        row[:] = played
    return comm.gather_rows(rows, np.array([len(share) for share in shares]))


def play_episode(
    env: gym.Env[Any, Any],
    act: Behaviour,
    seed: int,
    number: int,
    watchdog: Watchdog | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[float, int] | None:
    """Undiscounted raw return, and length in time steps, of episode `number`.

    It ends when the environment terminates or truncates it or, if episodes are single lives, with
    the game. None if this rank was asked to stop before that. Raises `EnvironmentFault` if an
    observation or reward is not finite.
    """
    name = f"evaluation episode {number}"
    watchdog = watchdog or Watchdog()
    start, noise = seed_sequence(seed, EPISODE, number).spawn(2)
    generator = np.random.default_rng(noise)
    flatten = flattener(env.observation_space)
    total, length = 0.0, 0
    game: tuple[float, int] | None = None
    try:
        watchdog.watch(name, length)
        first, _ = seeded_reset(env, int(start.generate_state(1)[0]))
        act.begin()
        flat = _finite(flatten(first), total, name, length)
        while game is None and not should_stop():
            length += 1
            watchdog.watch(name, length)
            observation, reward, terminated, truncated, info = env.step(act(flat, generator))
            total += as_number(reward, "in {} at step {}".format, name, length)
            flat = _finite(flatten(observation), total, name, length)
            if terminated or truncated:
                game = info.get(GAME, (total, length))
                if game is None:
                    flat = _finite(flatten(env.reset()[0]), total, name, length)
                    act.begin()
    except EnvironmentFault:
        raise
    except Exception as error:
        # Python 3.10 has no exception notes: there, print it above the traceback.
        getattr(error, "add_note", print)(f"in {name} at step {length}")
        raise
    watchdog.idle()
    return game


def _finite(observation: np.ndarray, total: float, name: str, step: int) -> np.ndarray:
    """The flat observation in float64; `EnvironmentFault` if it or the return is not finite."""
    flat: np.ndarray = observation.astype(np.float64)
    # A sum is finite only if all its terms are, and costs a third of testing each.
    if not math.isfinite(flat.sum() + total):
        raise EnvironmentFault(
            f"an observation or reward is not finite at step {step} of {name}: "
            f"observation {flat}, return {total}"
        )
    return flat


class Evaluator:
    """Evaluates the policy of a run now and then, on an environment that is not trained on.

    Every evaluation plays the same episodes, those of the run's seed. Training never draws from
    their streams, so each mean is a fair estimate, and two means differ because of the policies
    alone and not by luckier starts. An evaluation does not depend on earlier ones, and
    `evaluate --seed` plays the same episodes with a model of the same iteration.

    Args:
        env: this rank's environment.
        comm: the ranks.
        config: settings of the run, with `eval_episodes` above 0.
        watchdog: told of each call into the environment.
    """

    def __init__(
        self, env: gym.Env[Any, Any], comm: Communicator, config: Config, watchdog: Watchdog
    ) -> None:
        self._env, self._comm, self._config, self._watchdog = env, comm, config, watchdog
        self.seconds = 0.0
        """Seconds that the last evaluation took."""

    def due(self, iteration: int, finished: bool) -> bool:
        """Whether to evaluate after this iteration; `finished` says that it is the run's last."""
        every = self._config.eval_every
        return finished or (every is not None and iteration % every == 0)

    def evaluate(
        self, actor: Actor, normalizer: ObservationNormalizer, should_stop: Callable[[], bool]
    ) -> Summary | None:
        """Evaluate a policy, on all ranks; None if any of them was asked to stop meanwhile."""
        config, began = self._config, time.monotonic()
        act = Behaviour(actor, normalizer, config.eval_deterministic)
        results = play_episodes(
            self._env,
            act,
            self._comm,
            config.eval_episodes,
            config.seed,
            self._watchdog,
            should_stop,
        )
        self.seconds = time.monotonic() - began
        return None if np.isnan(results).any() else Summary.of(results)

    def close(self) -> None:
        """Close this rank's environment."""
        close(self._env)
