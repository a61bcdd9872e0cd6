"""PPO, the KL penalty and the natural gradient, against plain TensorFlow and numbers by hand."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from memory_envs import Picture
from test_trpo import (
    BINARY,
    BOX,
    COLUMNS,
    DISCRETE,
    REGION,
    ROWS,
    STEPS,
    hand_batch,
    make_batch,
    make_policy,
    mean_kl,
    observation_space,
    parameters,
)
from test_trpo import make_kernels as trpo_kernels
from toy_envs import Counter
from toy_policies import mlp_policy
from toy_training import toy_trainer, train

from trpo_mpi.algorithms import make_update
from trpo_mpi.algorithms.critic import Critic
from trpo_mpi.algorithms.kl_penalty import KlPenalty, PenaltyKernels, adapted
from trpo_mpi.algorithms.minibatches import expected_steps, minibatches, rows_per_minibatch
from trpo_mpi.algorithms.policy_update import CriticBatch, PolicyBatch, Stage
from trpo_mpi.algorithms.ppo import Ppo, PpoKernels
from trpo_mpi.algorithms.trpo import Npg, trpo_step
from trpo_mpi.config import Config
from trpo_mpi.errors import DivergedError, UsageError
from trpo_mpi.grid import Grid
from trpo_mpi.parallel.communicator import Communicator
from trpo_mpi.policies.policy import Architecture, Policy, ValueNetwork

KINDS = pytest.mark.parametrize(
    ("space", "kind"),
    [
        (BOX, "MlpPolicy"),
        (DISCRETE, "MlpLstmPolicy"),
        (BINARY, "MlpLnLstmPolicy"),
        (DISCRETE, "CnnPolicy"),
    ],
    ids=str,
)


def stage(max_kl: float = 0.01, done: float = 0.0) -> Stage:
    return Stage(max_kl, done, np.random.default_rng(5))


def moved(policy: Policy, theta: np.ndarray) -> np.ndarray:
    """Other parameters, at which some ratios are outside the clip range and some inside."""
    noise = np.random.default_rng(8).standard_normal(len(theta))
    return (theta + (0.03 if policy.images else 0.1) * noise).astype(np.float32)


def of_window(batch: PolicyBatch, rows: np.ndarray) -> PolicyBatch:
    """These time steps alone."""
    arrays = ("observations", "starts", "states", "actions", "advantages", "mask", "counted")
    return replace(batch, **{name: getattr(batch, name)[:, rows] for name in arrays})


@KINDS
def test_clipped_gradient_is_that_of_the_formula(space: gym.Space[Any], kind: str) -> None:
    """Over rows 2 to 5: as a window, which a recurrent policy reads from its stored state."""
    policy, theta = make_policy(space, kind)
    batch, rows = make_batch(policy, 5), np.array([2, 3, 4, 5])
    kernels = PpoKernels(policy, COLUMNS, STEPS, 4, Config(entcoeff=0.02))
    data = kernels.data(batch)
    _, old = kernels.old(theta, data)
    new, few = moved(policy, theta), of_window(batch, rows)
    others = kernels.extra_inputs(data, old, batch)
    given = np.concatenate(kernels.clipped_gradient(new, 0.1, rows, batch, data, others))
    variable = tf.Variable(new.astype(np.float64))
    with tf.GradientTape() as tape:
        now = parameters(policy, variable, few)
        before = tf.concat(old, 0).numpy()[:, rows].astype(np.float64)
        log_prob = policy.distribution.log_prob
        ratio = tf.exp(log_prob(now, few.actions) - log_prob(tf.constant(before), few.actions))
        a = few.advantages.astype(np.float64)
        gain = tf.minimum(ratio * a, tf.clip_by_value(ratio, 0.9, 1.1) * a)
        total = tf.reduce_sum((gain + 0.02 * policy.distribution.entropy(now)) * few.mask)
    expected = tape.gradient(total, variable)
    outside = np.abs(ratio - 1)[few.mask > 0] > 0.1
    assert outside.any()
    assert not outside.all()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(given.sum(0), expected, atol=3e-4 * scale)


def shared_critic(policy: Policy, space: gym.Space[Any], kind: str) -> Critic:
    """A critic for `policy`, an untrained one."""
    architecture = Architecture(kind, net_arch=(5,), lstm_units=3)
    network = ValueNetwork(policy, space, architecture)
    return Critic(network, network.initialise(np.random.default_rng(3)), COLUMNS, STEPS, 4)


def critic_batch(policy: Policy) -> CriticBatch:
    """Random data, with values on both sides of their targets."""
    stream, shape = np.random.default_rng(4), (COLUMNS, STEPS)
    sizes = ((*shape, policy.memory_size), shape, shape)
    return CriticBatch(*(stream.standard_normal(size).astype(np.float32) for size in sizes))


@pytest.mark.parametrize("kind", ["MlpPolicy", "CnnPolicy", "CnnLstmPolicy"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_shared_encoder_gets_both_gradients(kind: str, clip: float | None) -> None:
    """Those of the clipped surrogate and of the critic's weighted error, by its own network."""
    policy, theta = make_policy(DISCRETE, kind)
    critic, rows = shared_critic(policy, observation_space(kind), kind), np.array([2, 3, 4, 5])
    learnt = critic_batch(policy)
    batch = replace(make_batch(policy, 5), critics=learnt)
    settings = Config(algo="ppo", policy=kind, vf_coef=0.7, vf_clip=clip)
    kernels = PpoKernels(policy, COLUMNS, STEPS, 4, settings, critic)
    alone = PpoKernels(policy, COLUMNS, STEPS, 4, settings)
    data, encoder = kernels.data(batch), policy.encoder_size
    _, old = kernels.old(theta, data)
    head = critic.phi[encoder:]
    both, surrogate = (
        np.concatenate(
            k.clipped_gradient(x, 0.1, rows, batch, data, k.extra_inputs(data, old, batch))
        ).sum(0, dtype=np.float64)
        for k, x in ((kernels, np.concatenate([theta, head])), (alone, theta))
    )
    p = policy.num_parameters
    phi = tf.Variable(np.concatenate([theta[:encoder], head]).astype(np.float64))
    with tf.GradientTape() as tape:
        total = 0.0
        for i in range(COLUMNS):
            seen = [x[i : i + 1, rows] for x in (batch.observations, *learnt)]
            images, memory, targets, before = (
                tf.constant(x if x.dtype == np.uint8 else x.astype(np.float64)) for x in seen
            )
            value = critic.network(critic.network.weights(phi[None]), images, memory)
            error = (value - targets) ** 2
            if clip is not None:
                near = before + tf.clip_by_value(value - before, -clip, clip)
                error = tf.maximum(error, (near - targets) ** 2)
            total += 0.35 * tf.reduce_sum(error * batch.mask[i : i + 1, rows])
    expected = tape.gradient(total, phi).numpy()
    tolerance = 3e-4 * max(np.abs(expected).max(), np.abs(surrogate).max())
    np.testing.assert_allclose(
        both[:encoder], surrogate[:encoder] - expected[:encoder], atol=tolerance
    )
    np.testing.assert_allclose(both[encoder:p], surrogate[encoder:], atol=tolerance)
    np.testing.assert_allclose(both[p:], -expected[encoder:], atol=tolerance)
    assert np.abs(expected[:encoder]).max() > 100 * tolerance


