"""The policy step against an explicit Hessian, a case worked by hand, and steps that fail."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from memory_envs import Picture
from toy_envs import Counter
from toy_policies import flat_box, mlp_policy
from toy_training import toy_trainer

from trpo_mpi.algorithms.critic import Critic
from trpo_mpi.algorithms.line_search import Trial, line_search
from trpo_mpi.algorithms.policy_update import PolicyBatch, PolicyStep
from trpo_mpi.algorithms.trpo import TrpoKernels, trpo_step
from trpo_mpi.config import Config
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.kernel import Graph, column_chunks
from trpo_mpi.policies.networks import Mlp
from trpo_mpi.policies.policy import POLICIES, Architecture, Policy, ValueNetwork

REGION = Config()
BOX, DISCRETE = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
MULTI, BINARY = gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3)
SPACES = pytest.mark.parametrize(
    "space", [BOX, DISCRETE, MULTI, BINARY], ids=["box", "discrete", "multi", "binary"]
)
KINDS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.long] if kind.startswith("CnnL") else [])
        for kind in POLICIES
    ],
)
COLUMNS, STEPS, SIZE = 3, 8, 4
ROWS = np.arange(STEPS)
IMAGE = gym.spaces.Box(0, 255, (21, 20, 2), np.uint8)


def observation_space(kind: str) -> gym.spaces.Box:
    return IMAGE if POLICIES[kind].images else flat_box(SIZE)


def make_policy(space: gym.Space[Any], kind: str = "MlpPolicy") -> tuple[Policy, np.ndarray]:
    architecture = Architecture(kind, net_arch=(5,), lstm_units=3)
    policy = architecture.make_policy(observation_space(kind), space, -0.3)
    stream = np.random.default_rng(0)
    spread = 0.02 if policy.images else 0.3
    theta = policy.initialise(stream) + spread * stream.standard_normal(policy.num_parameters)
    return policy, theta.astype(np.float32)


def make_batch(policy: Policy, valid: int = STEPS) -> PolicyBatch:
    """Random data, of which the first `valid` steps count; the others hold junk."""
    stream = np.random.default_rng(1)
    shape = (COLUMNS, STEPS)
    noise = [policy.distribution.draw_noise(stream, STEPS) for _ in range(COLUMNS)]
    actions = np.stack([policy.distribution.choose(rows) for rows in noise])
    mask = np.zeros(shape, np.float32)
    mask[:, :valid] = 1
    observations = stream.standard_normal((*shape, policy.observation_size)).astype(np.float32)
    if policy.images:
        observations = stream.integers(0, 256, observations.shape, np.uint8)
    starts = np.zeros(shape, np.float32)
    starts[0, 2], starts[1, 4] = 1, 1
    return PolicyBatch(
        observations=observations,
        starts=starts,
        states=0.5 * stream.standard_normal((*shape, policy.state_size)).astype(np.float32),
        actions=actions.astype(policy.distribution.action_type),
        advantages=stream.standard_normal(shape).astype(np.float32),
        mask=mask,
        counted=mask > 0,
    )


def make_kernels(policy: Policy, columns: int = COLUMNS, steps: int = STEPS, **more: Any) -> Any:
    return TrpoKernels(policy, columns, steps, steps, more.get("entcoeff", 0.0))


def take_step(
    policy: Policy, theta: np.ndarray, batch: PolicyBatch, region: Config = REGION
) -> tuple[np.ndarray, PolicyStep]:
    comm = Communicator(None, len(batch.mask))
    rows = np.arange(batch.mask.shape[1])
    return trpo_step(theta, batch, rows, make_kernels(policy, *batch.mask.shape), comm, region)


def parameters(policy: Policy, theta: Any, batch: PolicyBatch) -> tf.Tensor:
    """Of the distributions, (columns, steps, K), in float64 and without any kernel."""
    seen = batch.observations if policy.images else batch.observations.astype(np.float64)
    weights = policy.weights(tf.cast(theta, tf.float64)[None])
    starts, state = (x.astype(np.float64) for x in (batch.starts, batch.states[:, 0]))
    columns = [
        policy(weights, *(tf.constant(x[i : i + 1]) for x in (seen, starts, state)))
        for i in range(COLUMNS)
    ]
    return tf.concat(columns, 0)


def mean_kl(policy: Policy, old: Any, new: Any, batch: PolicyBatch) -> tf.Tensor:
    """Mean KL over the steps that count."""
    pair = [parameters(policy, theta, batch) for theta in (old, new)]
    return tf.reduce_mean(policy.distribution.kl(*pair)[batch.mask > 0])


@SPACES
@pytest.mark.parametrize("valid", [STEPS, 5])
def test_fisher_product_is_the_hessian_of_mean_kl(space: gym.Space[Any], valid: int) -> None:
    policy, theta = make_policy(space)
    batch = make_batch(policy, valid)
    new = tf.Variable(theta.astype(np.float64))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            kl = mean_kl(policy, theta, new, batch)
        gradient = inner.gradient(kl, new)
    hessian = outer.jacobian(gradient, new).numpy()
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    kernels = make_kernels(policy)
    data = kernels.fisher_data(theta, batch, ROWS)
    eye = np.eye(len(theta), dtype="f")
    rows = [np.concatenate(kernels.fisher_product(theta, v, data)) for v in eye]
    products = np.sum(rows, axis=1, dtype=np.float64) / batch.timesteps()
    assert np.abs(hessian).max() > 0.05
    np.testing.assert_allclose(products, hessian, atol=2e-6)


@KINDS
def test_fisher_product_of_every_policy(kind: str) -> None:
    """u'Fv is (Ju)'M(Jv), M the distributions' own Fisher matrix; J by central differences."""
    policy, theta = make_policy(BOX, kind)
    batch = make_batch(policy, 5)
    directions = np.random.default_rng(2).standard_normal((4, len(theta))).astype(np.float32)
    at = theta.astype(np.float64)
    changes = [
        (parameters(policy, at + 1e-6 * v, batch) - parameters(policy, at - 1e-6 * v, batch)) / 2e-6
        for v in directions
    ]
    old = parameters(policy, at, batch)
    kernels = make_kernels(policy)
    data = kernels.fisher_data(theta, batch, ROWS)
    for v, change in zip(directions, changes, strict=True):
        product = np.concatenate(kernels.fisher_product(theta, v, data)).sum(0, dtype=np.float64)
        pulled = policy.distribution.fisher_product(old, change) * batch.mask[:, :, None]
        expected = [float(tf.reduce_sum(other * pulled)) for other in changes]
        np.testing.assert_allclose(
            directions @ product, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
        )


