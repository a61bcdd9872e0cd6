"""model.zip: a policy with its normaliser, as JSON and plain arrays.

Nothing in it runs when it is loaded, and nothing in it tells the time, the host or the number of
ranks: the same training gives the same bytes.
"""

import dataclasses
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.atomic_file import whole_file
from trpo_mpi.config import Atari, Config
from trpo_mpi.envs.make import make_env
from trpo_mpi.envs.spaces import Spaces, from_tree, to_tree
from trpo_mpi.errors import UsageError
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.policies.networks import safe_blocks
from trpo_mpi.policies.policy import (
    POLICIES,
    Actor,
    Architecture,
    Policy,
    ValueNetwork,
    observation_type,
)
from trpo_mpi.run_directory import CHECKPOINTS, MODEL, archive
from trpo_mpi.state import CRITIC, POLICY, seed_sequence

FORMAT = 1
"""The run directory's folder of checkpoints."""


@dataclass
class Model:
    """A trained policy and all that acting or training further takes."""

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
    """What stands between the game and the policy, where it is a game of ale-py's."""
    time_feature: bool = False
    """Whether observations end with the share of the time limit that has passed."""
    iteration: int | None = None
    """The iteration of its run after which it was so; None where a file does not say."""
    timesteps: int | None = None
    """How many time steps its run had then."""

    def make_env(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """An environment as it was trained on; raises as `make_env` does."""
        return make_env(self.env, render_mode, self.atari, self.time_feature)

    def actor(self) -> Actor:
        """The policy, to act with on normalised observations."""
        policy = self.make_policy()
        return policy.actor(self.theta, safe_blocks(policy, self.theta), alone=True)

    def make_policy(self) -> Policy:
        """The policy, without its parameters."""
        return self.architecture.make_policy(self.spaces.observation, self.spaces.action)

    def make_critic(self) -> ValueNetwork:
        """The critic, without its parameters."""
        return ValueNetwork(self.make_policy(), self.spaces.observation, self.architecture)

    def check_sizes(self) -> None:
        """Raise `ValueError` unless every array has the size that its use needs."""
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
        """Raise `UsageError` unless the user's own network has the parameters of this model."""
        try:
            self.check_sizes()
        except UsageError:
            raise
        except ValueError as error:
            name = self.architecture.network
            raise UsageError(f"{source} was made with another network {name!r}: {error}") from None

    def check_fits(self, config: Config, spaces: Spaces, source: str) -> None:
        """Raise `UsageError`, naming the difference, unless a run can start from this model."""
        normalized = self.normalizer.moments is not None
        images = POLICIES[self.architecture.policy].images
        for what, mine, its in (
            ("observation space", self.spaces.observation, spaces.observation),
            ("action space", self.spaces.action, spaces.action),
            *(
                (field.name, getattr(self.architecture, field.name), getattr(config, field.name))
                for field in dataclasses.fields(Architecture)
            ),
            ("normalize_observations", normalized, config.normalize_observations and not images),
            ("normalize_returns", self.return_moments is not None, config.normalize_returns),
        ):
            if mine != its:
                raise UsageError(f"{source} has {what} {mine}, but the run has {its}")


def initial(config: Config, spaces: Spaces) -> Model:
    """The model that a run begins from."""
    architecture = Architecture.of(config)
    policy = architecture.make_policy(spaces.observation, spaces.action, config.init_logstd)
    critic = ValueNetwork(policy, spaces.observation, architecture)
    theta, phi = (
        part.initialise(np.random.default_rng(seed_sequence(config.seed, key)))
        for part, key in ((policy, POLICY), (critic, CRITIC))
    )
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
    )


def save(path: Path, model: Model) -> None:
    """Write a model, whole or not at all."""
    with whole_file(path) as file:
        archive.write(file, members(model))