@pytest.mark.parametrize("kind", ["MlpPolicy", "CnnPolicy"])
def test_ppo_trains_the_critic_that_shares_its_encoder(kind: str) -> None:
    """From the start both have the policy's; and the critic learns by the policy's minibatches."""
    make = Counter if kind == "MlpPolicy" else Picture
    small: dict[str, Any] = {"num_envs": 2, "timesteps_per_batch": 32, "policy_batch": 16}
    small |= {"algo": "ppo", "policy": kind, "vf_coef": 0.5, "num_timesteps": 4 * 32}
    trainer = toy_trainer(make, normalize_observations=False, normalize_returns=False, **small)
    size = trainer.policy.encoder_size
    for _ in range(2):
        assert np.array_equal(trainer.critic.phi[:size], trainer.theta[:size])
        last = trainer.critic.phi
        row = trainer.iterate().row
        assert row["vf_stepsize"] is None
        assert (trainer.critic.phi != last)[:size].any()
        assert (trainer.critic.phi != last)[size:].any()
    assert trainer.critic.adam.steps == 0
    assert len(trainer._update.adam.m) == len(trainer.theta) + len(trainer.critic.phi) - size


def test_a_window_of_a_recurrent_policy_is_never_short() -> None:
    policy, _ = make_policy(BOX, "MlpLstmPolicy")
    for envs, rows in ((2, 64), (16, 8), (128, 8)):
        assert Ppo(policy, Config(), Grid(envs, 128), COLUMNS, STEPS)._minibatch_rows == rows


