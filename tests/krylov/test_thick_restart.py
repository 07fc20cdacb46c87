"""Hundreds of restarts leave the basis as orthonormal as a few do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eigenjax import as_operator
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.plan import initialize_solve, planned
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage

# Of 298 restarts 24 are left with reorthonormalization at every eighth, and 86 without.
MOST_UNITS = 45


def test_restarts_do_not_add_up_to_a_loss_of_orthonormality():
    line = 2 * np.eye(200) - np.eye(200, k=1) - np.eye(200, k=-1)
    op = as_operator(jnp.asarray(line, jnp.float32))
    options = {
        "krylov_dim": 6,
        "max_matvecs": 4000,
        "block_size": 1,
        "interior": False,
        "verify": False,
        "storage": Storage(),
    }
    plan = planned(op, 2, which="SA", tol=1e-12, **options)
    state, _, _ = initialize_solve(op, plan, None, seed_of(None))
    step = jax.jit(functools.partial(restarted_lanczos.step, spec=plan.spec, tol=plan.tol, sigma=0.0))
    worst = 0.0
    while not state.done:
        state = step(op, state)
        rows = np.asarray(state.krylov.basis, np.float64)[np.asarray(state.krylov.filled)]
        worst = max(worst, np.abs(rows @ rows.T - np.eye(len(rows))).max())
    assert int(state.krylov.num_restarts) > 200
    assert worst <= MOST_UNITS * np.finfo(np.float32).eps
