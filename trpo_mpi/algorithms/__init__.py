"""Policy steps, the critic, and the solvers they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trpo_mpi.algorithms.critic import Critic
    from trpo_mpi.algorithms.policy_update import PolicyUpdate
    from trpo_mpi.config import Config
    from trpo_mpi.grid import Grid
    from trpo_mpi.policies.policy import Policy


def make_update(
    policy: Policy,
    config: Config,
    grid: Grid,
    columns: int,
    steps: int | None,
    critic: Critic | None = None,
) -> PolicyUpdate:
    """Make the policy update that `config.algo` names; for the sizes see `PolicyKernels`.

    Only PPO may train the `critic`, too; see `Config.shared_vf_coef`.
    """
    from trpo_mpi.algorithms.kl_penalty import KlPenalty
    from trpo_mpi.algorithms.ppo import Ppo
    from trpo_mpi.algorithms.trpo import Npg, Trpo

    if config.shared_vf_coef:
        return Ppo(policy, config, grid, columns, steps, critic)
    kinds = {"trpo": Trpo, "npg": Npg, "ppo": Ppo, "kl-penalty": KlPenalty}
    return kinds[config.algo](policy, config, grid, columns, steps)
