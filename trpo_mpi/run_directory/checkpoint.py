"""Checkpoints: all that a run carries from one iteration to the next, written by rank 0.

    runs/Hopper-v4-default-s0/
        model.zip               the policy at the latest checkpoint
        checkpoints/
            00000480.zip        after iteration 480; the newest three are kept
            00000960.zip
            00001440.zip
            best.zip            the model with the highest mean return of 100 episodes

A checkpoint is a model file with more members: `settings.json`, `state` and `columns/0` to
`columns/C-1`, and the best model so far under `best/`. Each has a checksum, and the file appears
under its name only once it is complete on disk.
"""

import contextlib
import dataclasses
import errno
import json
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trpo_mpi.atomic_file import set_aside, whole_file
from trpo_mpi.config import CONFIGS, NOT_THE_RESULT, OF_ONE_START, Config, flag
from trpo_mpi.errors import UsageError
from trpo_mpi.model import Model
from trpo_mpi.output import warn
from trpo_mpi.run_directory import BEST, CHECKPOINTS, MODEL, archive, model_file

FORMAT = 1
KEPT = 3
INTERVAL = 60.0
"""Seconds between checkpoints, unless --checkpoint-every says otherwise."""
SHARE = 0.01
"""Largest share of the time that checkpoints may then take."""
GONE_OR_FOREIGN = (errno.ENOENT, errno.EINVAL)
"""Errors of the system that are a file's own: it is gone, or names places before its beginning."""


@dataclass
class Standing:
    """How far a run has come."""

    path: Path
    """The checkpoint that this was read from."""
    settings: Config
    """The run's settings, with its grid filled in."""
    state: dict[str, Any]

    @property
    def iteration(self) -> int:
        """The iteration after which it was taken."""
        return int(self.state["counters"]["iteration"])

    def defaults(self) -> Config:
        """Defaults for the command line: the run's settings, except those of a single start.

        Nor may a file choose the code to run: a custom network must be named again.
        """
        kind = type(self.settings)
        carried = {f.name for f in dataclasses.fields(kind)} - OF_ONE_START - {"network"}
        return kind(**{name: getattr(self.settings, name) for name in carried})

    def check(self, config: Config) -> None:
        """Raise `UsageError` for the first setting that differs and would change the result."""
        for field in dataclasses.fields(config):
            its, now = getattr(self.settings, field.name), getattr(config, field.name)
            if its == now or field.name in NOT_THE_RESULT:
                continue
            what = f"{flag(field.name)} is {now}, but the run of {self.path} has {its}"
            if field.name == "num_envs":
                raise UsageError(f"{what}; a run keeps its environments")
            if field.name == "recipe":
                raise UsageError(f"{what}; change single settings, with --allow-changes")
            if not config.allow_changes:
                raise UsageError(f"{what}; leave it at that, or say --allow-changes")


@dataclass
class Checkpoint(Standing):
    """A checkpoint in memory; see `Trainer.resume`."""

    model: Model
    best: Model | None
    columns: list[Any]


class CheckpointWriter:
    """Writes the checkpoints of one run, and says when the next is due; for rank 0.

    Args:
        run: the run directory.
        settings: the run's settings, with its grid filled in.
    """

    def __init__(self, run: Path, settings: Config) -> None:
        self._run = run
        self._folder = run / CHECKPOINTS
        self._settings = settings
        self._last = time.monotonic()
        self.cost = 0.0
        """Seconds that the last checkpoint took, including its collection from the ranks."""
        self._best: Model | None = None

    def due(self, iteration: int) -> bool:
        """Whether to write a checkpoint after this iteration."""
        every = self._settings.checkpoint_every
        if every is not None:
            return iteration % every == 0
        return time.monotonic() - self._last > max(INTERVAL, self.cost / SHARE)

    def write(
        self,
        model: Model,
        best: Model | None,
        state: dict[str, Any],
        columns: Sequence[bytes],
        began: float,
    ) -> None:
        """Write model.zip, best.zip and a checkpoint; then remove those that are no longer kept.

        Args:
            model, best, state, columns: as in `Checkpoint`; each column packed.
            began: `time.monotonic()` when its collection began.

        Raises `OSError`; then every file is whole, and is the old one unless already replaced.
        """
        self._folder.mkdir(exist_ok=True)
        whole = members(self._settings, model, best, state, columns)
        iteration = state["counters"]["iteration"]
        model_file.save(self._run / MODEL, model)
        if best is not None and best is not self._best:
            model_file.save(self._run / BEST, best)
            self._best = best
        # Last: a run that resumes from its last iteration writes nothing more.
        with whole_file(self._folder / f"{iteration:08d}.zip") as file:
            archive.write(file, whole)
        # Those with higher numbers are damaged: otherwise this run would have resumed from them.
        past = [path for path in numbered(self._run) if int(path.stem) <= iteration]
        for old in past[KEPT:]:
            old.unlink()
        self._last = time.monotonic()
        self.cost = self._last - began

    def postpone(self) -> None:
        """Give up this checkpoint, and wait until the next is due."""
        self._last = time.monotonic()


