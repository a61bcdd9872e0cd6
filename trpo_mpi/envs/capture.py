"""Captures an environment's state as plain data, and restores it into another of its kind.

An environment is a graph of Python objects: wrappers, the environment inside them, their random
generators, and perhaps a simulator in C. Python objects are walked attribute by attribute; MuJoCo's
data, the Arcade Learning Environment and random generators are handled separately. Any other object
whose state can't be read (Box2D's world, a physics server) makes `capture` give up. A captured
state can still be wrong, since an object may hide some; `find_fault` therefore tests it on two
scratch environments, and states are captured only of environments that pass.

Nothing here runs code that a file names: a restored value is plain data, or goes into an object of
that class that the environment already has.
"""

import collections
import contextlib
import enum
import functools
import logging
import random
import re
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

MAKE = Callable[[], gym.Env[Any, Any]]

SCRATCH_SECONDS = 2.0
"""About as long as each round of steps in `find_fault` may take."""
LARGEST = 32 * 2**20
"""Bytes of one environment's state above which checkpoints would be too large."""


class UnknownStateError(Exception):
    """Some of an environment's state can't be read or restored."""


# Objects that define an environment and do not change while it runs.
_CONSTANT = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    *(functools.partial, logging.Logger, re.Pattern, np.dtype, np.ufunc),
    gym.envs.registration.EnvSpec,
)
# Windows and their images.
_PICTURES = ("pygame", "glfw", "gymnasium.envs.mujoco.mujoco_rendering")
# Attributes that are no state: whether there is a window, and what a wrapper keeps once asked.
_OF_THIS_START = ("render_mode", "_cached_spec")

# Python objects whose numbers only refer to state that a server in C holds.
_HANDLES = ("pybullet_utils.bullet_client.BulletClient",)

_GENERATORS = {"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"}
_DICTS = (dict, collections.OrderedDict)
_PLAIN = (type(None), bool, int, float, str)


def capture(env: gym.Env[Any, Any]) -> Any:
    """The environment's state: lists, dicts with text keys, numbers, text and arrays.

    The environment is left unchanged. Raises `UnknownStateError` if some state can't be read.
    """
    return _Reader().read(env, "env")


def restore(env: gym.Env[Any, Any], state: Any) -> None:
    """Restore a captured state into an environment of the same kind that has been reset once.

    Raises `UnknownStateError` if the environment is not built as the captured one was.
    """
    _Writer().write(env, state, "env")


