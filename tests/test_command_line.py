"""Arguments into settings, or into one line of refusal, without TensorFlow."""

import dataclasses
import re

import pytest
from conftest import Run

from trpo_mpi.command_line import parse, training_settings, unused_flags
from trpo_mpi.config import Config, flag
from trpo_mpi.errors import UsageError

MODULE = "trpo_mpi.run_mujoco"


def parsed(*arguments: str) -> Config:
    return parse(Config, "run_mujoco", list(arguments))


def test_flags_without_effect_are_named() -> None:
    words = "--algo ppo --max_kl=.1 --clip-range .1 --cg-iters 3".split()
    config = training_settings("run_mujoco", words)
    assert unused_flags(config, words) == (
        "--max-kl, --cg-iters: without effect with --algo ppo --policy MlpPolicy"
    )
    assert unused_flags(config, words[:2]) is None


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
        ("--num-timesteps 1e6", ["--num-timesteps is '1e6'", "a whole number from 1 to 10^15"]),
        ("--num-envs 3.5", ["--num-envs is '3.5'", "a whole number from 1"]),
        ("--max-kl big", ["--max-kl is 'big'; it must be a number above 0"]),
        ("--stop-return x", ["--stop-return is 'x'; it must be a finite number"]),
        ("--net-arch 64,64", ["--net-arch is '64,64'", "spaces between", "a whole number"]),
        ("--adapt all", ["--adapt is 'all'; it must be one of none, kl, batch, both"]),
        (f"--outdir runs/{'x' * 256}", ["--outdir is too long, runs/xxx", "255 bytes"]),
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


COMMANDS = ("run_mujoco", "run_atari", "evaluate", "play", "plot", "export", "status", "sweep")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_each_thing_once_and_shows_how_to_call_it(python: Run, command: str) -> None:
    page = python("-m", f"trpo_mpi.{command}", "--help", COLUMNS="80").stdout
    about, _, examples = page.partition("\nexamples:\n")
    assert examples.count(f"python -m trpo_mpi.{command}") >= 1
    assert max(map(len, about.splitlines())) <= 80
    assert not re.search(r"[ \t]$", page, re.MULTILINE)
    assert not re.search(r"\[default|default: \)|default: None\)|\{None", page)
    for words in re.findall(r"\(default:[^)]*\)?", page):
        assert words.endswith(")"), words


def test_a_paragraph_of_help_is_not_broken_where_its_source_is(python: Run) -> None:
    page = python("-m", "trpo_mpi.play", "--help", COLUMNS="200").stdout
    sentence = "Several episodes follow one another. (default: none)\n"
    assert re.search(rf"\n  --video STR +Write an MP4 file .*{re.escape(sentence)}", page)
    assert re.search(r"\n  DIR +A run directory, .*\(required\)\n", page)


@pytest.mark.parametrize(
    ("command", "names"),
    [("export", "DIR and --saved-model"), ("play", "DIR"), ("sweep", "--envs")],
)
def test_what_is_missing_is_named(python: Run, command: str, names: str) -> None:
    result = python("-m", f"trpo_mpi.{command}")
    assert result.returncode == 2
    assert result.stderr == f"{command}: error: {names} must be given; --help says what\n"


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