@KINDS
def test_gradient_of_every_policy(kind: str) -> None:
    """Along random directions, against central differences in float64."""
    policy, theta = make_policy(BOX, kind)
    batch = make_batch(policy, 5)
    kernels = make_kernels(policy, entcoeff=0.3)
    parts, _ = kernels.gradient(theta, kernels.data(batch))
    rows = np.concatenate(parts)
    old = parameters(policy, theta, batch)

    def objective(flat: np.ndarray) -> float:
        new, distribution = parameters(policy, flat, batch), policy.distribution
        ratio = tf.exp(
            distribution.log_prob(new, batch.actions) - distribution.log_prob(old, batch.actions)
        )
        gain = ratio * batch.advantages + 0.3 * distribution.entropy(new)
        return float(tf.reduce_sum(gain * batch.mask))

    at = theta.astype(np.float64)
    for v in np.random.default_rng(2).standard_normal((3, len(theta))):
        slope = (objective(at + 1e-6 * v) - objective(at - 1e-6 * v)) / 2e-6
        assert rows.sum(0)[:-1] @ v == pytest.approx(slope, rel=1e-3, abs=1e-2)


@SPACES
def test_gradient_is_that_of_the_objective(space: gym.Space[Any]) -> None:
    """mean(ratio * advantage) + entcoeff * entropy, differentiated by central differences."""
    policy, theta = make_policy(space)
    batch = make_batch(policy, 5)
    kernels = make_kernels(policy, entcoeff=0.3)
    data = kernels.data(batch)
    parts, old = kernels.gradient(theta, data)
    rows = np.concatenate(parts)
    gradient, entropy = rows.sum(0)[:-1], rows.sum(0)[-1]
    counted = policy.distribution.entropy(old[0]).numpy()[batch.mask > 0]
    np.testing.assert_allclose(entropy, counted.sum(), rtol=1e-5)
    for i in range(0, len(theta), 3):
        gains = []
        for sign in (1, -1):
            moved = theta.copy()
            moved[i] += sign * 0.01
            gains.append(np.concatenate(kernels.losses(moved, data, old))[:, 0].sum())
        np.testing.assert_allclose((gains[0] - gains[1]) / 0.02, gradient[i], atol=5e-3)