def set_models_aside(run: Path) -> None:
    """Keep, as *.old, the models of a run none of whose checkpoints is whole; it begins anew."""
    for name in (MODEL, BEST):
        if (kept := set_aside(run / name)) is not None:
            warn(f"{run} begins anew: its {name} is now {kept.name}")


def members(
    settings: Config,
    model: Model,
    best: Model | None,
    state: dict[str, Any],
    columns: Sequence[bytes],
) -> dict[str, bytes]:
    """Members of a checkpoint file; see `CheckpointWriter.write`."""
    header = {
        "format": FORMAT,
        "command": settings.command,
        "columns": len(columns),
        "best": best is not None,
        "settings": dataclasses.asdict(settings),
    }
    whole = model_file.members(model)
    whole |= {"settings.json": (json.dumps(header, indent=1) + "\n").encode()}
    whole |= {"state": archive.pack(state)}
    whole |= {f"columns/{i}": content for i, content in enumerate(columns)}
    if best is not None:
        whole |= {f"best/{name}": x for name, x in model_file.members(best).items()}
    return whole


def numbered(run: Path) -> list[Path]:
    """The checkpoints of a run directory, the newest first. Raises `OSError` if it can't say."""
    folder = run / CHECKPOINTS
    try:
        names = os.listdir(folder)  # a glob finds nothing where it may not look
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [folder / name for name in names if name.endswith(".zip") and name[:-4].isdecimal()]
    return sorted(found, key=lambda p: int(p.stem), reverse=True)


def remove_remains(run: Path) -> None:
    """Remove what interrupted writes have left in a run directory that no other process uses."""
    for folder in (run, run / CHECKPOINTS):
        with contextlib.suppress(OSError):
            for path in folder.glob(".*.tmp"):
                path.unlink()


def newest(run: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None; damaged ones are skipped with a warning.

    Raises `UsageError` if a checkpoint was written by a later version of this package, or can't be
    read now: to go on from an older one would overwrite what came after it.
    """
    path = run / CHECKPOINTS
    try:
        for path in numbered(run):
            try:
                return read(path)
            except (archive.NewerFormatError, UsageError) as error:
                raise UsageError(f"--resume: {path} {error}") from None
            except archive.DAMAGE as error:
                if isinstance(error, OSError) and error.errno not in GONE_OR_FOREIGN:
                    raise
                warn(f"{path} is damaged and left out: {error}")
    except OSError as error:
        raise UsageError(f"--resume: {path} can't be read: {error.strerror}") from None
    return None


def standing(run: Path) -> Standing | None:
    """How far a run has come by its newest whole checkpoint, or None; changes no file."""
    with contextlib.suppress(OSError):
        for path in numbered(run):
            try:
                with zipfile.ZipFile(path) as file:
                    return Standing(path, _settings(file)[0], archive.unpack(file.read("state")))
            except (archive.NewerFormatError, *archive.DAMAGE):
                continue
    return None


def read(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises `archive.NewerFormatError`, or one of `archive.DAMAGE` if it is not whole.
    """
    with zipfile.ZipFile(path) as file:
        settings, header = _settings(file)
        return Checkpoint(
            path,
            settings,
            archive.unpack(file.read("state")),
            model_file.read(file),
            model_file.read(file, "best/") if header["best"] else None,
            [archive.unpack(file.read(f"columns/{i}")) for i in range(header["columns"])],
        )


def _settings(file: zipfile.ZipFile) -> tuple[Config, dict[str, Any]]:
    """The run's settings, and the whole of settings.json."""
    header = json.loads(file.read("settings.json"))
    archive.check_format(header["format"], FORMAT)
    kind = CONFIGS[header.get("command", Config.command)]  # the first versions did not store it
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: x for name, x in header["settings"].items() if name in known}
    given = {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()}
    settings = kind(**given)
    if "vf_coef" not in given and settings.shared_vf_coef:  # the first versions had two networks
        settings = dataclasses.replace(settings, vf_coef=0.0)
    settings.validate()
    return settings, header
