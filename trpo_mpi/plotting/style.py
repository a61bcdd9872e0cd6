"""How all figures look, and how they are written to a file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Without pyplot: this needs no screen, whatever backend the user has set.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from trpo_mpi.atomic_file import whole_file
from trpo_mpi.errors import UsageError

# Okabe and Ito (2008): the colour-blind can tell them apart. Yellow comes last: it is pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
LINE_STYLES = ("-", "--", ":", "-.")


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of line `number`: neighbours differ in both, for black-and-white prints."""
    rounds, colour = divmod(number, len(COLOURS))
    dashes = LINE_STYLES[(number + rounds) % len(LINE_STYLES)]
    return {"color": COLOURS[colour], "linestyle": dashes}


def new_figure(
    panels: int, legend: Sequence[str], title: str | None = None, label: str = ""
) -> Figure:
    """A figure with a grid of axes for panels over time steps.

    Args:
        panels: number of panels.
        legend, title: entries and title of the legend that it will get.
        label: label at the left of each row of panels.
    """
    columns = panels if panels <= 3 else math.ceil(math.sqrt(panels))
    rows = -(-panels // columns)
    names = _name_width(legend) * (2 if len(legend) > 6 else 1)
    width = max(6.5, 1 + 3.8 * columns, names, 0.5 + 0.085 * len(title or ""))
    below = 0.6 + 0.25 * (1 + math.ceil(len(legend) / _across(legend, width)))
    height = rows * (3.1 if panels > 1 else 4.0) + below
    figure = Figure(figsize=(width, height), layout="constrained")
    for place in range(1, panels + 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_xlabel("time steps")
        axes.set_ylabel(label if place % columns == 1 % columns else "")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def add_legend(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], title: str | None
) -> None:
    """Add one legend for all panels, below them."""
    across = _across(names, figure.get_figwidth())
    more = {"ncols": across, "handlelength": 3, "title": title}
    figure.legend(handles, names, loc="outside lower center", **more)


def _name_width(legend: Sequence[str]) -> float:
    """Width of the longest entry of a legend, in inches."""
    return 0.9 + 0.085 * max(map(len, legend))


def _across(legend: Sequence[str], width: float) -> int:
    """Number of legend entries that fit side by side."""
    return max(1, min(len(legend), int(width / _name_width(legend))))


def check_ending(output: Path, pages: int = 1) -> str:
    """The format that a file's ending names.

    Raises `UsageError` if the format is unknown, or holds one page and there are more.
    """
    kind = output.suffix.lower().removeprefix(".")
    known = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if kind not in known:
        raise UsageError(f"--output {output} must end in one of .{', .'.join(sorted(known))}")
    if pages > 1 and kind != "pdf":
        raise UsageError(f"--output {output} must end in .pdf: there are {pages} pages")
    return kind


def save(pages: Sequence[Figure], output: Path) -> None:
    """Write figures into a file, whole or not at all.

    Raises `UsageError` if it can't be written, or as `check_ending` does.
    """
    kind = check_ending(output, len(pages))
    try:
        with whole_file(output) as file:
            if kind != "pdf":
                pages[0].savefig(file, format=kind, dpi=150)
                return
            with PdfPages(file) as document:
                for page in pages:
                    document.savefig(page)
    except OSError as error:
        raise UsageError(f"--output {output} can't be written: {error.strerror}") from None