def test_a_run_with_one_encoder_is_resumed_to_the_last_bit() -> None:
    small: dict[str, Any] = {"num_envs": 2, "timesteps_per_batch": 32, "policy_batch": 16}
    small |= {"algo": "ppo", "vf_coef": 0.5, "num_timesteps": 6 * 32}
    whole, resumed = (toy_trainer(Counter, **small) for _ in range(2))
    for _ in range(3):
        whole.iterate()
    resumed.resume(whole.model(), whole.best, whole.state(), whole.column_states())
    for trainer in (whole, resumed):
        train(trainer)
    assert np.array_equal(whole.theta, resumed.theta)
    assert np.array_equal(whole.critic.phi, resumed.critic.phi)


def test_a_run_goes_on_with_another_share() -> None:
    """With --allow-changes: from two encoders to one, and back, Adam beginning anew."""
    small: dict[str, Any] = {"num_envs": 2, "timesteps_per_batch": 32, "policy_batch": 16}
    small |= {"algo": "ppo", "num_timesteps": 4 * 32}
    two, one, again = (toy_trainer(Counter, vf_coef=x, **small) for x in (0.0, 0.5, 0.0))
    for before, after in ((two, one), (one, again)):
        for _ in range(2):
            before.iterate()
        after.resume(before.model(), None, before.state(), before.column_states())
        size = after.policy.encoder_size
        assert np.array_equal(after.critic.phi[:size], after.theta[:size])
        assert np.array_equal(after.theta, before.theta)
        assert after._update.adam is not None
        assert after._update.adam.steps == 0
        after.iterate()


def test_a_loaded_critic_with_its_own_encoder_begins_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its last layer was fitted to that; a critic that already shares the policy's stays."""
    small: dict[str, Any] = {"num_envs": 2, "timesteps_per_batch": 32, "num_timesteps": 4 * 32}
    other, fresh = (toy_trainer(Counter, algo=algo, **small) for algo in ("trpo", "ppo"))
    for _ in range(2):
        other.iterate()
    small |= {"algo": "ppo", "vf_coef": 0.5}
    sharing = toy_trainer(Counter, start=other.model(), **small)
    assert "warning: the critic begins anew" in capsys.readouterr().err
    size = sharing.policy.encoder_size
    assert np.array_equal(sharing.critic.phi[:size], other.theta[:size])
    assert np.array_equal(sharing.critic.phi[size:], fresh.critic.phi[size:])
    sharing.iterate()
    again = toy_trainer(Counter, start=sharing.model(), **small)
    assert np.array_equal(again.critic.phi, sharing.critic.phi)
    toy_trainer(Counter, **small)
    assert not capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("algo", ["ppo", "kl-penalty"])
