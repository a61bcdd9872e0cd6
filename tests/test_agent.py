"""The Python class: its trainer, its files, what it predicts, and every kind of environment."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Run, environment
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from memory_envs import Picture
from test_spaces import PAIRS, Random
from toy_envs import Constant, Counter

from trpo_mpi import (
    PPO,
    TRPO,
    CnnLnLstmPolicy,
    CnnPolicy,
    MlpLnLstmPolicy,
    MlpPolicy,
    evaluate_policy,
)
from trpo_mpi.config import Config
from trpo_mpi.envs.adopted import AdoptedEnvs
from trpo_mpi.envs.atari import GAME
from trpo_mpi.envs.make import check_env
from trpo_mpi.errors import EnvironmentFault
from trpo_mpi.model import initial_model
from trpo_mpi.run_directory import checkpoint, model_file

SMALL = {"net_arch": [8], "timesteps_per_batch": 64, "num_envs": 4, "vf_batch": 64}
KEPT = Path(__file__).parent / "cartpole.zip"


def small(env: Any = "CartPole-v1", **more: Any) -> TRPO:
    return TRPO("MlpPolicy", env, **(SMALL | more))


def bits(model: TRPO) -> list[bytes]:
    whole = model._whole()
    return [x.tobytes() for x in (whole.theta, whole.phi, whole.adam["m"], whole.adam["v"])]


PAGE = """
import gymnasium as gym
from trpo_mpi import TRPO, MlpPolicy
env = gym.make_vec("CartPole-v1", num_envs=4)
model = TRPO(MlpPolicy, env, verbose=1)
model.learn(total_timesteps=25000)
model.save("trpo_cartpole")
del model
model = TRPO.load("trpo_cartpole")
obs, _ = env.reset()
for _ in range(500):
    action, _states = model.predict(obs)
    obs, reward, terminated, truncated, info = env.step(action)
