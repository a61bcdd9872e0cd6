"""The runs of a sweep: every environment with every seed and every combination of settings."""

import dataclasses
import difflib
import functools
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trpo_mpi.command_line import training_settings
from trpo_mpi.config import CONFIGS, NOT_THE_RESULT, AtariConfig, Config, flag
from trpo_mpi.envs.atari import is_atari
from trpo_mpi.envs.make import check_env, quiet_gymnasium
from trpo_mpi.errors import UsageError
from trpo_mpi.grid import batch_grid
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.run_directory import checkpoint
from trpo_mpi.run_directory.progress import evaluated
from trpo_mpi.state import Counters

MOST_SEEDS = 10_000
OWN = {
    "env": "that is for --envs",
    "seed": "that is for --seeds",
    "outdir": "that is for the sweep's own --outdir",
    "resume": "each run goes on where it was",
    "check": "no run would be made",
}
"""Settings that can't be given to the runs, and why."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    config: Config
    varied: tuple[str, ...]
    """Its values of the varied settings, as they were given."""
    flags: tuple[str, ...]
    """Its command's flags besides environment, seed and directory."""

    @property
    def directory(self) -> Path:
        """The run directory."""
        return Path(str(self.config.outdir))

    @property
    def log(self) -> Path:
        """The file to which all its output goes."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def arguments(self) -> list[str]:
        """Arguments of Python after -m: the command and its flags."""
        config = self.config
        start = [f"trpo_mpi.{config.command}", "--env", config.env, "--seed", str(config.seed)]
        return [*start, *self.flags, "--outdir", str(self.directory), "--resume", "auto"]

    def finished(self) -> bool:
        """Whether it has reached its end, by its newest checkpoint.

        Raises `UsageError` if its directory holds a run with other settings.
        """
        found = checkpoint.standing(self.directory)
        if found is None:
            return False
        its, config = found.settings, self.config
        config = dataclasses.replace(
            config,
            num_envs=config.num_envs or its.num_envs,
            timesteps_per_batch=config.timesteps_per_batch or its.timesteps_per_batch,
        )
        found.check(config)
        counters = Counters.from_tree(found.state["counters"])
        if counters.limit_reached(config, its.num_envs or 1) is None:
            return False
        return not config.eval_episodes or evaluated(self.directory) >= counters.iteration


def seeds(words: Sequence[str]) -> list[int]:
    """Seeds from numbers and ranges: `0-2 7` are 0, 1, 2 and 7."""
    numbers: list[int] = []
    for word in words:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(f"--seeds {word}: it must be a number such as 3 or a range as 0-4")
        if last - first >= MOST_SEEDS:
            raise UsageError(f"--seeds {word}: these are more than {MOST_SEEDS}")
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers))


def variations(given: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Settings that vary: field name -> values."""
    varied: dict[str, list[str]] = {}
    for words in given:
        name = words[0].replace("-", "_") if words else ""
        if len(words) < 2:
            raise UsageError(
                f"--vary {' '.join(words)}: it takes a setting and its values, as --vary max-kl "
                '0.01 0.02, or --vary net-arch "64 64" "32 32"'
            )
        if name in varied:
            raise UsageError(f"--vary {words[0]} is there twice")
        if name in (NOT_THE_RESULT | set(OWN)) - {"num_timesteps"}:
            raise UsageError(f"--vary {words[0]}: {OWN.get(name, 'that changes no result')}")
        varied[name] = list(dict.fromkeys(words[1:]))
    return varied


def plan(
    envs: Sequence[str],
    numbers: Sequence[int],
    varied: dict[str, list[str]],
    common: Sequence[str],
    outdir: Path,
    ranks: int,
) -> list[Run]:
    """All runs, seed by seed, so that the results at any time can be compared.

    Args:
        envs: environments; Atari games are for `run_atari`, all others for `run_mujoco`.
        numbers: seeds.
        varied: as `variations` returns it.
        common: flags of all runs.
        outdir: where their directories are.
        ranks: ranks per run.

    Raises `UsageError` for the first combination that a training command would refuse.
    """
    if not envs or not numbers:
        raise UsageError("--envs and --seeds take one value or more")
    flags = [word.partition("=")[0] for word in common if word.startswith("--")]
    named = [word[2:].replace("-", "_") for word in flags]
    for name in named:
        if name in OWN or name in varied:
            raise UsageError(f"{flag(name)} behind --: {OWN.get(name, '--vary has it')}")
    quiet_gymnasium()
    spaces_of = functools.cache(check_env)
    runs: list[Run] = []
    for env in dict.fromkeys(envs):
        module = AtariConfig.command if is_atari(env) else Config.command
        for values in itertools.product(*varied.values()):
            own = [w for part in zip(varied, values, strict=True) for w in _flags(module, *part)]
            config = _settings(module, ["--env", env, *common, *own])
            batch_grid(config, ranks)
            spaces = spaces_of(env, False, config.atari, config.time_feature)
            if config.network is None:
                Architecture.of(config).make_policy(spaces.observation, spaces.action)
            if "num_timesteps" not in [*named, *varied]:  # or an earlier start's would hold
                own = ["--num-timesteps", str(config.num_timesteps), *own]
            words = [env.rpartition(":")[2], *map(_word, varied, values)]
            name = re.sub(r"[^-.+\w]", "-", "-".join(words))
            for seed in numbers:
                place = outdir / f"{name}-s{seed}"
                whole = dataclasses.replace(config, seed=seed, outdir=str(place))
                whole.validate()
                runs.append(Run(whole, values, (*common, *own)))
    _check_different(runs)
    return sorted(runs, key=lambda run: numbers.index(run.config.seed))


def _settings(module: str, arguments: list[str]) -> Config:
    try:
        return training_settings(module, arguments)
    except UsageError as error:
        if str(error).startswith("Unrecognized"):
            reason = f"{module}: {error}; several values of a setting go to --vary"
            raise UsageError(reason) from None
        raise


def _flags(module: str, name: str, value: str) -> Iterator[str]:
    """A varied setting as flags of the training command."""
    hints = typing.get_type_hints(CONFIGS[module])
    if name not in hints:
        near = difflib.get_close_matches(name, hints, 1)
        mean = f" (did you mean {flag(near[0])[2:]}?)" if near else ""
        raise UsageError(f"--vary {flag(name)[2:]}: {module} has no such setting{mean}")
    if hints[name] is bool:
        if value not in ("True", "False"):
            raise UsageError(f"--vary {flag(name)[2:]} {value}: it must be True or False")
        yield flag(name if value == "True" else f"no_{name}")
        return
    yield flag(name)
    yield from value.split() if typing.get_origin(hints[name]) is tuple else [value]


def _word(name: str, value: str) -> str:
    """A setting as a part of a directory's name: max_kl0.02, algo-ppo."""
    return f"{name}{value}" if re.match(r"-?[.\d]", value) else f"{name}-{value}"


def _check_different(runs: Sequence[Run]) -> None:
    """Raise `UsageError` if two runs are the same, or would share a directory."""
    kinds: dict[object, Run] = {}
    for run in runs:
        settings = dataclasses.replace(run.config, outdir=None)
        for key in (settings, run.directory):
            other = kinds.setdefault(key, run)
            if other is not run:
                names = " ".join(dict.fromkeys([*other.varied, *run.varied]))
                raise UsageError(f"{other.directory} and {run.directory} are the same run: {names}")
