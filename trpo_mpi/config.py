"""Every setting of a training run: the one dataclass that is also the command line.

The sentence under a field is its `--help` line and gives the unit and what the setting does (where
a subclass has another default alone, that of the field it replaces);
the type carries the range, which `validate` checks. Where a default comes from a paper or an
older system, or was chosen from this project's own runs, the comment beside it says so.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from trpo_mpi.errors import UsageError


@dataclass(frozen=True)
class Range:
    """What a numeric setting may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Range("a number above 0", lambda x: x > 0)]
NotNegative = Annotated[float, Range("a number of 0 or more", lambda x: x >= 0)]
Fraction = Annotated[float, Range("a number above 0 and up to 1", lambda x: 0 < x <= 1)]
Discount = Annotated[float, Range("a number from 0 to 1", lambda x: 0 <= x <= 1)]
Shrink = Annotated[float, Range("a number above 0 and below 1", lambda x: 0 < x < 1)]
Chance = Annotated[float, Range("a number from 0 and below 1", lambda x: 0 <= x < 1)]
Count = Annotated[int, Range("a whole number of 1 or more", lambda x: x >= 1)]
Natural = Annotated[int, Range("a whole number of 0 or more", lambda x: x >= 0)]
Policies = Literal[
    "MlpPolicy",
    "MlpLstmPolicy",
    "MlpLnLstmPolicy",
    "CnnPolicy",
    "CnnLstmPolicy",
    "CnnLnLstmPolicy",
]
ADAPTED_KL = (0.001, 0.01)
"""Bounds between which --adapt moves the trust region, in nats."""
ADAPTED_BATCH = (1200, 20_000)
"""Bounds between which it moves the batch, in time steps."""
Recipes = Literal[
    "default",
    "baselines-mujoco",
    "baselines-atari",
    "stable-baselines",
    "chainerrl",
    "parallel-trpo",
    "coady",
    "parl-ppo-mujoco",
    "parl-ppo-atari",
]


