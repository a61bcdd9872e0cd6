"""Every setting of a training run: the one dataclass that is also the command line.

The sentence under a field is its `--help` line: what the setting does, and its unit. A field that a
subclass repeats only for another default keeps the sentence of the field it replaces. The type
carries the range, which `validate` checks.
"""

import dataclasses
import math
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from trpo_mpi.errors import UsageError


@dataclass(frozen=True)
class Range:
    """What a numeric setting may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


Finite = Annotated[float, Range("a finite number", math.isfinite)]
Positive = Annotated[float, Range("a number above 0", lambda x: x > 0)]
Seconds = Annotated[float, Range("a number from 1 to 10^9", lambda x: 1 <= x <= 10**9)]
NonNegative = Annotated[float, Range("a number of 0 or more", lambda x: x >= 0)]
Fraction = Annotated[float, Range("a number above 0 and up to 1", lambda x: 0 < x <= 1)]
Discount = Annotated[float, Range("a number from 0 to 1", lambda x: 0 <= x <= 1)]
LogStd = Annotated[float, Range("a number from -20 to 20", lambda x: -20 <= x <= 20)]
Shrink = Annotated[float, Range("a number above 0 and below 1", lambda x: 0 < x < 1)]
Chance = Annotated[float, Range("a number from 0 and below 1", lambda x: 0 <= x < 1)]
Count = Annotated[int, Range("a whole number from 1 to 10^15", lambda x: 1 <= x <= 10**15)]
Natural = Annotated[int, Range("a whole number from 0 to 10^15", lambda x: 0 <= x <= 10**15)]
Pixels = Annotated[int, Range("a whole number from 1 to 1000", lambda x: 1 <= x <= 1000)]
Stack = Annotated[int, Range("a whole number from 1 to 100", lambda x: 1 <= x <= 100)]
Frames = Annotated[int, Range("a whole number from 1 to 10^9", lambda x: 1 <= x <= 10**9)]
Policies = Literal[
    "MlpPolicy",
    "MlpLstmPolicy",
    "MlpLnLstmPolicy",
    "CnnPolicy",
    "CnnLstmPolicy",
    "CnnLnLstmPolicy",
]
NAME_MAX, PATH_MAX = 255, 4000
"""Bytes that a file's name, and a path, may have on every common file system."""
ADAPTED_KL = (0.001, 0.01)
"""Bounds between which --adapt moves the trust region, in nats."""
ADAPTED_BATCH = (1200, 20_000)
"""Bounds between which --adapt moves the batch, in time steps."""
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
    """Train a policy by TRPO or another --algo. Under mpirun or srun, on all ranks together.

    The number of ranks changes the speed and nothing else: `--num-envs` and
    `--timesteps-per-batch` are totals over all ranks. With more than 16 ranks give --num-envs,
    whose default grows with them.
    """

    env: str = "Hopper-v4"
    """Environment: any id that Gymnasium can make, `module:Id-v0` included."""
    time_feature: bool = False
    """Append the elapsed fraction of the episode's time limit to the observation, so that the
    critic can tell how much time is left (Coady)."""
    num_timesteps: Count = 1_000_000
    """Length of the run, in time steps summed over all environments."""
    seed: Natural = 0
    """Seed of everything random in the run."""
    recipe: Recipes = "default"
    """Settings of an older system; other flags override them. --recipe alone lists the recipes."""
    policy: Policies = "MlpPolicy"
    """Kind of policy: fully connected layers (Mlp), or a convolutional network for images (Cnn);
    recurrent with Lstm, or with LnLstm, which adds layer normalisation."""
    network: str | None = None
    """Your own network in place of the Mlp or Cnn, as module:function or by its registered name: a
    function from Keras tensors to features. [default: none]"""
    net_arch: tuple[Count, ...] = (64, 64)
    """Mlp: units of each hidden layer, for the policy and for the critic. (Without a value: none, a
    linear policy.)"""
    size_multiple: Count | None = None
    """Mlp: instead of --net-arch, three hidden layers sized by the environment: this multiple of
    the observation's size (Coady uses 10), 10 x the action's size (the critic: 5), and between them
    the geometric mean of the two. [default: none]"""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Mlp: activation function of the hidden layers."""
    cnn: Literal["small", "nature"] = "small"
    """Cnn: convolutional network of Mnih et al. 2013 (small) or 2015 (nature)."""
    lstm_units: Count = 64
    """Lstm: units of the recurrent layer."""
    init_logstd: LogStd = 0.0
    """Initial log standard deviation of a Gaussian policy (-0.5 explores less)."""

    # The batch: a grid of time steps by environments, whose columns are dealt out to the ranks.
    num_envs: Count | None = None
    """Environments, over all ranks. [default: 16, or the number of ranks if larger]"""
    timesteps_per_batch: Count | None = None
    """Time steps per iteration, over all environments. [default: 2048, or the nearest multiple of
    --num-envs]"""
    episodes_per_batch: Count | None = None
    """Whole episodes per iteration, over all environments, instead of time steps; each has its own
    environment, unless --num-envs is given. [default: none]"""

    algo: Literal["trpo", "npg", "ppo", "kl-penalty"] = "trpo"
    """Policy step: trpo, a trust region; npg, the natural gradient without a line search; ppo, the
    clipped surrogate by Adam; kl-penalty, an adaptive KL penalty by Adam (Coady)."""

    # Schulman et al. 2015 (TRPO), and 2016 (GAE).
    max_kl: Positive = 0.01
    """Trust region: largest mean KL(old || new) of a policy step, in nats, at the start of the run;
    for kl-penalty its target."""
    final_max_kl: Fraction = 0.1
    """Fraction of --max-kl that is left at the end of the run, after linear decay."""
    adapt: Literal["none", "kl", "batch", "both"] = "none"
    """Adapt --max-kl, the batch, or both to the returns, compared every ten iterations with
    episodes, between 0.001 and 0.01 nats and between 1200 and 20000 time steps (kvfrans). An
    adapted trust region does not decay."""
    cg_iters: Count = 10
    """Conjugate-gradient iterations per policy step."""
    cg_damping: NonNegative = 0.1
    """Multiple of the identity added to the Fisher matrix."""
    fisher_fraction: Fraction = 0.5
    """Fraction of the batch's time steps that Fisher-vector products use."""
    line_search_steps: Count = 10
    """Step sizes the line search tries before giving up."""
    line_search_shrink: Shrink = 0.8
    """Factor between successive step sizes of the line search."""
    gamma: Discount = 0.995
    """Discount factor per time step."""
    lam: Discount = 0.95
    """GAE's lambda: 0 trusts the critic alone, 1 the rewards alone."""
    entcoeff: NonNegative = 0.0
    """Weight of the policy's entropy, in nats, in the objective."""

    # Schulman et al. 2017 (PPO); the step size is that of its MuJoCo experiments.
    policy_iters: Count | None = None
    """Ppo, kl-penalty: passes over the batch. [default: 10; 20 for kl-penalty]"""
    policy_stepsize: Positive | None = None
    """Ppo, kl-penalty: Adam's initial step size. [default: 3e-4; for kl-penalty 9e-4 over the
    square root of the middle hidden layer's units]"""
    policy_final_stepsize: Fraction = 0.1
    """Ppo: fraction of the step size that is left at the end of the run, after linear decay."""
    policy_batch: Count = 128
    """Ppo: time steps per minibatch, over all environments; a recurrent policy's gradients reach
    back as far as a minibatch has consecutive steps of one environment, 8 at least."""
    clip_range: Positive = 0.2
    """Ppo: distance from 1 at which the probability ratio is clipped."""
    final_clip_range: Fraction = 1.0
    """Ppo: fraction of --clip-range that is left at the end of the run, after linear decay."""
    stop_kl: Positive | None = None
    """Ppo: stop the passes over a batch once KL(old || new) exceeds this, in nats.
    [default: no limit]"""
    max_grad_norm: Positive | None = 0.5
    """Ppo: clip the gradient of a minibatch to this norm. (None: no clipping)"""

    vf_coef: NonNegative | None = None
    """Ppo: let the critic share the policy's encoder, all but the last layer, and give its squared
    error this weight in their common objective: the other settings of the critic, besides
    --vf-clip, are then without effect. 0: two networks. [default: 0.5 for Cnn, 0 for Mlp]"""

    vf_iters: Natural = 10
    """Critic: passes over the batch in each iteration."""
    vf_batch: Count = 512
    """Critic: time steps per minibatch, over all environments."""
    vf_stepsize: Positive = 3e-3
    """Critic: Adam's initial step size."""
    vf_final_stepsize: Fraction = 0.1
    """Critic: fraction of the step size that is left at the end of the run, after linear decay."""
    vf_clip: Positive | None = None
    """Critic: clip how far a value may move from its value before the fit, in units of the scaled
    return, as Baselines' PPO does. [default: no clipping]"""
    vf_two_batches: bool = False
    """Critic: fit it to the previous batch as well (Coady)."""

    normalize_observations: bool = True
    """Normalise observations by their running mean and standard deviation over all ranks; a Cnn's
    images are never normalised so."""
    normalize_returns: bool = True
    """Divide rewards by the running standard deviation of the discounted return, over all ranks."""
    reward_scale: Positive = 1.0
    """Multiply rewards by this for learning; reported returns stay raw."""
    clip_rewards: bool = False
    """Learn from the sign of each reward; reported returns stay raw."""

    # When to stop, beside --num-timesteps: the first reached ends the run.
    max_iterations: Count | None = None
    """Stop after this many iterations. [default: no limit]"""
    max_episodes: Count | None = None
    """Stop once this many episodes have finished. [default: no limit]"""
    stop_return: Finite | None = None
    """Stop once the mean return of the last 100 episodes reaches this. [default: no limit]"""

    max_hours: Positive | None = None
    """Wall-clock limit in hours, counted from this start: shortly before it, write a checkpoint and
    exit with code 75. The end of a Slurm job counts too. [default: no limit]"""

    eval_episodes: Natural = 0
    """Episodes, over all ranks, that evaluate the policy at the end of the run, in environments of
    their own (0: none)."""
    eval_every: Count | None = None
    """Iterations between evaluations during training. [default: evaluate only at the end]"""
    eval_deterministic: bool = False
    """Evaluate with the most probable actions instead of sampling as in training."""

    outdir: str | None = None
    """Run directory. [default: runs/ENV-RECIPE-sSEED, or with -2, -3, ... if that exists]"""
    resume: str = "never"
    """Resume from a run's newest complete checkpoint. auto: the run in --outdir, or a new one if it
    has none; DIR: that run; never: start a new run."""
    allow_changes: bool = False
    """Resume even if settings that affect the result have changed; not --num-envs, --recipe, or
    what shapes the networks or scales their inputs and targets."""
    load: str | None = None
    """Start from the parameters and normaliser of a model.zip, checkpoint or run directory."""
    which: str = "latest"
    """Which model of the run directory in --load: latest, best, or a checkpoint's iteration."""
    checkpoint_every: Count | None = None
    """Iterations between checkpoints. [default: about one a minute, using under 1 % of the time]"""
    video_every: Count | None = None
    """Iterations between videos of an episode, videos/ITERATION.mp4 in the run directory; a
    separate process renders them. [default: none]"""
    env_timeout: Seconds = 600.0
    """Seconds that one step or reset of an environment may take before the job is aborted."""
    drift_check_every: Natural = 1
    """Iterations between checks that all ranks hold the same parameters (0: never)."""
    tensorboard: bool = False
    """Also write the columns of progress.csv, and the settings, for TensorBoard, into tensorboard/
    in the run directory."""
    render: bool = False
    """Show rank 0's first environment in a window."""
    gpu: str = "-1"
    """GPU: -1 for none, auto for one per rank of a node, or a device's number."""
    check: bool = False
    """Print ranks, batch and speed, and exit: a dry run of a batch script."""

    command: ClassVar[str] = "run_mujoco"
    """The command, by its module's name, that these settings belong to."""
    batch_default: ClassVar[int] = 2048
    """Approximate time steps of a batch whose size is not given."""

    @property
    def atari(self) -> "Atari | None":
        """How an Atari game is presented to the policy; None for other environments."""
        return None

    @property
    def adapts_kl(self) -> bool:
        """Whether the trust region follows the returns."""
        return self.adapt in ("kl", "both")

    @property
    def shared_vf_coef(self) -> float:
        """Weight of the critic's error if it shares the policy's encoder; 0 if it does not."""
        if self.algo != "ppo":
            return 0.0
        if self.vf_coef is not None:
            return self.vf_coef
        return 0.5 if self.policy.startswith("Cnn") else 0.0

    @property
    def adapts_batch(self) -> bool:
        """Whether the batch follows the returns."""
        return self.adapt in ("batch", "both")

    @property
    def fixed_batch(self) -> bool:
        """Whether all batches but the last have the same number of time steps."""
        return not self.adapts_batch and self.episodes_per_batch is None

    def unused(self, given: Iterable[str]) -> list[str]:
        """Those of the fields `given` that have no effect with the others."""
        of_any = {name for names in OF_ALGO.values() for name in names.split()}
        idle = of_any - set(OF_ALGO[self.algo].split())
        if self.adapts_kl:
            idle.add("final_max_kl")
        if self.shared_vf_coef:
            idle |= set("vf_iters vf_batch vf_stepsize vf_final_stepsize vf_two_batches".split())
        mlp = {"net_arch", "size_multiple", "activation"}
        if self.network is not None:
            idle |= mlp | {"cnn"}
        idle |= {"cnn"} if self.policy.startswith("Mlp") else mlp
        if "Lstm" not in self.policy:
            idle.add("lstm_units")
        if self.load is not None:
            idle.add("init_logstd")
        return [name for name in given if name in idle]

    def validate(self) -> None:
        """Raise `UsageError` for the first field whose value is outside its range."""
        check_ranges(self)
        if self.atari is not None and self.time_feature:
            raise UsageError("--time-feature is for observations that are numbers, not images")
        for name in ("outdir", "resume", "load"):
            if getattr(self, name) == "":
                raise UsageError(f"{flag(name)} is empty; it must name a directory")
        if self.load is None and self.which != "latest":
            raise UsageError(f"--which {self.which} is of --load, which is not given")
        elsewhere = self.outdir is not None and Path(self.outdir) != Path(self.resume)
        if self.resume not in ("never", "auto") and elsewhere:
            raise UsageError(
                f"--resume {self.resume} continues in that directory, and not in --outdir "
                f"{self.outdir}: leave one out, or start from its model by --load {self.resume}"
            )
        if self.gpu not in ("-1", "auto") and not self.gpu.isdecimal():
            raise UsageError(f"--gpu is {self.gpu!r}; it must be -1, auto or a device's number")
        if self.episodes_per_batch is not None:
            both = f"and --episodes-per-batch {self.episodes_per_batch}: set only one of the two"
            if self.timesteps_per_batch is not None:
                raise UsageError(f"--timesteps-per-batch {self.timesteps_per_batch} {both}")
            if self.adapts_batch:
                raise UsageError(f"--adapt {self.adapt} {both}")
        if self.size_multiple is not None and self.net_arch != type(self).net_arch:
            raise UsageError(
                f"--net-arch {' '.join(map(str, self.net_arch))} and --size-multiple "
                f"{self.size_multiple}: set only one of the two"
            )
        mlp = self.policy.startswith("Mlp") and self.network is None
        if self.shared_vf_coef and mlp and (self.size_multiple or self.policy != "MlpPolicy"):
            why = "--size-multiple" if self.size_multiple else f"--policy {self.policy}"
            raise UsageError(
                f"--vf-coef is {self.vf_coef}, but with {why} the critic's layers are not those of "
                "the policy; it must be 0"
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
    """How an Atari game is presented to the policy (Mnih et al. 2015)."""

    frame_skip: Count = 4
    """Atari: frames per time step, in all of which the action is repeated."""
    max_pool: bool = True
    """Atari: take the pixelwise maximum of a time step's last two frames, since games flicker."""
    noop_max: Natural = 30
    """Atari: start each game with a random number of no-op frames, at most this many."""
    fire_reset: bool = True
    """Atari: press FIRE at the start of an episode, for games that wait for it."""
    episodic_life: bool = True
    """Atari: a lost life ends an episode for the learner; reported returns are of whole games."""
    screen_size: Pixels = 84
    """Atari: height and width of the image, in pixels."""
    grayscale: bool = True
    """Atari: grey images in place of colour."""
    frame_stack: Stack = 4
    """Atari: images of consecutive time steps that are stacked into one observation."""
    sticky_actions: Chance | None = None
    """Atari: probability, in each frame, that the previous action is repeated. [default: the id's
    own, 0.25 for ALE/Pong-v5 and 0 for PongNoFrameskip-v4]"""
    max_frames: Frames = 108_000
    """Atari: frames after which a game is cut off; the default is half an hour of play."""


@dataclass(frozen=True)
class AtariConfig(Atari, Config):
    """Train a policy on an Atari game. Under mpirun or srun, on all ranks together.

    The number of ranks changes the speed and nothing else: `--num-envs` and
    `--timesteps-per-batch` are totals over all ranks. With more than 16 ranks give --num-envs,
    whose default grows with them.
    """

    env: str = "PongNoFrameskip-v4"
    """Game: any id of ale-py, such as PongNoFrameskip-v4 or ALE/Pong-v5."""
    num_timesteps: Count = 10_000_000
    """Length of the run, in time steps summed over all environments; four frames each."""
    policy: Policies = "CnnPolicy"
    """Kind of policy: a convolutional network (Cnn), or fully connected layers (Mlp); recurrent
    with Lstm, or with LnLstm, which adds layer normalisation."""
    timesteps_per_batch: Count | None = None
    """Time steps per iteration, over all environments. [default: 4096, or the nearest multiple of
    --num-envs]"""

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
        """How the game is presented to the policy."""
        names = (field.name for field in dataclasses.fields(Atari))
        return Atari(**{name: getattr(self, name) for name in names})


CONFIGS = {config.command: config for config in (Config, AtariConfig)}
"""The settings of the training commands, by command name."""

ALTERNATIVES = {
    "net_arch": "size_multiple",
    "size_multiple": "net_arch",
    "timesteps_per_batch": "episodes_per_batch",
    "episodes_per_batch": "timesteps_per_batch",
}
"""Settings that replace another: beside a recipe, giving one unsets the recipe's other."""

OF_ALGO = {
    "trpo": "max_kl final_max_kl cg_iters cg_damping fisher_fraction line_search_steps "
    "line_search_shrink",
    "npg": "max_kl final_max_kl cg_iters cg_damping fisher_fraction",
    "ppo": "policy_iters policy_stepsize policy_final_stepsize policy_batch clip_range "
    "final_clip_range stop_kl max_grad_norm vf_coef",
    "kl-penalty": "max_kl final_max_kl policy_iters policy_stepsize",
}
"""The settings that are not of every --algo, by those that use them."""

NOT_THE_RESULT = frozenset(
    "outdir resume allow_changes checkpoint_every env_timeout drift_check_every render gpu check "
    "num_timesteps max_iterations max_episodes stop_return max_hours "
    "eval_episodes eval_every eval_deterministic video_every tensorboard".split()
)
"""Settings that do not change what is learnt, except by when the run ends."""

OF_ONE_START = NOT_THE_RESULT - set(
    "num_timesteps eval_episodes eval_every eval_deterministic video_every tensorboard".split()
)
"""Settings that a resumed run does not inherit."""


def check_ranges(settings: Any) -> None:
    """Check every field of a dataclass of settings against the `Range` in its type.

    Raises `UsageError` for the first that is outside it.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        _check(field.name, getattr(settings, field.name), hints[field.name])


def ranges(hint: Any) -> Iterator[tuple[type, Range]]:
    """Those in the type of a field, inside unions and tuples too, with their kinds of number."""
    for part in (hint, *typing.get_args(hint)):
        limits = getattr(part, "__metadata__", ())
        yield from ((part.__origin__, limit) for limit in limits if isinstance(limit, Range))


def check_names(settings: Any) -> None:
    """Raise `UsageError` for the first text too long for the name of a file or a directory."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                length = max(len(os.fsencode(part)) for part in text.split("/"))
                if length > NAME_MAX or len(os.fsencode(text)) > PATH_MAX:
                    raise UsageError(
                        f"{flag(field.name)} is too long, {text[:20]}...: a name may have "
                        f"{NAME_MAX} bytes, a path {PATH_MAX}"
                    )


def _check(name: str, value: Any, hint: Any) -> None:
    """Check a value against its type, and the `Range` in that, inside unions and tuples too."""
    if value is None and type(None) in typing.get_args(hint):
        return
    if typing.get_origin(hint) is tuple and not isinstance(value, tuple):
        raise UsageError(f"{flag(name)} is {_shown(value)}; it must be a list")
    for kind, limit in ranges(hint):
        # A bool is an int to Python, and an int will do for a float.
        number = int if kind is int else (int, float)
        for x in value if isinstance(value, tuple) else (value,):
            right = isinstance(x, number) and not isinstance(x, bool)
            if not (right and abs(x) <= sys.float_info.max and limit.holds(x)):
                raise UsageError(f"{flag(name)} is {_shown(x)}; it must be {limit.words}")
    if hint is bool and not isinstance(value, bool):
        raise UsageError(f"{flag(name)} is {_shown(value)}; it must be True or False")
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        allowed = ", ".join(typing.get_args(hint))
        raise UsageError(f"{flag(name)} is {value!r}; it must be one of {allowed}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")