@pytest.mark.parametrize(
    ("space", "hidden", "kind"),
    [
        (gym.spaces.Box(-1, 1, (3,)), (64, 64), "MlpPolicy"),
        (gym.spaces.Box(-1, 1, (17,)), (10, 50), "MlpPolicy"),  # no multiples of any SIMD width
        (gym.spaces.Discrete(5), (7,), "MlpPolicy"),
        (gym.spaces.MultiDiscrete([3, 2, 5]), (9,), "MlpPolicy"),
        (gym.spaces.MultiBinary(7), (7,), "MlpPolicy"),
        (gym.spaces.Box(-1, 1, (3,)), (10,), "MlpLstmPolicy"),
        pytest.param(gym.spaces.Discrete(5), (7,), "MlpLnLstmPolicy", marks=pytest.mark.long),
        (gym.spaces.Discrete(3), (), "CnnPolicy"),
        (gym.spaces.Box(-1, 1, (2,)), (), "CnnLstmPolicy"),
        pytest.param(gym.spaces.Discrete(5), (), "CnnLnLstmPolicy", marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_columns_rows_have_the_same_bits_alone(
    space: gym.Space[Any], hidden: tuple[int, ...], kind: str
) -> None:
    """Of the policy's kernels and of the critic's, whatever else is in the call."""
    steps = 24
    observation = IMAGE if POLICIES[kind].images else flat_box(11)
    architecture = Architecture(kind, hidden, lstm_units=5)
    policy = architecture.make_policy(observation, space)
    network = ValueNetwork(policy, observation, architecture)
    stream = np.random.default_rng(0)
    shape = (16, steps)
    observations = stream.standard_normal((*shape, policy.observation_size)).astype(np.float32)
    if policy.images:
        observations = stream.integers(0, 256, observations.shape, np.uint8)
    starts = (stream.random(shape) < 0.1).astype(np.float32)
    states = stream.standard_normal((*shape, policy.state_size)).astype(np.float32)
    noise = [policy.distribution.draw_noise(stream, steps) for _ in range(16)]
    actions = np.stack([policy.distribution.choose(rows) for rows in noise])
    actions = actions.astype(policy.distribution.action_type)
    numbers, memory = (
        stream.standard_normal(size).astype(np.float32)
        for size in (shape, (*shape, policy.memory_size))
    )
    theta, vector = stream.standard_normal((2, policy.num_parameters)).astype(np.float32) * 0.3
    phi = network.initialise(stream)
    chosen = stream.permutation(steps).astype(np.int32)[:16]

    def rows(columns: slice) -> list[np.ndarray]:
        data = (observations, starts, states, actions, numbers, np.ones_like(numbers))
        seen, *others = mine = [x[columns] for x in data]
        own = len(seen)
        batch = PolicyBatch(*mine, np.ones((own, steps), bool))
        kernels = TrpoKernels(policy, own, steps, steps, 0.01)
        gradient, old = kernels.gradient(theta, kernels.data(batch))
        known = kernels.fisher_data(theta, batch, np.arange(steps))
        product = kernels.fisher_product(theta, vector, known)
        losses = kernels.losses(theta + vector, kernels.data(batch), old)
        critic = Critic(network, phi, own, steps, 16)
        remembered = memory[columns]
        parts = column_chunks(critic._columns, seen, remembered, numbers[columns])
        fit = critic._gradients(parts, chosen, others[4][:, :16])
        flat = (x.reshape(own * steps, -1) for x in (seen, remembered))
        sums = [np.concatenate(parts) for parts in (gradient, product, losses, fit)]
        return [*sums, critic.values(*flat).reshape(own, steps)]

    together = rows(slice(None))
    some_columns = [slice(0, 1), slice(15, 16), slice(2, 4), slice(3, 8), slice(1, 14)]
    for columns in some_columns[:: 3 if policy.state_size else 1]:  # a loop takes seconds to trace
        for some, all_rows in zip(rows(columns), together, strict=True):
            assert np.array_equal(some, all_rows[columns])


def hand_batch(actions: np.ndarray, advantages: list[float]) -> PolicyBatch:
    """One column of two steps that count and six of junk; all observations are zero."""
    weights = np.zeros((1, 8), np.float32)
    weights[0, :2] = 1
    numbers = np.full((1, 8), 1e3, np.float32)
    numbers[0, :2] = advantages
    padded = np.full((1, 8, *actions.shape[1:]), 1, actions.dtype)
    padded[0, :2] = actions
    observations = np.full((1, 8, 1), 7, np.float32)
    observations[0, :2] = 0
    starts, states = np.zeros((1, 8), np.float32), np.zeros((1, 8, 0), np.float32)
    return PolicyBatch(observations, starts, states, padded, numbers, weights, weights > 0)


def test_gaussian_step_by_hand() -> None:
    """Mean b = 0 and deviation 1 give actions +1 and -1, with advantages +1 and -1.

    The gradient by b is mean(action * advantage) = 1, by the log deviation mean((action**2 - 1)
    * advantage) = 0. The Fisher matrix at b is 1, with damping c 1 + c, so x = 1 / (1 + c), x'Fx
    the same, and the full step sqrt(2 max_kl / (1 + c)), whose KL is b**2 / 2.
    """
    policy = mlp_policy(1, gym.spaces.Box(-1, 1, (1,)), ())
    theta = np.array([0.5, 0, 0], np.float32)  # weight of the observation, b, log deviation
    batch = hand_batch(np.array([[1], [-1]], np.float32), [1, -1])
    new, step = take_step(policy, theta, batch)
    b = np.sqrt(2 * 0.01 / 1.1)
    np.testing.assert_allclose(new, [0.5, b, 0], atol=1e-6)
    assert step.fraction == 1
    assert step.kl == pytest.approx(b**2 / 2, rel=1e-4)
    assert step.kl <= REGION.max_kl
    # mean((ratio - 1) * advantage), the ratio of action a being exp(a * b - b**2 / 2)
    assert step.improvement == pytest.approx(np.exp(-(b**2) / 2) * np.sinh(b), rel=1e-4)
    assert step.entropy == pytest.approx(0.5 * np.log(2 * np.pi * np.e), rel=1e-6)


def test_categorical_step_by_hand() -> None:
    """Equal logits, choices 0 and 1 with advantages +1 and -1.

    The gradient is g = (1, -1) / 2, the Fisher matrix (1, -1; -1, 1) / 4, so F g = g / 2, the
    full step s g with s**2 = 2 max_kl / (g'g (1/2 + c)) = 4 max_kl / (1/2 + c).
    """
    policy = mlp_policy(1, gym.spaces.Discrete(2), ())
    theta = np.zeros(4, np.float32)
    new, step = take_step(policy, theta, hand_batch(np.array([0, 1], np.int32), [1, -1]))
    s = np.sqrt(4 * 0.01 / 0.6)
    np.testing.assert_allclose(new, [0, 0, s / 2, -s / 2], atol=1e-6)
    p = 1 / (1 + np.exp(-s))  # of choice 0
    assert step.improvement == pytest.approx(2 * p - 1, rel=1e-4)
    assert step.kl == pytest.approx(-0.5 * np.log(4 * p * (1 - p)), rel=1e-3)
    assert step.kl <= REGION.max_kl
    assert step.entropy == pytest.approx(np.log(2), rel=1e-6)


@SPACES
@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 0.3])
def test_step_improves_inside_the_trust_region(space: gym.Space[Any], max_kl: float) -> None:
    policy, theta = make_policy(space)
    batch = make_batch(policy)
    new, step = take_step(policy, theta, batch, replace(REGION, max_kl=max_kl))
    assert step.improvement > 0
    assert 0.1 * max_kl < step.kl <= max_kl
    assert float(mean_kl(policy, theta, new, batch)) == pytest.approx(step.kl, rel=2e-2)


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        *((space, "MlpPolicy") for space in (BOX, DISCRETE, MULTI, BINARY)),
        (BOX, "CnnPolicy"),
        (BOX, "MlpLstmPolicy"),
    ],
    ids=str,
)
def test_masked_steps_contribute_nothing(space: gym.Space[Any], kind: str) -> None:
    """Whatever they hold, all bits of the step are the same."""
    policy, theta = make_policy(space, kind)
    batch = make_batch(policy, 5)
    expected, statistics = take_step(policy, theta, batch)
    observations, advantages = batch.observations.copy(), batch.advantages.copy()
    actions = batch.actions.copy()
    observations[:, 5:], advantages[:, 5:], actions[:, 5:] = 3.0, -50.0, 1
    junk = replace(batch, observations=observations, advantages=advantages, actions=actions)
    new, others = take_step(policy, theta, junk)
    assert np.array_equal(new, expected)
    assert others == statistics
    ones = np.ones_like(batch.mask)
    unmasked = replace(junk, mask=ones, counted=ones > 0)
    assert not np.array_equal(take_step(policy, theta, unmasked)[0], expected)


