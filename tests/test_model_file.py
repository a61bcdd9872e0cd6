"""model.zip: whole and the same bytes, or refused in one line; nothing in it ever runs."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_policies import mlp_policy, mode

from trpo_mpi.config import Config
from trpo_mpi.envs.spaces import Spaces
from trpo_mpi.errors import UsageError
from trpo_mpi.model import Model
from trpo_mpi.normalization import Moments, ObservationNormalizer
from trpo_mpi.policies.policy import Architecture
from trpo_mpi.run_directory import archive, model_file

OBSERVATION = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
BOX = gym.spaces.Box(np.array([-1, -2], "f"), np.array([1, 3], "f"))
DISCRETE = gym.spaces.Discrete(3, start=-1)


def make_model(action: gym.Space[Any] = BOX, normalised: bool = True) -> Model:
    stream = np.random.default_rng(0)
    policy = mlp_policy(4, action, (6, 5))
    p, q = policy.num_parameters, 71

    def numbers(n: int) -> np.ndarray:
        return stream.standard_normal(n).astype(np.float32)

    def moments(n: int) -> Moments | None:
        return Moments(1234.0, stream.random(n), stream.random(n)) if normalised else None

    return Model(
        env="Toy-v0",
        architecture=Architecture(net_arch=(6, 5)),
        spaces=Spaces(OBSERVATION, action),
        theta=numbers(p),
        phi=numbers(q),
        normalizer=ObservationNormalizer(moments(4)),
        return_moments=moments(1),
        adam={"steps": 17, "m": numbers(q), "v": numbers(q)},
    )


def content(model: Model) -> list[Any]:
    """All that is in a model, to the last bit."""
    found: list[Any] = [model.env, model.architecture, model.spaces, model.adam["steps"]]
    arrays = [model.theta, model.phi, model.adam["m"], model.adam["v"]]
    for moments in (model.normalizer.moments, model.return_moments):
        if moments is None:
            found.append(None)
        else:
            arrays += [np.array(moments.count), moments.mean, moments.m2]
    return found + [(array.dtype, array.shape, array.tobytes()) for array in arrays]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    model_file.save(path, make_model())
    return path


def refusal(path: Path) -> str:
    """The one-line error with which a file is refused; it names the file."""
    with pytest.raises(UsageError) as caught:
        model_file.load(str(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("action", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("normalised", [True, False])
def test_comes_back_to_the_last_bit(
    action: gym.Space[Any], normalised: bool, tmp_path: Path
) -> None:
    model = make_model(action, normalised)
    model.reward_scale = 0.005
    model_file.save(tmp_path / "model.zip", model)
    loaded = model_file.load(str(tmp_path))  # the run directory names it, too
    assert content(loaded) == content(model)
    assert loaded.reward_scale == 0.005
    rows = np.random.default_rng(1).standard_normal((3, 4))
    assert np.array_equal(loaded.normalizer(rows), model.normalizer(rows))
    seen = model.normalizer(rows)
    assert np.array_equal(mode(loaded.actor(), seen), mode(model.actor(), seen))


def test_the_same_model_gives_the_same_bytes(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another time, too."""
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = tmp_path / "again.zip"
    model_file.save(again, model_file.load(str(saved)))
    assert again.read_bytes() == saved.read_bytes()


def test_saving_leaves_no_other_file_and_replaces_the_old(saved: Path) -> None:
    model_file.save(saved, make_model(DISCRETE))
    assert [path.name for path in saved.parent.iterdir()] == ["model.zip"]
    assert model_file.load(str(saved)).spaces.action == DISCRETE


def test_a_failed_save_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    model = make_model()
    model.theta = np.array([object()])  # can't be written without pickle
    with pytest.raises(ValueError, match="allow_pickle"):
        model_file.save(saved, model)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.zip"]


def test_missing(tmp_path: Path) -> None:
    assert "there is no" in refusal(tmp_path / "none.zip")
    (tmp_path / "empty").mkdir()
    assert "there is no" in refusal(tmp_path / "empty")


def test_truncated_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        assert "not a whole model file" in refusal(saved)


