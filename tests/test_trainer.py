"""One iteration's quantities against the batches that they were made from."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from toy_envs import Noisy
from toy_training import toy_trainer, train

from trpo_mpi.algorithms.policy_update import PolicyBatch
from trpo_mpi.policies.acting import Actor
from trpo_mpi.rollout import Batch
from trpo_mpi.state import COLUMN, seed_sequence
from trpo_mpi.trainer import Trainer


class Rewarding(Noisy):
    """Pays its own noise, far from zero."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 5 + 3 * self.np_random.standard_normal(), *rest


class Recorded:
    """A trainer, and what passes through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        common = {"num_envs": 3, "timesteps_per_batch": 60, "num_timesteps": 160, "gamma": 0.9}
        self.trainer: Trainer = toy_trainer(Rewarding, **{**common, **settings})
        self.actors: list[Actor] = []
        self.batches: list[Batch] = []
        self.estimates: list[tuple[np.ndarray, np.ndarray]] = []
        self.prepared: list[PolicyBatch] = []
        self.fisher_rows: list[np.ndarray] = []
        self.fits: list[float] = []
        """Step sizes of the critic's fits."""
        self.rows: list[dict[str, Any]] = []
        collect = self.trainer._sampler.collect
        estimate = self.trainer._advantages
        fit = self.trainer.critic.fit

        def recording_collect(actor: Actor, *args: Any) -> Batch:
            self.actors.append(actor)
            self.batches.append(collect(actor, *args))
            return self.batches[-1]

        def recording_estimate(*args: Any) -> tuple[np.ndarray, np.ndarray]:
            self.estimates.append(estimate(*args))
            return self.estimates[-1]

        def recording_fit(seen: Any, memory: Any, targets: Any, counted: Any, *rest: Any) -> None:
            self.fits.append(rest[0])
            fit(seen, memory, targets, counted, *rest)

        monkeypatch.setattr(self.trainer.critic, "fit", recording_fit)
        monkeypatch.setattr(self.trainer._sampler, "collect", recording_collect)
        monkeypatch.setattr(self.trainer, "_advantages", recording_estimate)

        from trpo_mpi.algorithms import trpo as module

        step = module.trpo_step

        def recording_step(theta: Any, batch: PolicyBatch, rows: Any, *rest: Any) -> Any:
            self.prepared.append(batch)
            self.fisher_rows.append(rows)
            return step(theta, batch, rows, *rest)

        monkeypatch.setattr(module, "trpo_step", recording_step)

    def run(self) -> None:
        while self.trainer.finished() is None:
            self.rows.append(self.trainer.iterate()[0])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Two whole batches of 20 steps in 3 environments, and one of 13."""
    result = Recorded(monkeypatch, fisher_fraction=0.5)
    result.run()
    return result


def test_first_batch_only_initialises_the_normalisers(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)
    before = recorded.trainer._fingerprint()
    row, *_ = recorded.trainer.iterate()
    assert recorded.trainer._fingerprint() == before
    assert "kl" not in row
    assert row["timesteps"] == 60  # counted all the same
    assert row["reward_scale"] == 1
    row, *_ = recorded.trainer.iterate()
    assert recorded.trainer._fingerprint() != before
    assert row["kl"] > 0


def test_without_normalisers_the_first_batch_is_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Recorded(monkeypatch, normalize_observations=False, normalize_returns=False)
    recorded.run()
    assert all(row["kl"] > 0 and row["reward_scale"] == 1 for row in recorded.rows)
    assert all(batch.raw_observations is None for batch in recorded.batches)
    rows = 10 * np.random.default_rng(0).standard_normal((2, 3))
    assert np.array_equal(recorded.trainer.normalizer(rows), rows.astype(np.float32))


def test_moments_are_those_of_all_that_was_seen(recorded: Recorded) -> None:
    """Each once, the short last batch's too; the discounted return is the one so far."""
    flat = np.concatenate([batch.raw_observations.reshape(-1, 3) for batch in recorded.batches])
    assert len(flat) == 159
    moments = recorded.trainer.normalizer.moments
    assert moments is not None
    assert moments.count == 159
    np.testing.assert_allclose(moments.mean, flat.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.deviation, flat.std(0), rtol=1e-6)
    returns = []
    for column in range(3):
        total = 0.0
        for batch in recorded.batches:
            for reward, ended in zip(batch.rewards[column], batch.ended[column], strict=True):
                total = 0.9 * total + reward
                returns.append(total)
                total *= not ended
    moments = recorded.trainer.return_moments
    assert moments is not None
    np.testing.assert_allclose(moments.deviation, np.std(returns), rtol=1e-6)