@dataclass(frozen=True)
class Config:
    """Train a policy, by TRPO or what --algo names. Under mpirun or srun the ranks share one run.

    The number of ranks changes the speed and nothing else: `--num-envs` and
    `--timesteps-per-batch` count over all ranks together.
    """

    env: str = "Hopper-v4"
    """Environment: any id that Gymnasium can make, `module:Id-v0` included."""
    time_feature: bool = False
    """Append to the observation the share of the episode's time limit that has passed, so that the
    critic can know how near it is (Coady)."""
    num_timesteps: Count = 1_000_000
    """Length of the run, in time steps of all environments together."""
    seed: Natural = 0
    """Seed of everything random in the run."""
    recipe: Recipes = "default"
    """Settings of an older system, which flags beside it override; --recipe alone lists them."""
    policy: Policies = "MlpPolicy"
    """Kind of policy: fully connected layers or a convolutional network for images; with Lstm it
    has a memory, LnLstm one with layer normalisation."""
    network: str | None = None
    """A network of your own in place of the Mlp or Cnn, as module:function or by its registered
    name: from Keras tensors to features. [default: none]"""
    net_arch: tuple[Count, ...] = (64, 64)
    """Mlp: hidden layers of the policy and of the critic, in units."""
    size_multiple: Count | None = None
    """Mlp: three layers sized by the environment in place of --net-arch: this multiple of the
    observation (Coady's is 10), the geometric mean, 10 x the action (5 for the critic).
    [default: none]"""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Mlp: what stands behind each hidden layer."""
    cnn: Literal["small", "nature"] = "small"
    """Cnn: convolutional network of Mnih et al. 2013 (small) or 2015 (nature)."""
    lstm_units: Count = 64
    """Lstm: units in the memory."""
    init_logstd: float = 0.0
    """Logarithm of a Gaussian policy's first standard deviation (-0.5 explores less)."""

    # The batch. DESIGN: a grid of time steps by environments, dealt out by columns.
    num_envs: Count | None = None
    """Environments over all ranks. [default: 16, or the number of ranks if larger]"""
    timesteps_per_batch: Count | None = None
    """Time steps an iteration, over all environments. [default: 2048, or the nearest
    that the environments divide]"""
    episodes_per_batch: Count | None = None
    """Whole episodes an iteration, over all environments, in place of time steps; there is one
    environment for each, unless --num-envs says otherwise. [default: none]"""

    algo: Literal["trpo", "npg", "ppo", "kl-penalty"] = "trpo"
    """Policy step: trust region; natural gradient, its step without a line search; clipped
    surrogate by Adam; adaptive KL penalty by Adam (Coady)."""

    # Schulman et al. 2015 (TRPO), and 2016 (GAE).
    max_kl: Positive = 0.01
    """Trust region: largest mean KL(old || new) of the first policy step, in nats; of kl-penalty
    its target."""
    final_max_kl: Fraction = 0.1
    """Share of --max-kl that is left at the end of the run, after a linear decay."""
    adapt: Literal["none", "kl", "batch", "both"] = "none"
    """Let --max-kl, or the batch, or both follow the returns of every ten iterations with episodes,
    within 0.001 to 0.01 nats and 1200 to 20000 time steps (kvfrans); the trust region then does not
    decay."""
    cg_iters: Count = 10
    """Conjugate-gradient iterations a policy step."""
    cg_damping: NotNegative = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    fisher_fraction: Fraction = 0.5
    """Share of the batch's time steps that Fisher-vector products use."""
    line_search_steps: Count = 10
    """Step sizes that the line search tries before it gives the step up."""
    line_search_shrink: Shrink = 0.8
    """Factor between two step sizes of the line search."""
    gamma: Discount = 0.995
    """Discount of a reward one time step later."""
    lam: Discount = 0.95
    """GAE's lambda: 0 trusts the critic, 1 the rewards alone."""
    entcoeff: NotNegative = 0.0
    """Weight of the policy's entropy (nats) in the objective."""

    # Schulman et al. 2017 (PPO); without a recipe the step sizes of its MuJoCo experiments.
    policy_iters: Count | None = None
    """Ppo, kl-penalty: passes over the batch. [default: 10; 20 for kl-penalty]"""
    policy_stepsize: Positive | None = None
    """Ppo, kl-penalty: Adam's first step size. [default: 3e-4; for kl-penalty 9e-4 over the root
    of the middle hidden layer's units]"""
    policy_final_stepsize: Fraction = 0.1
    """Ppo: share of the step size that is left at the end of the linear decay."""
    policy_batch: Count = 128
    """Ppo: time steps a minibatch, over all environments; a recurrent policy's gradients reach as
    far back as one minibatch has steps of an environment."""
    clip_range: Positive = 0.2
    """Ppo: how far from 1 a ratio of probabilities may gain."""
    final_clip_range: Fraction = 1.0
    """Ppo: share of --clip-range that is left at the end of a linear decay."""
    stop_kl: Positive | None = None
    """Ppo: leave a batch after the pass in which KL(old || new) exceeds this, in nats.
    [default: no limit]"""
    max_grad_norm: Positive | None = 0.5
    """Ppo: norm to which a minibatch's gradient is shortened. (None: no limit)"""

    vf_iters: Natural = 10
    """Critic: passes over the batch in each iteration."""
    vf_batch: Count = 512
    """Critic: time steps a minibatch, over all environments."""
    vf_stepsize: Positive = 3e-3
    """Critic: Adam's first step size."""
    vf_final_stepsize: Fraction = 0.1
    """Critic: share of the step size that is left at the end of the linear decay."""
    vf_clip: Positive | None = None
    """Critic: how far values may move from those before the fit and still gain, in units of the
    scaled return, as PPO's first implementation clips them. [default: no limit]"""
    vf_two_batches: bool = False
    """Critic: fit it to the batch before as well (Coady)."""

    normalize_observations: bool = True
    """Shift and scale observations by their running mean and deviation over all ranks. Cnn
    policies never do."""
    normalize_returns: bool = True
    """Scale rewards by the running deviation of the discounted return over all ranks."""
    reward_scale: Positive = 1.0
    """Factor of all rewards, for the learner alone; what is reported stays the raw return."""
    clip_rewards: bool = False
    """Learn from the sign of each reward alone; what is reported stays the raw return."""

    # When to stop, beside --num-timesteps: the first reached ends the run.
    max_iterations: Count | None = None
    """Stop after so many iterations. [default: no limit]"""
    max_episodes: Count | None = None
    """Stop once so many episodes have finished. [default: no limit]"""
    stop_return: float | None = None
    """Stop once the mean return of the last 100 episodes reaches this. [default: no limit]"""

    max_hours: Positive | None = None
    """Wall-clock limit of this start: in time before it, write a checkpoint and exit with code
    75. Slurm's own end of the job counts as well. [default: no limit]"""

    eval_episodes: Natural = 0
    """Episodes that evaluate the policy when the run ends, over all ranks and on environments of
    their own (0: none)."""
    eval_every: Count | None = None
    """Iterations between two such evaluations before the end. [default: none before it]"""
    eval_deterministic: bool = False
    """Evaluate the most probable actions, not random ones as in training."""

    outdir: str | None = None
    """Run directory. [default: runs/ENV-RECIPE-sSEED, with -2, -3 where that exists]"""
    resume: str = "never"
    """Go on from the newest whole checkpoint of a run: auto of the one in --outdir, or from the
    start where there is none; DIR of that one; never."""
    allow_changes: bool = False
    """Resume although settings differ that change the result."""
    load: str | None = None
    """Start from the parameters and normaliser of a model.zip, a checkpoint or a run directory."""
    which: str = "latest"
    """Of the run directory of --load: latest, best, or the iteration of a checkpoint."""
    checkpoint_every: Count | None = None
    """Iterations between two checkpoints. [default: so many that they lie a minute apart and
    take under 1 % of the time]"""
    video_every: Count | None = None
    """Iterations between two videos of an episode, videos/ITERATION.mp4 in the run directory; they
    are made beside the run. [default: none]"""
    env_timeout: Positive = 600.0
    """Seconds that one step or reset of an environment may take before the job is ended."""
    drift_check_every: Natural = 1
    """Iterations between two checks that all ranks hold the same parameters (0: never)."""
    tensorboard: bool = False
    """Write the columns of progress.csv and the settings for TensorBoard, too, into the run
    directory's tensorboard/."""
    render: bool = False
    """Show rank 0's first environment in a window."""
    gpu: str = "-1"
    """GPU: -1 none, auto one for each rank of a node, or a device's number."""
    check: bool = False
    """Print ranks, batch, speed and exit: a batch script's dry run."""

    command: ClassVar[str] = "run_mujoco"
    """The module that these are the settings of."""
    batch_default: ClassVar[int] = 2048
    """About how many time steps a batch has where it is not said."""

    @property
    def atari(self) -> "Atari | None":
        """What stands between an Atari game and the policy; None for other environments."""
        return None

    @property
    def adapts_kl(self) -> bool:
        """Whether the trust region follows the returns."""
        return self.adapt in ("kl", "both")

    @property
    def adapts_batch(self) -> bool:
        """Whether the batch does."""
        return self.adapt in ("batch", "both")

    @property
    def fixed_batch(self) -> bool:
        """Whether all batches have as many time steps, but for the last."""
        return not self.adapts_batch and self.episodes_per_batch is None

    def validate(self) -> None:
        """Raise `UsageError` for the first field whose value is outside its range."""
        check_ranges(self)
        if self.atari is not None and self.time_feature:
            raise UsageError("--time-feature is for observations that are numbers, not pictures")
        if self.gpu not in ("-1", "auto") and not self.gpu.isdecimal():
            raise UsageError(f"--gpu is {self.gpu!r}; it must be -1, auto or a device's number")
        if self.episodes_per_batch is not None:
            for name in ("timesteps_per_batch", "adapt"):
                if getattr(self, name) not in (None, "none", "kl"):
                    raise UsageError(
                        f"{flag(name)} {getattr(self, name)} and --episodes-per-batch "
                        f"{self.episodes_per_batch}: one of them can say what a batch is"
                    )
        for name in ("eval_every", "eval_deterministic"):
            if getattr(self, name) and not self.eval_episodes:
                raise UsageError(
                    f"{flag(name)} is {getattr(self, name)}, but --eval-episodes is 0: set both "
                    "or neither"
                )
        if self.adapts_kl:
            if self.algo == "ppo":
                raise UsageError(f"--adapt {self.adapt}: --algo ppo has no trust region to adapt")
            low, high = ADAPTED_KL
            if not low <= self.max_kl <= high:
                raise UsageError(
                    f"--max-kl is {self.max_kl}; with --adapt {self.adapt} it must be from {low} "
                    f"to {high}"
                )