"""


def test_the_pages_example_runs(tmp_path: Path, python: Run) -> None:
    (tmp_path / "page.py").write_text(PAGE, encoding="utf-8")
    result = python("page.py")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "25" in result.stdout.splitlines()[-1]  # the last iteration's line
    assert (tmp_path / "trpo_cartpole.zip").exists()


def test_positional_arguments_are_stable_baselines() -> None:
    model = TRPO("MlpPolicy", None, 0.9, 512, 0.02, 7, 0.8, 0.1, 0.3, 1e-3, 4, 0)
    config = model.config
    assert (config.gamma, config.timesteps_per_batch, config.max_kl) == (0.9, 512, 0.02)
    assert (config.cg_iters, config.lam, config.entcoeff) == (7, 0.8, 0.1)
    assert (config.cg_damping, config.vf_stepsize, config.vf_iters) == (0.3, 1e-3, 4)
    defaults = TRPO("MlpPolicy", None).config
    assert (defaults.gamma, defaults.timesteps_per_batch, defaults.lam) == (0.99, 1024, 0.98)
    assert (defaults.vf_batch, defaults.normalize_observations) == (128, False)


def test_learning_in_parts_goes_on() -> None:
    whole, parts = small(), small()
    whole.learn(640)
    assert parts.learn(320) is parts
    parts.learn(320)
    assert bits(whole) == bits(parts)
    assert parts._state is not None
    assert parts._state["counters"]["timesteps"] == 640


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_given_to_learn_is_the_runs(seed: int) -> None:
    later, before = small(), small(seed=seed)
    assert bits(later.learn(128, seed=seed)) == bits(before.learn(128))
    assert bits(later) != bits(small().learn(128))
    with pytest.raises(ValueError, match="seed is 9, but this run has begun with"):
        later.learn(128, seed=9)


def test_a_first_callback_acts_with_the_policy_of_the_seed_given() -> None:
    """Although the model has acted with another before."""
    rows = np.random.default_rng(0).standard_normal((5, 4))

    def acted(model: TRPO) -> list[np.ndarray]:
        return [model.action_probability(rows), model.predict_values(rows), model.predict(rows)[0]]

    model, seen = small(), []
    before = acted(model)
    model.learn(64, callback=lambda *_: seen.append(acted(model)), seed=7)
    expected = acted(small(seed=7))
    assert not np.array_equal(before[0], expected[0])
    assert all(map(np.array_equal, seen[0], expected))


def test_saved_and_loaded_it_predicts_the_same_and_goes_on(tmp_path: Path) -> None:
    model = small(normalize_observations=True, normalize_returns=True).learn(640)
    model.save(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
    loaded = TRPO.load(tmp_path / "model", env="CartPole-v1")
    assert bits(loaded) == bits(model)
    assert loaded.config == model.config
    rows = np.random.default_rng(0).standard_normal((50, 4))
    for deterministic in (True, False):
        given, expected = (m.predict(rows, deterministic=deterministic)[0] for m in (loaded, model))
        assert np.array_equal(given, expected)
    assert np.array_equal(loaded.predict_values(rows), model.predict_values(rows))
    state = loaded._state
    assert state is not None
    assert state["counters"]["timesteps"] == 640
    loaded.learn(64)
    assert loaded._state is not None
    assert loaded._state["counters"]["timesteps"] == 704
    assert loaded._whole().adam["steps"] > model._whole().adam["steps"] > 0
    # What it learns from is new: neither the first episodes nor the first noise again.
    assert bits(loaded) != bits(model)


def test_a_commands_files_can_be_loaded(tmp_path: Path) -> None:
    model = small(normalize_observations=True).learn(256)
    model_file.save(tmp_path / "model.zip", model._whole())
    loaded = TRPO.load(tmp_path / "model.zip")
    assert loaded.config.net_arch == (8,)
    rows = np.random.default_rng(0).standard_normal((5, 4))
    assert np.array_equal(loaded.predict_values(rows), model.predict_values(rows))


def test_another_seed_keeps_what_a_command_has_learnt(tmp_path: Path) -> None:
    model = small().learn(256)
    model_file.save(tmp_path / "model.zip", model._whole())
    loaded = TRPO.load(tmp_path / "model.zip", env="CartPole-v1", **SMALL, max_kl=1e-12, vf_iters=0)
    loaded.learn(64, seed=7)
    assert loaded.config.seed == 7
    np.testing.assert_allclose(loaded._whole().theta, model._whole().theta, atol=1e-4)
    assert np.array_equal(loaded._whole().phi, model._whole().phi)


def test_values_are_in_units_of_the_reward() -> None:
    """Whatever factor rewards are multiplied by for the critic."""
    rows = np.random.default_rng(0).standard_normal((5, 4))
    plain, scaled = (small(reward_scale=scale).predict_values(rows) for scale in (1.0, 0.1))
    np.testing.assert_allclose(scaled, 10 * plain)


def test_a_batch_of_nothing_but_resets() -> None:
    """Episodes of two environments have 5 steps; the sixth call, in its own batch, resets both."""
    envs = SyncVectorEnv([Constant] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    model = small(envs, num_envs=2, timesteps_per_batch=10).learn(12)
    assert model._state is not None
    counters = model._state["counters"]
    assert (counters["iteration"], counters["timesteps"]) == (3, 12)
    assert np.isfinite(model._whole().theta).all()


def test_the_kept_file_is_loaded_for_ever() -> None:
    """Written once by this class, and never again."""
    assert KEPT.stat().st_size < 50_000
    model = TRPO.load(KEPT)
    rows = np.array([[0.01, 0.5, -0.02, -0.8], [0.0, -0.5, 0.05, 0.9]])
    assert model.predict(rows, deterministic=True)[0].tolist() == [0, 1]
    np.testing.assert_allclose(model.predict_values(rows), [98.853185, 96.276187], rtol=1e-6)
    assert evaluate_policy(model, "CartPole-v1", 5)[0] > 150


def test_loading_takes_neither_tensorflow_nor_mpi(tmp_path: Path) -> None:
    code = (
        "import sys; from trpo_mpi import TRPO; "
        f"model = TRPO.load({str(KEPT)!r}); model.predict([0, 0, 0, 0]); "
        "print([m for m in ('tensorflow', 'mpi4py') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", ["none.zip", "empty.zip", "newer.zip"])
def test_files_that_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(b"")
    model = small()
    text = b'{"format": 99, "columns": 0, "best": false, "settings": {}}'
    members = checkpoint.members(model.config, model._whole(), None, {}, [])
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as file:
        for member, content in (members | {"settings.json": text}).items():
            file.writestr(member, content)
    with pytest.raises(ValueError, match=name):
        TRPO.load(tmp_path / name)


SCRIPT = """
import time
from mpi4py import MPI
from trpo_mpi import TRPO
model = TRPO("MlpPolicy", "CartPole-v1", net_arch=(8,), {more}).learn({steps})
if MPI.COMM_WORLD.Get_rank() == 0:
    time.sleep(0.5)