class _Reader:
    """Walks an object graph; an object met again becomes a reference to its first occurrence."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # keeps the objects alive, so that no id is reused

    def read(self, value: Any, path: str) -> Any:
        if type(value) in _PLAIN:
            return value
        if _picture(value):
            return {"picture": type(value).__name__}
        if _constant(value):
            return {"constant": type(value).__name__}
        if isinstance(value, enum.Enum):
            return {"enum": value.name}
        if isinstance(value, np.generic):
            return {"scalar": np.array(value)}
        if id(value) in self._met:
            return {"same": self._met[id(value)]}
        self._met[id(value)] = len(self._kept)
        self._kept.append(value)
        return self._read_once(value, path)

    def _read_once(self, value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject or value.dtype.names:
                raise UnknownStateError(f"{path} is an array of {value.dtype}")
            base = value.base
            if isinstance(base, np.ndarray) and base.flags.c_contiguous:
                offset = value.ctypes.data - base.ctypes.data
                layout = [value.dtype.str, offset, list(value.shape), list(value.strides)]
                return {"view": self.read(base, f"{path}.base"), "layout": layout}
            return {"array": value.copy()}
        if isinstance(value, bytes | bytearray):
            return {type(value).__name__: np.frombuffer(value, np.uint8).copy()}
        if isinstance(value, np.random.Generator):
            return {"generator": _plain_generator(value.bit_generator.state)}
        if isinstance(value, np.random.RandomState):
            return {"random_state": _plain_generator(value.get_state(legacy=False))}
        if isinstance(value, random.Random):
            return {"random": self.read(value.getstate(), path)}
        if isinstance(value, gym.Space):
            # Not through the property, which would create a missing generator.
            generator = vars(value).get("_np_random")
            return {"space": self.read(generator, f"{path}.np_random")}
        if isinstance(value, dict):
            pairs = [[self.read(k, path), self.read(v, f"{path}[{k!r}]")] for k, v in value.items()]
            named = {} if type(value) in _DICTS else {"type": type(value).__qualname__}
            return {"dict": pairs} | named
        if isinstance(value, list | tuple | set | frozenset | collections.deque):
            items = [self.read(v, f"{path}[{i}]") for i, v in enumerate(value)]
            if isinstance(value, collections.deque):
                return {"deque": items, "maxlen": value.maxlen}
            kinds = (list, tuple, set, frozenset)
            kind = next(k for k in kinds if isinstance(value, k))
            if type(value) is not kind and not hasattr(value, "_make"):  # a named tuple's
                raise UnknownStateError(f"{path} is a {type(value).__name__}")
            return {kind.__name__: items}
        for name, (read, _) in _SIMULATORS.items():
            if _is(value, name):
                return {name: read(value)}
        if not _python_object(value) or any(_is(value, name) for name in _HANDLES):
            raise UnknownStateError(f"{path} is a {_module(value)}.{type(value).__name__}")
        attributes = {k: self.read(v, f"{path}.{k}") for k, v in vars(value).items()}
        return {"object": type(value).__qualname__, "attributes": attributes}


class _Writer:
    """Writes what a `_Reader` read into another object graph of the same shape."""

    def __init__(self) -> None:
        self._made: list[Any] = []

    def write(self, old: Any, state: Any, path: str) -> Any:
        """The value to put in the place of `old`; objects are changed in place and returned."""
        if state is None and _picture(old):
            return old
        if type(state) in _PLAIN:
            return state
        kind = next(iter(state))
        content = state[kind]
        if kind == "picture":
            return old if _picture(old) else None
        if kind == "constant":
            if not _constant(old):
                raise UnknownStateError(f"{path} is {old!r} and not a {content}")
            return old
        if kind == "enum":
            if not isinstance(old, enum.Enum):
                raise UnknownStateError(f"{path} is {old!r} and not an Enum")
            return type(old)[content]
        if kind == "scalar":
            return content[()]
        if kind == "same":
            return self._made[content]
        place = len(self._made)
        self._made.append(old)  # in the reader's order, before its contents
        value = self._write_once(old, kind, state, path, place)
        self._made[place] = value
        return value

    def _write_once(self, old: Any, kind: str, state: Any, path: str, place: int) -> Any:
        content = state[kind]
        if kind == "array":
            # A view of a simulator's memory must remain one.
            shows = isinstance(old, np.ndarray) and old.base is not None and old.flags.writeable
            if shows and (old.shape, old.dtype) == (content.shape, content.dtype):
                old[...] = content
                return old
            return content.copy()
        if kind == "view":
            base = self.write(old.base if isinstance(old, np.ndarray) else None, content, path)
            dtype, offset, shape, strides = state["layout"]
            return np.ndarray(shape, dtype, base, offset, strides)
        if kind in ("bytes", "bytearray"):
            return (bytes if kind == "bytes" else bytearray)(content.tobytes())
        if kind == "generator":
            if not isinstance(old, np.random.Generator):
                old = np.random.Generator(_bit_generator(content["bit_generator"]))
            old.bit_generator.state = content
            return old
        if kind == "random_state":
            old = old if isinstance(old, np.random.RandomState) else np.random.RandomState()
            old.set_state(content)
            return old
        if kind == "random":
            old = old if isinstance(old, random.Random) else random.Random()
            old.setstate(self.write(None, content, path))
            return old
        if kind == "space":
            if not isinstance(old, gym.Space):
                raise UnknownStateError(f"{path} is not a space")
            if content is not None:
                self.write(old.np_random, content, path)
            return old
        if kind == "dict":
            if state.get("type") not in (None, type(old).__qualname__):
                raise UnknownStateError(f"{path} is no {state['type']}")
            return self._dict(old, content, path, place)
        if kind in ("list", "tuple", "set", "frozenset", "deque"):
            olds = list(old) if isinstance(old, list | tuple | collections.deque) else []
            olds = (olds + [None] * len(content))[: len(content)]
            pairs = zip(olds, content, strict=True)
            items = [self.write(o, s, f"{path}[{i}]") for i, (o, s) in enumerate(pairs)]
            if kind == "deque":
                return collections.deque(items, state["maxlen"])
            if hasattr(old, "_make"):
                return old._make(items)
            return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
        if kind in _SIMULATORS:
            if not _is(old, kind):
                raise UnknownStateError(f"{path} is not a {kind}")
            _SIMULATORS[kind][1](old, content)
            return old
        if kind != "object" or type(old).__qualname__ != content:
            raise UnknownStateError(f"{path} is a {type(old).__qualname__} and not a {content}")
        return self._object(old, state["attributes"], path)

    def _dict(self, old: Any, pairs: list[Any], path: str, place: int) -> Any:
        olds = old if isinstance(old, dict) else {}
        result: dict[Any, Any] = old if isinstance(old, dict) else {}
        self._made[place] = result
        items = []
        for k, v in pairs:
            key = self.write(None, k, path)
            items.append((key, self.write(olds.get(key), v, f"{path}[{key!r}]")))
        result.clear()
        result.update(items)
        return result

    def _object(self, old: Any, attributes: dict[str, Any], path: str) -> Any:
        own = vars(old)
        for name, state in attributes.items():
            if name not in _OF_THIS_START:
                own[name] = self.write(own.get(name), state, f"{path}.{name}")
        for name in set(own) - set(attributes):
            del own[name]
        return old


def _constant(value: Any) -> bool:
    return isinstance(value, _CONSTANT) or _picture(value) or _is(value, "mujoco.MjModel")


def _picture(value: Any) -> bool:
    return _module(value).startswith(_PICTURES)


def _module(value: Any) -> str:
    """Where the type of `value` comes from; some types of extensions, as Box2D's, do not say."""
    return str(getattr(type(value), "__module__", ""))