@dataclass(frozen=True)
class Atari:
    """What stands between an Atari game and the policy (Mnih et al. 2015)."""

    frame_skip: Count = 4
    """Atari: frames that an action lasts; so many are one time step."""
    max_pool: bool = True
    """Atari: show the brighter of a time step's last two frames, since games flicker."""
    noop_max: Natural = 30
    """Atari: most no-ops at the start of a game, in frames; their number is random."""
    fire_reset: bool = True
    """Atari: press FIRE where a game, or a life in it, waits for that."""
    episodic_life: bool = True
    """Atari: a lost life ends an episode for the learner; what is reported stays whole games."""
    screen_size: Count = 84
    """Atari: height and width of the picture, in pixels."""
    grayscale: bool = True
    """Atari: show brightness and no colours."""
    frame_stack: Count = 4
    """Atari: pictures, of as many time steps, that make an observation."""
    sticky_actions: Chance | None = None
    """Atari: probability, in each frame, that the last action is repeated. [default: the id's own,
    0.25 for ALE/Pong-v5 and 0 for PongNoFrameskip-v4]"""
    max_frames: Count = 108_000
    """Atari: frames after which a game is cut off; the default is half an hour of play."""


@dataclass(frozen=True)
class AtariConfig(Atari, Config):
    """Train a policy on an Atari game. Under mpirun or srun the ranks share one run.

    The number of ranks changes the speed and nothing else: `--num-envs` and
    `--timesteps-per-batch` count over all ranks together.
    """

    env: str = "PongNoFrameskip-v4"
    """Game: any id of ale-py's, as PongNoFrameskip-v4 or ALE/Pong-v5."""
    num_timesteps: Count = 10_000_000
    """Length of the run, in time steps of all environments together; four frames each."""
    policy: Policies = "CnnPolicy"
    """Kind of policy: a convolutional network, or fully connected layers; with Lstm it has a
    memory, LnLstm one with layer normalisation."""
    timesteps_per_batch: Count | None = None
    """Time steps an iteration, over all environments. [default: 4096, or the nearest
    that the environments divide]"""

    max_kl: Positive = 0.02
    gamma: Discount = 0.99
    vf_iters: Natural = 2
    vf_batch: Count = 512
    vf_stepsize: Positive = 5e-4
    fisher_fraction: Fraction = 0.2
    clip_rewards: bool = True

    command: ClassVar[str] = "run_atari"
    batch_default: ClassVar[int] = 4096

    @property
    def atari(self) -> Atari:
        """What stands between the game and the policy."""
        names = (field.name for field in dataclasses.fields(Atari))
        return Atari(**{name: getattr(self, name) for name in names})