def test_fisher_rows_are_the_time_steps_used() -> None:
    """Products on steps 1 and 6 are those on a batch that has these four times over."""
    policy, theta = make_policy(BOX)
    batch = make_batch(policy)
    comm = Communicator(None, COLUMNS)
    few = TrpoKernels(policy, COLUMNS, STEPS, 2, 0.0)
    new, _ = trpo_step(theta, batch, np.array([1, 6]), few, comm, REGION)
    kernels = make_kernels(policy)
    repeated = replace(batch, observations=np.tile(batch.observations[:, [1, 6]], (1, 4, 1)))
    repeated_data = kernels.fisher_data(theta, repeated, ROWS)
    kernels.fisher_data = lambda *_: repeated_data
    expected, _ = trpo_step(theta, batch, ROWS, kernels, comm, REGION)
    np.testing.assert_allclose(new, expected, atol=1e-4)
    assert np.abs(new - take_step(policy, theta, batch)[0]).max() > 1e-3


def test_no_advantage_no_step() -> None:
    policy, theta = make_policy(BOX)
    batch = make_batch(policy)
    batch = replace(batch, advantages=np.zeros_like(batch.advantages))
    new, step = take_step(policy, theta, batch)
    assert new is theta
    assert (step.kl, step.improvement, step.fraction) == (0, 0, 0)


