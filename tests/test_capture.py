"""The state of an environment, taken out and put into another: every number has equal bits."""

import collections
import enum
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from toy_envs import Counter, Noisy, Step

from trpo_mpi.envs.capture import UnknownStateError, capture, find_fault, restore
from trpo_mpi.envs.make import quiet_gymnasium
from trpo_mpi.run_directory import archive

quiet_gymnasium()
MUJOCO = sorted(
    name
    for name, spec in gym.registry.items()
    if str(spec.entry_point).startswith("gymnasium.envs.mujoco")
    and name.endswith(("-v4", "-v5"))
    and name != "Pusher-v4"  # needs mujoco < 3
)
CLASSIC = sorted(
    name
    for name, spec in gym.registry.items()
    if str(spec.entry_point).startswith("gymnasium.envs.classic_control")
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo leaves a log where it meets an unstable simulation."""
    monkeypatch.chdir(tmp_path)


def roll(env: gym.Env[Any, Any], actions: list[Any]) -> list[bytes]:
    """Every number that these actions produce, resets included."""
    given = []
    for action in actions:
        observation, *rest = env.step(action)
        given += [np.asarray(observation).tobytes(), *(np.asarray(x).tobytes() for x in rest[:3])]
        if rest[1] or rest[2]:
            given.append(np.asarray(env.reset()[0]).tobytes())
    return given


def check_exact(make: Callable[[], gym.Env[Any, Any]], before: int, after: int) -> None:
    """Compare a captured environment, and a restored one, with one that is left alone."""
    undisturbed, captured, restored = make(), make(), make()
    undisturbed.reset(seed=1)
    captured.reset(seed=1)
    restored.reset(seed=2)
    undisturbed.action_space.seed(3)
    actions = [undisturbed.action_space.sample() for _ in range(before + after)]
    roll(undisturbed, actions[:before])
    roll(captured, actions[:before])
    roll(restored, actions[: before // 3])
    restore(restored, archive.unpack(archive.pack(capture(captured))))
    expected = roll(undisturbed, actions[before:])
    assert roll(captured, actions[before:]) == expected
    assert roll(restored, actions[before:]) == expected
    for env in (undisturbed, captured, restored):
        env.close()


@pytest.mark.parametrize("name", MUJOCO)
def test_mujoco_goes_on_exactly(name: str) -> None:
    """In mid-episode, and across the resets of falls and of a short time limit."""
    assert len(MUJOCO) >= 21
    check_exact(lambda: gym.make(name, max_episode_steps=70, disable_env_checker=True), 100, 150)


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_control_goes_on_exactly(name: str) -> None:
    check_exact(lambda: gym.make(name, max_episode_steps=70), 100, 150)


@pytest.mark.parametrize("sticky", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["plain", "wrapped"])
def test_atari_goes_on_exactly(kind: str, sticky: float) -> None:
    """In mid-game behind Gymnasium's wrappers, sticky actions and resets included."""
    ale_py = pytest.importorskip("ale_py")
    gym.register_envs(ale_py)

    def make() -> gym.Env[Any, Any]:
        frameskip = 4 if kind == "plain" else 1
        env = gym.make(
            "ALE/Breakout-v5",
            frameskip=frameskip,
            repeat_action_probability=sticky,
            max_num_frames_per_episode=800,
        )
        if kind == "wrapped":
            env = gym.wrappers.AtariPreprocessing(env, noop_max=30, terminal_on_life_loss=True)
            env = gym.wrappers.FrameStackObservation(env, 4)
        return env

    check_exact(make, 100, 300)


WRAPPERS: list[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = [
    gym.wrappers.NormalizeObservation,
    gym.wrappers.NormalizeReward,
    lambda env: gym.wrappers.FrameStackObservation(env, 3),
    gym.wrappers.TimeAwareObservation,
    lambda env: gym.wrappers.DelayObservation(env, 2),
    lambda env: gym.wrappers.StickyAction(env, 0.3),
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda w: w(gym.make("CartPole-v1")).class_name())
def test_wrappers_go_on_exactly(wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]) -> None:
    check_exact(lambda: wrap(gym.make("Pendulum-v1", max_episode_steps=40)), 70, 100)


class Phase(enum.Enum):
    LEFT = 1
    RIGHT = 2


class Ball:
    def __init__(self) -> None:
        self.place = 0.0


class Point(NamedTuple):
    x: float
    y: float


class Rich(Noisy):
    """Keeps its state in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.balls = [Ball(), Ball()]
        self.one = self.balls[0]
        self.phase = Phase.LEFT
        self.history: collections.deque[float] = collections.deque(maxlen=3)
        self.table: dict[Any, Any] = {(0, 1): {1, 2}, 5: None}
        self.old = random.Random(1)
        self.older = np.random.RandomState(1)
        self.buffer = np.zeros((2, 3), np.float32)
        self.view = self.buffer[1]
        self.number = np.float32(0)
        self.point = Point(0.0, 1.0)

    def observe(self) -> np.ndarray:
        self.one.place += self.np_random.standard_normal() + self.old.random()
        self.view += self.older.standard_normal()
        self.number += np.float32(0.1)
        self.point = Point(self.point.y, self.point.x + 1)
        self.phase = Phase.RIGHT if self.one.place > 0 else Phase.LEFT
        self.history.append(self.balls[0].place)
        self.table[self.step_number] = self.phase.value
        return np.array(
            [
                self.balls[0].place + sum(self.history) + self.point.x,
                self.buffer.sum() + self.number,
                len(self.table),
            ],
            np.float64,
        )


def test_many_kinds_of_state_go_on_exactly() -> None:
    """Aliases and views among them: two names of one object stay two names of one object."""
    check_exact(Rich, 30, 40)
    first, second = Rich(), Rich()
    first.reset(seed=1)
    second.reset(seed=2)
    restore(second, archive.unpack(archive.pack(capture(first))))
    assert second.one is second.balls[0]
    assert np.shares_memory(second.view, second.buffer)
    assert second.table[0, 1] == {1, 2}
    assert second.history.maxlen == 3
    assert second.number.dtype == np.float32


@pytest.mark.parametrize(
    "make", [Rich, lambda: gym.make("Hopper-v5"), lambda: gym.make("CartPole-v1")]
)
def test_no_fault_is_found_where_there_is_none(make: Callable[[], gym.Env[Any, Any]]) -> None:
    assert find_fault(make) is None


class Hidden(Counter):
    """Observes a number that no attribute holds."""

    steps: dict[int, int] = {}

    def step(self, action: Any) -> Step:
        self.steps[id(self)] = self.steps.get(id(self), 0) + 1
        observation, *rest = super().step(action)
        observation[0] = self.steps[id(self)]
        return observation, *rest


class Iterating(Counter):
    def __init__(self) -> None:
        super().__init__()
        self.ticks = iter(itertools.count())


class Moody(Counter):
    def step(self, action: Any) -> Step:
        raise ValueError("not today")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Hidden, "steps later a restored one differs"),
        (Iterating, "env.ticks is a itertools.count"),
        (Moody, "ValueError: not today"),
        (lambda: gym.make("Unheard-v0"), "Unheard"),
    ],
)
def test_faults_are_found(make: Callable[[], gym.Env[Any, Any]], words: str) -> None:
    assert words in str(find_fault(make))


def test_a_state_of_another_environment_is_refused() -> None:
    one, other = gym.make("CartPole-v1"), gym.make("Pendulum-v1")
    one.reset(seed=1)
    other.reset(seed=1)
    with pytest.raises(UnknownStateError):
        restore(other, capture(one))


def test_a_wrapper_that_has_been_asked_for_its_spec() -> None:
    asked, other = (gym.make("CartPole-v1") for _ in range(2))
    assert asked.spec is not None
    for source, target in ((asked, other), (other, asked)):
        source.reset(seed=3)
        target.reset()
        restore(target, capture(source))
        assert np.array_equal(source.step(1)[0], target.step(1)[0])


def test_a_window_belongs_to_the_start_and_not_to_the_state() -> None:
    """A run resumed with `--render` draws, and one resumed without it does not."""
    windowed, plain = (gym.make("CartPole-v1", render_mode=mode) for mode in ("rgb_array", None))
    for env, seed in ((windowed, 1), (plain, 2)):
        env.reset(seed=seed)
    windowed.render()
    window, state = windowed.unwrapped.screen, windowed.unwrapped.state
    drawn, undrawn = capture(windowed), capture(plain)
    restore(plain, drawn)
    assert plain.unwrapped.render_mode is None
    assert plain.unwrapped.screen is None
    np.testing.assert_array_equal(plain.unwrapped.state, state)
    restore(windowed, undrawn)
    assert windowed.unwrapped.render_mode == "rgb_array"
    assert windowed.unwrapped.screen is window
    assert windowed.render().any()


def test_what_is_restored_is_data_and_never_code() -> None:
    """A state can't name a class or a function to be called."""
    env = gym.make("CartPole-v1")
    env.reset(seed=1)
    with pytest.raises(UnknownStateError):
        restore(env, {"object": "os.system", "attributes": {}})
    state = capture(env)
    state["attributes"]["_np_random"] = {"generator": {"bit_generator": "default_rng"}}
    with pytest.raises(UnknownStateError):
        restore(env, state)


class Kinds(Counter):
    """Has attributes of kinds that plain data must not be taken for."""

    class Colour(enum.Enum):
        RED = 1

    def __init__(self) -> None:
        super().__init__()
        self.visits: dict[int, int] = collections.defaultdict(int)
        self.colour: Any = None
        self.pairs: Any = None

    def step(self, action: Any) -> Any:
        self.visits[self.step_number] += 1
        return super().step(action)


def test_a_defaultdict_stays_one() -> None:
    one, other = Kinds(), Kinds()
    one.reset(seed=1)
    one.step(0)
    restore(other, capture(one))
    assert other.visits == one.visits
    other.visits[77] += 1
    assert other.visits[77] == 1


def test_a_dict_is_not_taken_for_a_defaultdict() -> None:
    one, other = Kinds(), Kinds()
    other.visits = {}
    with pytest.raises(UnknownStateError, match="visits is no defaultdict"):
        restore(other, capture(one))


def test_an_enum_that_came_later() -> None:
    one, other = Kinds(), Kinds()
    one.colour = Kinds.Colour.RED
    with pytest.raises(UnknownStateError, match="colour is None and not an Enum"):
        restore(other, capture(one))


def test_arrays_with_named_fields_are_refused() -> None:
    """On disk they would lose the names."""
    one = Kinds()
    one.pairs = np.zeros(2, [("x", "f8"), ("v", "f8")])
    with pytest.raises(UnknownStateError, match="pairs is an array of"):
        capture(one)