def test_a_batch_without_a_finite_gradient_is_no_long_step(algo: str) -> None:
    """Such a run would go on for ever, and never learn."""
    small: dict[str, Any] = {"num_envs": 2, "timesteps_per_batch": 32, "normalize_returns": False}
    trainer = toy_trainer(Counter, algo=algo, normalize_observations=False, **small)
    trainer.theta = np.full_like(trainer.theta, np.float32(1e38))
    with pytest.raises(DivergedError):
        trainer.iterate()


def test_two_encoders_stay_two_unless_they_are_convolutional() -> None:
    weights = {
        (algo, policy, given): Config(algo=algo, policy=policy, vf_coef=given).shared_vf_coef
        for algo in ("trpo", "ppo")
        for policy in ("MlpPolicy", "CnnPolicy", "CnnLstmPolicy")
        for given in (None, 0.0, 0.25)
    }
    shared = {key: weight for key, weight in weights.items() if weight}
    assert shared == {
        **{("ppo", policy, 0.25): 0.25 for policy in ("MlpPolicy", "CnnPolicy", "CnnLstmPolicy")},
        **{("ppo", policy, None): 0.5 for policy in ("CnnPolicy", "CnnLstmPolicy")},
    }
    for other in ({"policy": "MlpLstmPolicy"}, {"size_multiple": 10}):
        with pytest.raises(UsageError, match=r"--vf-coef is 0\.5, but with .* it must be 0"):
            Config(algo="ppo", vf_coef=0.5, **other).validate()


def test_a_tiny_gradient_is_a_small_step_of_a_shared_encoder() -> None:
    """Of a thousandth of Adam's epsilon; with another's 1e-8 it would be a thousand times it."""
    policy, _ = make_policy(DISCRETE)
    critic = shared_critic(policy, observation_space("MlpPolicy"), "MlpPolicy")
    # The first moments are 0.1 and 0.001 of gradient and square, and are corrected for that.
    rate, m, root = np.sqrt(0.001) / 0.1, 1e-9, np.sqrt(0.001) * 1e-8
    for its_critic, epsilon in ((critic, 1e-5), (None, 1e-8)):
        adam = Ppo(policy, Config(vf_coef=0.5), Grid(3, 8), COLUMNS, STEPS, its_critic).adam
        zeros = np.zeros_like(adam.m)
        step = adam.update(zeros, np.full_like(zeros, 1e-8), 1.0)
        np.testing.assert_allclose(step, -rate * m / (root + epsilon), rtol=1e-4)


@KINDS
def test_penalty_gradients_are_those_of_objective_and_kl(space: gym.Space[Any], kind: str) -> None:
    policy, theta = make_policy(space, kind)
    batch, p = make_batch(policy, 6), len(theta)
    kernels = PenaltyKernels(policy, COLUMNS, STEPS, 0.02)
    data = kernels.data(batch)
    _, old = kernels.old(theta, data)
    new = moved(policy, theta)
    total = np.concatenate(kernels.gradients(new, data, old)).sum(0, dtype=np.float64)
    variable = tf.Variable(new.astype(np.float64))
    with tf.GradientTape(persistent=True) as tape:
        now, before = parameters(policy, variable, batch), parameters(policy, theta, batch)
        log_prob = policy.distribution.log_prob
        ratio = tf.exp(log_prob(now, batch.actions) - log_prob(before, batch.actions))
        gain = ratio * batch.advantages + 0.02 * policy.distribution.entropy(now)
        objective = tf.reduce_sum(gain * batch.mask)
        kl = mean_kl(policy, theta, variable, batch) * batch.timesteps()
    for part, what in ((total[:p], objective), (total[p : 2 * p], kl)):
        expected = tape.gradient(what, variable)
        np.testing.assert_allclose(part, expected, atol=3e-4 * np.abs(expected).max())
    np.testing.assert_allclose(total[2 * p], kl, rtol=1e-3)


