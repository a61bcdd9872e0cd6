"""Arguments into settings, or into one line of refusal, without TensorFlow."""

import dataclasses
import re

import pytest
from conftest import Run

from trpo_mpi.command_line import parse
from trpo_mpi.config import Config, flag
from trpo_mpi.errors import UsageError

MODULE = "trpo_mpi.run_mujoco"


def parsed(*arguments: str) -> Config:
    return parse(Config, "run_mujoco", list(arguments))


def test_no_arguments_are_the_defaults() -> None:
    assert parsed() == Config()


def test_flags_are_the_fields_in_either_spelling() -> None:
    expected = Config(
        env="CartPole-v1", num_timesteps=5, net_arch=(8, 9), max_kl=0.5, normalize_returns=False
    )
    kebab = "--env CartPole-v1 --num-timesteps 5 --net-arch 8 9 --max-kl .5 --no-normalize-returns"
    assert parsed(*kebab.split()) == expected
    underscored = [re.sub(r"(?<=\w)-(?=[a-z]{2})", "_", word) for word in kebab.split()]
    assert "--num_timesteps" in underscored
    assert parsed(*underscored) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--nun-envs 3", ["--nun-envs", "did you mean --num-envs"]),
        ("--num_env=3", ["--num_env", "did you mean --num-envs"]),
        ("--timesteps-per-bach 3", ["--timesteps-per-bach", "did you mean --timesteps-per-batch"]),
        ("--zzz", ["--zzz"]),
        ("--policy RnnPolicy", ["--policy", "RnnPolicy", "MlpPolicy"]),
        ("--num-timesteps many", ["--num-timesteps", "many"]),
        ("--max-kl", ["--max-kl"]),
        ("stray", ["stray"]),
    ],
)
def test_refusals_are_one_short_line(arguments: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        parsed(*arguments.split())
    text = str(refusal.value)
    for word in words:
        assert word in text
    assert "\n" not in text
    assert not re.search(r"[│╭╰╮╯─]|---", text), "remains of a frame"
    assert "helptext" not in text
    assert len(text) < 200


def test_nothing_near_is_not_suggested() -> None:
    with pytest.raises(UsageError) as refusal:
        parsed("--zzz")
    assert "did you mean" not in str(refusal.value)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_refused_command_prints_one_line_and_exits_with_2(python: Run, locale: str) -> None:
    """In a terminal's encoding, too."""
    for arguments, word in (
        ("--nun-envs 3", "did you mean --num-envs?"),
        ("--policy RnnPolicy", "MlpPolicy"),
        ("--gamma 2", "--gamma is 2.0; it must be a number from 0 to 1"),
    ):
        variables = {"LC_ALL": locale, "PYTHONIOENCODING": "", "PYTHONUTF8": "0"}
        result = python("-m", MODULE, *arguments.split(), **variables)
        assert result.returncode == 2
        assert result.stdout == ""
        assert re.fullmatch(r"run_mujoco: error: [^\n]*\n", result.stderr)
        assert word in result.stderr
        assert len(result.stderr) < 200


def test_help_names_every_field(python: Run) -> None:
    result = python("-m", MODULE, "--help", COLUMNS="200")
    assert result.returncode == 0
    assert result.stderr == ""
    for field in dataclasses.fields(Config):
        assert flag(field.name) in result.stdout
    for words in ("in nats", "1000000", "time steps", "environments"):
        assert words in result.stdout


def test_help_is_printed_once_however_many_ranks(mpirun: Run) -> None:
    result = mpirun(3, "-m", MODULE, "--help")
    assert result.returncode == 0
    assert result.stdout.count("--num-timesteps") == 1


def test_parsing_loads_neither_tensorflow_nor_mpi(python: Run) -> None:
    code = (
        "import sys, trpo_mpi.config, trpo_mpi.command_line as c, trpo_mpi.training_command\n"
        "c.parse(trpo_mpi.config.Config, 'run_mujoco', [])\n"
        "print([m for m in ('tensorflow', 'mpi4py.MPI') if m in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"