def test_a_batch_is_normalised_by_the_batches_before_it(recorded: Recorded) -> None:
    for k in (1, 2):
        seen = np.concatenate([b.raw_observations.reshape(-1, 3) for b in recorded.batches[:k]])
        expected = (recorded.batches[k].raw_observations - seen.mean(0)) / seen.std(0)
        np.testing.assert_allclose(recorded.batches[k].observations, expected, atol=1e-4)


def test_advantages_are_normalised_over_all_columns_and_padded(recorded: Recorded) -> None:
    assert [batch.rewards.shape for batch in recorded.batches] == [(3, 20), (3, 20), (3, 13)]
    assert len(recorded.prepared) == 2
    for k, horizon in ((1, 20), (2, 13)):
        prepared, advantages = recorded.prepared[k - 1], recorded.estimates[k][1]
        assert prepared.mask.shape == (3, 24)
        assert np.array_equal(prepared.mask, np.tile(np.arange(24) < horizon, (3, 1)))
        assert prepared.timesteps() == 3 * horizon
        expected = (advantages - advantages.mean()) / advantages.std()
        np.testing.assert_allclose(prepared.advantages[:, :horizon], expected, atol=1e-5)
        batch = recorded.batches[k]
        assert np.array_equal(prepared.observations[:, :horizon], batch.observations)
        assert np.array_equal(prepared.actions[:, :horizon], batch.actions)


def test_fisher_rows_are_a_random_half(recorded: Recorded) -> None:
    """Of 24 padded steps, rounded up to eights: 16, each once, in order."""
    first, second = (rows.tolist() for rows in recorded.fisher_rows)
    for rows in (first, second):
        assert len(rows) == 16
        assert rows == sorted(set(rows))
    assert set(first) <= set(range(20))
    assert set(range(13)) <= set(second)  # with padding behind, which the mask leaves out
    assert first != list(range(16))


def test_a_recurrent_batch_is_what_the_policy_went_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its states step by step from one batch to the next, zero where episodes begin; and Fisher
    products use a window of it."""
    recorded = Recorded(monkeypatch, policy="MlpLstmPolicy", lstm_units=4, num_timesteps=500)
    recorded.run()
    assert len(recorded.batches) == 9
    state = np.zeros((3, 8), np.float32)
    for batch, actor in zip(recorded.batches, recorded.actors, strict=True):
        for t in range(batch.rewards.shape[1]):
            assert np.array_equal(batch.states[:, t], state)
            _, after = actor.parameters(batch.observations[:, t], state)
            assert np.array_equal(batch.memory[:, t], after[:, :4])
            state = np.where(batch.ended[:, t, None], 0, after).astype(np.float32)
        for (i, step), cut in zip(batch.cuts, batch.cut_states, strict=True):
            _, after = actor.parameters(
                batch.observations[i, step][None], batch.states[i, step][None]
            )
            assert np.array_equal(cut, after[0])
    windows = set()
    steps = zip(recorded.batches[1:], recorded.prepared, recorded.fisher_rows, strict=True)
    for batch, prepared, rows in steps:
        assert np.array_equal(prepared.states, batch.states)
        horizon = batch.rewards.shape[1]
        assert np.array_equal(prepared.starts[:, 1:horizon], batch.ended[:, :-1])
        assert not prepared.starts[:, 0].any()
        assert batch.ended.any()
        first = rows[0]
        assert rows.tolist() == list(range(first, first + 16))
        windows.add(int(first))
    assert len(windows) > 1
    assert windows <= set(range(5))


def test_explained_variance(recorded: Recorded) -> None:
    """1 - var(target - value) / var(target), the targets being TD(lambda) returns."""
    for (values, advantages), row in zip(recorded.estimates[1:], recorded.rows[1:], strict=True):
        expected = 1 - advantages.var() / (advantages + values).var()
        assert row["explained_variance"] == pytest.approx(expected, rel=1e-9)


def test_rewards_are_scaled_for_the_critic_only(recorded: Recorded) -> None:
    """By the deviation of the returns before; what is reported is raw."""
    for k in (1, 2):
        values, advantages = recorded.estimates[k]
        batch, scale = recorded.batches[k], recorded.rows[k]["reward_scale"]
        assert scale < 0.5
        # At a true end the advantage is the scaled reward less the value.
        ends = batch.terminated
        expected = scale * batch.rewards[ends] - values[ends]
        np.testing.assert_allclose(advantages[ends], expected, rtol=1e-9)
    total = sum(batch.rewards.sum() for batch in recorded.batches)
    returns = np.array(recorded.trainer.counters.returns)
    unfinished = recorded.trainer._sampler._returns.sum()
    np.testing.assert_allclose(returns.sum() + unfinished, total)
    assert recorded.rows[-1]["episode_return_mean"] == pytest.approx(returns.mean())


@pytest.mark.parametrize(
    ("column", "final"), [("vf_stepsize", "vf_final_stepsize"), ("max_kl", "final_max_kl")]
)
def test_schedules_decay_linearly_to_their_share(
    recorded: Recorded, column: str, final: str
) -> None:
    """Over the run's time steps, 160: after 120 and 159 of them."""
    config = recorded.trainer.config
    first, loss = getattr(config, column), 1 - getattr(config, final)
    assert loss > 0
    expected = [first * (1 - done / 160 * loss) for done in (120, 159)]
    assert [row[column] for row in recorded.rows[1:]] == pytest.approx(expected)


