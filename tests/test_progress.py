"""progress.csv and monitor.csv: every row once, whatever the disk does."""

import errno
from pathlib import Path
from typing import Any

import pytest

from trpo_mpi.run_directory.progress import (
    COLUMNS,
    EvaluationsFile,
    GrowingFile,
    MonitorFile,
    ProgressFile,
)


class Disk:
    """Stands between a `GrowingFile` and its file, and is full after `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, content: memoryview) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = content[: self.room]
        self.room -= len(part)
        return int(self._file.write(part))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_cuts_no_row_and_loses_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.csv"
    file = GrowingFile(path, "a,b\n")
    file.write("1,2\n")
    disk = file._file = Disk(file._file, 6)
    file.write("3,4\n")
    file.write("5,6\n")  # half of it fits
    file.write("7,8\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(OSError, match="No space left"):
        file.sync()
    disk.room = 1000
    file.write("9,10\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n5,6\n7,8\n9,10\n"
    assert capsys.readouterr().err == ""


def test_rows_that_are_refused_when_synchronised_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS takes them, finds no room on the server, and drops them."""
    path = tmp_path / "file.csv"
    file = GrowingFile(path, "a,b\n")
    file.write("1,2\n")
    file.sync()
    file.write("3,4\n")
    file.write("5,6\n")

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        for _ in range(2):
            with pytest.raises(OSError, match="quota"):
                file.sync()
            assert path.read_text() == "a,b\n1,2\n"
    file.write("7,8\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n5,6\n7,8\n"
    file.sync()
    file.write("9,10\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n5,6\n7,8\n9,10\n"


def test_a_resumed_file_keeps_what_the_checkpoint_has_seen(tmp_path: Path) -> None:
    first = ProgressFile(tmp_path)
    monitor = MonitorFile(tmp_path, "Toy-v0")
    for number in range(1, 6):
        first.add({"iteration": number})
        monitor.add([(float(number), 10), (0.5, 3)])
    head = (tmp_path / "monitor.csv").read_text().splitlines()[0]
    with open(tmp_path / "progress.csv", "a") as file:
        file.write("6,1")  # a row that a kill has cut
    second = ProgressFile(tmp_path, 3)
    second.add({"iteration": 4})
    again = MonitorFile(tmp_path, "Toy-v0", 6)
    again.add([(4.0, 11)])
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    lines = (tmp_path / "monitor.csv").read_text().splitlines()
    assert lines[0] == head
    assert [line.rpartition(",")[0] for line in lines[1:]] == [
        "r,l",
        *("1.0,10", "0.5,3", "2.0,10", "0.5,3", "3.0,10", "0.5,3"),
        "4.0,11",
    ]


def test_files_that_have_gone_or_lost_rows_are_said_to_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ProgressFile(tmp_path, 3).add({"iteration": 4})
    assert "progress.csv is gone and begins anew" in capsys.readouterr().err
    ProgressFile(tmp_path, 3).add({"iteration": 4})
    assert "progress.csv has lost rows" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"x\xff,1\n", b"1,2,3\n4,5,6\n"])
def test_a_damaged_file_begins_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its head, which its readers need; what was there stays beside it."""
    for name in ("progress", "monitor", "evaluations"):
        (tmp_path / f"{name}.csv").write_bytes(content)
    ProgressFile(tmp_path, 2).add({"iteration": 3})
    MonitorFile(tmp_path, "Toy-v0", 4).add([(1.0, 1)])
    EvaluationsFile(tmp_path, 2).add({"iteration": 3})
    heads = {"progress": "iteration,", "monitor": "#{", "evaluations": "iteration,"}
    for name, head in heads.items():
        assert (tmp_path / f"{name}.csv").read_text().startswith(head)
        assert (tmp_path / f"{name}.csv.old").read_bytes() == content
    assert capsys.readouterr().err.count("is damaged and begins anew") == 3


def test_a_new_run_puts_an_old_file_aside(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("precious\n")
    ProgressFile(tmp_path)
    assert (tmp_path / "progress.csv.old").read_text() == "precious\n"
    assert (tmp_path / "progress.csv").read_text() == ",".join(COLUMNS) + "\n"
    ProgressFile(tmp_path)  # killed before its first checkpoint, and started again
    assert (tmp_path / "progress.csv.old").read_text() == "precious\n"
    assert (tmp_path / "progress.csv.old2").exists()


def test_a_file_of_an_older_version_keeps_its_columns(tmp_path: Path) -> None:
    """It had fewer columns; the rows added to it keep to the same names."""
    path = tmp_path / "progress.csv"
    path.write_text("iteration,kl,vf_stepsize\n1,0.5,0.25\n", encoding="utf-8")
    ProgressFile(tmp_path, keep=1).add({"iteration": 2, "beta": 3.0, "vf_stepsize": 0.125})
    assert path.read_text(encoding="utf-8").splitlines()[1:] == ["1,0.5,0.25", "2,,0.125"]
