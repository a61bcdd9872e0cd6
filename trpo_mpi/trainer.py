"""The training loop: collect a batch, estimate advantages, step the policy, fit the critic.

One `Trainer.iterate` is one iteration; what it computes has the same bits on any number of ranks.
Collectives of an iteration: for whole episodes, one agrees on the batch's length; one gathers the
columns' moments, one the finished episodes, if any; then come the policy step's and the critic's
sums (see `algorithms`), and a broadcast of rank 0's parameters, which changes nothing on CPUs of
one kind and keeps the ranks equal on mixed ones.
"""

import copy
import hashlib
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from trpo_mpi.adaptation import Adaptation
from trpo_mpi.advantages import discounted_returns, gae
from trpo_mpi.algorithms import make_update
from trpo_mpi.algorithms.adam import Adam
from trpo_mpi.algorithms.critic import Critic
from trpo_mpi.algorithms.policy_update import CriticBatch, PolicyBatch, PolicyStep, Stage
from trpo_mpi.config import Config
from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.grid import Grid
from trpo_mpi.model import Model, initial_model
from trpo_mpi.normalization import ObservationNormalizer, column_moments, pool, reward_scale
from trpo_mpi.output import warn
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.acting import Actor, safe_blocks
from trpo_mpi.policies.kernel import round_up_to_8
from trpo_mpi.policies.policy import Architecture, ValueNetwork
from trpo_mpi.rollout import Batch, Sampler, resized
from trpo_mpi.state import COLUMN, RESTART, ROWS, Counters, Wish, seed_sequence

ADVANTAGE, TARGET, ERROR, DISCOUNTED = range(4)
"""Series whose moments over the batch are taken, in this order; the error is the critic's."""


class Gathered(NamedTuple):
    """What an iteration gathers from all C columns."""

    means: np.ndarray
    """(C, 4) means of the series."""
    m2: np.ndarray
    """(C, 4) sums of their squared deviations."""
    observations: list[np.ndarray]
    """Means and m2 of the raw observations, (C, D) each; empty if they are not normalised."""
    counted: np.ndarray
    """(C, T) bool: which steps count."""
    episodes: np.ndarray
    """(C,) number of episodes finished on the column's rank."""
    wish: Wish
    """The greatest wish of any rank."""
    mpi_seconds: np.ndarray
    """(C,) seconds that the column's rank spent in MPI in the previous iteration."""


class Iteration(NamedTuple):
    """What one iteration reports."""

    row: dict[str, Any]
    """A row of progress.csv."""
    episodes: list[tuple[float, int]]
    """Rows of monitor.csv: return and length."""
    wish: Wish
    """The greatest wish of any rank."""