def hand_policy() -> tuple[Policy, np.ndarray, PolicyBatch]:
    """A Gaussian of mean b = 0, deviation 1; actions 1 and -1 with advantages 1 and -1."""
    policy = mlp_policy(1, gym.spaces.Box(-1, 1, (1,)), ())
    batch = hand_batch(np.array([[1], [-1]], np.float32), [1, -1])
    return policy, np.zeros(3, np.float32), batch


def ratios(theta: np.ndarray) -> tuple[float, float]:
    """Of the actions 1 and -1, from N(0, 1) to the Gaussian of these parameters."""
    b, log_std = theta[1:].astype(float)
    one, other = (np.exp(0.5 - log_std - 0.5 * ((a - b) / np.exp(log_std)) ** 2) for a in (1, -1))
    return one, other


def test_ppo_stops_where_ratios_leave_the_range() -> None:
    """The good action may gain up to 1.2 and the bad one lose down to 0.8; momentum carries the
    parameters a little over that. At first all of Adam's steps go one way."""
    policy, theta, batch = hand_policy()
    config = Config(policy_iters=300, policy_stepsize=1e-3, policy_batch=8, max_grad_norm=None)
    ppo = Ppo(policy, config, Grid(1, 8), 1, 8)
    new, step = ppo.step(theta, batch, Communicator(None, 1), stage())
    good, bad = ratios(new)
    assert 1.2 < good < 1.3
    assert 0.7 < bad < 0.8
    np.testing.assert_allclose(step.improvement, (good - bad) / 2, rtol=1e-4)
    ppo = Ppo(policy, replace(config, policy_iters=20), Grid(1, 8), 1, 8)
    few, _ = ppo.step(theta, batch, Communicator(None, 1), stage())
    np.testing.assert_allclose(few[1], 0.02, rtol=0.01)


def test_ppo_leaves_a_batch_when_the_kl_is_over_its_limit() -> None:
    """After the first pass in which it is, and not before."""
    policy, theta, batch = hand_policy()

    def after(passes: int, limit: float | None) -> tuple[np.ndarray, float]:
        config = Config(policy_iters=passes, policy_stepsize=1e-2, policy_batch=8, stop_kl=limit)
        ppo = Ppo(policy, config, Grid(1, 8), 1, 8)
        new, step = ppo.step(theta, batch, Communicator(None, 1), stage())
        return new, step.kl

    grown = [after(passes, None) for passes in range(1, 9)]
    assert grown[4][1] < grown[5][1]
    stopped, _ = after(50, grown[4][1])
    assert np.array_equal(stopped, grown[5][0])


def test_ppo_shortens_long_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, theta, batch = hand_policy()
    for limit, norm in ((0.25, 0.25), (None, 1.0), (5.0, 1.0)):
        config = Config(policy_iters=1, policy_batch=8, max_grad_norm=limit)
        ppo, given = Ppo(policy, config, Grid(1, 8), 1, 8), []
        monkeypatch.setattr(ppo.adam, "update", lambda x, g, _, to=given: (to.append(g), x)[1])
        ppo.step(theta, batch, Communicator(None, 1), stage())
        np.testing.assert_allclose(np.linalg.norm(given[0]), norm, rtol=1e-5)


def test_ppo_schedules() -> None:
    policy, theta, batch = hand_policy()
    config = Config(policy_stepsize=1e-3, clip_range=0.4, final_clip_range=0.5)
    config = replace(config, policy_final_stepsize=0.2)
    ppo = Ppo(policy, config, Grid(1, 8), 1, 8)
    _, step = ppo.step(theta, batch, Communicator(None, 1), stage(done=0.5))
    assert step.more == {"policy_stepsize": pytest.approx(6e-4), "clip_range": pytest.approx(0.3)}


