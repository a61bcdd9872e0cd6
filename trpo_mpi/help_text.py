"""What `--help` prints: tyro's page of the settings, and examples from the command's docstring."""

import contextlib
import dataclasses
import io
import re
import shutil
import sys
import textwrap
import types
import typing
from typing import Annotated, Any

import docstring_parser
import tyro
from tyro.conf import arg

from trpo_mpi.config import flag

DEFAULT = re.compile(r"\s*\[default: (.*)\]$")
"""The end of a field's docstring, if it states the default in words."""


def help_text(settings: type, prog: str, default: Any = None) -> str:
    """The `--help` page, as wide as the terminal.

    Args:
        settings: a dataclass; a docstring under a field may end with `[default: ...]`.
        prog: how the command is called.
        default: an instance whose values are the defaults, in place of the fields' own.
    """
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(_documented(settings, default), prog=prog, args=["--help"])
    width = shutil.get_terminal_size().columns
    lines: list[str] = []
    for line in page.getvalue().strip().splitlines():
        told = line[:1].isalpha() or line[:1] == "`"  # tyro does not wrap these
        indent = " " * 7 * line.startswith("usage: ")
        lines += textwrap.wrap(line, width, subsequent_indent=indent) if told else [line.rstrip()]
    # The command's file is this process's main module; its docstring has the examples.
    about = (sys.modules["__main__"].__doc__ or "").splitlines()
    examples = [f"  {line}" for line in about if prog in line]
    return "\n".join([*lines, *(["", "examples:", ""] if examples else []), *examples]) + "\n"


def required(settings: type) -> list[str]:
    """The settings that must be given, by their names on the page."""
    names = {f.name: flag(f.name) for f in dataclasses.fields(settings) if _is_required(f)}
    for name, hint in typing.get_type_hints(settings, include_extras=True).items():
        if name in names and (metavar := _metavar(hint)):
            names[name] = metavar
    return list(names.values())


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING


def _metavar(hint: Any) -> str | None:
    notes = getattr(hint, "__metadata__", ())
    return next((x for note in notes if (x := getattr(note, "metavar", None))), None)


def _documented(settings: type, default: Any) -> type:
    """A dataclass with the same page, each docstring one paragraph, each default stated once."""
    about = {
        param.arg_name: " ".join((param.description or "").split())
        for kind in reversed(settings.__mro__[:-1])
        for param in docstring_parser.parse_from_object(kind).params
    }
    hints = typing.get_type_hints(settings, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(settings):
        text = about.get(field.name, "")
        value = field.default if default is None else getattr(default, field.name)
        said = DEFAULT.search(text)
        look: dict[str, Any] = {"help": DEFAULT.sub("", text)}
        if _is_required(field):
            look["help_behavior_hint"] = "(required)"
        elif value is None or value == ():
            look["help_behavior_hint"] = f"(default: {said[1] if said else 'none'})"
        if (value_name := _of_optional(hints[field.name])) is not None:
            look["metavar"] = value_name
        again = dataclasses.field() if _is_required(field) else dataclasses.field(default=value)
        fields.append((field.name, Annotated[hints[field.name], arg(**look)], again))
    return dataclasses.make_dataclass(
        settings.__name__, fields, namespace={"__doc__": settings.__doc__}
    )


def _of_optional(hint: Any) -> str | None:
    """The metavar of a setting that may be None, INT or {one,other}; None for other settings."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    kind, *_ = (part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return f"{{{','.join(map(str, typing.get_args(kind)))}}}"
    return str(kind.__name__).upper()
