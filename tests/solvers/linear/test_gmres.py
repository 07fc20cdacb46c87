"""GMRES against dense solves and dense least squares over the Krylov space."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.solvers.linear.gmres import gmres

N, RESTART = 12, 4
# The true residual sums N products of each row: the error is N eps / 2 of ||A||_F ||x||, and the same again in the
# recurrence.
UNITS = N


@functools.partial(jax.jit, static_argnames=("restart", "max_iter"))
def solve(matrix, rhs, target, restart=N, max_iter=60):
    operator = lambda v: jnp.matmul(matrix, v, precision="highest")
    return gmres(operator, rhs, target=target, restart=restart, max_iter=max_iter)


def wide(x):
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def least_residual(matrix, rhs, steps):
    """Return the minimizer of ||b - A x|| over span(b, A b, ..., A^(steps-1) b), by dense least squares."""
    vectors = [rhs / np.linalg.norm(rhs)]
    for _ in range(steps - 1):
        image = matrix @ vectors[-1]
        for _ in range(2):
            for v in vectors:
                image = image - np.vdot(v, image) * v
        vectors.append(image / np.linalg.norm(image))
    basis = np.stack(vectors, axis=1)
    return basis @ np.linalg.lstsq(matrix @ basis, rhs, rcond=None)[0]


@pytest.fixture
def system(scalar, normal, rng):
    """Draw a well-conditioned nonsymmetric matrix and a right-hand side."""
    matrix = 4 * np.eye(N, dtype=scalar) + np.triu(normal(rng, (N, N), scalar)) / 2
    return matrix, normal(rng, N, scalar)


def assert_solves(found, matrix, rhs, bound):
    """Assert that the true residual is below the bound and equals the reported one."""
    matrix, rhs, x = wide(matrix), wide(rhs), wide(found.solution)
    rounding = UNITS * np.finfo(found.residual.dtype).eps * np.linalg.norm(matrix) * np.linalg.norm(x)
    true = np.linalg.norm(rhs - matrix @ x)
    assert true <= bound + rounding
    chex.assert_trees_all_close(float(found.residual), true, rtol=0, atol=rounding)
    chex.assert_trees_all_close(x, np.linalg.solve(matrix, rhs), rtol=0, atol=(true + rounding) * inverse(matrix))


def inverse(matrix):
    return np.linalg.norm(np.linalg.inv(matrix), 2)


def test_one_cycle_solves_to_rounding(system):
    matrix, rhs = system
    found = solve(jnp.asarray(matrix), jnp.asarray(rhs), 0.0)
    # A residual below 10 eps ||b|| is rounding; a cycle has at most N steps and one matvec for the true residual.
    assert_solves(found, matrix, rhs, 10 * np.finfo(rhs.dtype).eps * np.linalg.norm(rhs))
    assert int(found.num_matvecs) <= 3 * (N + 1)


def test_restarts_reach_the_target_with_a_smaller_basis(system):
    matrix, rhs = system
    target = 1e-4
    found = solve(jnp.asarray(matrix), jnp.asarray(rhs), target, restart=RESTART)
    assert_solves(found, matrix, rhs, target)
    assert RESTART + 1 < int(found.num_matvecs) <= 60 + RESTART


@pytest.mark.slow
def test_a_cycle_minimizes_the_residual_over_the_krylov_space(system):
    matrix, rhs = system
    dense, b = wide(matrix), wide(rhs)
    expected, spent = np.zeros_like(b), 0
    for cycles in (1, 2):
        expected = expected + least_residual(dense, b - dense @ expected, RESTART)
        spent += RESTART + 1
        # The last cycle may exceed max_iter: the result is that of exactly these cycles.
        found = solve(jnp.asarray(matrix), jnp.asarray(rhs), 0.0, restart=RESTART, max_iter=spent)
        assert int(found.num_matvecs) == spent
        # Least squares amplify the rounding of the Krylov vectors by the condition number of A.
        condition = np.linalg.norm(dense) * inverse(dense)
        atol = cycles * UNITS * np.finfo(rhs.dtype).eps * condition * np.linalg.norm(expected)
        chex.assert_trees_all_close(wide(found.solution), expected, rtol=0, atol=atol)
        smallest = np.linalg.norm(b - dense @ expected)
        chex.assert_trees_all_close(float(found.residual), smallest, rtol=0, atol=atol * np.linalg.norm(dense))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_cycle_ends_at_the_step_that_reaches_the_target(system, steps):
    matrix, rhs = system
    dense, b = wide(matrix), wide(rhs)
    before, after = (np.linalg.norm(b - dense @ least_residual(dense, b, j)) for j in (steps, steps + 1))
    # A target between the least residuals of this step and the next; a full cycle has N steps.
    target = (before * after) ** 0.5
    found = solve(jnp.asarray(matrix), jnp.asarray(rhs), target)
    assert int(found.num_matvecs) == steps + 2
    assert_solves(found, matrix, rhs, target)
    rounding = UNITS * np.finfo(rhs.dtype).eps * np.linalg.norm(dense) * np.linalg.norm(b) * inverse(dense)
    chex.assert_trees_all_close(float(found.residual), after, rtol=0, atol=rounding)


def test_an_exactly_invariant_space_ends_the_cycle(scalar, normal, rng):
    # Three eigenvalues: the Krylov space of any right-hand side has dimension three, that of an eigenvector one.
    values = np.repeat([2.0, 3.0, 7.0], 4)
    vectors = np.linalg.qr(wide(normal(rng, (N, N), scalar)))[0]
    matrix = ((vectors * values) @ vectors.conj().T).astype(scalar)
    target = 100 * np.finfo(scalar).eps
    for rhs, steps in ((normal(rng, N, scalar), 3), (vectors[:, 2].astype(scalar), 1)):
        found = solve(jnp.asarray(matrix), jnp.asarray(rhs), target * np.linalg.norm(rhs))
        assert int(found.num_matvecs) == steps + 1
        assert_solves(found, matrix, rhs, target * np.linalg.norm(rhs))


def test_singular_systems_are_solved_if_compatible(dtype, rng):
    # The matrix is zero on the last two coordinates.
    values = np.array([2.0, -3, 5, 7, 2, -3, 5, 7, 2, -3, 0, 0])
    matrix = np.diag(values)
    rhs = matrix @ rng.standard_normal(N)
    found = solve(jnp.asarray(matrix.astype(dtype)), jnp.asarray(rhs.astype(dtype)), 0.0)
    solution = wide(found.solution)
    atol = 10 * UNITS * np.finfo(dtype).eps * np.linalg.norm(rhs)
    chex.assert_trees_all_close(solution[:10], rhs[:10] / values[:10], rtol=0, atol=atol)
    # The Krylov space has no component outside the range.
    chex.assert_trees_all_close(solution[10:], np.zeros(2), rtol=0, atol=atol)


def test_a_singular_projected_system_leaves_out_what_it_cannot_solve(scalar):
    # A = 2 on e_0, and e_2 -> e_1 -> 0: A K has rank two for the Krylov space K of dimension three; R is singular.
    matrix = np.zeros((N, N), scalar)
    matrix[0, 0], matrix[1, 2] = 2, 1
    for rhs, solution in ((np.eye(N)[0] + np.eye(N)[2], 0.5), (np.eye(N)[2], 0.0)):
        found = solve(jnp.asarray(matrix), jnp.asarray(rhs.astype(scalar)), 0.0)
        chex.assert_tree_all_finite(found)
        atol = UNITS * np.finfo(scalar).eps * 2
        # The component e_2 of the right-hand side is outside the range.
        chex.assert_trees_all_close(float(found.residual), 1.0, rtol=0, atol=atol)
        assert abs(complex(found.solution[0]) - solution) <= atol


def test_an_exhausted_space_of_an_incompatible_system_ends_the_cycle(scalar, normal, rng):
    # Eigenvalues 2, 3 and 0: three vectors span the Krylov space, and the residual is outside the range.
    values = np.repeat([2.0, 3.0, 0.0], 4)
    vectors = np.linalg.qr(wide(normal(rng, (N, N), scalar)))[0]
    matrix, rhs = ((vectors * values) @ vectors.conj().T).astype(scalar), normal(rng, N, scalar)
    found = solve(jnp.asarray(matrix), jnp.asarray(rhs), 0.0, max_iter=1)
    assert int(found.num_matvecs) == 4
    smallest = np.linalg.norm(vectors[:, 8:].conj().T @ rhs)
    rounding = UNITS * np.finfo(scalar).eps * np.linalg.norm(matrix) * np.linalg.norm(rhs)
    chex.assert_trees_all_close(float(found.residual), smallest, rtol=0, atol=rounding)


def test_stagnation_ends_after_one_cycle():
    # Cyclic shift: no combination of fewer than N vectors reduces the residual of b = e_0.
    shift, b = np.roll(np.eye(N, dtype=np.float32), 1, axis=0), np.eye(N, dtype=np.float32)[0]
    short = solve(jnp.asarray(shift), jnp.asarray(b), 0.0, restart=RESTART)
    assert int(short.num_matvecs) == RESTART + 1
    assert float(short.residual) == 1
    assert not np.any(short.solution)
    whole = solve(jnp.asarray(shift), jnp.asarray(b), 0.0)
    assert int(whole.num_matvecs) == N + 1
    chex.assert_trees_all_close(wide(whole.solution), np.eye(N)[-1], rtol=0, atol=UNITS * np.finfo(np.float32).eps)


def test_a_small_right_hand_side_takes_no_matvec(system):
    matrix, rhs = system
    for b, target in ((0 * rhs, 0.0), (rhs, 1.01 * np.linalg.norm(rhs))):
        found = solve(jnp.asarray(matrix), jnp.asarray(b), target)
        assert int(found.num_matvecs) == 0
        assert not np.any(found.solution)
        chex.assert_trees_all_close(float(found.residual), np.linalg.norm(wide(b)), rtol=1e-6)


def test_nan_ends_the_iteration(rng):
    matrix = np.eye(N, dtype=np.float32)
    matrix[3, 3] = np.nan
    found = solve(jnp.asarray(matrix), jnp.ones(N), 0.0)
    assert int(found.num_matvecs) <= N + 1
    assert not np.any(found.solution)


@pytest.mark.slow
def test_lanes_and_pytrees(system):
    matrix, rhs = system
    a, b = jnp.asarray(matrix), jnp.asarray(rhs)

    def product(a, v):
        image = jnp.matmul(a, jnp.concatenate([v["x"].ravel(), v["y"]]), precision="highest")
        return {"x": image[:6].reshape(2, 3), "y": image[6:]}

    def one(a, b):
        rhs = {"x": b[:6].reshape(2, 3), "y": b[6:]}
        found = gmres(lambda v: product(a, v), rhs, target=0.0, restart=N, max_iter=40)
        return found._replace(solution=jnp.concatenate([found.solution["x"].ravel(), found.solution["y"]]))

    stack, sides = jnp.stack([a, 2 * a, a]), jnp.stack([b, b, 0 * b])
    found = jax.jit(jax.vmap(one))(stack, sides)
    assert int(found.num_matvecs[2]) == 0
    for lane in range(3):
        bound = 10 * np.finfo(rhs.dtype).eps * np.linalg.norm(sides[lane])
        assert_solves(jax.tree.map(lambda x, lane=lane: x[lane], found), stack[lane], sides[lane], bound)