@pytest.mark.parametrize(
    ("trials", "taken"),
    [
        ([Trial(-1.0, 0.0), Trial(1.0, 0.02), Trial(1.0, 0.01)], 0.25),
        ([Trial(0.0, 0.0), Trial(np.nan, 0.0), Trial(1e-9, 0.0)], 0.25),
        ([Trial(1.0, np.nan), Trial(1.0, np.inf), Trial(-np.inf, np.inf)], 0.0),
        ([Trial(1.0, 0.010001), Trial(0.0, 0.0), Trial(-1e-9, 1e-9)], 0.0),
    ],
)
def test_line_search_takes_the_first_that_gains_inside(trials: list[Trial], taken: float) -> None:
    theta = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    before, step = theta.copy(), np.full(9, 0.3)
    seen: list[np.ndarray] = []
    answers = iter(trials)

    def evaluate(candidate: np.ndarray) -> Trial:
        seen.append(candidate)
        return next(answers)

    new, fraction, trial = line_search(evaluate, theta, step, 0.01, 0.5, 3)
    for candidate, f in zip(seen, (1, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(candidate, before + f * step, rtol=1e-6)
        assert candidate.dtype == np.float32
    assert fraction == taken
    assert theta.tobytes() == before.tobytes()
    if taken:
        assert trial is trials[-1]
        assert np.array_equal(new, seen[-1])
    else:
        assert new is theta
        assert trial == Trial(0.0, 0.0)


@pytest.mark.parametrize(
    ("gain", "kl"), [(-1.0, 1.0), (1.0, 1e6), (1.0, np.nan), (np.nan, 1.0), (1.0, np.inf)]
)
def test_failed_step_restores_every_bit(gain: float, kl: float) -> None:
    """A loss, a KL outside the region, losses that are no numbers: the old parameters stay."""
    policy, theta = make_policy(BOX)
    before = theta.tobytes()
    kernels = make_kernels(policy)
    true = kernels.losses
    kernels.losses = lambda *args: [x * np.array([gain, kl], "f") for x in true(*args)]
    comm = Communicator(None, COLUMNS)
    new, step = trpo_step(theta, make_batch(policy), ROWS, kernels, comm, REGION)
    assert new is theta
    assert new.tobytes() == before
    assert (step.kl, step.improvement, step.fraction) == (0, 0, 0)


def test_failed_step_of_the_real_kernels() -> None:
    """A region so wide that the quadratic model is worthless, and one trial only."""
    policy, theta = make_policy(BOX)
    batch = make_batch(policy)
    before = theta.tobytes()
    region = replace(REGION, max_kl=50.0, cg_damping=0.0, line_search_steps=1)
    new, step = take_step(policy, theta, batch, region)
    assert new is theta
    assert new.tobytes() == before
    assert step.fraction == 0
    assert step.entropy != 0


@pytest.mark.parametrize("shrink", [0.8, 0.3])
def test_line_search_takes_its_settings(shrink: float) -> None:
    """Where the full step is refused, the step taken is shorter by powers of the factor; with one
    trial fewer than that needs there is none."""
    policy, theta = make_policy(BOX)
    batch = make_batch(policy)
    region = replace(REGION, max_kl=3.0, cg_damping=0.0, line_search_shrink=shrink)
    _, step = take_step(policy, theta, batch, region)
    trials = 1 + round(np.log(step.fraction) / np.log(shrink))
    assert 1 < trials < REGION.line_search_steps
    assert step.fraction == pytest.approx(shrink ** (trials - 1))
    for steps, fraction in ((trials, step.fraction), (trials - 1, 0)):
        _, step = take_step(policy, theta, batch, replace(region, line_search_steps=steps))
        assert step.fraction == fraction


def test_kernels_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's Python code runs while it is traced and never after the first iteration, the
    short last batch included."""
    traces = 0
    network = Mlp.__call__

    def counting(self: Mlp, weights: Any, inputs: Any) -> Any:
        nonlocal traces
        traces += 1
        return network(self, weights, inputs)

    monkeypatch.setattr(Mlp, "__call__", counting)
    grid = {"num_envs": 3, "timesteps_per_batch": 63, "num_timesteps": 300}
    trainer = toy_trainer(Counter, **grid, fisher_fraction=0.5, vf_batch=15)
    built = traces
    assert built >= 5  # gradient, product, losses; the critic's gradient and values
    fits = 0
    while trainer.finished() is None:
        row, *_ = trainer.iterate()
        fits += "kl" in row
        assert traces == built
    assert row["timesteps_per_batch"] < 63
    assert fits > 2


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        (Picture, {"policy": "CnnPolicy"}),
        (Counter, {"policy": "MlpLstmPolicy", "lstm_units": 3}),
        (Counter, {"algo": "ppo"}),
        (Counter, {"algo": "kl-penalty", "policy_iters": 2}),
        (Counter, {"adapt": "batch", "timesteps_per_batch": 1230, "num_timesteps": 15_000}),
        (Counter, {"timesteps_per_batch": None, "episodes_per_batch": 6}),
    ],
    ids=["cnn", "lstm", "ppo", "kl-penalty", "adapt-batch", "whole-episodes"],
)
def test_no_graph_is_made_after_the_second_iteration(
    env: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever acts, steps or varies the batch."""
    graphs = 0
    make = Graph.__init__

    def counting(self: Graph, *arguments: Any) -> None:
        nonlocal graphs
        graphs += 1
        make(self, *arguments)

    monkeypatch.setattr(Graph, "__init__", counting)
    common = {"num_envs": 3, "timesteps_per_batch": 63, "num_timesteps": 300}
    trainer = toy_trainer(env, **common | settings)
    for _ in range(2):
        trainer.iterate()
    made = graphs
    assert made >= 5
    while trainer.finished() is None:
        trainer.iterate()
        assert graphs == made
    assert trainer.counters.iteration > 3