model.save("{name}")
if MPI.COMM_WORLD.Get_rank() == 0:
    TRPO.load("{name}")  # needs no other rank
MPI.COMM_WORLD.Barrier()
print(f"{{TRPO.load('{name}')._whole().timesteps}}\\n", end="")
"""


def test_the_same_bits_on_any_number_of_ranks(tmp_path: Path, python: Run, mpirun: Run) -> None:
    for ranks in (1, 2, 3):
        name = f"on{ranks}"
        script = SCRIPT.format(name=name, steps=4096, more="vf_batch=512")
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        result = python("script.py") if ranks == 1 else mpirun(ranks, "script.py")
        assert result.returncode == 0, result.stderr
        assert result.stdout == ranks * "4096\n"  # on each rank the file was there
    contents = [(tmp_path / f"on{ranks}.zip").read_bytes() for ranks in (1, 2, 3)]
    assert contents[0] == contents[1] == contents[2]


STOPS = """
import sys
from mpi4py import MPI
from trpo_mpi import TRPO
rank = MPI.COMM_WORLD.Get_rank()
calls = []
def callback(its, _):
    calls.append(its["self"])
    if len(calls) == 3 and rank == 1:
        {what}
TRPO("MlpPolicy", "CartPole-v1", net_arch=(8,), vf_batch=512).learn(10**6, callback)
print(f"ended after {{len(calls)}}\\n", end="", flush=True)
"""


WHAT = [
    "return False",
    "raise RuntimeError('the callback broke')",
    "sys.exit('the callback broke')",
]


@pytest.mark.parametrize("what", WHAT)
def test_a_callback_on_one_rank_stops_or_ends_all(what: str, tmp_path: Path, mpirun: Run) -> None:
    (tmp_path / "script.py").write_text(STOPS.format(what=what), encoding="utf-8")
    started = time.monotonic()
    result = mpirun(2, "script.py")
    if what == "return False":
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("ended after 3") == 2
    else:
        assert result.returncode != 0
        error = "SystemExit" if "exit" in what else "RuntimeError"
        assert result.stderr.count(f"{error}: the callback broke") == 1
        assert "ended" not in result.stdout
    assert time.monotonic() - started < 60


def test_a_callback_alone() -> None:
    """It sees the local variables of `learn`, without earlier iterations', which would pile up."""
    calls: list[int] = []

    def callback(its: dict[str, Any], _: dict[str, Any]) -> bool:
        assert "scope" not in its
        assert isinstance(its["self"], TRPO)
        calls.append(its["trainer"].counters.iteration)
        return len(calls) < 3

    model = small().learn(10_000, callback)
    assert calls == [0, 1, 2]
    assert model._state is not None
    assert model._state["counters"]["iteration"] == 3


@pytest.mark.parametrize("answer", [False, np.False_])
def test_a_callback_stops_by_any_false(answer: Any) -> None:
    model = small().learn(10_000, lambda *_: answer)
    assert model._whole().iteration == 1


def test_numpys_numbers_are_settings(tmp_path: Path) -> None:
    """Which a file can keep."""
    given = {"seed": np.int64(3), "max_kl": np.float32(0.5), "net_arch": [np.int64(4)]}
    model = small(**given).learn(np.arange(65)[-1], seed=np.int16(4))
    model.save(tmp_path / "model")
    config = TRPO.load(tmp_path / "model").config
    assert (config.seed, config.max_kl, config.net_arch) == (4, 0.5, (4,))


@pytest.mark.parametrize("vector", [False, True])
def test_evaluation_in_the_training_environment_begins_new_episodes(vector: bool) -> None:
    """CartPole's return is its length: what was left of another episode would part them."""
    env = gym.make_vec("CartPole-v1", 2) if vector else gym.make("CartPole-v1")
    model = small(env, num_envs=None, timesteps_per_batch=32)

    def callback(its: dict[str, Any], _: dict[str, Any]) -> None:
        if its["trainer"].counters.iteration % 2:
            evaluate_policy(model, env, 2)

    for _ in range(4):
        model.learn(64, callback)
        evaluate_policy(model, env, 2)
    assert model._trainer is not None
    counters = model._trainer.counters
    assert counters.episodes > 3
    assert [float(length) for length in counters.lengths] == list(counters.returns)


