"""TRPO and PPO as Python classes, with the names of Stable-Baselines' TRPO, on Gymnasium.

    from trpo_mpi import TRPO
    model = TRPO("MlpPolicy", "CartPole-v1").learn(25000)
    action, _ = model.predict(observation)

`learn` runs the commands' trainer; a script that calls it runs under `mpirun` unchanged. Acting,
loading and saving need no MPI, and TensorFlow only for convolutions and user-defined networks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from trpo_mpi.atomic_file import whole_file
from trpo_mpi.config import ALTERNATIVES, AtariConfig, Config
from trpo_mpi.display import Display
from trpo_mpi.envs import given
from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.given import Env
from trpo_mpi.envs.make import make_env
from trpo_mpi.envs.spaces import Spaces, flat_rows
from trpo_mpi.envs.vector import ColumnEnvs
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import Grid, batch_grid
from trpo_mpi.model import Model, initial_model
from trpo_mpi.normalization import ObservationNormalizer, reward_scale
from trpo_mpi.parallel import startup
from trpo_mpi.policies.acting import Actor, BlockwiseForward, safe_blocks
from trpo_mpi.policies.own import (
    code_of,
    find_network,
    from_code,
    is_registered,
    name_of,
    register_network,
)
from trpo_mpi.policies.policy import Policy
from trpo_mpi.run_directory import archive, checkpoint, event_file, model_file
from trpo_mpi.run_directory.event_file import EventFile
from trpo_mpi.state import Wish

if TYPE_CHECKING:
    from trpo_mpi.parallel.communicator import Communicator
    from trpo_mpi.trainer import Trainer

STABLE_BASELINES: dict[str, Any] = {
    "final_max_kl": 1.0,
    "fisher_fraction": 0.2,
    "line_search_shrink": 0.5,
    "vf_batch": 128,
    "vf_final_stepsize": 1.0,
    "normalize_observations": False,
    "normalize_returns": False,
}
"""How Stable-Baselines' TRPO differs from the commands' defaults, besides the arguments below."""

SETTINGS = {field.name for field in dataclasses.fields(Config)} - set(
    "env time_feature num_timesteps recipe outdir resume allow_changes load which checkpoint_every "
    "max_hours env_timeout render check eval_episodes eval_every eval_deterministic "
    "video_every tensorboard".split()
)
"""Fields of `Config` that are arguments here; the others apply only to the commands."""


LIMITS = {"max_iterations", "max_episodes", "stop_return"}
"""Those that end training before its time steps do."""

CODE = "network.pkl"
"""The member of a model file that holds the code of a user-defined network."""


class TRPO:
    """Trust-region policy optimisation (Schulman et al. 2015), data-parallel over MPI ranks.

    Args:
        policy: the kind of policy, by name or class; see `trpo_mpi.policies.policy`.
        env: what to train on. An id or a function that returns an environment: environments are
            made and dealt out to the ranks, whose number does not change the result. An
            environment or a vector environment: it is this rank's own. None until `set_env`.
        gamma, timesteps_per_batch, max_kl, cg_iters, lam, entcoeff, cg_damping, vf_stepsize,
            vf_iters: as the `Config` fields of the same names; counts are over all ranks.
        verbose: 0 prints nothing, 1 progress, 2 TensorFlow's log as well.
        tensorboard_log: a directory; `learn` writes TensorBoard's event file into the first of
            TRPO_1, TRPO_2, ... (PPO_1, ... of `PPO`) in it that does not exist yet.
        more: the other fields of `Config` in `SETTINGS`: `seed`, `num_envs`, `net_arch`, ...;
            `network` may be a function or a Keras model, see `trpo_mpi.policies.own`;
            `episodes_per_batch` takes the place of `timesteps_per_batch`.

    Raises `ValueError` for a value out of range and for spaces that can't be trained on, and
    `TypeError` for an unknown argument.
    """

    def __init__(
        self,
        policy: str | type[Policy] = "MlpPolicy",
        env: Env | None = None,
        gamma: float = 0.99,
        timesteps_per_batch: int | None = 1024,
        max_kl: float = 0.01,
        cg_iters: int = 10,
        lam: float = 0.98,
        entcoeff: float = 0.0,
        cg_damping: float = 1e-2,
        vf_stepsize: float = 3e-4,
        vf_iters: int = 3,
        verbose: int = 0,
        tensorboard_log: str | Path | None = None,
        **more: Any,
    ) -> None:
        policy = policy if isinstance(policy, str) else policy.__name__
        named = dict(locals())
        unknown = sorted(set(more) - SETTINGS)
        if unknown:
            raise TypeError(f"{type(self).__name__}() has no argument {unknown[0]!r}")
        settings = STABLE_BASELINES | {key: named[key] for key in SETTINGS & set(named)} | more
        if settings.get("episodes_per_batch") is not None:
            settings["timesteps_per_batch"] = None
        if settings.get("seed") is None:  # Stable-Baselines' default
            settings["seed"] = Config.seed
        settings = {key: _plain(x) for key, x in settings.items()}
        settings["gpu"] = str(settings.get("gpu", Config.gpu))
        if not isinstance(settings.get("network"), str | None):
            network = settings["network"]
            settings["network"] = register_network(name_of(network), network)
        self.config = Config(**settings)
        self.config.validate()
        self.verbose = verbose
        if tensorboard_log is not None:
            event_file.check_installed("tensorboard_log")
        if startup.launched().size > 1:
            startup.abort_on_failure()
        self.tensorboard_log = tensorboard_log
        self._events: EventFile | None = None
        self.env: Env | None = None
        self._model: Model | None = None
        self._state: dict[str, Any] | None = None
        self._trainer: Trainer | None = None
        self._forget()
        if env is not None:
            self.set_env(env)

    def get_env(self) -> Env | None:
        """The environment to train on, as it was given."""
        return self.env

    def set_env(self, env: Env) -> None:
        """Train on `env` from now on. Raises `ValueError` if its spaces are not the model's."""
        spaces = given.spaces_of(env, self.make_env)
        spaces.check()
        if self._model is None:
            if self.config.network is not None:
                self._start_tensorflow()
            self.config = replace(self.config, env=given.name_of(env))
            self._model = initial_model(self.config, spaces)
        self.check_spaces(spaces)
        self.env, self._trainer = env, None

    def check_spaces(self, spaces: Spaces) -> None:
        """Raise `ValueError` unless these are the spaces of the model's environment."""
        self._whole().spaces.check_same("the model", spaces, "the environment")

    def make_env(self, env_id: str) -> gym.Env[Any, Any]:
        """Make an environment from its id, as in training if a command trained the model."""
        return make_env(env_id) if self._model is None else self._model.make_env(env_id=env_id)

    def learn(
        self,
        total_timesteps: int,
        callback: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None,
        seed: int | None = None,
        log_interval: int = 100,
    ) -> TRPO:
        """Train for `total_timesteps` more, counted over all ranks; all ranks must call it.

        Args:
            total_timesteps: further time steps; a second call continues where the first ended,
                but starts new episodes in an environment that is this rank's own.
            callback: called with `locals()` and `globals()` in each iteration; if it returns False
                on any rank, this iteration is the last of the call.
            seed: of everything random in the run; only before its first iteration.
            log_interval: iterations between the lines that `verbose` prints.

        Returns this model.
        """
        total_timesteps = int(total_timesteps)
        if total_timesteps < 1:
            raise UsageError(f"total_timesteps is {total_timesteps}; it must be 1 or more")
        if seed is not None and seed != self.config.seed:
            self._reseed(seed)
        if self._trainer is None:
            self._trainer = self._set_up()
        elif self.env is not None and given.is_own(self.env):
            # Anything may have been done to it since.
            self._trainer.restart_episodes()
        trainer = self._trainer
        done = trainer.counters.timesteps
        if not done:
            trainer.schedule_timesteps = total_timesteps
        trainer.config = replace(trainer.config, num_timesteps=done + total_timesteps)
        shown = None
        if trainer.comm.is_root and (reached := trainer.finished()) is not None:
            print(f"note: nothing is learnt: {reached}", file=sys.stderr, flush=True)
        if self.verbose and trainer.comm.is_root:
            shown = Display(trainer.config.num_timesteps, done)
        if self.tensorboard_log is not None and trainer.comm.is_root and self._events is None:
            self._events = self._event_file(Path(self.tensorboard_log), trainer)

        def wish() -> Wish:
            answer = True if callback is None else callback(scope, globals())
            stops = isinstance(answer, bool | np.bool_) and not answer
            return Wish.STOP if stops else Wish.NOTHING

        asked_for = Wish.NOTHING
        try:
            while asked_for != Wish.STOP and trainer.finished() is None:
                # Without `scope` itself, which would keep every earlier iteration alive.
                scope = {name: x for name, x in locals().items() if name != "scope"}
                row, _, asked_for = trainer.iterate(wish)
                self._adopt(trainer)
                last = asked_for == Wish.STOP or trainer.finished() is not None
                if shown is not None:
                    shown.show(row, line=last or row["iteration"] % log_interval == 0)
                if self._events is not None:
                    self._events.add(row)
        except SystemExit as stop:
            if trainer.comm.size > 1:  # this rank alone, perhaps, and the others would wait
                startup.abort(stop)
            raise
        finally:
            if shown is not None:
                shown.close()
        return self

    def _event_file(self, log: Path, trainer: Trainer) -> EventFile:
        """A new event file for this model, in a directory of its own."""
        free = (log / f"{type(self).__name__}_{n}" for n in itertools.count(1))
        directory = next(path for path in free if not path.exists())
        settings = {key: getattr(trainer.config, key) for key in sorted(SETTINGS | {"env"})}
        return EventFile(directory, settings, trainer.counters.timesteps)

    def _reseed(self, seed: int) -> None:
        if self._state is not None:
            raise UsageError(f"seed is {seed}, but this run has begun with {self.config.seed}")
        config = replace(self.config, seed=int(seed))
        config.validate()
        self.config, self._trainer = config, None
        if self._model is not None and not self._model.iteration:  # not trained by a command
            self._model = initial_model(config, self._model.spaces)
        self._forget()

    def restart_episodes(self) -> None:
        """Have training start new episodes, since something else has stepped its environments."""
        if self._trainer is not None:
            self._trainer.restart_episodes()

    def _adopt(self, trainer: Trainer) -> None:
        """Take the trainer's parameters and counters."""
        self._model, self._state = trainer.model(), trainer.state()
        self._forget()

    def _forget(self) -> None:
        """Drop what acting has made from older parameters or another seed."""
        self._actor: Actor | None = None
        self._critic: BlockwiseForward | None = None
        self._noise = np.random.default_rng(self.config.seed)

    def _set_up(self) -> Trainer:
        """The trainer of this model, on all ranks."""
        env = self.env
        if env is None:
            raise UsageError("there is no environment to learn in: set_env gives one")
        comm = startup.connect()
        self._start_tensorflow()
        comm, grid, envs = comm.everywhere(
            lambda: _environments(env, self.config, comm, self.make_env)
        )
        if given.is_own(env) and comm.size > 1 and comm.is_root:
            note = "each rank's own: the result depends on the number of ranks"
            print(f"note: this environment is {note}", file=sys.stderr, flush=True)
        from trpo_mpi.trainer import Trainer

        trainer = Trainer(self.config, grid, comm, envs, self._whole())
        if self._state is not None:
            trainer.resume(self._whole(), None, self._state, [])
        return trainer

    def predict(
        self,
        observation: Any,
        state: Any = None,
        mask: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """The action for an observation, or actions for a batch; and the state after it.

        Args:
            observation: one, or a batch of n.
            state: the state that the last call for these environments returned; None at the start
                of episodes, and always for a policy that is not recurrent.
            mask: whether an episode has ended since that call: a bool, or (n,); None means no.
            deterministic: take the most probable action instead of a sample.

        Raises `ValueError` for an observation of another shape than the space's, and for a state
        that does not fit this policy and the number of environments.
        """
        rows, one = self._rows(observation)
        actions, after = self.act(rows, self._carried(state, mask, len(rows)), deterministic)
        return (actions[0] if one else actions), (after if after.size else None)

    def act(
        self, rows: np.ndarray, state: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Environment actions for normalised flat observations (n, D), and the states after."""
        actor = self.actor
        if deterministic:
            actions, state = actor.mode(rows, state)
        else:
            noise = actor.distribution.draw_noise(self._noise, len(rows))
            actions, state = actor.sample(rows, noise, state)
        return actor.distribution.to_environment(actions), state

    def _carried(self, state: Any, mask: Any, rows: int) -> np.ndarray:
        """The policy's state before these rows: (n, S)."""
        start = self.actor.begin(rows)
        if state is None or not start.size:
            return start
        given = np.asarray(state, np.float32)
        if given.shape != start.shape:
            raise UsageError(f"the state has shape {given.shape}; it must be {start.shape}")
        ended = (
            np.zeros(rows, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), rows)
        )
        return np.where(ended[:, None], start, given)

    def action_probability(
        self, observation: Any, state: Any = None, mask: Any = None, actions: Any = None
    ) -> Any:
        """The distribution over actions, or the probability of given ones.

        Args:
            observation: one, or a batch of n.
            state, mask: as for `predict`.
            actions: one action of the action space per observation, or None.

        Returns, without `actions`: for Discrete the probability of each choice; for MultiDiscrete
        a list of these; for MultiBinary the probability of each bit; for Box means and standard
        deviations. With `actions`: their probability, for Box the density (before clipping).
        """
        rows, one = self._rows(observation)
        actor = self.actor
        distribution = actor.distribution
        parameters, _ = actor.parameters(rows, self._carried(state, mask, len(rows)))
        if actions is None:
            described = distribution.describe(parameters)
            if not one:
                return described
            many = isinstance(described, list | tuple)
            return type(described)(x[0] for x in described) if many else described[0]
        chosen = distribution.from_environment(np.asarray(actions))
        if not distribution.has(chosen):
            raise UsageError(f"an action is outside of {distribution.space}: {actions}")
        if len(chosen) != len(rows):
            raise UsageError(f"there are {len(rows)} observations, but {len(chosen)} actions")
        import tensorflow as tf

        log_prob = distribution.log_prob(tf.constant(parameters), tf.constant(chosen))
        probabilities = np.exp(np.asarray(log_prob))
        return probabilities[0] if one else probabilities

    def predict_values(self, observation: Any, state: Any = None, mask: Any = None) -> Any:
        """The critic's value of an observation, or (n,) of a batch, in units of the reward.

        `state` and `mask` are as for `predict`.
        """
        rows, one = self._rows(observation)
        model = self._whole()
        memory = self.actor.memory(rows, self._carried(state, mask, len(rows)))
        if self._critic is None:
            network = model.make_critic()
            self._critic = BlockwiseForward(
                network, model.phi, safe_blocks(network, model.phi), alone=True
            )
        scale = reward_scale(model.return_moments, self.config.reward_scale)
        values = self._critic(rows, memory)[0][:, 0].astype(np.float64) / scale
        return values[0] if one else values

    @property
    def normalizer(self) -> ObservationNormalizer:
        """Turns flat observations into the policy's inputs."""
        return self._whole().normalizer

    @property
    def actor(self) -> Actor:
        """The current policy, for acting."""
        if self._actor is None:
            if self._whole().architecture.needs_tensorflow:
                self._start_tensorflow()
            self._actor = self._whole().actor()
        return self._actor

    def _start_tensorflow(self) -> None:
        _tensorflow(self.config.gpu, startup.local_rank(), self.verbose)

    def _whole(self) -> Model:
        if self._model is None:
            raise UsageError("there is no environment yet, so no policy: set_env gives one")
        return self._model

    def _rows(self, observation: Any) -> tuple[np.ndarray, bool]:
        model = self._whole()
        rows, one = flat_rows(model.spaces.observation, observation)
        return model.normalizer(rows), one

    def save(self, path: str | Path, include_code: bool = False) -> None:
        """Write the model to one file, whole or not at all; adds `.zip` if missing.

        JSON and plain arrays, the normaliser, Adam's moments and the counters included. Under MPI
        call it on all ranks: rank 0 writes, and on each the file is there when this returns.

        Args:
            path: the file.
            include_code: also write the code of a user-defined `network`, by cloudpickle. Only
                `load(..., allow_code=True)` runs it.
        """
        model = self._whole()
        path = Path(path)
        if path.suffix != ".zip":
            path = path.with_name(path.name + ".zip")
        # No wall-clock time: the same training writes the same bytes.
        state = self._state and self._state | {"seconds": 0.0}
        members = checkpoint.members(self.config, model, None, state or {}, [])
        if include_code and self.config.network is not None:
            members[CODE] = code_of(self.config.network)

        def write() -> None:
            with whole_file(path) as file:
                archive.write(file, members)

        if startup.launched().size > 1:
            startup.connect().on_root(write)
        else:
            write()

    @classmethod
    def load(
        cls, path: str | Path, env: Env | None = None, allow_code: bool = False, **kwargs: Any
    ) -> TRPO:
        """Load a model that `save` or a command has written; `.zip` may be left out.

        Args:
            path: the file.
            env: the environment to continue training on.
            allow_code: run the code of a user-defined network that the file holds, if any. Code
                can do anything: only for files that you trust.
            kwargs: settings to override, as in the constructor. `LIMITS` are not inherited: the
                run may have reached them. A command's checkpoints have the settings of its
                training; its model.zip has not, and the command's defaults take their place.

        Raises `ValueError` if the environment's spaces are not the model's, and, naming the file,
        if that is missing, damaged or of a newer format.
        """
        path = Path(path)
        if not path.exists() and path.suffix != ".zip":
            path = path.with_name(path.name + ".zip")
        found, settings, state = _read(path)
        if found.architecture.network is not None:
            _tensorflow(settings.gpu, startup.local_rank(), kwargs.get("verbose", 0))
            name = _network(path, found.architecture.network, kwargs.get("network"), allow_code)
            kwargs = kwargs | {"network": name}
            found.architecture = replace(found.architecture, network=name)
        replaced = {ALTERNATIVES.get(name) for name in kwargs}
        kept = {name: getattr(settings, name) for name in SETTINGS - LIMITS - replaced}
        model = cls(**(kept | kwargs))
        found.check_fits(model.config, found.spaces, str(path))
        found.check_network(str(path))
        model.config = replace(model.config, env=found.env)
        model._model, model._state = found, state
        if env is not None:
            model.set_env(env)
        return model


class PPO(TRPO):
    """Proximal policy optimisation (Schulman et al. 2017) under the same trainer.

    Args:
        policy, env, verbose, more: as in `TRPO`; `tensorboard_log` is one of `more`.
        gamma, timesteps_per_batch, lam, entcoeff, clip_range, policy_iters, policy_batch,
            policy_stepsize, vf_stepsize, vf_iters, vf_batch: as the `Config` fields of the same
            names; counts are over all ranks, and the defaults are Stable-Baselines3's. With
            convolutions the critic shares the policy's encoder and its minibatches; `vf_stepsize`,
            `vf_iters` and `vf_batch` then have no effect. So it is with a `vf_coef` above 0, which
            in Stable-Baselines3 leaves an MLP's two networks two; 0 keeps two networks.
    """

    def __init__(
        self,
        policy: str | type[Policy] = "MlpPolicy",
        env: Env | None = None,
        gamma: float = 0.99,
        timesteps_per_batch: int | None = 2048,
        lam: float = 0.95,
        entcoeff: float = 0.0,
        clip_range: float = 0.2,
        policy_iters: int = 10,
        policy_batch: int = 64,
        policy_stepsize: float = 3e-4,
        vf_stepsize: float = 3e-4,
        vf_iters: int = 10,
        vf_batch: int = 64,
        verbose: int = 0,
        **more: Any,
    ) -> None:
        named = {key: value for key, value in locals().items() if key in SETTINGS}
        constant = {"policy_final_stepsize": 1.0}
        settings = constant | named | more | {"algo": "ppo"}
        super().__init__(env=env, verbose=verbose, **settings)


def _plain(value: Any) -> Any:
    """A setting as `Config` holds it: no lists, and no NumPy numbers, which JSON can't hold."""
    if isinstance(value, list | tuple):
        return tuple(_plain(x) for x in value)
    return value.item() if isinstance(value, np.generic) else value


def _read(path: Path) -> tuple[Model, Config, dict[str, Any] | None]:
    """Model, settings and state of a file; a command's `model.zip` has no state."""
    with archive.model_file_errors(str(path), f"there is no {path}"):
        with zipfile.ZipFile(path) as file:
            if "settings.json" not in file.namelist():
                model = model_file.read(file)
                settings = (AtariConfig if model.atari else Config)(
                    **dataclasses.asdict(model.architecture),
                    reward_scale=model.reward_scale,
                    normalize_observations=model.normalizer.moments is not None,
                    normalize_returns=model.return_moments is not None,
                )
                return model, settings, None
        whole = checkpoint.read(path)
        return whole.model, whole.settings, whole.state or None


def _network(path: Path, name: str, given: Any, allow_code: bool) -> str:
    """The name of a file's user-defined network, after making sure that it can be found."""
    if isinstance(given, str):
        return given
    if given is not None:
        return register_network(name, given)
    with zipfile.ZipFile(path) as file:
        if allow_code and CODE in file.namelist():
            return register_network(name, from_code(file.read(CODE), str(path)))
    if not is_registered(name) and not allow_code:
        raise UsageError(
            f"{path} has a network of its own, {name!r}: give it as network=, or, if you trust the "
            "file, allow_code=True"
        )
    find_network(name)
    return name


def evaluate_policy(
    model: TRPO, env: Env, n_eval_episodes: int = 10, deterministic: bool = True, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the returns of `n_eval_episodes` episodes.

    Several environments play a share each: taking the first to end would favour short episodes.
    After an evaluation in the environment that the model trains in, training starts new episodes
    there.
    """
    if n_eval_episodes < 1:
        raise UsageError(f"n_eval_episodes is {n_eval_episodes}; it must be 1 or more")
    number = env.num_envs if isinstance(env, gym.vector.VectorEnv) else 1
    envs = given.columns_of(env, range(number), model.make_env)
    model.check_spaces(Spaces.of(envs))
    share = [(n_eval_episodes + i) // number for i in range(number)]
    observations, _ = envs.reset(seed=[seed + i for i in range(number)])
    running, returns = np.zeros(number), [list[float]() for _ in range(number)]
    state = model.actor.begin(number)
    while any(len(own) < wanted for own, wanted in zip(returns, share, strict=True)):
        actions, state = model.act(model.normalizer(observations), state, deterministic)
        observations, rewards, _, _, info = envs.step(actions)
        running += rewards
        running[info.get("reset", [])] = 0.0
        state[info.get("reset", [])] = 0.0
        for i in info.get("final_obs", {}):
            # A life that does not end an Atari game does not count as an episode.
            game = info.get("games", {}).get(i, (running[i], 0))
            if game is not None and len(returns[i]) < share[i]:
                returns[i].append(float(game[0]))
            running[i], state[i] = 0.0, 0.0
    if env is model.env and given.is_own(env):
        model.restart_episodes()
    flat = [total for own in returns for total in own]
    return float(np.mean(flat)), float(np.std(flat))


def _environments(
    env: Env, config: Config, comm: Communicator, make: given.Make
) -> tuple[Communicator, Grid, ColumnEnvs | AdoptedEnvs]:
    """The grid, the ranks that share its columns, and this rank's environments."""
    if given.is_own(env):
        if config.episodes_per_batch is not None:
            raise UsageError(
                "episodes_per_batch needs environments that are dealt out: an id or a function"
            )
        own = env.num_envs if isinstance(env, gym.vector.VectorEnv) else 1
        numbers = comm.gather_number(own)
        if (numbers != own).any():
            raise UsageError(
                f"the ranks have {', '.join(str(n) for n in numbers)} environments; "
                "each must have as many as the others"
            )
        config = replace(config, num_envs=own * comm.size)
    grid = batch_grid(config, comm.size)
    comm = comm.with_columns(grid.num_envs)
    return comm, grid, given.columns_of(env, comm.columns, make)


@functools.cache
def _tensorflow(gpu: str, local_rank: int, verbose: int) -> None:
    """Set TensorFlow up for this process, once."""
    if verbose > 1:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    from trpo_mpi import tensorflow_setup

    tensorflow_setup.set_up(gpu, local_rank)