CONFIGS = {config.command: config for config in (Config, AtariConfig)}
"""The settings of the training commands, by their names."""

NOT_THE_RESULT = frozenset(
    "outdir resume allow_changes checkpoint_every env_timeout drift_check_every render gpu check "
    "num_timesteps max_iterations max_episodes stop_return max_hours "
    "eval_episodes eval_every eval_deterministic video_every tensorboard".split()
)
"""Settings that do not change what is learnt, or only when it ends."""

OF_ONE_START = NOT_THE_RESULT - set(
    "num_timesteps eval_episodes eval_every eval_deterministic video_every tensorboard".split()
)
"""Those of them that a run which goes on does not take over."""


def check_ranges(settings: Any) -> None:
    """Hold every field of a dataclass of settings against the `Range` in its type.

    Raises `UsageError` for the first that is outside.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        _check(field.name, getattr(settings, field.name), hints[field.name])


def _check(name: str, value: Any, hint: Any) -> None:
    """Hold a value against the `Range` in its type, inside unions and tuples too."""
    for part in (hint, *typing.get_args(hint)):
        for limit in getattr(part, "__metadata__", ()):
            if not isinstance(limit, Range):
                continue
            values = value if isinstance(value, tuple) else (value,)
            for x in values:
                if x is not None and not (math.isfinite(x) and limit.holds(x)):
                    raise UsageError(f"{flag(name)} is {x}; it must be {limit.words}")
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        allowed = ", ".join(typing.get_args(hint))
        raise UsageError(f"{flag(name)} is {value!r}; it must be one of {allowed}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{flag(name)} is {value}; it must be a finite number")


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Grid:
    """The batch as a grid: `num_envs` columns of `horizon` time steps, or of whole episodes."""

    num_envs: int
    horizon: int
    """0 where it is not known before, the batch being of whole episodes."""
    episodes: int = 0
    """Whole episodes of each column; 0 where columns have a horizon."""

    @property
    def timesteps(self) -> int:
        """Time steps of a whole batch; 0 where that is not known."""
        return self.num_envs * self.horizon

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `Config` that it fills in."""
        return {"num_envs": self.num_envs, "timesteps_per_batch": self.timesteps or None}

    def rows(self, timesteps: int) -> int:
        """How many time indices come nearest below so many time steps: at least one."""
        rows = max(1, timesteps // self.num_envs)
        return min(self.horizon, rows) if self.horizon else rows


def batch_grid(config: Config, ranks: int) -> Grid:
    """Lay the batch out over the environments.

    Raises `UsageError`, with values that would work, where a rank would have no environment or
    the environments do not divide the batch.
    """
    episodes = config.episodes_per_batch
    envs = config.num_envs or episodes or max(16, ranks)
    if envs < ranks:
        name = "--num-envs" if config.num_envs else "--episodes-per-batch"
        raise UsageError(
            f"{name} {envs} leaves some of {ranks} ranks without an environment; "
            f"use {name} {ranks} or more, or start {envs} ranks"
        )
    if episodes is not None:
        return Grid(envs, 0, _of_each("--episodes-per-batch", episodes, envs))
    batch = config.timesteps_per_batch or envs * max(1, round(config.batch_default / envs))
    horizon = _of_each("--timesteps-per-batch", batch, envs)
    low, high = ADAPTED_BATCH
    if config.adapts_batch and not low <= batch <= high:
        raise UsageError(
            f"--timesteps-per-batch is {batch}; with --adapt {config.adapt} it must be from {low} "
            f"to {high}"
        )
    return Grid(envs, horizon)


def _of_each(name: str, batch: int, envs: int) -> int:
    """The share of each environment; `UsageError`, naming the setting, where they don't divide."""
    if batch % envs:
        below, above = batch // envs * envs, -(-batch // envs) * envs
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UsageError(f"{name} {batch} is no multiple of --num-envs {envs}; use {nearest}")
    return batch // envs


def largest_grid(config: Config, grid: Grid, time_limit: int | None) -> Grid:
    """The largest batch that a run may come to have, as far as that is known.

    `time_limit` is the most steps that an episode can have, if there is such a limit.
    """
    if grid.episodes:
        return Grid(grid.num_envs, grid.episodes * (time_limit or 1), grid.episodes)
    if not config.adapts_batch:
        return grid
    return Grid(grid.num_envs, -(-ADAPTED_BATCH[1] // grid.num_envs))
