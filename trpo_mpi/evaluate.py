"""Play episodes with a trained policy and say what they return.

python -m trpo_mpi.evaluate runs/Hopper-v4-default-s0                   100 episodes, as trained
mpirun -np 4 python -m trpo_mpi.evaluate model.zip --deterministic     most probable actions

Episode k draws its start and its noise from streams of its own, so it is the same on any number
of ranks; ranks share the episodes out.
"""

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from trpo_mpi.parallel import startup

if __name__ == "__main__":
    startup.prepare()  # before NumPy is imported

import gymnasium as gym
import numpy as np

from trpo_mpi import tensorflow_setup
from trpo_mpi.command_line import parse
from trpo_mpi.config import Count, Natural, check_ranges
from trpo_mpi.envs.make import check_env, make_env, quiet_gymnasium
from trpo_mpi.envs.spaces import flattener
from trpo_mpi.errors import EnvironmentFault, UsageError
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.run_directory import model_file
from trpo_mpi.run_directory.archive import whole_file
from trpo_mpi.run_directory.model_file import Model
from trpo_mpi.state import EPISODE, stream


@dataclass(frozen=True)
class Evaluation:
    """Play episodes with a trained policy. Under mpirun or srun the ranks share them out.

    Prints the mean return, and writes evaluation.csv beside the model: a row an episode.
    """

    run: Annotated[Positional[str], arg(metavar="DIR")]
    """A run directory, a model.zip or a checkpoint."""
    which: str = "latest"
    """Of a run directory: latest, best, or the iteration of a checkpoint."""
    episodes: Count = 100
    """Episodes to play, over all ranks."""
    deterministic: bool = False
    """Take the most probable action at each step, not a random one as in training."""
    seed: Natural = 0
    """Seed of the episodes: their starts and the noise of the actions."""
    network: str | None = None
    """The network of your own that it was trained with, as module:function. [default: none]"""

    @property
    def mode(self) -> str:
        """How actions are chosen, in a word."""
        return "deterministic" if self.deterministic else "stochastic"


def main() -> int:
    """Evaluate as the command line says; gives the exit code."""
    settings = parse(Evaluation, "evaluate")
    check_ranges(settings)
    comm = startup.connect()
    model = comm.on_root(lambda: load_model(settings.run, settings.which, settings.network))
    comm.on_root(lambda: check_environment(model, settings.run))
    quiet_gymnasium()  # rank 0 has just said, once, what there is to say of this environment
    if model.architecture.needs_tensorflow:
        tensorflow_setup.set_up("-1", 0)
    if model.architecture.network is not None:
        comm.on_root(lambda: model.check_network(f"DIR {settings.run}"))
    env = comm.everywhere(lambda: make_env(model.env, atari=model.atari))
    results = evaluate(settings, model, env, comm)
    if comm.is_root:
        print(table(settings, model.env, results), flush=True)
    path = comm.on_root(lambda: _write(settings, results))
    if comm.is_root:
        print(f"episodes are in {path}", flush=True)
    return 0


def load_model(run: str, which: str, network: str | None) -> Model:
    """The model that DIR names, with the network of the user's own that `network` names."""
    model = model_file.load(run, "DIR", which)
    own = model.architecture.network
    if own is not None and network is None:
        raise UsageError(f"DIR {run} has a network of its own: name it, --network {own}")
    if own is not None:
        model.architecture = replace(model.architecture, network=network)
    return model


def check_environment(model: Model, run: str) -> None:
    """Raise `UsageError` unless the model's environment is here, and what it was trained on."""
    try:
        spaces = check_env(model.env, atari=model.atari)
    except UsageError as error:
        reason = str(error).removeprefix("--env ")
        raise UsageError(f"DIR {run} needs an environment: {reason}") from None
    for what, its, now in (
        ("observation space", model.spaces.observation, spaces.observation),
        ("action space", model.spaces.action, spaces.action),
    ):
        if its != now:
            raise UsageError(f"DIR {run} has {what} {its}, but {model.env} here has {now}")


