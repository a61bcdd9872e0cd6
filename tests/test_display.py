"""What a person sees: the view on a terminal, as a terminal emulator shows it, and the log."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte
import pytest
from conftest import environment
from rich.console import Console
from toy_rows import BATCH, N, row

from trpo_mpi import status
from trpo_mpi.config import Config
from trpo_mpi.display import HEADER, HEADER_EVERY, Display, banner
from trpo_mpi.grid import batch_grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.run_directory.status_file import STOPPED
from trpo_mpi.terminal_view import TerminalView
from trpo_mpi.training_command import _machine

SCRIPT = """
import os, sys, time, warnings
from rich.console import Console
from toy_rows import BATCH, N, row
from trpo_mpi.display import Display
display = Display(N * BATCH)
def show(begin, end, algo="trpo", pause=0.0):
    for i in range(begin, end + 1):
        display.show(row(i, algo))
        time.sleep(pause)
"""


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: list[str], folder: Path, size: tuple[int, int], **more: str):
        columns, lines = size
        self.screen = pyte.HistoryScreen(columns, lines, history=500)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        variables = environment(TERM="xterm-256color", **more)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            if name not in more:
                variables.pop(name, None)
        self.pid, self._own = pty.fork()
        if self.pid == 0:
            time.sleep(0.1)  # until the size is set
            os.chdir(folder)
            os.execvpe(command[0], command, variables)
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, after what has been written for the old one is shown."""
        while select.select([self._own], [], [], 0)[0]:
            self._stream.feed(os.read(self._own, 65536))
        self.screen.resize(lines, columns)
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def run(self, until: Callable[[str], bool] = lambda _: False, seconds: float = 240) -> int:
        """Show output until `until` holds, or to the end; returns the exit code then, else 0."""
        end = time.monotonic() + seconds
        while not until("\n".join(self.lines())):
            assert time.monotonic() < end, self.lines()
            if select.select([self._own], [], [], 0.1)[0]:
                try:
                    content = os.read(self._own, 65536)
                except OSError:  # nobody is left on the other side
                    content = b""
                if not content:
                    return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                self.raw += content
                self._stream.feed(content)
        return 0

    def close(self) -> int:
        """Close the terminal's window; returns the exit code."""
        os.close(self._own)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def lines(self) -> list[str]:
        """The lines that have left the screen at its top, and those on it."""
        above = (
            "".join(line[x].data for x in range(max(line, default=0) + 1))
            for line in self.screen.history.top
        )
        return [line.rstrip() for line in (*above, *self.screen.display)]


def shown(folder: Path, script: str, size: tuple[int, int] = (80, 24), **more: str) -> Terminal:
    """What a terminal shows of a script, from its start to its end."""
    terminal = Terminal([sys.executable, "-c", SCRIPT + script], folder, size, **more)
    terminal.code = terminal.run()  # type: ignore[attr-defined]
    return terminal


WHOLE = "show(1, N, ALGO); display.saved(N); display.close(); print('THE END')"


@pytest.mark.parametrize(
    ("algo", "kl", "step"),
    [
        ("trpo", "0.0093 / 0.0095", "0.64 of full"),
        ("ppo", "0.0093", "clipped at 0.2"),
        ("kl-penalty", "0.0093 / 0.0095", "beta 1.5"),
    ],
)
def test_the_view_says_how_it_goes(algo: str, kl: str, step: str, tmp_path: Path) -> None:
    lines = shown(tmp_path, WHOLE.replace("ALGO", repr(algo))).lines()
    end = lines.index("THE END")
    view = lines[:end]
    assert 8 <= len(view) <= 11
    assert max(map(len, view)) < 80
    assert view[0] == "return 4800.00   ↗ +2000.00 in 20 iterations"
    words = " ".join(" ".join(view[1:]).split())
    for expected in (
        "4800.00 ┤",
        "100 % ━━━━",
        "time left 0:00:00",
        f"KL {kl} expl.var 0.870",
        f"elapsed 0:00:24 step {step} entropy 4.250",
        "steps/s 5120 length 480.0 memory 731 MB",
        "steps 98,304 iteration 48 saved 48, 0:00:00 ago",
        "time sample 75 % policy 15 % critic 5 % other 5 %",
    ):
        assert expected in words