def test_ppo_with_decayed_settings_is_that_with_such_constant_ones() -> None:
    """Exact fractions: half of the way to a half is three quarters."""
    policy, theta, batch = hand_policy()

    def after(done: float, **settings: float) -> np.ndarray:
        config = Config(policy_iters=30, policy_batch=8, **settings)
        ppo = Ppo(policy, config, Grid(1, 8), 1, 8)
        return ppo.step(theta, batch, Communicator(None, 1), stage(done=done))[0]

    half = {"policy_final_stepsize": 0.5, "final_clip_range": 0.5}
    now = after(0.5, policy_stepsize=1 / 16, clip_range=0.25, **half)
    assert np.array_equal(now, after(0.0, policy_stepsize=3 / 64, clip_range=3 / 16))
    for other in ({"policy_stepsize": 1 / 16}, {"clip_range": 0.25}):
        constant = {"policy_stepsize": 3 / 64, "clip_range": 3 / 16} | other
        assert not np.array_equal(now, after(0.0, **constant))


def test_minibatches() -> None:
    stream = np.random.default_rng(0)
    parts = minibatches(11, 4, stream)
    assert [len(part) for part in parts] == [4, 4, 3]
    assert sorted(np.concatenate(parts)) == list(range(11))
    windows = [part.tolist() for part in minibatches(11, 4, stream, windows=True)]
    assert sorted(windows) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    orders = {str(minibatches(11, 4, stream, windows=True)) for _ in range(20)}
    assert len(orders) > 1


def test_minibatches_of_episodes_of_unequal_length() -> None:
    """Two rows of four columns are 8 steps; where one column of four goes on, five rows are."""
    counted = np.arange(10) < np.array([[10], [2], [2], [2]])
    assert rows_per_minibatch(2, counted) == 5
    assert rows_per_minibatch(2, np.ones((4, 10), bool)) == 2
    assert rows_per_minibatch(2, np.zeros((4, 10), bool)) > 0
    # All that count, by the share of the time indices, whichever they are.
    assert expected_steps(counted, np.array([0, 1, 2, 3, 4])) == 8
    assert expected_steps(counted, np.array([9])) == 1.6
    assert expected_steps(np.ones((4, 10), bool), np.array([0, 3, 7])) == 12


def test_penalty_step_by_hand() -> None:
    """The gradient by b is 1 at first; a weak penalty lets b grow until KL = b^2 / 2 is over
    four times the target, and the batch is left; a strong one holds it near 1 / beta."""
    policy, theta, batch = hand_policy()
    comm = Communicator(None, 1)
    config = Config(policy_iters=400, policy_stepsize=1e-2)
    weak = KlPenalty(policy, config, Grid(1, 8), 1, 8)
    new, step = weak.step(theta, batch, comm, stage(max_kl=1e-3))
    assert 4e-3 < step.kl < 6e-3
    b, log_std = new[1:].astype(float)
    kl = log_std + (1 + b**2) / (2 * np.exp(2 * log_std)) - 0.5
    np.testing.assert_allclose(step.kl, kl, rtol=1e-3)
    strong = KlPenalty(policy, config, Grid(1, 8), 1, 8)
    strong._beta = 20.0
    new, step = strong.step(theta, batch, comm, stage(max_kl=1.0))
    np.testing.assert_allclose(new[1], 1 / 20, rtol=0.1)


def test_hinge_holds_what_a_weak_penalty_would_let_go() -> None:
    """At little over twice the target, long before the batch is left at four times."""
    policy, theta, batch = hand_policy()
    config = Config(policy_iters=400, policy_stepsize=1e-2)
    hinged = KlPenalty(policy, config, Grid(1, 8), 1, 8)
    hinged._beta = 1 / 35
    _, step = hinged.step(theta, batch, Communicator(None, 1), stage(max_kl=0.1))
    assert 0.2 < step.kl < 0.22


def test_penalty_follows_the_kl() -> None:
    """Coady's rule, and its bounds."""
    assert adapted(1.0, 1.0, 1.0) == (1.0, 1.0)
    assert adapted(1.0, 1.0, 2.1) == (1.5, 1.0)
    assert adapted(1.0, 1.0, 0.4) == (1 / 1.5, 1.0)
    assert adapted(30.0, 1.0, 3.0) == (35.0, 1 / 1.5)
    assert adapted(35.0, 0.09, 3.0) == (35.0, 0.09)
    assert adapted(1 / 30, 1.0, 0.1) == (1 / 35, 1.5)
    assert adapted(1 / 35, 11.0, 0.1) == (1 / 35, 11.0)


