"""Turns a command's arguments into its settings, or refuses them in one line."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import typing
from typing import Any, TypeVar

import tyro

from trpo_mpi.config import ALTERNATIVES, CONFIGS, Config, check_names, flag, ranges
from trpo_mpi.errors import UsageError
from trpo_mpi.help_text import help_text, required
from trpo_mpi.parallel import startup
from trpo_mpi.recipes import config_of, listing

Settings = TypeVar("Settings")


def parse(
    settings: type[Settings],
    module: str,
    arguments: list[str] | None = None,
    default: Settings | None = None,
) -> Settings:
    """Settings from the command line, for `python -m trpo_mpi.<module>`.

    Settings not given are those of `default`, or the defaults of the fields of `settings`.
    `--help`, and `--recipe` without a value, print once whatever the number of ranks and exit with
    code 0. Raises `UsageError` with tyro's message on one line.
    """
    base = tyro.MISSING_NONPROP if default is None else default
    arguments = sys.argv[1:] if arguments is None else arguments
    if hasattr(settings, "recipe") and _alone("--recipe", arguments):
        if startup.launched().rank == 0:
            print(listing())
        raise SystemExit(0)
    prog = f"python -m trpo_mpi.{module}"
    err = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            found = tyro.cli(settings, prog=prog, args=arguments, default=base)
    except SystemExit as stop:
        if not stop.code:
            if startup.launched().rank == 0:
                print(help_text(settings, prog, default), end="")
            raise
        refusal = _one_line(err.getvalue())
        if refusal.startswith("Missing from"):
            names = [name for name in required(settings) if f" {name} " in refusal]
            refusal = f"{' and '.join(names)} must be given; --help says what"
        raise UsageError(_plainly(refusal, settings) + _near_flags(refusal, settings)) from None
    check_names(found)
    return found


def training_settings(module: str, arguments: list[str] | None = None) -> Config:
    """Settings of a training command, with its recipe's filled in; `UsageError` if one is wrong.

    `arguments` are by default those of this process.
    """
    kind = CONFIGS[module]
    arguments = sys.argv[1:] if arguments is None else arguments
    config = parse(kind, module, arguments)
    if config.recipe != "default":
        base = config_of(config.recipe, module, config.env)
        given = _given(kind, arguments)
        unset: dict[str, Any] = {
            other: getattr(kind, other)
            for name, other in ALTERNATIVES.items()
            if name in given and other not in given
        }
        config = parse(kind, module, arguments, dataclasses.replace(base, **unset))
    config.validate()
    return config


def unused_flags(config: Config, arguments: list[str] | None = None) -> str | None:
    """Which flags of the command line have no effect, in words; None if all have one."""
    idle = config.unused(_given(type(config), sys.argv[1:] if arguments is None else arguments))
    if not idle:
        return None
    reasons: dict[str, Any] = {
        "algo": config.algo,
        "policy": config.policy,
        "network": config.network,
        "vf_coef": config.shared_vf_coef or None,
        "adapt": config.adapt if config.adapts_kl else None,
        "load": config.load,
    }
    others = " ".join(f"{flag(name)} {x}" for name, x in reasons.items() if x is not None)
    return f"{', '.join(flag(name) for name in idle)}: without effect with {others}"


def _given(kind: type, arguments: list[str]) -> list[str]:
    """The fields whose flags are among the arguments."""
    words = {word.partition("=")[0].replace("_", "-") for word in arguments}
    return [field.name for field in dataclasses.fields(kind) if flag(field.name) in words]


def _alone(name: str, arguments: list[str]) -> bool:
    """Whether a flag is given without a value."""
    behind = arguments[arguments.index(name) + 1 :] if name in arguments else ["a value"]
    return not behind or behind[0].startswith("--")


def _one_line(panel: str) -> str:
    """The first part of the framed panel that tyro prints, without its title and frame.

    The frame is drawn with box-drawing characters, or with dashes if the terminal has none.
    """
    lines = [line.strip("│╭╰╮╯─ ") for line in panel.splitlines()[1:]]
    text = ""
    for words in lines:
        if words.strip("-"):
            text += " " + words
        elif text:
            break
    return text.strip().rstrip(".") or " ".join(panel.split())


def _plainly(refusal: str, settings: type) -> str:
    """tyro's refusal of a value in the words in which `check_ranges` refuses one."""
    match = re.match(r"Error parsing --([\w-]+): .*?('.*')", refusal)
    if match:
        name, value = match[1].replace("-", "_"), " ".join(re.findall(r"'([^']*)'", match[2]))
        hint = typing.get_type_hints(settings, include_extras=True).get(name)
        several = tuple in (typing.get_origin(part) for part in (hint, *typing.get_args(hint)))
        words = "; ".join(limit.words for _, limit in ranges(hint))
        if several:
            words = f"one value or more, with spaces between them, each {words}"
        return f"{flag(name)} is {value!r}; it must be {words}"
    match = re.match(r"invalid choice ('.*?') for argument '(--[\w-]+)'.*\((.*)\)", refusal)
    if match:
        allowed = [word for word in re.findall(r"'([^']*)'", match[3]) if word != "None"]
        return f"{match[2]} is {match[1]}; it must be one of {', '.join(allowed)}"
    return refusal


def _near_flags(refusal: str, settings: type) -> str:
    known = [flag(field.name) for field in dataclasses.fields(settings)]
    if refusal.startswith("Unrecognized"):
        for word in re.findall(r"--[\w-]+", refusal):
            near = difflib.get_close_matches(word.replace("_", "-"), known, 1)
            if near:
                return f" (did you mean {near[0]}?)"
    return ""
