"""Checkpoints as files: whole or refused, the newest kept, and nothing in them ever runs."""

import dataclasses
import errno
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_model_file import Trap, content
from toy_envs import Counter
from toy_training import toy_trainer

from trpo_mpi.config import Config
from trpo_mpi.errors import UsageError
from trpo_mpi.run_directory import archive, checkpoint, model_file
from trpo_mpi.run_directory.checkpoint import CheckpointWriter
from trpo_mpi.trainer import Trainer


@pytest.fixture
def trainer() -> Trainer:
    trainer = toy_trainer(Counter, num_envs=2, timesteps_per_batch=16, num_timesteps=4000)
    while trainer.best is None:  # 100 episodes
        trainer.iterate()
    return trainer


def write(trainer: Trainer, run: Path, writer: CheckpointWriter | None = None) -> Path:
    """Write a checkpoint of the trainer's current state."""
    settings = dataclasses.replace(trainer.config, num_envs=2, timesteps_per_batch=16)
    writer = writer or CheckpointWriter(run, settings)
    columns = [archive.pack(state) for state in trainer.column_states()]
    writer.write(trainer.model(), trainer.best, trainer.state(), columns, 0.0)
    return checkpoint.numbered(run)[0]


def test_a_trainer_goes_on_from_it_to_the_last_bit(trainer: Trainer, tmp_path: Path) -> None:
    write(trainer, tmp_path)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    other = toy_trainer(Counter, num_envs=2, timesteps_per_batch=16, num_timesteps=4000)
    assert other.resume(found.model, found.best, found.state, found.columns) == 0
    for _ in range(5):
        one, two = trainer.iterate(), other.iterate()
        assert one.episodes == two.episodes
        clocks = ("seconds", "per_second", "mb")
        exact = [name for name in one.row if not name.endswith(clocks)]
        assert [one.row[name] for name in exact] == [two.row[name] for name in exact]
    assert content(trainer.model()) == content(other.model())
    assert trainer.best is not None
    assert other.best is not None
    assert content(trainer.best) == content(other.best)


def test_one_that_does_not_know_a_shared_encoder_is_of_two_networks(
    trainer: Trainer, tmp_path: Path
) -> None:
    """The first versions had nothing else; the same command continues their runs."""
    path = write(trainer, tmp_path)
    for algo, policy, its in (
        ("trpo", "MlpPolicy", None),
        ("ppo", "MlpPolicy", None),
        ("ppo", "CnnPolicy", 0.0),
    ):
        config = dataclasses.replace(trainer.config, algo=algo, policy=policy, num_envs=2)
        columns = [archive.pack(state) for state in trainer.column_states()]
        whole = checkpoint.members(config, trainer.model(), None, trainer.state(), columns)
        header = json.loads(whole["settings.json"])
        del header["settings"]["vf_coef"]
        with open(path, "wb") as file:
            archive.write(file, whole | {"settings.json": json.dumps(header).encode()})
        found = checkpoint.standing(tmp_path)
        assert found is not None
        assert found.settings.vf_coef == its
        if its is None:
            found.check(config)