def test_a_flipped_bit_anywhere_is_refused_or_does_no_harm(saved: Path) -> None:
    """It does no harm in the dates and permissions of a zip's members; in their contents, and in
    most of their descriptions, it is found."""
    whole, expected = saved.read_bytes(), content(model_file.load(str(saved)))
    with zipfile.ZipFile(saved) as archive:
        data = set()
        for member in archive.infolist():
            start = member.header_offset + 30 + len(member.filename)
            data |= set(range(start, start + member.compress_size))
    refused = set()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        saved.write_bytes(damaged)
        try:
            harmless = content(model_file.load(str(saved))) == expected
        except UsageError:
            refused.add(place)
        except Exception as error:
            raise AssertionError(f"bit {place % 8} of byte {place}: {error!r}") from error
        else:
            assert harmless, f"bit {place % 8} of byte {place} was not found"
    # A few bits of a compressed stream mean nothing: its last block's flag, its padding.
    assert len(data - refused) < 0.01 * len(data)
    assert len(refused) > 0.8 * len(whole)


def rewrite(path: Path, **changed: bytes | None) -> None:
    """Put other content into some members; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name.replace("__", "."): content for name, content in changed.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            if body is not None:
                archive.writestr(name, body)


def test_foreign_zip_and_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not a whole model file" in refusal(path)
    path.write_text("iteration,timesteps\n", encoding="utf-8")
    assert "not a whole model file" in refusal(path)


def test_newer_format_is_refused_by_its_name(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        header = json.loads(archive.read("model.json"))
    header["format"] = model_file.FORMAT + 1
    rewrite(saved, model__json=json.dumps(header).encode())
    text = refusal(saved)
    assert f"format {model_file.FORMAT + 1}" in text
    assert f"up to {model_file.FORMAT}" in text


HEADERS = [b"", b"{}", b"[]", b"3", b"null", b'{"format": "x"}', b'{"format": 1}', b"\xff\xfe{"]


@pytest.mark.parametrize("header", HEADERS, ids=repr)
def test_nonsense_header(saved: Path, header: bytes) -> None:
    rewrite(saved, model__json=header)
    assert "not a whole model file" in refusal(saved)


@pytest.mark.parametrize("name", ["theta__npy", "adam_m__npy", "observation_mean__npy", "spaces"])
def test_missing_member(saved: Path, name: str) -> None:
    rewrite(saved, **{name: None})
    assert name.removesuffix("__npy") in refusal(saved)


SPACES = [[], [{}, {}], [{"discrete": [0, 0]}] * 2, [{"text": 3}] * 2, {"box": 1}]


@pytest.mark.parametrize("spaces", SPACES, ids=repr)
def test_nonsense_spaces(saved: Path, spaces: Any) -> None:
    rewrite(saved, spaces=archive.pack(spaces))
    assert "not a whole model file" in refusal(saved)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "object array"])
def test_a_pickle_is_never_run(saved: Path, how: str) -> None:
    sprung = saved.with_name("sprung")
    if how == "pickle":
        body = pickle.dumps(Trap(sprung))
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Trap(sprung)], object), allow_pickle=True)
        body = buffer.getvalue()
    rewrite(saved, theta__npy=body)
    refusal(saved)
    assert not sprung.exists()
    np.load(io.BytesIO(body), allow_pickle=True)  # the trap does work
    assert sprung.exists()


def test_arrays_of_the_wrong_size_are_refused(saved: Path) -> None:
    """A vector that does not fit the network that the header describes."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(5, np.float32))
    rewrite(saved, theta__npy=buffer.getvalue())
    assert "theta" in refusal(saved)


@pytest.mark.parametrize(
    ("settings", "spaces", "words"),
    [
        ({"net_arch": (6,)}, Spaces(OBSERVATION, BOX), "net_arch (6, 5), but the run has (6,)"),
        ({"normalize_observations": False}, Spaces(OBSERVATION, BOX), "normalize_observations"),
        ({"normalize_returns": False}, Spaces(OBSERVATION, BOX), "normalize_returns"),
        ({"reward_scale": 0.1}, Spaces(OBSERVATION, BOX), "reward_scale 1.0, but the run has 0.1"),
        ({}, Spaces(OBSERVATION, DISCRETE), "action space"),
        ({}, Spaces(gym.spaces.Box(-1, 1, (4,)), BOX), "observation space"),
    ],
)
def test_a_model_that_does_not_fit_the_run(
    settings: dict[str, Any], spaces: Spaces, words: str
) -> None:
    config = Config(**{"net_arch": (6, 5), **settings})
    with pytest.raises(UsageError) as caught:
        make_model().check_fits(config, spaces, "some.zip")
    assert words in str(caught.value)
    make_model().check_fits(Config(net_arch=(6, 5)), Spaces(OBSERVATION, BOX), "some.zip")