def evaluate(
    settings: Evaluation, model: Model, env: gym.Env[Any, Any], comm: Communicator
) -> np.ndarray:
    """Play this rank's share of the episodes and gather all: (episodes, 2) returns and lengths."""
    shares = np.array_split(np.arange(settings.episodes), comm.size)
    act = Behaviour(model, settings.deterministic)
    own = [play_episode(env, act, settings.seed, int(number)) for number in shares[comm.rank]]
    rows = np.array(own, np.float64).reshape(-1, 2)
    return comm.gather_rows(rows, np.array([len(share) for share in shares]))


class Behaviour:
    """A trained policy that plays one episode after another."""

    def __init__(self, model: Model, deterministic: bool) -> None:
        self._deterministic = deterministic
        self._actor, self._normalizer = model.actor(), model.normalizer
        self.begin()

    def begin(self) -> None:
        """Forget the last episode."""
        self._state = self._actor.begin(1)

    def __call__(self, observation: np.ndarray, noise: np.random.Generator) -> np.ndarray:
        """From a flat observation, and the episode's stream, to an action for the environment."""
        rows, distribution = self._normalizer(observation[None]), self._actor.distribution
        if self._deterministic:
            actions, self._state = self._actor.mode(rows, self._state)
        else:
            drawn = distribution.draw_noise(noise, 1)
            actions, self._state = self._actor.sample(rows, drawn, self._state)
        action: np.ndarray = distribution.to_environment(actions)[0]
        return action


def play_episode(
    env: gym.Env[Any, Any], act: Behaviour, seed: int, number: int
) -> tuple[float, int]:
    """Undiscounted raw return, and length in time steps, of episode `number`.

    It ends where the environment says so, by a time limit or truly, and where episodes are only
    lives, with the game. Raises `EnvironmentFault` where an observation or reward is not finite.
    """
    start, noise = stream(seed, EPISODE, number).spawn(2)
    generator = np.random.default_rng(noise)
    first, _ = env.reset(seed=int(start.generate_state(1)[0]))
    act.begin()
    total, length, ended = 0.0, 0, False
    flatten = flattener(env.observation_space)
    flat = _finite(flatten(first), total, number, length)
    while not ended:
        observation, reward, terminated, truncated, info = env.step(act(flat, generator))
        total += float(reward)
        length += 1
        flat = _finite(flatten(observation), total, number, length)
        ended = terminated or truncated
        game = info.get("game", (total, length))
        if ended and game is None:
            flat = _finite(flatten(env.reset()[0]), total, number, length)
            ended = False
            act.begin()
    return game


def _finite(observation: np.ndarray, total: float, number: int, step: int) -> np.ndarray:
    """The flat observation in float64; `EnvironmentFault` if it or the return is not finite."""
    flat: np.ndarray = observation.astype(np.float64)
    # A sum is finite only if all its terms are, and costs a third of testing each.
    if not math.isfinite(flat.sum() + total):
        raise EnvironmentFault(
            f"an observation or reward is not finite at step {step} of evaluation episode "
            f"{number}: observation {flat}, return {total}"
        )
    return flat


def table(settings: Evaluation, env_id: str, results: np.ndarray) -> str:
    """Mean, standard error and extremes of (episodes, 2) returns and lengths, as text."""
    lines = [
        f"{env_id}: {settings.episodes} episode{'s' if settings.episodes > 1 else ''}, "
        f"{settings.mode} policy, seed {settings.seed}",
        f"{'':8}{'mean':>12}{'std error':>12}{'min':>12}{'max':>12}",
    ]
    for name, values in zip(("return", "length"), results.T, strict=True):
        error = f"{values.std(ddof=1) / math.sqrt(len(values)):.2f}" if len(values) > 1 else "-"
        lines.append(
            f"{name:8}{values.mean():12.2f}{error:>12}{values.min():12.2f}{values.max():12.2f}"
        )
    return "\n".join(lines)


def _write(settings: Evaluation, results: np.ndarray) -> Path:
    """Write evaluation.csv beside the model, whole or not at all; gives its path."""
    run = Path(settings.run)
    path = (run if run.is_dir() else run.parent) / "evaluation.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("episode", "return", "length", "mode"))
    for number, (total, length) in enumerate(results.tolist()):
        writer.writerow((number, repr(total), int(length), settings.mode))
    try:
        with whole_file(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from None
    return path


if __name__ == "__main__":
    startup.run(main)