class Falling(Counter):
    """A `Counter` that pays ever less."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, -reward, *rest


def test_the_best_is_the_first_while_returns_fall() -> None:
    """The first of 100 episodes, and a resumed run knows its return."""
    settings = {"num_envs": 10, "timesteps_per_batch": 200, "num_timesteps": 4000}
    trainer, other = (toy_trainer(Falling, **settings) for _ in range(2))
    while trainer.best is None:
        trainer.iterate()
    first = trainer.counters.iteration
    trainer.iterate()
    other.resume(trainer.model(), trainer.best, trainer.state(), trainer.column_states())
    for subject in (trainer, other):
        before = subject.counters.return_mean
        subject.iterate()
        assert subject.counters.return_mean < before
        assert subject.best is not None
        assert subject.best.iteration == first


def test_the_best_is_the_latest_while_returns_rise(trainer: Trainer) -> None:
    for _ in range(3):
        trainer.iterate()
        assert trainer.best is not None
        assert trainer.best.iteration == trainer.counters.iteration


def test_what_a_policy_remembers_goes_on(tmp_path: Path) -> None:
    small = {"num_envs": 2, "timesteps_per_batch": 16, "policy": "MlpLstmPolicy", "lstm_units": 3}
    whole, other = (toy_trainer(Counter, num_timesteps=4000, **small) for _ in range(2))
    for _ in range(2):
        whole.iterate()
    found = checkpoint.read(write(whole, tmp_path))
    assert all(column["policy_state"].any() for column in found.columns)
    assert other.resume(found.model, found.best, found.state, found.columns) == 0
    for _ in range(2):
        whole.iterate()
        other.iterate()
    assert content(whole.model()) == content(other.model())


def test_taking_one_changes_nothing(trainer: Trainer, tmp_path: Path) -> None:
    other = toy_trainer(Counter, num_envs=2, timesteps_per_batch=16, num_timesteps=4000)
    for _ in range(trainer.counters.iteration):
        other.iterate()
    for _ in range(4):
        write(trainer, tmp_path)
        trainer.iterate()
        other.iterate()
    assert content(trainer.model()) == content(other.model())


def test_it_is_a_model_file_too_and_the_best_stands_beside_it(
    trainer: Trainer, tmp_path: Path
) -> None:
    path = write(trainer, tmp_path)
    assert content(model_file.load(str(path))) == content(trainer.model())
    assert content(model_file.load(str(tmp_path))) == content(trainer.model())
    number = str(trainer.counters.iteration)
    assert content(model_file.load(str(tmp_path), "", number)) == content(trainer.model())
    assert trainer.best is not None
    assert content(model_file.load(str(tmp_path), "", "best")) == content(trainer.best)
    with pytest.raises(UsageError, match=f"--which 9999: .* has latest, {number}, best"):
        model_file.load(str(tmp_path), "", "9999")


def test_the_newest_three_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, trainer.config)
    iterations = []
    for _ in range(5):
        trainer.iterate()
        iterations.append(trainer.counters.iteration)
        write(trainer, tmp_path, writer)
    kept = [int(path.stem) for path in checkpoint.numbered(tmp_path)]
    assert kept == iterations[:-4:-1]


def test_damaged_ones_of_later_iterations_push_none_out(trainer: Trainer, tmp_path: Path) -> None:
    """If none is whole the run starts anew; damaged ones do not count among the newest to keep."""
    (tmp_path / "checkpoints").mkdir()
    for number in (9001, 9002, 9003):
        (tmp_path / "checkpoints" / f"{number:08d}.zip").write_bytes(b"damaged")
    writer = CheckpointWriter(tmp_path, trainer.config)
    for _ in range(4):
        trainer.iterate()
        write(trainer, tmp_path, writer)
    kept = [int(path.stem) for path in checkpoint.numbered(tmp_path)]
    last = trainer.counters.iteration
    assert kept == [9003, 9002, 9001, last, last - 1, last - 2]
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.iteration == last


def test_due_by_iterations_or_by_time_and_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    writer = CheckpointWriter(tmp_path, Config(checkpoint_every=7))
    assert [i for i in range(1, 30) if writer.due(i)] == [7, 14, 21, 28]
    writer = CheckpointWriter(tmp_path, Config())
    assert not writer.due(7)
    now[0] += 61
    assert writer.due(8)
    writer.cost = 3.0  # at most every 300 s, then
    now[0] += 200
    assert not writer.due(9)
    now[0] += 100
    assert writer.due(10)


def test_a_damaged_one_is_stepped_over_with_a_warning(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = write(trainer, tmp_path)
    trainer.iterate()
    newer = write(trainer, tmp_path)
    whole = newer.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"iteration,timesteps\n" * 100):
        newer.write_bytes(damaged)
        found = checkpoint.newest(tmp_path)
        assert found is not None
        assert found.path == older
        warning = capsys.readouterr().err
        assert warning.startswith(f"warning: {newer} is damaged")
        assert warning.count("\n") == 1
    older.write_bytes(b"")
    assert checkpoint.newest(tmp_path) is None


def everything(found: checkpoint.Checkpoint) -> list[Any]:
    """All that is in a checkpoint, to the last bit."""
    assert found.best is not None
    models = content(found.model) + content(found.best)
    return [found.settings, *models, archive.pack(found.state), archive.pack(found.columns)]


def test_a_flipped_bit_in_any_member_is_found(trainer: Trainer, tmp_path: Path) -> None:
    """One bit in every thirty bytes of the members' contents; a few of a compressed stream have no
    meaning."""
    path = write(trainer, tmp_path)
    whole, expected = path.read_bytes(), everything(checkpoint.read(path))
    places: list[int] = []
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            start = member.header_offset + 30 + len(member.filename)
            places += range(start + 5, start + member.compress_size - 5, 31)
    assert len(places) > 100
    found = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        read = checkpoint.newest(tmp_path)
        found += read is None
        assert read is None or everything(read) == expected
    assert found > 0.98 * len(places)


def test_what_a_cut_write_leaves_is_cleared_away(trainer: Trainer, tmp_path: Path) -> None:
    path = write(trainer, tmp_path)
    left = path.with_name(".00009999.zip.tmp")
    left.write_bytes(path.read_bytes()[:1000])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert left.exists()  # another process may be writing it
    checkpoint.remove_remains(tmp_path)
    assert not left.exists()
    assert path.exists()


@pytest.mark.parametrize("what", ["a file", "the folder", "an unknown value"])
def test_what_can_not_be_read_now_is_not_taken_for_damaged(
    what: str, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that went on from an older checkpoint would overwrite what came after it."""
    path = write(trainer, tmp_path)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    words = "can't be read: Input/output error"
    if what == "a file":
        monkeypatch.setattr(zipfile, "ZipFile", fails)
    elif what == "the folder":
        monkeypatch.setattr("os.listdir", fails)
        path = path.parent
    else:
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        members["settings.json"] = members["settings.json"].replace(b'"trpo"', b'"newer"')
        with open(path, "wb") as out:
            archive.write(out, members)
        words = "--algo is 'newer'; it must be one of"
    with pytest.raises(UsageError) as refusal:
        checkpoint.newest(tmp_path)
    assert f"--resume: {path} " in str(refusal.value)
    assert words in str(refusal.value)