def test_the_critic_is_fitted_with_the_step_size_reported(recorded: Recorded) -> None:
    assert recorded.fits == [row["vf_stepsize"] for row in recorded.rows[1:]]


def test_each_column_has_a_stream_of_its_own(recorded: Recorded) -> None:
    """The stream of its global index, for the environment; noise has another."""
    for column, env in enumerate(recorded.trainer._sampler._envs.envs):
        seed = seed_sequence(0, COLUMN, column).spawn(2)[0].generate_state(1)[0]
        expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int(seed))))
        first = expected.standard_normal(3)
        assert np.array_equal(recorded.batches[0].raw_observations[column, 0], first)
        assert env is not recorded.trainer._sampler._envs.envs[column - 1]
    assert len({batch.tobytes() for batch in recorded.batches[0].actions}) == 3


@pytest.mark.parametrize("algo", ["trpo", "ppo"])
def test_parameters_are_rank_0s_after_every_iteration(
    algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPUs of one kind this changes nothing; on mixed ones it keeps the ranks together."""
    recorded = Recorded(monkeypatch, algo=algo)
    trainer = recorded.trainer

    def broadcast(packed: np.ndarray) -> None:
        packed[:] = np.arange(len(packed))

    monkeypatch.setattr(trainer.comm, "broadcast", broadcast)
    trainer.iterate()
    critic, policy = trainer.critic.adam, trainer._update.adam
    vectors = [trainer.theta, trainer.critic.phi, critic.m, critic.v]
    p, q = trainer.policy.num_parameters, len(trainer.critic.phi)
    sizes = [p, q, q, q]
    if algo == "ppo":
        assert policy is not None
        vectors += [policy.m, policy.v]
        sizes += [p, p]
    assert [len(x) for x in vectors] == sizes
    assert np.array_equal(np.concatenate(vectors), np.arange(sum(sizes)))


def test_drift_names_the_ranks_that_differ() -> None:
    """By the columns' fingerprints; the most common one is taken as right."""
    trainer = toy_trainer(Noisy, num_envs=6, timesteps_per_batch=6)
    from trpo_mpi.parallel.communicator import Communicator

    class ThreeRanks:
        def Get_rank(self) -> int:
            return 0

        def Get_size(self) -> int:
            return 3

    trainer.comm = Communicator(ThreeRanks(), 6)
    trainer._check_drift(np.full(6, 7.0))
    with pytest.raises(RuntimeError, match=r"in iteration 1: rank 2 of 3 "):
        trainer._check_drift(np.array([7.0, 7, 7, 7, 8, 8]))
    with pytest.raises(RuntimeError, match=r"rank 0 of 3 "):
        trainer._check_drift(np.array([8.0, 8, 7, 7, 7, 7]))
    with pytest.raises(RuntimeError, match=r"rank 1, 2 of 3 "):
        trainer._check_drift(np.array([7.0, 7, 6, 6, 8, 8]))


def test_clipped_rewards_are_learnt_from_and_raw_ones_reported() -> None:
    """Paid 3 for each step, a trainer that sees signs learns as one that is paid 1."""

    def paid(amount: float) -> gym.Env[Any, Any]:
        return gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda _: amount)

    settings = {"num_timesteps": 2048, "timesteps_per_batch": 512}
    threefold = toy_trainer(lambda: paid(3), clip_rewards=True, **settings)
    plain = toy_trainer(lambda: paid(1), **settings)
    raw = toy_trainer(lambda: paid(3), normalize_returns=False, **settings)
    one, other = train(threefold), train(plain)
    train(raw)
    assert np.array_equal(threefold.theta, plain.theta)
    assert np.array_equal(threefold.critic.phi, plain.critic.phi)
    assert not np.array_equal(raw.critic.phi, plain.critic.phi)
    assert one[-1]["episode_return_mean"] == 3 * other[-1]["episode_return_mean"]
