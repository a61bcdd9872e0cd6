"""model.zip: a policy with its normaliser, as JSON and plain arrays.

Nothing in it runs when it is loaded, and nothing in it tells the time, the host or the number of
ranks: the same training gives the same bytes.
"""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from trpo_mpi.atomic_file import whole_file
from trpo_mpi.config import Atari
from trpo_mpi.envs.spaces import Spaces, from_tree, to_tree
from trpo_mpi.errors import UsageError
from trpo_mpi.model import Model
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.policies.policy import POLICIES, Architecture, observation_type
from trpo_mpi.run_directory import BEST, CHECKPOINTS, MODEL, archive

FORMAT = 1


def save(path: Path, model: Model) -> None:
    """Write a model, whole or not at all."""
    with whole_file(path) as file:
        archive.write(file, members(model))


def members(model: Model) -> dict[str, bytes]:
    """Members of a model file; a checkpoint has these and more."""
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
    if model.reward_scale != 1:
        header["reward_scale"] = model.reward_scale
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
        flag: the flag that named it, for error messages.
        which: in a run directory: `latest`, `best`, or the iteration of a checkpoint.

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
    if which != "best" and not which.isdecimal():
        raise UsageError(
            f"--which is {which!r}; it must be latest, best or a checkpoint's iteration"
        )
    folder = path / CHECKPOINTS
    chosen = path / BEST if which == "best" else folder / f"{which:0>8}.zip"
    if not chosen.exists():
        kept = [p.stem.lstrip("0") for p in sorted(folder.glob("*.zip")) if p.stem.isdecimal()]
        kept += ["best"] if (path / BEST).exists() else []
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
    if model.architecture.network is None:  # else `check_network` does, once it is known
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
    # Files of earlier versions lack later fields, whose values were then those of today's defaults.
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
        reward_scale=float(header.get("reward_scale", 1.0)),
        iteration=header.get("iteration"),
        timesteps=header.get("timesteps"),
    )