def test_a_checkpoint_is_written_after_the_models_that_go_with_it(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed at its end writes no other."""
    written: list[str] = []
    replace = os.replace

    def follow(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr("os.replace", follow)
    path = write(trainer, tmp_path)
    assert written == ["model.zip", "best.zip", path.name]


def test_a_failed_write_leaves_the_older_ones(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(trainer, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    trainer.iterate()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(trainer, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path == path


@pytest.mark.parametrize("member", ["state", "columns/1", "settings.json", "best/theta.npy"])
def test_a_pickle_is_never_run(member: str, trainer: Trainer, tmp_path: Path) -> None:
    path = write(trainer, tmp_path)
    sprung = tmp_path / "sprung"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    members[member] = pickle.dumps(Trap(sprung))
    with open(path, "wb") as out:
        archive.write(out, members)
    assert checkpoint.newest(tmp_path) is None
    assert not sprung.exists()


def test_a_newer_format_is_refused_by_its_number(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 8)
    write(trainer, tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    with pytest.raises(UsageError, match="format 8; this version reads up to 7"):
        checkpoint.newest(tmp_path)


TREES = [
    None,
    [1, -2.5, "text", True, None, float("inf"), 2**200],
    {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": [np.float64(3), np.zeros((0, 4))]},
    {"generator": np.random.MT19937(3).state, "empty": [], "nothing": {}},
    np.array(True),
    {"big-endian": np.arange(3, dtype=">f8"), "fortran": np.asfortranarray(np.eye(3)[:, :2])},
]


@pytest.mark.parametrize("tree", TREES, ids=range(len(TREES)))
def test_trees_come_back(tree: Any) -> None:
    def same(one: Any, other: Any) -> None:
        if isinstance(one, dict):
            assert list(one) == list(other)
            for name in one:
                same(one[name], other[name])
        elif isinstance(one, list):
            assert len(one) == len(other)
            for x, y in zip(one, other, strict=True):
                same(x, y)
        elif isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert np.array_equal(one, other)
            assert other.flags.writeable
        else:
            assert one == other
            assert type(one) in (type(other), np.float64)

    same(tree, archive.unpack(archive.pack(tree)))


def test_objects_are_no_trees() -> None:
    with pytest.raises((TypeError, ValueError)):
        archive.pack({"x": np.array([object()])})
    with pytest.raises(TypeError):
        archive.pack({"x": object()})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma": 0.9}, "--gamma is 0.9, but the run of"),
        ({"seed": 1}, "--allow-changes"),
        ({"net_arch": (9,)}, "--net-arch is (9,)"),
        ({"timesteps_per_batch": 32}, "--timesteps-per-batch is 32"),
        ({"num_envs": 3, "allow_changes": True}, "a run keeps its environments"),
        ({"recipe": "chainerrl", "allow_changes": True}, "change single settings"),
        ({"gamma": 0.9, "allow_changes": True}, ""),
        ({"num_timesteps": 9000, "max_iterations": 3, "gpu": "auto"}, ""),
    ],
)
def test_settings_that_change_the_result(
    changes: dict[str, Any], words: str, trainer: Trainer, tmp_path: Path
) -> None:
    write(trainer, tmp_path)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    config = dataclasses.replace(found.defaults(), **changes)
    if words:
        with pytest.raises(UsageError) as caught:
            found.check(config)
        assert words in str(caught.value)
    else:
        found.check(config)


def test_models_of_a_run_without_checkpoints_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    """A run that begins anew overwrites neither; `--which best` is not the earlier run's."""
    write(trainer, tmp_path)
    best = (tmp_path / "checkpoints" / "best.zip").read_bytes()
    checkpoint.set_models_aside(tmp_path)
    assert (tmp_path / "checkpoints" / "best.zip.old").read_bytes() == best
    assert not (tmp_path / "checkpoints" / "best.zip").exists()
    assert (tmp_path / "model.zip.old").exists()
    assert not (tmp_path / "model.zip").exists()
    checkpoint.set_models_aside(tmp_path)  # there is none
    assert (tmp_path / "model.zip.old").exists()