@pytest.mark.parametrize("vector", [False, True])
def test_an_environment_that_others_have_stepped_begins_new_episodes(vector: bool) -> None:
    env: Any = gym.make_vec("CartPole-v1", 2) if vector else gym.make("CartPole-v1")
    model = small(env, num_envs=None, timesteps_per_batch=32)
    for _ in range(6):
        model.learn(32)
        env.reset(seed=1)
        for _ in range(3):
            env.step(env.action_space.sample())
    assert model._trainer is not None
    counters = model._trainer.counters
    assert counters.episodes > 3
    assert [float(length) for length in counters.lengths] == list(counters.returns)


def test_no_time_steps_and_no_episodes_are_refused() -> None:
    model = small().learn(64)
    for number in (0, -5):
        with pytest.raises(ValueError, match=f"total_timesteps is {number}; it must be 1 or more"):
            model.learn(number)
    with pytest.raises(ValueError, match="n_eval_episodes is 0; it must be 1 or more"):
        evaluate_policy(model, "CartPole-v1", 0)
    assert bits(model) == bits(small().learn(64))


def test_without_a_seed_it_is_the_default() -> None:
    """And not another one on every rank."""
    assert bits(small(seed=None).learn(64)) == bits(small().learn(64))


def test_learning_that_has_reached_a_limit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    model = small(max_iterations=2).learn(256)
    assert capsys.readouterr().err == ""
    model.learn(256)
    assert capsys.readouterr().err.startswith("note: nothing is learnt: ")


def test_limits_that_a_run_has_reached_are_not_inherited(tmp_path: Path) -> None:
    model = small(max_iterations=1).learn(256)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", env="CartPole-v1").learn(128)
    assert loaded._trainer is not None
    assert loaded._trainer.counters.iteration > 1
    again = TRPO.load(tmp_path / "model", env="CartPole-v1", max_iterations=1).learn(128)
    assert again._trainer is not None
    assert again._trainer.counters.iteration == 1


def test_one_environment_can_not_be_two() -> None:
    env = Counter()
    with pytest.raises(ValueError, match="gave one environment twice"):
        small(lambda: env).learn(64)


class Lives(Constant):
    """Every third episode ends a game, of 15 steps and a score of 7."""

    def step(self, action: Any) -> Any:
        *result, terminated, truncated, info = super().step(action)
        if terminated:
            info[GAME] = (7.0, 15) if self.episode % 3 == 2 else None
        return *result, terminated, truncated, info


