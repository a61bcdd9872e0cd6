"""Stand-ins for PBS's qsub and LSF's bsub, and for what then runs the jobs, on one host.

    python batch_stand_in.py qsub [-v NAMES] [-J RANGE] SCRIPT
    python batch_stand_in.py bsub [-J NAME[RANGE]] <SCRIPT

A job becomes a file in the folder SPOOL, and the test takes it from there: `waiting` and `start`.
They know the options that run/pbs/ and run/lsf/ use, in the script and on the command line, and
refuse all others. As with the real ones, a copy of the script runs elsewhere; PBS starts it in the
home directory, with only those of the submitter's environment variables that -v names; LSF starts
it where it was submitted, with all of them; an array is one job per element.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

Job = dict[str, Any]

OPTIONS = {"qsub": "N l r j v J", "bsub": "J n R W wa wt Q o"}
SWITCHES = {"qsub": "", "bsub": "r"}


def parse(tool: str, words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Options with their values, and what follows them."""
    options = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name = rest.pop(0)[1:]
        if name in SWITCHES[tool].split():
            options.append((name, ""))
        elif name in OPTIONS[tool].split() and rest:
            options.append((name, rest.pop(0)))
        else:
            sys.exit(f"{tool}: illegal option -{name}")
    return options, rest


def directives(tool: str, script: str) -> list[tuple[str, str]]:
    """The options in the script, which end at its first command."""
    prefix = {"qsub": "#PBS ", "bsub": "#BSUB "}[tool]
    options = []
    for line in script.splitlines():
        if line.startswith(prefix):
            name, _, value = line.removeprefix(prefix).strip().partition(" ")
            options += parse(tool, [name, value.strip('"')] if value else [name])[0]
        elif line.strip() and not line.startswith("#"):
            break
    return options


def submit(tool: str, words: list[str]) -> None:
    """Submit a job as qsub and bsub do."""
    given, rest = parse(tool, words)
    script = Path(rest[0]).read_text(encoding="utf-8") if tool == "qsub" else sys.stdin.read()
    found = directives(tool, script)
    options = dict([*found, *given])
    options["l"] = ":".join(value for name, value in [*found, *given] if name == "l")
    elements: list[int | None] = [None]
    bounds = re.search(r"(\d+)-(\d+)", options.get("J", ""))
    if bounds:
        elements = list(range(int(bounds[1]), int(bounds[2]) + 1))
    spool = Path(os.environ["SPOOL"])
    number = 1 + len(list(spool.glob("*.json")))
    for place, element in enumerate(elements):
        job = {
            "tool": tool,
            "script": script,
            "options": options,
            "element": element,
            "folder": os.getcwd(),
            "environment": pbs_environment(options) if tool == "qsub" else dict(os.environ),
        }
        path = spool / f"{number + place:04d}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
    print(f"{number}.stand-in")


def pbs_environment(options: dict[str, str]) -> dict[str, str]:
    """The part of qsub's environment that its job will see."""
    handed = {name: os.environ[name] for name in ("HOME", "SPOOL")}
    handed["PATH"] = f"{os.environ['STAND_INS']}:/usr/bin:/bin"
    handed["STAND_INS"] = os.environ["STAND_INS"]
    for item in filter(None, options.get("v", "").split(",")):
        name, equals, value = item.partition("=")
        handed[name] = value if equals else os.environ[name]
    return handed


def waiting(spool: Path) -> list[Path]:
    """Jobs that have not been started."""
    return sorted(path for path in spool.glob("*.json") if not path.with_suffix(".sh").exists())


def start(path: Path) -> subprocess.Popen[str]:
    """Run a job, in a session of its own; it writes to a file beside its own."""
    job: Job = json.loads(path.read_text(encoding="utf-8"))
    options, variables = job["options"], dict(job["environment"])
    script = path.with_suffix(".sh")
    script.write_text(job["script"], encoding="utf-8")
    script.chmod(0o755)
    folder = job["folder"]
    if job["tool"] == "qsub":
        asked = dict(word.split("=") for word in options["l"].split(":") if "=" in word)
        hosts = path.with_suffix(".nodes")
        hosts.write_text("localhost\n" * int(asked["mpiprocs"]), encoding="utf-8")
        variables |= {"PBS_O_WORKDIR": folder, "PBS_NODEFILE": str(hosts), "PBS_JOBID": path.stem}
        if job["element"] is not None:
            variables["PBS_ARRAY_INDEX"] = str(job["element"])
        folder = variables["HOME"]
    else:
        variables |= {"LSB_DJOB_NUMPROC": options["n"], "LSB_JOBID": path.stem}
        if job["element"] is not None:
            variables["LSB_JOBINDEX"] = str(job["element"])
    with open(path.with_suffix(".log"), "a", encoding="utf-8") as log:
        return subprocess.Popen(
            [str(script)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )


if __name__ == "__main__":
    submit(sys.argv[1], sys.argv[2:])