def test_the_curve_is_that_of_the_returns(tmp_path: Path) -> None:
    """A straight line, which begins where the first episodes end: in the second of 48 parts."""
    lines = shown(tmp_path, WHOLE.replace("ALGO", "'trpo'")).lines()
    curve = [line.ljust(80)[12:78] for line in lines[1:4]]
    heights = [sum(" ▁▂▃▄▅▆▇█".index(line[x]) for line in curve) for x in range(66)]
    assert heights[0] == 0
    assert heights[2] == 1
    assert heights[-1] == 24
    assert heights == sorted(heights)
    middle = heights[34]  # of a line from 1 to 24
    assert middle == pytest.approx(12.5, abs=1)


NOISE = """
show(1, 20, pause=0.05)
display.say("evaluation: 1234.5")
print("warning: no checkpoint of iteration 20 could be written", file=sys.stderr, flush=True)
warnings.warn("of a library")
print("printed by an environment")
show(21, N, pause=0.05)
display.close()
print("THE END")
"""


@pytest.mark.parametrize("size", [(80, 24), (31, 12), (12, 5), (200, 8)])
def test_what_others_print_stands_above_and_nothing_is_left_over(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """Even after lines have left the screen at its top: one view, as it was at the end."""
    terminal = shown(tmp_path, NOISE, size)
    assert terminal.code == 0  # type: ignore[attr-defined]
    lines = terminal.lines()
    text = "".join(" ".join(lines).split())
    for words in ("evaluation:1234.5", "nocheckpointofiteration20", "UserWarning:ofalibrary"):
        assert text.count(words) == 1
    assert text.count("return") == 1
    assert text.count("timeleft") == 1
    assert text.index("printedbyan") < text.index("return") < text.index("THEEND")
    assert not terminal.screen.cursor.hidden


def test_it_fits_a_terminal_that_is_made_smaller(tmp_path: Path) -> None:
    wait = "while not os.path.exists('go'): time.sleep(0.05)\n"
    script = f"show(1, 9)\n{wait}show(10, N)\ndisplay.close()\nprint('THE END')"
    terminal = Terminal([sys.executable, "-c", SCRIPT + script], tmp_path, (80, 24))
    terminal.run(lambda text: "iteration 9" in text)
    terminal.resize(40, 24)
    (tmp_path / "go").touch()
    assert terminal.run() == 0
    view = [line for line in terminal.screen.display if line.strip()]
    assert sum("time left" in line for line in view) == 1
    assert max(len(line.rstrip()) for line in view) < 40


def test_a_killed_run_leaves_a_terminal_to_go_on_with(tmp_path: Path) -> None:
    """The cursor is visible, on an empty line below the view."""
    terminal = shown(tmp_path, "show(1, 9)\ntime.sleep(1)\nos._exit(9)")
    cursor = terminal.screen.cursor
    assert not cursor.hidden
    assert cursor.x == 0
    assert "time  " in terminal.screen.display[cursor.y - 1]
    assert not "".join(terminal.screen.display[cursor.y :]).strip()


def test_a_notice_stands_below(tmp_path: Path) -> None:
    script = "show(1, 9)\ndisplay.announce('SIGINT: stopping')\ntime.sleep(1)\nos._exit(9)"
    terminal = shown(tmp_path, script)
    cursor = terminal.screen.cursor
    assert cursor.x == 0
    assert terminal.screen.display[cursor.y - 1].strip() == "SIGINT: stopping"


def test_errors_go_where_the_user_has_sent_them(tmp_path: Path) -> None:
    script = "import os\nos.dup2(os.open('errors', os.O_CREAT | os.O_WRONLY), 2)\n" + SCRIPT
    script += "show(1, 2)\nprint('to the file', file=sys.stderr)\ndisplay.close()"
    terminal = Terminal([sys.executable, "-c", script], tmp_path, (80, 24))
    assert terminal.run() == 0
    assert (tmp_path / "errors").read_text() == "to the file\n"
    assert "to the file" not in "\n".join(terminal.lines())


COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-6]")


def test_colours_are_left_out_where_they_are_not_wanted(tmp_path: Path) -> None:
    script = WHOLE.replace("ALGO", "'trpo'")
    assert COLOUR.search(shown(tmp_path, script).raw)
    plain = shown(tmp_path, script, NO_COLOR="1")
    assert not COLOUR.search(plain.raw)
    assert "return 4800.00" in plain.lines()[0]