class Trainer:
    """One run, from its settings to its model.

    Args:
        config: the settings.
        grid: the batch, C environments by T time steps.
        comm: the ranks, owning the C columns.
        envs: the environments of this rank's columns.
        start: parameters and normalisers to start from, if any.
    """

    def __init__(
        self,
        config: Config,
        grid: Grid,
        comm: Communicator,
        envs: ColumnEnvs | AdoptedEnvs,
        start: Model | None = None,
    ) -> None:
        self.config, self.grid, self.comm = config, grid, comm
        self.spaces = spaces = Spaces.of(envs)
        own = len(comm.columns)
        self.adaptation = Adaptation(config, grid)
        steps = round_up_to_8(grid.horizon) if config.fixed_batch else None

        self.architecture = Architecture.of(config)
        self.policy = self.architecture.make_policy(spaces.observation, spaces.action)
        start = start or initial_model(config, spaces)
        self.theta = start.theta
        self._atari = config.atari or start.atari
        self._time_feature = config.time_feature or start.time_feature
        self.normalizer, self.return_moments = start.normalizer, start.return_moments
        network = ValueNetwork(self.policy, spaces.observation, self.architecture)
        rows, both = grid.rows(config.vf_batch), config.vf_two_batches
        self.critic = Critic(network, start.phi, own, steps, rows, config.vf_clip, both)
        self._update = make_update(self.policy, config, grid, own, steps, self.critic)
        self._share_encoder()
        # Draws time steps, the same on all ranks.
        self._shared_stream = np.random.default_rng(seed_sequence(config.seed, ROWS))
        self._envs = envs
        self._sampler = self._new_sampler(COLUMN)
        self._discounted = np.zeros(own)
        self._blocks = safe_blocks(self.policy, self.theta)
        smallest = comm.gather_columns(np.full((own, 1), self._blocks[-1]))
        self.exact_rows = bool((smallest > 1).all())
        """Whether every rank may act on blocks of rows; see `BlockwiseForward`."""
        self.counters = Counters()
        self.schedule_timesteps = config.num_timesteps
        """Time steps over which settings decay: those of the run's first start."""
        self.best: Model | None = None
        """The policy of the iteration with the highest mean return of 100 episodes."""
        self._best_return = -np.inf
        self.started = time.perf_counter()
        self._mpi_seconds = np.nan
        """Seconds that this rank spent in MPI in the last iteration."""

    def _share_encoder(self) -> None:
        """Give the critic the policy's encoder, if both are trained together.

        What follows the encoder of its own that a critic had does not fit, and begins anew.
        """
        size = self.policy.encoder_size
        encoders = self.critic.phi[:size], self.theta[:size]
        if self.config.shared_vf_coef and not np.array_equal(*encoders):
            if self.comm.is_root:
                warn("the critic begins anew: the model's has an encoder of its own; see --vf-coef")
            begun = initial_model(self.config, self.spaces).phi
            self.critic.phi = np.concatenate([self.theta[:size], begun[size:]])

    def _padded(self, batch: Batch) -> int:
        """Time steps to which the arrays of a batch are padded, T."""
        return round_up_to_8(batch.mask.shape[1] if self.grid.episodes else self.adaptation.horizon)

    def _new_sampler(self, *key: int) -> Sampler:
        seeds = [seed_sequence(self.config.seed, *key, column) for column in self.comm.columns]
        return Sampler(self._envs, seeds, self.policy)

    def restart_episodes(self) -> None:
        """Start new episodes in all of this rank's environments, with seeds of this iteration."""
        self._sampler = self._new_sampler(RESTART, self.counters.iteration)
        self._discounted = np.zeros(len(self.comm.columns))

    @property
    def _normalisers_empty(self) -> bool:
        """Whether the normalisers are still empty: then a batch only initialises them."""
        moments = (self.normalizer.moments, self.return_moments)
        return any(m is not None and m.count == 0 for m in moments)

    def finished(self) -> str | None:
        """Which limit the run has reached, in words; None if it goes on."""
        return self.counters.limit_reached(self.config, self.grid.num_envs)

    def iterate(self, wish: Callable[[], Wish] = lambda: Wish.NOTHING) -> Iteration:
        """Run one iteration.

        Args:
            wish: returns what this rank asks for; called once, after the batch is collected.

        Raises `RuntimeError` if ranks hold different parameters.
        """
        config, comm, counters = self.config, self.comm, self.counters
        clock = _Clock()
        mpi_before = comm.seconds
        actor = Actor(self.policy, self.theta, self._blocks)
        batch = self._collect(actor)
        sample_seconds = clock.lap()

        rewards = np.sign(batch.rewards) if config.clip_rewards else batch.rewards
        scale = reward_scale(self.return_moments, config.reward_scale)
        values, advantages = self._advantages(batch, rewards * scale, actor)
        targets = advantages + values
        discounted, self._discounted = discounted_returns(
            rewards, batch.ended, self._discounted, config.gamma
        )
        series = np.stack([advantages, targets, targets - values, discounted], axis=2)
        gathered = self._gather(series, batch, wish())
        counts = gathered.counted.sum(axis=1)
        timesteps, mean, m2 = pool(counts, gathered.means, gathered.m2)
        episodes = self._gather_episodes(batch, gathered.episodes)
        counters.timesteps += int(timesteps)

        learnt: dict[str, Any] = {}
        # A batch of the caller's own environments may consist of nothing but their resets.
        if timesteps and not self._normalisers_empty:
            learnt = self._learn(batch, advantages, values, gathered.counted, mean, m2 / timesteps)
        self._merge_moments(counts, gathered)
        self._broadcast()
        counters.iteration += 1
        if episodes:
            self.adaptation.follow(sum(total for total, _ in episodes) / len(episodes))
        seconds = clock.total()
        self._mpi_seconds = comm.seconds - mpi_before
        row = learnt | {
            "iteration": counters.iteration,
            "timesteps": counters.timesteps,
            "episodes": counters.episodes,
            "episode_return_mean": counters.return_mean,
            "episode_length_mean": counters.length_mean,
            "timesteps_per_batch": int(timesteps),
            "reward_scale": scale,
            "steps_per_second": timesteps / seconds,
            "seconds": time.perf_counter() - self.started,
            "sample_seconds": sample_seconds,
            "mpi_seconds": self._mpi_seconds,
            "mpi_min_seconds": float(gathered.mpi_seconds.min()),
            "mpi_max_seconds": float(gathered.mpi_seconds.max()),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        self._keep_best()
        return Iteration(row, episodes, gathered.wish)

    def _learn(
        self,
        batch: Batch,
        advantages: np.ndarray,
        values: np.ndarray,
        counted: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
    ) -> dict[str, Any]:
        """Step the policy and fit the critic; returns the columns of progress.csv about it.

        Args:
            advantages, values: (E, T), of this rank's columns.
            counted: (C, T) bool, of all columns.
            mean, variance: (4,), of the series over all columns.
        """
        config, clock, stage = self.config, _Clock(), self._stage()
        normalised = (advantages - mean[ADVANTAGE]) / (np.sqrt(variance[ADVANTAGE]) + 1e-8)
        targets = advantages + values
        step = self._step_policy(batch, normalised, targets, values, counted, stage)
        policy_seconds = clock.lap()
        stepsize = None
        if not config.shared_vf_coef:
            stepsize = stage.decayed(config.vf_stepsize, config.vf_final_stepsize)
            self._fit_critic(batch, targets, values, counted, stepsize)
        explained = None
        if variance[TARGET] > 0:
            explained = 1 - variance[ERROR] / variance[TARGET]
        return (step.more or {}) | {
            "kl": step.kl,
            "entropy": step.entropy,
            "surrogate_improvement": step.improvement,
            "step_fraction": step.fraction,
            "explained_variance": explained,
            "max_kl": stage.max_kl,
            "vf_stepsize": stepsize,
            "policy_seconds": policy_seconds,
            "critic_seconds": clock.lap(),
        }

    def _collect(self, actor: Actor) -> Batch:
        """A batch, of the same number of time steps on all ranks."""
        if not self.grid.episodes:
            left = self.counters.steps_left(self.config, self.grid.num_envs)
            horizon = max(1, min(self.adaptation.horizon, left))
            return self._sampler.collect(actor, self.normalizer, horizon)
        batch = self._sampler.collect_episodes(actor, self.normalizer, self.grid.episodes)
        return batch.resized(int(self.comm.gather_number(batch.mask.shape[1]).max()))

    def _keep_best(self) -> None:
        counters = self.counters
        full = len(counters.returns) == counters.returns.maxlen
        if full and counters.return_mean > self._best_return:
            self._best_return = counters.return_mean
            self.best = self.model()

    def _advantages(
        self, batch: Batch, rewards: np.ndarray, actor: Actor
    ) -> tuple[np.ndarray, np.ndarray]:
        """V(s_t) and GAE advantages, (E, T) each, of scaled `rewards` (E, T)."""
        columns, horizon = rewards.shape
        padded = self._padded(batch)
        seen = [resized(x, padded) for x in (batch.observations, batch.memory)]
        flat = [x.reshape(columns * padded, x.shape[2]) for x in seen]
        values = self.critic.values(*flat).reshape(columns, padded)[:, :horizon]
        next_values = np.zeros_like(values)
        next_values[:, :-1] = values[:, 1:]
        if batch.cuts:
            cut = self.normalizer(np.stack(batch.cut_observations))
            after = self.critic.values(cut, actor.memory(cut, np.stack(batch.cut_states)))
            for (column, step), value in zip(batch.cuts, after, strict=True):
                next_values[column, step] = value
        ends = (batch.terminated, batch.ended)
        return values, gae(rewards, values, next_values, *ends, self.config.gamma, self.config.lam)

    def _gather(self, series: np.ndarray, batch: Batch, wish: Wish) -> Gathered:
        """Gather the moments of `series` (E, T, 4), and the rest of `Gathered`, in one collective.

        Raises `RuntimeError` if the ranks' parameters differ.
        """
        parts = [*column_moments(series, batch.mask)]
        if batch.raw_observations is not None:
            parts += column_moments(batch.raw_observations, batch.mask)
        parts.append(np.packbits(batch.mask, axis=1).astype(np.float64))
        check = self.config.drift_check_every
        drift = self._fingerprint() if check and self.counters.iteration % check == 0 else 0.0
        of_rank = [len(batch.episodes), float(wish), drift, self._mpi_seconds]
        parts.append(np.tile(of_rank, (len(self.comm.columns), 1)))
        everything = self.comm.gather_columns(np.concatenate(parts, axis=1))
        edges = np.cumsum([part.shape[1] for part in parts])[:-1]
        means, m2, *observations, packed, of_ranks = np.split(everything, edges, axis=1)
        episodes, wishes, fingerprints, mpi_seconds = of_ranks.T
        self._check_drift(fingerprints)
        horizon = batch.mask.shape[1]
        counted = np.unpackbits(packed.astype(np.uint8), axis=1, count=horizon).astype(bool)
        wish = Wish(int(wishes.max()))
        return Gathered(means, m2, observations, counted, episodes, wish, mpi_seconds)

    def _fingerprint(self) -> float:
        """A 48-bit hash of the parameters and Adam's moments, which a float64 holds exactly."""
        hasher = hashlib.blake2b(digest_size=6)
        for array in self._parameters():
            hasher.update(array.tobytes())
        return float(int.from_bytes(hasher.digest(), "big"))

    def _check_drift(self, fingerprints: np.ndarray) -> None:
        common = Counter(fingerprints.tolist()).most_common(1)[0][0]
        strays = {self.comm.owner(int(c)) for c in np.flatnonzero(fingerprints != common)}
        if strays:
            ranks = ", ".join(str(rank) for rank in sorted(strays))
            raise RuntimeError(
                f"parameters differ between ranks in iteration {self.counters.iteration + 1}: "
                f"rank {ranks} of {self.comm.size} does not hold what the others hold"
            )

    def _gather_episodes(self, batch: Batch, episodes: np.ndarray) -> list[tuple[float, int]]:
        """Count all ranks' finished episodes; returns them by time step, then environment."""
        counts = episodes[[self.comm.first_column(rank) for rank in range(self.comm.size)]]
        if not counts.any():
            return []
        own = np.array(batch.episodes, np.float64).reshape(-1, 4)
        rows = self.comm.gather_rows(own, counts.astype(int))
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        finished = [(float(total), int(length)) for _, _, total, length in rows]
        self.counters.episodes += len(finished)
        self.counters.returns.extend(total for total, _ in finished)
        self.counters.lengths.extend(length for _, length in finished)
        return finished

    def _step_policy(
        self,
        batch: Batch,
        advantages: np.ndarray,
        targets: np.ndarray,
        values: np.ndarray,
        counted: np.ndarray,
        stage: Stage,
    ) -> PolicyStep:
        """Step the policy on this rank's columns; `counted` (C, T) covers all columns."""
        starts = np.zeros(advantages.shape, np.float32)
        starts[:, 1:] = batch.ended[:, :-1]
        padded = self._padded(batch)
        critics = None
        if self.config.shared_vf_coef:
            learnt = (batch.memory, targets.astype(np.float32), values.astype(np.float32))
            critics = CriticBatch(*(resized(x, padded) for x in learnt))
        prepared = PolicyBatch(
            resized(batch.observations, padded),
            resized(starts, padded),
            batch.states,
            resized(batch.actions, padded),
            resized(advantages.astype(np.float32), padded),
            resized(batch.mask.astype(np.float32), padded),
            counted,
            critics,
        )
        self.theta, step = self._update.step(self.theta, prepared, self.comm, stage)
        return step

    def _stage(self) -> Stage:
        """How far the run is; a trust region adapted to the returns does not decay."""
        done = min(1.0, self.counters.timesteps / self.schedule_timesteps)
        stage = Stage(self.adaptation.max_kl, done, self._shared_stream)
        if not self.config.adapts_kl:
            stage.max_kl = stage.decayed(stage.max_kl, self.config.final_max_kl)
        return stage

    def _fit_critic(
        self,
        batch: Batch,
        targets: np.ndarray,
        values: np.ndarray,
        counted: np.ndarray,
        stepsize: float,
    ) -> None:
        padded = self._padded(batch)
        self.critic.fit(
            resized(batch.observations, padded),
            resized(batch.memory, padded),
            resized(targets.astype(np.float32), padded),
            counted,
            stepsize,
            self.config.vf_iters,
            self._shared_stream,
            self.comm,
            resized(values.astype(np.float32), padded),
        )

    def _merge_moments(self, counts: np.ndarray, gathered: Gathered) -> None:
        if self.normalizer.moments is not None:
            self.normalizer.moments.merge(*pool(counts, *gathered.observations))
        if self.return_moments is not None:
            returns = (x[:, [DISCOUNTED]] for x in (gathered.means, gathered.m2))
            self.return_moments.merge(*pool(counts, *returns))

    def _optimisers(self) -> list[Adam]:
        """Those that are in use: the policy's fits a critic that shares its encoder as well."""
        critic = None if self.config.shared_vf_coef else self.critic.adam
        return [adam for adam in (critic, self._update.adam) if adam is not None]

    def _parameters(self) -> list[np.ndarray]:
        """Parameters and Adam's moments, equal on all ranks, as float32 vectors."""
        moments = [x for adam in self._optimisers() for x in (adam.m, adam.v)]
        return [self.theta, self.critic.phi, *moments]

    def _broadcast(self) -> None:
        parts = self._parameters()
        packed = np.concatenate(parts)
        self.comm.broadcast(packed)
        self.theta, self.critic.phi, *moments = np.split(packed, np.cumsum([*map(len, parts)])[:-1])
        for i, adam in enumerate(self._optimisers()):
            adam.m, adam.v = moments[2 * i : 2 * i + 2]

    def actor(self) -> Actor:
        """The current policy, for single episodes: the same as `model().actor()`."""
        return Actor(self.policy, self.theta, self._blocks, alone=True)

    def model(self) -> Model:
        """The current policy, with its normaliser."""
        # Arrays are replaced and never written to; `Moments` objects are updated in place.
        moments, returns = self.normalizer.moments, self.return_moments
        return Model(
            env=self.config.env,
            architecture=self.architecture,
            spaces=self.spaces,
            theta=self.theta,
            phi=self.critic.phi,
            normalizer=ObservationNormalizer(moments and copy.copy(moments), self.normalizer.kind),
            return_moments=returns and copy.copy(returns),
            adam=self.critic.adam.tree(),
            atari=self._atari,
            time_feature=self._time_feature,
            reward_scale=self.config.reward_scale,
            iteration=self.counters.iteration,
            timesteps=self.counters.timesteps,
        )

    def state(self) -> dict[str, Any]:
        """The state that all ranks share, besides `model` and `best`, as plain data."""
        return {
            "counters": self.counters.tree(),
            "rows": self._shared_stream.bit_generator.state,
            "exponents": self.comm.sum_columns.exponents,
            "schedule_timesteps": self.schedule_timesteps,
            "best_return": self._best_return,
            "seconds": time.perf_counter() - self.started,
            "policy_update": {"algo": self.config.algo} | self._update.tree(),
            "adaptation": self.adaptation.tree(),
        }

    def column_states(self) -> list[dict[str, Any]]:
        """The state of each of this rank's columns, environments included, as plain data."""
        return [
            self._sampler.column_state(i)
            | {
                "discounted": float(self._discounted[i]),
                "fitted": self.critic.column_state(i, column),
            }
            for i, column in enumerate(self.comm.columns)
        ]

    def resume(
        self,
        model: Model,
        best: Model | None,
        state: dict[str, Any],
        columns: Sequence[dict[str, Any]],
    ) -> int:
        """Continue from a saved state, on any number of ranks, with equal bits.

        Args:
            model, best, state: `model()`, `best` and `state()` of the trainer to continue.
            columns: the states of all C columns; if empty, all start new episodes.

        Returns how many of this rank's environments had to start a new episode.
        """
        self.theta, self.critic.phi = model.theta, model.phi
        self._share_encoder()
        self.normalizer, self.return_moments = model.normalizer, model.return_moments
        self.critic.adam.resume(model.adam)
        if "policy_update" in state:  # the first checkpoints, TRPO's alone, carried nothing here
            if state["policy_update"]["algo"] == self.config.algo:
                self._update.resume(state["policy_update"])
            self.adaptation.resume(state["adaptation"])
        self.best, self._best_return = best, state["best_return"]
        self.counters = Counters.from_tree(state["counters"])
        self._shared_stream.bit_generator.state = state["rows"]
        self.comm.sum_columns.exponents = dict(state["exponents"])
        self.schedule_timesteps = state["schedule_timesteps"]
        self.started = time.perf_counter() - state["seconds"]
        if not columns:
            self.restart_episodes()
            return len(self.comm.columns)
        self.critic.restore_columns([column.get("fitted") for column in columns], self.comm.columns)
        restarted = 0
        for i, column in enumerate(self.comm.columns):
            key = (RESTART, self.counters.iteration, column)
            seed = int(seed_sequence(self.config.seed, *key).generate_state(1)[0])
            carried = self._sampler.restore_column(i, columns[column], seed)
            self._discounted[i] = columns[column]["discounted"] if carried else 0.0
            restarted += not carried
        return restarted


class _Clock:
    """Seconds since the last lap, and since the start."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap

    def total(self) -> float:
        return time.perf_counter() - self._start