def test_evaluation_counts_whole_games() -> None:
    env = Lives()
    assert evaluate_policy(small(env, num_envs=None), env, 3) == (7.0, 0.0)
    assert env.episode == 9  # three games of three lives, and the next has begun


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_evaluation_counts_whole_games_of_a_vector(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([Lives] * 2, autoreset_mode=mode)
    assert evaluate_policy(small(envs, num_envs=None), envs, 4) == (7.0, 0.0)


class Breaks(Counter):
    """The last observation of an episode is not a number."""

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            observation = np.full_like(observation, np.nan)
        return observation, reward, terminated, truncated, info


def test_a_last_observation_that_is_no_number_is_the_environments_fault() -> None:
    both = AdoptedEnvs(SyncVectorEnv([Breaks] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    both.reset(seed=[3, 4])
    for _ in range(2):  # of the first episode's three steps
        both.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFault, match="an observation is not finite in environment 0"):
        both.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_autoreset_gives_what_single_environments_give(mode: AutoresetMode) -> None:
    """Every step once: rewards, ends and final observations; a reset is no step."""
    both = AdoptedEnvs(SyncVectorEnv([Counter] * 2, autoreset_mode=mode))
    observations, _ = both.reset(seed=[3, 4])
    single = Counter()
    expected, _ = single.reset()
    seen = 0
    while seen < 40:
        before = observations[0]
        observations, rewards, terminated, truncated, info = both.step(np.zeros(2, np.int64))
        if info.get("reset", [False])[0]:
            assert (rewards[0], terminated[0], truncated[0]) == (0, False, False)
            expected, _ = single.reset()
            assert np.array_equal(observations[0], expected)
            continue
        assert np.array_equal(before, expected)
        expected, reward, over, cut, _ = single.step(0)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, over, cut)
        if over or cut:
            assert np.array_equal(info["final_obs"][0], expected)
            if mode == AutoresetMode.SAME_STEP:
                expected, _ = single.reset()
        assert np.array_equal(observations[0], expected)
        seen += 1


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_values_under_autoreset_are_those_in_closed_form(mode: AutoresetMode, end: str) -> None:
    """Reward 1: for ever if a time limit cuts episodes, for the rest of 5 steps if they end."""
    envs = SyncVectorEnv([lambda: Constant(end)] * 4, autoreset_mode=mode)
    model = small(
        envs,
        gamma=0.5,
        lam=0.9,
        timesteps_per_batch=256,
        vf_iters=20,
        vf_stepsize=0.01,
        vf_final_stepsize=0.05,
        normalize_observations=True,
    )
    model.learn(256 * 40)
    steps = np.arange(5)
    observations = np.stack([np.full(5, 2500), np.full(5, 500), steps], 1).astype(float)
    left = 5 - steps if end == "terminated" else np.full(5, np.inf)
    expected = (1 - 0.5**left) / (1 - 0.5)
    values = model.predict_values(observations)
    np.testing.assert_allclose(values, expected, atol=0.2)
    assert model._state is not None
    assert all(length == 5 for length in model._state["counters"]["lengths"])
    assert all(total == 5 for total in model._state["counters"]["returns"])


def test_disabled_autoreset_is_refused() -> None:
    envs = SyncVectorEnv([Counter], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="DISABLED; it must be NEXT_STEP or SAME_STEP"):
        small(envs, timesteps_per_batch=64).learn(64)


@pytest.mark.parametrize(("observation", "action"), PAIRS.values(), ids=PAIRS)
def test_predicts_for_one_and_for_many(observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    model = small(lambda: Random(observation, action))
    batch = gym.vector.utils.batch_space(observation, 3)
    one, many = observation.sample(), batch.sample()
    assert model.predict(one)[0] in action
    assert all(a in action for a in model.predict(many)[0])
    assert np.shape(model.predict_values(one)) == ()
    assert model.predict_values(many).shape == (3,)
    actions = np.stack([action.sample() for _ in range(3)])
    probabilities = model.action_probability(many, actions=actions)
    assert probabilities.shape == (3,)
    assert (probabilities > 0).all()
    if isinstance(action, gym.spaces.Discrete | gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
        for wrong in (actions + 7, actions - 7):
            with pytest.raises(ValueError, match="an action is outside of"):
                model.action_probability(many, actions=wrong)
    described = model.action_probability(many)
    alone = model.action_probability(one)
    if isinstance(action, gym.spaces.Discrete):
        np.testing.assert_allclose(described.sum(1), 1, rtol=1e-6)
        rows = np.arange(3), actions - action.start
        np.testing.assert_allclose(probabilities, described[rows], rtol=1e-5)
        assert alone.shape == (3,)
    if isinstance(action, gym.spaces.Box):
        mean, std = described
        assert mean.shape == std.shape == (3, 2, 2)
        assert alone[0].shape == (2, 2)
        assert np.array_equal(
            model.predict(one, deterministic=True)[0], np.clip(alone[0], action.low, action.high)
        )


def remembering(**more: Any) -> TRPO:
    settings = SMALL | {"lstm_units": 4} | more
    return TRPO("MlpLstmPolicy", "CartPole-v1", **settings).learn(256)


def test_predict_takes_and_gives_a_state() -> None:
    """At each step it depends on all observations so far; a mask starts it anew."""
    model = remembering()
    seen = np.random.default_rng(0).standard_normal((6, 2, 4)).astype(np.float32)
    state, means = None, []
    for rows in seen:
        means.append(model.action_probability(rows, state))
        _, state = model.predict(rows, state, deterministic=True)
        assert state.shape == (2, 8)
    assert np.abs(means[-1] - model.action_probability(seen[-1])).max() > 1e-4
    begun = model.predict(seen[0])[1]
    after = model.predict(seen[0], state, mask=[True, False])[1]
    assert np.array_equal(after[0], begun[0])
    assert np.array_equal(after[1], model.predict(seen[0], state)[1][1])
    assert not np.array_equal(after[1], begun[1])
    _, alone = model.predict(seen[0, 0])
    assert np.array_equal(alone, begun[:1])
    assert model.predict_values(seen[0], state).shape == (2,)
    assert not np.array_equal(model.predict_values(seen[0], state), model.predict_values(seen[0]))
    with pytest.raises(ValueError, match=r"state has shape \(2, 8\); it must be \(1, 8\)"):
        model.predict(seen[0, 0], state)


def test_a_policy_without_memory_has_no_state() -> None:
    model = small()
    assert model.predict(np.zeros(4))[1] is None
    assert model.predict(np.zeros((2, 4)), None, [True, False])[1] is None


@pytest.mark.parametrize(
    "kind",
    [MlpLnLstmPolicy, CnnPolicy, pytest.param(CnnLnLstmPolicy, marks=pytest.mark.long)],
)
def test_every_policy_is_saved_whole_and_goes_on(kind: type, tmp_path: Path) -> None:
    def make() -> TRPO:
        settings = SMALL | {"lstm_units": 4, "num_envs": 2, "timesteps_per_batch": 32}
        return TRPO(kind, Picture, **settings)

    model = make().learn(96)
    model.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", Picture)
    assert loaded.config == model.config
    picture = Picture().reset(seed=3)[0]
    for one, other in (
        (model.predict(picture, deterministic=True), loaded.predict(picture, deterministic=True)),
        (model.predict_values(picture), loaded.predict_values(picture)),
        (model.action_probability(picture[None]), loaded.action_probability(picture[None])),
    ):
        np.testing.assert_equal(one, other)
    loaded.learn(32)
    assert not np.array_equal(loaded.action_probability(picture), model.action_probability(picture))


def test_evaluation_forgets_between_episodes() -> None:
    """Two episodes in a row, each started without a state; and the same in a vector."""
    model, env, totals = remembering(), gym.make("CartPole-v1"), []
    for seed in (5, None):
        (observation, _), state, total, ended = env.reset(seed=seed), None, 0.0, False
        while not ended:
            action, state = model.predict(observation, state, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        totals.append(total)
    assert evaluate_policy(model, "CartPole-v1", 2, seed=5)[0] == np.mean(totals)
    envs = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.NEXT_STEP
    )
    others = [evaluate_policy(model, "CartPole-v1", 2, seed=seed)[0] for seed in (5, 6)]
    assert evaluate_policy(model, envs, 4, seed=5)[0] == np.mean(others)


def test_an_image_scaled_beforehand_is_refused() -> None:
    """Its numbers would all become 0."""
    model = TRPO("CnnPolicy", Picture, **SMALL)
    picture = Picture().reset(seed=0)[0]
    assert model.predict(picture.astype(float))[0] in range(-1, 3)
    with pytest.raises(ValueError, match="its numbers are no bytes"):
        model.predict(picture / 255)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 5)), np.zeros((1, 2, 4)), None, "x"])