def members(model: Model) -> dict[str, bytes]:
    """What a model file is made of; a checkpoint has these members and more."""
    arrays = {"theta": model.theta, "phi": model.phi}
    for name in ("m", "v"):
        arrays[f"adam_{name}"] = model.adam[name]
    counts = {}
    normalisers = {"observation": model.normalizer.moments, "return": model.return_moments}
    for name, moments in normalisers.items():
        if moments is not None:
            arrays[f"{name}_mean"], arrays[f"{name}_m2"] = moments.mean, moments.m2
            counts[name] = moments.count
    header = {
        "format": FORMAT,
        "env": model.env,
        **dataclasses.asdict(model.architecture),
        "adam_steps": model.adam["steps"],
        "moment_counts": counts,
        "iteration": model.iteration,
        "timesteps": model.timesteps,
    }
    if model.time_feature:
        header["time_feature"] = True
    if model.atari is not None:
        header["atari"] = dataclasses.asdict(model.atari)
    spaces = [to_tree(model.spaces.observation), to_tree(model.spaces.action)]
    return {
        "model.json": (json.dumps(header, indent=1) + "\n").encode(),
        "spaces": archive.pack(spaces),
        **{f"{name}.npy": archive.npy(array) for name, array in arrays.items()},
    }


def load(source: str, flag: str = "--load", which: str = "latest") -> Model:
    """Read a model.zip, a checkpoint, or the model of a run directory.

    Args:
        source: a file, or a run directory.
        flag: what named it, for the refusal.
        which: of a run directory: `latest`, `best`, or the iteration of a checkpoint.

    Raises `UsageError`, naming the file, if it is missing, damaged, foreign, or of a newer
    format.
    """
    path = _choose(Path(source), which)
    missing = f"{flag} {source}: there is no {path}"
    with archive.model_file_errors(f"{flag} {path}", missing), zipfile.ZipFile(path) as file:
        return read(file)


def _choose(path: Path, which: str) -> Path:
    if path.is_file() and which != "latest":
        raise UsageError(f"--which {which} needs a run directory, but {path} is a file")
    if not path.is_dir():
        return path
    if which == "latest":
        return path / MODEL
    folder = path / CHECKPOINTS
    chosen = folder / ("best.zip" if which == "best" else f"{which:0>8}.zip")
    if not chosen.exists():
        kept = [p.stem.lstrip("0") for p in sorted(folder.glob("*.zip")) if p.stem.isdecimal()]
        kept += ["best"] if (folder / "best.zip").exists() else []
        raise UsageError(f"--which {which}: {path} has {', '.join(['latest', *kept])}")
    return chosen


def read(file: zipfile.ZipFile, folder: str = "") -> Model:
    """The model in an open archive, or in a folder of it.

    Raises `archive.NewerFormatError`, or one of `archive.DAMAGE`.
    """
    header = json.loads(file.read(f"{folder}model.json"))
    archive.check_format(header["format"], FORMAT)
    arrays = {}
    for name in file.namelist():
        stem, _, ending = name.removeprefix(folder).partition(".")
        if name.startswith(folder) and ending == "npy":
            arrays[stem] = archive.from_npy(file.read(name))
    observation, action = archive.unpack(file.read(f"{folder}spaces"))
    model = _model(header, arrays, Spaces(from_tree(observation), from_tree(action)))
    if model.architecture.network is None:  # or `check_network` does, once it is known
        model.check_sizes()
    return model


def _atari(given: dict[str, Any]) -> Atari:
    known = {field.name for field in dataclasses.fields(Atari)}
    return Atari(**{name: x for name, x in given.items() if name in known})


def _model(header: dict[str, Any], arrays: dict[str, np.ndarray], spaces: Spaces) -> Model:
    def moments(name: str) -> Moments | None:
        if name not in header["moment_counts"]:
            return None
        count = float(header["moment_counts"][name])
        return Moments(count, arrays[f"{name}_mean"], arrays[f"{name}_m2"])

    adam = {"steps": int(header["adam_steps"]), "m": arrays["adam_m"], "v": arrays["adam_v"]}
    # A file of an earlier version has none of the later fields: those had the values of today's
    # defaults.
    known = {f.name for f in dataclasses.fields(Architecture)} & set(header)
    architecture = Architecture(**{name: header[name] for name in known})
    architecture = dataclasses.replace(architecture, net_arch=tuple(architecture.net_arch))
    kind = observation_type(spaces.observation, POLICIES[architecture.policy].images)
    return Model(
        env=header["env"],
        architecture=architecture,
        spaces=spaces,
        theta=arrays["theta"],
        phi=arrays["phi"],
        normalizer=ObservationNormalizer(moments("observation"), kind),
        return_moments=moments("return"),
        adam=adam,
        atari=_atari(header["atari"]) if "atari" in header else None,
        time_feature=header.get("time_feature", False),
        iteration=header.get("iteration"),
        timesteps=header.get("timesteps"),
    )