@pytest.mark.parametrize(
    "variables",
    [
        {"TERM": "dumb"},
        {"PYTHONIOENCODING": "ascii"},
        {"OMPI_COMM_WORLD_SIZE": "1"},  # Open MPI's own terminal, before any output
        {"PMI_SIZE": "2", "PMI_RANK": "0"},
    ],
)
def test_other_terminals_get_the_log(variables: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT + WHOLE.replace("ALGO", "'trpo'")]
    # `Terminal` has a TERM of its own.
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
    terminal = Terminal(command, tmp_path, (120, 60))
    assert terminal.run() == 0
    assert b"\x1b" not in terminal.raw
    lines = [line for line in terminal.lines() if line]
    assert lines[0] == HEADER
    assert len(lines) == 1 + N + 1


def test_the_log_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Under its headings, within 100 columns, of letters alone."""
    display = Display(1000 * BATCH)
    for i in range(1, HEADER_EVERY + 2):
        display.show(row(i))
    display.say("evaluation")
    display.close()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == HEADER
    assert lines[HEADER_EVERY] == HEADER
    assert lines[-1] == "evaluation"
    assert lines[0].split() == ["1", "2048", "-", "10.0", "-", "-", "-", "5120", "5", "0:06:40"]
    expected = "49 100352 4900.00 490.0 0.00930 4.250 0.870 5120 5 0:07:56"
    assert lines[48].split() == expected.split()
    edges = [m.end() for m in re.finditer(r"time steps|expl\.var|mpi %|time left|[\w/]+", HEADER)]
    for line in (lines[0], lines[1], lines[-2]):
        assert [m.end() for m in re.finditer(r"\S+", line)] == edges
        assert line.isascii()
        assert line.isprintable()
        assert len(line) <= 100


def test_a_batch_of_nothing_but_resets(capsys: pytest.CaptureFixture[str]) -> None:
    """Its speed is 0, its time left unknown; the view must bear it, too."""
    empty = row(1) | {"timesteps_per_batch": 0, "steps_per_second": 0.0, "seconds": 0.0}
    Display(1000).show(empty)
    assert capsys.readouterr().out.splitlines()[1].split()[-3:] == ["0", "-", "-"]
    view = TerminalView(Console(file=io.StringIO(), force_terminal=True), 1000, 0)
    view.show(empty, None)
    view.close()


def test_a_log_may_leave_iterations_out(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(1000 * BATCH)
    for i in range(1, 7):
        display.show(row(i), line=i % 3 == 0)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["3", "6"]


def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    """The real command: one view stays, then how the run ended."""
    command = [sys.executable, "-m", "trpo_mpi.run_mujoco", "--env", "CartPole-v1"]
    terminal = Terminal([*command, "--timesteps-per-batch", "512"], tmp_path, (80, 24))
    terminal.run(lambda text: "iteration 2" in text)
    terminal.type("\x03")
    assert terminal.run() == 75
    lines = terminal.lines()
    text = "\n".join(lines)
    assert text.count("time left") == 1
    assert "Traceback" not in text
    assert text.index("time left") < text.index("stopped by SIGINT")
    saved = re.search(r"iteration (\d+) +saved +(\d+),", text)
    assert saved is not None
    assert saved[1] == saved[2]


def test_a_terminal_that_is_closed_stops_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trpo_mpi.run_mujoco", "--env", "CartPole-v1"]
    terminal = Terminal([*command, "--outdir", "run"], tmp_path, (80, 24))
    terminal.run(lambda text: "iteration 2" in text)
    assert terminal.close() == 75
    entry = status.look(tmp_path / "run")
    assert (entry.state, entry.reason) == (STOPPED, "stopped by SIGHUP")
    assert (tmp_path / "run" / "model.zip").exists()


class OneNode(Communicator):
    """Tells of `size` ranks on one node, and is alone."""

    def __init__(self, size: int) -> None:
        super().__init__(None)
        self.size = size

    def hosts(self) -> list[str]:
        return ["here"] * self.size


@pytest.mark.parametrize(
    ("ranks", "cores", "warned"),
    [(3, 4, False), (4, 4, False), (5, 4, True), (5, 2, False)],
    ids=["fewer ranks than cores", "as many", "more", "bound to some of the cores each"],
)
def test_more_ranks_than_cores_are_warned_of(
    ranks: int, cores: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)), raising=False)
    config = Config()
    machine = _machine(OneNode(ranks), []) | {"exact_rows": True}
    lines = banner(config, batch_grid(config, ranks), machine).splitlines()
    assert lines[1].startswith(f"{ranks} ranks on here x{ranks}; ")
    warnings = [
        "warning: 5 ranks on a node where 4 cores are free to them: they will wait for each other"
    ]
    assert lines[3:] == (warnings if warned else [])