def test_penalty_and_multiplier_go_on_where_they_were() -> None:
    policy, theta, batch = hand_policy()
    comm, config = Communicator(None, 1), Config(policy_iters=3)
    first, second = (
        KlPenalty(policy, config, Grid(1, 8), 1, 8),
        KlPenalty(policy, config, Grid(1, 8), 1, 8),
    )
    first._multiplier = 0.5
    theta, start = first.step(theta, batch, comm, stage())
    second.resume(first.tree())
    (one, step), (two, other) = (
        update.step(theta, batch, comm, stage()) for update in (first, second)
    )
    assert np.array_equal(one, two)
    assert start.more == {"policy_stepsize": 0.5 * 9e-4, "beta": 1.0}  # one feature, one unit
    assert step.more == other.more == {"policy_stepsize": 0.5 * 9e-4, "beta": 1 / 1.5}


def test_natural_gradient_takes_the_full_step() -> None:
    """TRPO's step if that is accepted at once; the full step even if it would be refused."""
    policy, theta = make_policy(BOX)
    batch, comm = make_batch(policy), Communicator(None, COLUMNS)
    config = Config(cg_damping=0.1, fisher_fraction=1.0, max_kl=0.01)
    npg = Npg(policy, config, Grid(COLUMNS, STEPS), COLUMNS, STEPS)
    for max_kl in (0.01, 3.0):
        new, step = npg.step(theta, batch, comm, stage(max_kl))
        region = replace(REGION, max_kl=max_kl, line_search_steps=1)
        other, trial = trpo_step(theta, batch, ROWS, trpo_kernels(policy), comm, region)
        assert step.fraction == 1
        assert (other is theta) == (max_kl == 3.0)
        if max_kl == 0.01:
            assert np.array_equal(new, other)
            assert step == trial
        else:
            assert step.improvement < 0


@pytest.mark.parametrize("algo", ["npg", "ppo", "kl-penalty"])
def test_a_run_that_is_resumed_goes_on_with_the_same_bits(algo: str) -> None:
    settings = {"num_envs": 2, "timesteps_per_batch": 32, "num_timesteps": 200, "algo": algo}
    whole, first, second = (toy_trainer(Counter, **settings) for _ in range(3))
    rows = train(whole)
    for _ in range(3):
        first.iterate()
    columns = first.column_states()
    second.resume(first.model(), first.best, first.state(), columns)
    resumed = train(second)
    assert second._fingerprint() == whole._fingerprint()
    assert np.array_equal(second.theta, whole.theta)
    for name in ("kl", "policy_stepsize", "beta", "clip_range"):
        assert [row.get(name) for row in resumed] == [row.get(name) for row in rows[3:]], name


def test_ranges() -> None:
    for bad in ({"clip_range": 0}, {"policy_batch": 0}, {"stop_kl": -1.0}, {"algo": "sarsa"}):
        with pytest.raises(UsageError, match=next(iter(bad)).replace("_", "-")):
            Config(**bad).validate()


@pytest.mark.parametrize("algo", ["ppo", "kl-penalty"])
def test_a_policy_that_leaves_all_bounds_is_put_back(algo: str) -> None:
    """Steps so long that the KL overflows leave nothing but the row that says so."""
    policy, theta, batch = hand_policy()
    config = Config(algo=algo, policy_stepsize=1e30, policy_batch=8)
    update = make_update(policy, config, Grid(1, 8), 1, 8)
    new, step = update.step(theta, batch, Communicator(None, 1), stage())
    assert new is theta
    assert (step.kl, step.improvement, step.fraction) == (0, 0, 0)