def _python_object(value: Any) -> bool:
    """Whether all of an object's state is in its attributes, as its classes are Python's."""
    if not hasattr(value, "__dict__"):
        return False
    classes = type(value).__mro__[:-1]
    heap_type = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
    slots = any(vars(cls).get("__slots__") for cls in classes)
    return not slots and all(cls.__flags__ & heap_type for cls in classes)


def _plain_generator(state: Any) -> Any:
    """A generator's state with NumPy scalars converted to Python's; arrays stay."""
    if isinstance(state, dict):
        return {name: _plain_generator(part) for name, part in state.items()}
    return state.item() if isinstance(state, np.generic) else state


def _bit_generator(name: str) -> np.random.BitGenerator:
    if name not in _GENERATORS:
        raise UnknownStateError(f"there is no random generator {name!r}")
    made: np.random.BitGenerator = getattr(np.random, name)()
    return made


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of a simulator's class, without importing the simulator."""
    module, _, name = kind.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


def _read_mujoco(data: Any) -> Any:
    """The integration state and every array of an MjData.

    The integration state alone would not suffice: Ant, Humanoid and Reacher observe arrays that
    were derived in the substep before the last.
    """
    import mujoco

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(data.model, spec))
    mujoco.mj_getState(data.model, data, state, spec)
    return {"state": state, "arrays": {k: v.copy() for k, v in _mujoco_arrays(data).items()}}


def _write_mujoco(data: Any, content: Any) -> None:
    import mujoco

    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(data.model, data, content["state"], spec)
    mujoco.mj_forward(data.model, data)  # sizes the arrays that depend on contacts
    mine = _mujoco_arrays(data)
    for name, array in content["arrays"].items():
        if name in mine and mine[name].shape == array.shape:
            mine[name][...] = array
    mujoco.mj_setState(data.model, data, content["state"], spec)


def _mujoco_arrays(data: Any) -> dict[str, np.ndarray]:
    found = {}
    for name in dir(data):
        if not name.startswith("_"):
            value = getattr(data, name, None)
            if isinstance(value, np.ndarray) and value.flags.writeable and value.size:
                found[name] = value
    return found


def _read_ale(ale: Any) -> Any:
    return np.frombuffer(ale.cloneState(include_rng=True).__getstate__(), np.uint8).copy()


def _write_ale(ale: Any, content: Any) -> None:
    import ale_py

    state = ale_py.ALEState.__new__(ale_py.ALEState)
    state.__setstate__(content.tobytes())
    ale.restoreState(state)


_SIMULATORS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "mujoco.MjData": (_read_mujoco, _write_mujoco),
    "ale_py.ALEInterface": (_read_ale, _write_ale),
}


def find_fault(make: MAKE, about_to_step: Callable[[], None] = lambda: None) -> str | None:
    """Why the state of these environments can't be carried over; None if it can.

    Captures one environment mid-episode, restores it into another in a different state, and steps
    both side by side, across a reset: every number must have equal bits.

    Args:
        make: returns a new environment.
        about_to_step: called before each step.
    """
    made: list[gym.Env[Any, Any]] = []
    try:
        made += [make()]
        made += [make()]
        first, second = made
        first.reset(seed=1)
        second.reset(seed=2)
        actions = first.action_space
        actions.seed(3)
        began = time.perf_counter()
        for env, steps in ((first, 40), (second, 7)):
            for _ in range(steps):
                about_to_step()
                _step(env, actions.sample())
                if time.perf_counter() - began > SCRATCH_SECONDS:
                    break
        state = capture(first)
        if size_of(state) > LARGEST:
            return f"its state takes {size_of(state) / 2**20:.0f} MiB"
        restore(second, state)
        began = time.perf_counter()
        for number in range(200):
            about_to_step()
            action = actions.sample()
            if not _equal(_step(first, action), _step(second, action)):
                return f"{number + 1} steps later a restored one differs from the one it was"
            if time.perf_counter() - began > SCRATCH_SECONDS:
                break
        resets = first.reset()[0], second.reset()[0]
        if not _equal(*resets) or not _equal(_step(first, action), _step(second, action)):
            return "after its reset a restored one differs from the one it was"
        return None
    except UnknownStateError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for env in made:
            with contextlib.suppress(Exception):  # a restored one may not own what it would close
                env.close()


def _step(env: gym.Env[Any, Any], action: Any) -> Any:
    observation, reward, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
        return observation, reward, terminated, truncated, env.reset()[0]
    return observation, reward, terminated, truncated


def _equal(one: Any, other: Any) -> bool:
    """Whether two results of an environment, perhaps nested, have equal bits."""
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return set(one) == set(other) and all(_equal(one[k], other[k]) for k in one)
    first, second = np.asarray(one), np.asarray(other)
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


def size_of(state: Any) -> int:
    """Bytes of all arrays in a captured state."""
    if isinstance(state, np.ndarray):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if isinstance(state, list) else 0
