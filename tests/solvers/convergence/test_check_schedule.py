"""Convergence checks: seldom in long solves, and never so late that a short one makes many more matvecs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator
from eigenjax.krylov import expansion
from eigenjax.solvers.convergence.check_schedule import rows_to_wait
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.solvers.symmetric.plan import initialize_solve, planned
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.storage import Storage

SIDE = 40
LATTICE = np.add.outer(*[2 - 2 * np.cos(np.pi * np.arange(1, SIDE + 1) / (SIDE + 1))] * 2).ravel()
OUTLIERS = np.concatenate([[10.0, 7, 5, 4, 3], np.linspace(0, 0.1, 995)])


def solve(values, k):
    """Return the start vector, the numbers of matvecs and of convergence checks, and the largest error of a value."""
    diagonal = jnp.asarray(values, jnp.float32)
    op = as_operator(lambda v: diagonal * v, like=diagonal)
    options = {"which": "LA", "tol": 1e-4, "krylov_dim": None, "max_matvecs": None, "block_size": 1}
    plan = planned(op, k, **options, interior=False, verify=False, storage=Storage())
    state, _, _ = initialize_solve(op, plan, None, seed_of(None))
    start = np.asarray(expansion.orthonormalized(state.krylov).residual_block[0], float)
    step = jax.jit(lambda state: restarted_lanczos.step(op, state, plan.spec, tol=plan.tol, sigma=0.0))
    checks = 0
    while not state.done:
        state, checks = step(state), checks + 1
    wanted = np.sort(np.unique(values))[::-1][:k]
    error = np.abs(np.asarray(state.found.values[:k]) - wanted).max()
    return start, int(state.krylov.num_matvecs), checks, error / wanted[0]


def least_matvecs(values, start, k, tol):
    """Return the dimension of the first Krylov space of `start` whose k leading Ritz pairs have converged."""
    basis = np.zeros((len(start), 0))
    vector = start
    for dimension in range(1, 100):
        for _ in range(2):
            vector = vector - basis @ (basis.T @ vector)
        basis = np.column_stack([basis, vector / np.linalg.norm(vector)])
        vector = values * basis[:, -1]
        ritz, rotation = np.linalg.eigh(basis.T @ (values[:, None] * basis))
        vectors = (basis @ rotation)[:, ::-1][:, :k]
        residuals = np.linalg.norm(values[:, None] * vectors - vectors * ritz[::-1][:k], axis=0)
        if dimension >= k and residuals.max() <= tol * np.abs(ritz).max():
            return dimension
    raise AssertionError("not converged")


def test_a_long_solve_makes_three_matvecs_for_each_check():
    _, matvecs, checks, error = solve(LATTICE, 4)
    assert matvecs > 100
    assert 3 * checks <= matvecs
    assert error < 1e-4


def test_a_short_solve_is_checked_before_it_makes_needless_matvecs():
    start, matvecs, _, error = solve(OUTLIERS, 3)
    least = least_matvecs(OUTLIERS, start, 3, 1e-4)
    assert 3 < least <= matvecs <= least + 2
    assert error < 1e-4


@pytest.mark.parametrize(
    ("before", "distance", "last", "count", "expected"),
    [
        (np.inf, 4.0, 0, 6, 1),  # nothing is known of the rate
        (9.0, 8.9, 10, 12, 3),  # slow, at the beginning
        (9.0, 8.9, 100, 102, 8),  # slow, later
        (9.0, 1.0, 100, 104, 1),  # about to converge
        (4.0, 5.0, 10, 12, 1),  # no progress, at the beginning
        (4.0, 5.0, 100, 102, 3),  # no progress, later
        (np.nan, 5.0, 100, 102, 1),
    ],
)
def test_waits(before, distance, last, count, expected):
    assert rows_to_wait(jnp.float32(before), jnp.float32(distance), jnp.int32(last), jnp.int32(count)) == expected