def test_an_observation_of_another_shape_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is neither of Box\(.* nor a batch of it"):
        small().predict(wrong)


def test_set_env_holds_the_spaces_together() -> None:
    model = TRPO("MlpPolicy", None, **SMALL)
    assert model.get_env() is None
    for use in (lambda: model.learn(64), lambda: model.predict(np.zeros(4))):
        with pytest.raises(ValueError, match="set_env gives one"):
            use()
    model.set_env("CartPole-v1")
    model.learn(128)
    env = gym.make("CartPole-v1")
    model.set_env(env)
    assert model.get_env() is model.env is env
    model.learn(32)  # one environment, and a batch of 64: it was changed since
    with pytest.raises(ValueError, match=r"observation space Box.* but the environment has Box"):
        model.set_env("Pendulum-v1")
    assert model.env is env


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"gama": 0.9}, TypeError, "no argument 'gama'"),
        ({"outdir": "here"}, TypeError, "no argument 'outdir'"),
        ({"gpu": -2}, ValueError, "gpu is '-2'; it must be"),
        ({"gamma": 7.0}, ValueError, "gamma is 7.0; it must be a number from 0 to 1"),
        ({"policy": "MlpLnPolicy"}, ValueError, "policy is 'MlpLnPolicy'; it must be"),
        ({"env": "CartPoll-v1"}, ValueError, "near matches are CartPole"),
        (
            {"activation": "gelu"},
            ValueError,
            "activation is 'gelu'; it must be one of tanh, relu, elu",
        ),
    ],
    ids=["name", "commands", "gpu", "range", "policy", "env", "choice"],
)
def test_wrong_arguments(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TRPO(**settings)


def test_a_device_is_named_by_its_number() -> None:
    assert TRPO(gpu=0).config.gpu == "0"


@pytest.mark.parametrize("kind", [TRPO, PPO])
def test_episodes_take_the_place_of_time_steps(kind: type[TRPO]) -> None:
    config = kind(episodes_per_batch=5).config
    assert (config.episodes_per_batch, config.timesteps_per_batch) == (5, None)


def test_a_commands_model_plays_by_id_what_it_was_trained_on(tmp_path: Path) -> None:
    """Its observations end with the time; another environment is refused."""
    config = Config(env="CartPole-v1", time_feature=True, net_arch=(8,))
    model = initial_model(config, check_env("CartPole-v1", time_feature=True))
    model_file.save(tmp_path / "model.zip", model)
    loaded = TRPO.load(tmp_path / "model.zip", env="CartPole-v1")
    assert evaluate_policy(loaded, "CartPole-v1", n_eval_episodes=2)[0] > 0
    with pytest.raises(ValueError, match=r"the model has observation space .* environment has Box"):
        evaluate_policy(loaded, gym.make("CartPole-v1"))


def test_evaluation_plays_whole_episodes() -> None:
    """Counter's n-th step pays n, and episodes last 3, 4, 5 steps."""
    model = small(Counter)
    mean, deviation = evaluate_policy(model, Counter, n_eval_episodes=3)
    episodes = [1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11 + 12]
    assert mean == pytest.approx(np.mean(episodes))
    assert deviation == pytest.approx(np.std(episodes))
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        envs = SyncVectorEnv([Counter] * 3, autoreset_mode=mode)
        mean, _ = evaluate_policy(model, envs, n_eval_episodes=6)
        assert mean == pytest.approx((episodes[0] + episodes[1]) / 2)


def test_policy_class_and_name_are_the_same() -> None:
    assert bits(TRPO(MlpPolicy, "CartPole-v1", **SMALL)) == bits(small())


def test_ppo_beside_trpo(tmp_path: Path) -> None:
    """It learns, under its own names, and its file holds the settings and Adam's steps."""
    small = {"net_arch": (8,), "timesteps_per_batch": 256, "num_envs": 4, "seed": 3}
    model = PPO("MlpPolicy", "CartPole-v1", policy_stepsize=1e-2, vf_stepsize=1e-2, **small)
    assert model.config.algo == "ppo"
    assert model.config.clip_range == 0.2
    model.learn(4000)
    assert evaluate_policy(model, "CartPole-v1", 20)[0] > 60
    model.save(tmp_path / "ppo")
    loaded = PPO.load(tmp_path / "ppo", env="CartPole-v1")
    assert loaded.config.policy_stepsize == 1e-2
    # 15 batches of 64 steps in each environment and one of 40, ten passes, 16 steps a minibatch.
    assert loaded._state["policy_update"]["adam"]["steps"] == 15 * 10 * 4 + 10 * 3
    with pytest.raises(TypeError, match=r"PPO\(\) has no argument 'max_lk'"):
        PPO("MlpPolicy", None, max_lk=0.1)


def test_another_call_and_another_step_go_on_learning(tmp_path: Path) -> None:
    """After the schedules' end; and PPO from a file that TRPO has saved."""
    small = {"net_arch": (8,), "timesteps_per_batch": 256, "num_envs": 4}
    model = TRPO("MlpPolicy", "CartPole-v1", algo="ppo", **small).learn(512)
    before = model._model.theta
    model.learn(512)
    assert np.abs(model._model.theta - before).max() > 1e-5
    first = TRPO("MlpPolicy", "CartPole-v1", **small).learn(512)
    first.save(tmp_path / "trpo")
    other = PPO.load(tmp_path / "trpo", env="CartPole-v1")
    assert other.config.algo == "ppo"
    before = other._model.theta
    other.learn(256)
    assert not np.array_equal(other._model.theta, before)
    assert other._state["policy_update"]["adam"]["steps"] > 0
