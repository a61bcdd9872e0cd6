"""Observation and action spaces: observations as flat vectors, and spaces as plain data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from trpo_mpi.errors import UsageError
from trpo_mpi.policies.distributions import distribution_for


@dataclass(frozen=True)
class Spaces:
    """Observation and action space of an environment."""

    observation: gym.Space[Any]
    action: gym.Space[Any]

    @classmethod
    def of(cls, envs: gym.vector.VectorEnv[Any, Any, Any]) -> "Spaces":
        """The spaces of a vector environment's single environments."""
        return cls(envs.single_observation_space, envs.single_action_space)

    @property
    def observation_size(self) -> int:
        """Numbers in one flat observation, D."""
        return gym.spaces.flatdim(self.observation)

    def check(self) -> None:
        """Raise `UsageError`, naming the space, if one of them is not supported."""
        try:
            to_tree(self.observation)
        except TypeError:
            raise UsageError(
                f"the observation space {self.observation} is not supported; it must be a Box, "
                "Discrete, MultiDiscrete or MultiBinary, or a Dict or Tuple of these"
            ) from None
        distribution_for(self.action)
        for what, space in (("observation", self.observation), ("action", self.action)):
            if not gym.spaces.flatdim(space):
                raise UsageError(f"the {what} space {space} is empty: it holds no number")

    def check_same(self, owner: str, other: "Spaces", its_owner: str) -> None:
        """Raise `UsageError`, naming the space and both owners, unless `other`'s are the same."""
        for what, mine, its in (
            ("observation", self.observation, other.observation),
            ("action", self.action, other.action),
        ):
            if not same(mine, its):
                raise UsageError(f"{owner} has {what} space {mine}, but {its_owner} has {its}")


def flattener(space: gym.Space[Any]) -> Callable[[Any], np.ndarray]:
    """A function from an observation of `space` to a flat vector, (D,).

    Numbers of a Box are unchanged, and one of bytes rejects others (`ValueError`); Discrete and
    MultiDiscrete become one-hot vectors; the parts of Dict and Tuple are concatenated.
    """
    if flat_type(space) == np.uint8:
        return lambda observation: _bytes(observation).ravel()
    if isinstance(space, gym.spaces.Box):
        return np.ravel

    def flatten(observation: Any) -> np.ndarray:
        _check_choices(space, observation)
        return np.asarray(gym.spaces.flatten(space, observation))

    return flatten


def _check_choices(space: gym.Space[Any], observation: Any) -> None:
    """Raise `ValueError` for a choice that is none of those of the space.

    Gymnasium would flatten it to another one's vector, as Python takes the index -1 for the last.
    """
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        sizes = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
        chosen = np.asarray(observation) - space.start
        if (chosen < 0).any() or (chosen >= sizes).any():
            raise ValueError(f"{observation} is none of the choices of {space}")
    elif isinstance(space, gym.spaces.Dict):
        for name, part in space.spaces.items():
            _check_choices(part, observation[name])
    elif isinstance(space, gym.spaces.Tuple):
        for part, one in zip(space.spaces, observation, strict=True):
            _check_choices(part, one)


def flat_type(space: gym.Space[Any]) -> type[np.generic]:
    """Type of flat observations: float64, but uint8 for a Box of bytes, perhaps an image."""
    return np.uint8 if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 else np.float64


def _bytes(observations: Any) -> np.ndarray:
    """Observations as uint8. Raises `ValueError` if that would change them."""
    given = np.asarray(observations)
    kept = given.astype(np.uint8, copy=False)
    if kept is not given and not np.array_equal(kept, given):
        raise ValueError("its numbers are no bytes")
    return kept


def flat_rows(space: gym.Space[Any], observations: Any) -> tuple[np.ndarray, bool]:
    """Flatten one observation of `space`, or a batch as in Gymnasium's vector environments.

    Returns flat rows (n, D), and whether it was a single one. Raises `ValueError`, naming shape and
    space, for anything else.
    """
    try:
        shape = np.shape(observations) if isinstance(space, gym.spaces.Box) else ()
        if shape and shape[1:] == space.shape:
            kept = _bytes if flat_type(space) == np.uint8 else np.asarray
            return kept(observations).reshape(len(observations), -1), False
        flatten, number = flattener(space), _length(space, observations)
        if number is None:
            return flatten(observations)[None], True
        batch = gym.vector.utils.batch_space(space, number)
        return np.stack(
            [flatten(one) for one in gym.vector.utils.iterate(batch, observations)]
        ), False
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        shape = (
            "" if isinstance(observations, dict | tuple) else f" of shape {np.shape(observations)}"
        )
        raise ValueError(
            f"an observation{shape} is neither of {space} nor a batch of it: {error}"
        ) from None


def _length(space: gym.Space[Any], observations: Any) -> int | None:
    """The number of observations in a batch; None for a single one."""
    if isinstance(space, gym.spaces.Dict):
        name, part = next(iter(space.spaces.items()))
        return _length(part, observations[name])
    if isinstance(space, gym.spaces.Tuple):
        return _length(space.spaces[0], observations[0])
    shape, own = np.shape(observations), space.shape or ()
    if shape == own:
        return None
    if shape[1:] == own and len(shape) == len(own) + 1:
        return shape[0]
    raise ValueError(f"the space has shape {own}")


def same(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    """Whether two spaces are equal, and of Dicts the order of the keys: flat vectors have it."""
    if isinstance(one, gym.spaces.Dict) and isinstance(other, gym.spaces.Dict):
        if list(one.spaces) != list(other.spaces):
            return False
        return all(map(same, one.spaces.values(), other.spaces.values()))
    if isinstance(one, gym.spaces.Tuple) and isinstance(other, gym.spaces.Tuple):
        return len(one.spaces) == len(other.spaces) and all(map(same, one.spaces, other.spaces))
    return bool(one == other)


def to_tree(space: gym.Space[Any]) -> dict[str, Any]:
    """A space as plain data; see `archive.pack`. Raises `TypeError` if unsupported."""
    if isinstance(space, gym.spaces.Box):
        return {"box": [space.low, space.high]}
    if isinstance(space, gym.spaces.Discrete):
        dtype = [] if space.dtype == np.int64 else [np.dtype(space.dtype).str]
        return {"discrete": [int(space.n), int(space.start), *dtype]}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"multi_discrete": [space.nvec, space.start]}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"multi_binary": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, gym.spaces.Tuple):
        return {"tuple": [to_tree(part) for part in space.spaces]}
    if isinstance(space, gym.spaces.Dict):
        return {"dict": [[key, to_tree(part)] for key, part in space.spaces.items()]}
    raise TypeError(f"{space} is not supported")


def from_tree(tree: dict[str, Any]) -> gym.Space[Any]:
    """The space from which `to_tree` made `tree`."""
    ((kind, content),) = tree.items()
    if kind == "box":
        low, high = content
        return gym.spaces.Box(low, high, dtype=low.dtype.type)
    if kind == "discrete":
        n, start, *dtype = content
        more = {"dtype": np.dtype(dtype[0]).type} if dtype else {}
        return gym.spaces.Discrete(n, start=start, **more)
    if kind == "multi_discrete":
        nvec, start = content
        return gym.spaces.MultiDiscrete(nvec, dtype=nvec.dtype.type, start=start)
    if kind == "multi_binary":
        return gym.spaces.MultiBinary(content)
    if kind == "tuple":
        return gym.spaces.Tuple([from_tree(part) for part in content])
    if kind == "dict":
        return gym.spaces.Dict([(key, from_tree(part)) for key, part in content])
    raise ValueError(f"there is no kind of space {kind!r}")
