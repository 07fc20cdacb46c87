"""Bordered systems K_i (w, mu) = (f, h) of eigenpairs against dense solves in complex128."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator
from eigenjax.solvers.linear import bordered
from eigenjax.solvers.linear.bordered import Bordered, Solution

N, K = 10, 3
# Sums of N products in a matvec, and as many in the inner products with the border vectors.
APPLY = 2 * N
# GMRES stops at 16 eps of its right-hand side; matvecs and projections add rounding.
SOLVE = 16 + 2 * N


@functools.partial(jax.jit, static_argnames="transposed")
def solved(matrix, system, rhs, tol, transposed):
    system = system._replace(op=as_operator(matrix))
    found, info = bordered.solve(system, rhs, tol=tol, max_iter=200, transposed=transposed)
    return found, info, bordered.residuals(system, rhs, found)


@jax.jit
def applied(matrix, system, vectors):
    system = system._replace(op=as_operator(matrix))
    adjoint = jax.vmap(functools.partial(bordered.adjoint_matvec, system.op))(vectors.vectors)
    return bordered.apply(system, vectors), bordered.apply_adjoint(system, vectors), adjoint


def complex_of(dtype):
    return np.result_type(dtype, np.complex64)


def dense_borders(matrix, values, vectors, scale):
    """Assemble the matrices K_i, shape (k, n + 1, n + 1)."""
    k, n = vectors.shape
    borders = np.zeros((k, n + 1, n + 1), complex)
    for border, value, v in zip(borders, values, vectors, strict=True):
        border[:n, :n] = np.conj(value) * np.eye(n) - matrix.conj().T
        border[:n, n], border[n, :n] = scale * v, scale * v.conj()
    return borders


def setting(matrix, dtype, k=K):
    """Construct bordered systems of the k eigenvalues of largest magnitude, with conjugates, and their dense K_i."""
    matrix = matrix.astype(dtype)
    values, vectors = np.linalg.eig(matrix.astype(complex))
    order = np.lexsort((-values.imag, -np.abs(values).round(9)))[:k]
    values, vectors = values[order], vectors.T[order] / np.linalg.norm(vectors.T[order], axis=1, keepdims=True)
    return assembled(matrix, values, vectors)


def assembled(matrix, values, vectors):
    scale = np.linalg.norm(matrix, 2)
    wide = complex_of(matrix.dtype)
    eps = np.finfo(wide).eps
    system = Bordered(
        op=None,
        eigenvalues=jnp.asarray(values.astype(wide)),
        vectors=jnp.asarray(vectors.astype(wide)),
        residuals=jnp.full(len(values), eps * scale, np.finfo(wide).dtype),
        scale=jnp.asarray(scale, np.finfo(wide).dtype),
    )
    return matrix, system, dense_borders(matrix.astype(complex), values, vectors, scale)


def sides(normal, rng, system):
    k, n = system.vectors.shape
    dtype = system.vectors.dtype
    return Solution(jnp.asarray(normal(rng, (k, n), dtype)), jnp.asarray(normal(rng, k, dtype)))


def stacked(solution):
    return np.concatenate([solution.vectors, np.asarray(solution.multipliers)[:, None]], axis=1).astype(complex)


def spread(scalar, normal, rng):
    """Construct a nonnormal matrix; a real one has the large eigenvalues 7 and 5 +- 2 i."""
    values = np.diag(np.array([7, 5, 5, -3, 2, 1.5, 1, -1, 0.5, 0.2], scalar))
    values[1, 2], values[2, 1] = 2, -2
    change = np.eye(N) + 0.2 * normal(rng, (N, N), complex if scalar.kind == "c" else float)
    return change @ values @ np.linalg.inv(change)


@pytest.fixture
def problem(scalar, normal, rng):
    matrix, system, borders = setting(spread(scalar, normal, rng), scalar)
    return matrix, system, borders, sides(normal, rng, system)


def test_products_are_those_of_the_dense_matrices(problem):
    matrix, system, borders, vectors = problem
    forward, adjoint, transposed = applied(jnp.asarray(matrix), system, vectors)
    x = stacked(vectors)
    eps = np.finfo(system.scale.dtype).eps
    atol = APPLY * eps * np.linalg.norm(borders, axis=(1, 2)).max() * np.linalg.norm(x, axis=1).max()
    chex.assert_trees_all_close(stacked(forward), np.einsum("kij,kj->ki", borders, x), rtol=0, atol=atol)
    expected = np.einsum("kji,kj->ki", borders.conj(), x)
    chex.assert_trees_all_close(stacked(adjoint), expected, rtol=0, atol=atol)
    expected = x[:, :-1] @ matrix.conj().astype(complex)  # rows times conj(A): A^H w
    chex.assert_trees_all_close(np.asarray(transposed, complex), expected, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
def test_solutions_are_those_of_the_dense_matrices(problem, transposed):
    matrix, system, borders, rhs = problem
    eps, k = np.finfo(system.scale.dtype).eps, len(borders)
    tol = jnp.zeros(k, system.scale.dtype)
    found, info, _ = solved(jnp.asarray(matrix), system, rhs, tol, transposed)
    matrices = np.conj(borders).transpose(0, 2, 1) if transposed else borders
    b, x = stacked(rhs), stacked(found)
    truth = np.linalg.solve(matrices, b[:, :, None])[:, :, 0]
    # A backward error of SOLVE * eps in the right-hand side and in K, amplified by the inverse. The Schur form splits
    # the system into two, each amplified by its own inverse.
    inverse = np.linalg.norm(np.linalg.inv(matrices), 2, axis=(1, 2))
    condition = inverse * np.linalg.norm(matrices, 2, axis=(1, 2))
    atol = SOLVE * eps * (condition * (inverse * np.linalg.norm(b, axis=1) + np.linalg.norm(truth, axis=1))).max()
    chex.assert_trees_all_close(x, truth, rtol=0, atol=atol)
    assert not np.any(info.left_out)
    assert (np.asarray(info.num_matvecs) > 0).all()


@pytest.mark.parametrize("transposed", [False, True])
def test_the_tolerance_is_relative_and_saves_matvecs(problem, transposed):
    matrix, system, borders, rhs = problem
    dtype = system.scale.dtype
    z, _ = np.linalg.qr(np.asarray(system.vectors, complex).T)
    away = lambda x: x - x @ z.conj() @ z.T
    counts = []
    for tol in (1e-1, 1e-3):
        found, info, residuals = solved(jnp.asarray(matrix), system, rhs, jnp.full(K, tol, dtype), transposed)
        counts.append(int(np.sum(info.num_matvecs)))
        matrices = np.conj(borders).transpose(0, 2, 1) if transposed else borders
        left = away((stacked(rhs) - np.einsum("kij,kj->ki", matrices, stacked(found)))[:, :-1])
        rounding = SOLVE * np.finfo(dtype).eps * np.asarray(info.whole, float)
        true = np.linalg.norm(left, axis=1)
        assert (true <= np.asarray(info.target) + rounding).all()
        assert (np.asarray(info.target) <= tol * np.asarray(info.whole) + rounding).all()
        assert true.max() > 1e-2 * tol  # the solver stops soon after it reaches the tolerance
        if not transposed:
            chex.assert_trees_all_close(np.asarray(residuals, float), true, rtol=0, atol=rounding.max())
    assert 0 < counts[0] < counts[1]


@pytest.mark.parametrize("transposed", [False, True])
def test_without_a_complement_the_small_system_is_the_whole(transposed, float64, normal, rng):
    matrix, system, borders = setting(spread(np.dtype(float), normal, rng)[:4, :4], np.float64, k=4)
    rhs = sides(normal, rng, system)
    found, info, _ = solved(jnp.asarray(matrix), system, rhs, jnp.zeros(4), transposed)
    matrices = np.conj(borders).transpose(0, 2, 1) if transposed else borders
    truth = np.linalg.solve(matrices, stacked(rhs)[:, :, None])[:, :, 0]
    atol = SOLVE * np.finfo(float).eps * np.linalg.cond(matrices).max() * np.linalg.norm(truth, axis=1).max()
    chex.assert_trees_all_close(stacked(found), truth, rtol=0, atol=atol)
    assert not np.any(info.num_matvecs)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_double_eigenvalue_leaves_out_what_has_no_solution(transposed, scalar, normal, rng):
    # Normal matrix with a double eigenvalue for v_0 and v_1: K_0 maps (v_1, 0) to zero, and K_1 maps (v_0, 0) to zero.
    q, _ = np.linalg.qr(normal(rng, (N, N), complex if scalar.kind == "c" else float))
    values = np.array([4.0, 4, 3, 2, 1, -1, 0.5, -2, 0.1, -0.5])
    matrix, system, borders = assembled(((q * values) @ q.conj().T).astype(scalar), values[:K] + 0j, q.T[:K] + 0j)
    rhs = sides(normal, rng, system)
    eps = np.finfo(system.scale.dtype).eps
    found, info, _ = solved(jnp.asarray(matrix), system, rhs, jnp.zeros(K, system.scale.dtype), transposed)
    f = np.asarray(rhs.vectors, complex)
    lost = np.abs([np.vdot(q[:, 1], f[0]), np.vdot(q[:, 0], f[1]), 0])
    atol = SOLVE * eps * np.linalg.cond(matrix) * np.linalg.norm(stacked(rhs), axis=1).max()
    chex.assert_trees_all_close(np.asarray(info.left_out, float), lost, rtol=0, atol=atol)
    # The expected solution is the least-squares solution of least norm.
    matrices = np.conj(borders).transpose(0, 2, 1) if transposed else borders
    truth = np.stack([np.linalg.pinv(a, rcond=1e-4) @ b for a, b in zip(matrices, stacked(rhs), strict=True)])
    chex.assert_trees_all_close(stacked(found), truth, rtol=0, atol=atol)


def test_dependent_eigenvectors_are_projected_out_once(float64, normal, rng):
    # The same pair twice: the second adds no direction, and its system equals the first.
    matrix, system, borders = setting(spread(np.dtype(float), normal, rng), np.float64)
    twice = system._replace(
        eigenvalues=system.eigenvalues[jnp.array([0, 0, 1])], vectors=system.vectors[jnp.array([0, 0, 1])]
    )
    rhs = sides(normal, rng, system)
    found, _, _ = solved(jnp.asarray(matrix), twice, rhs, jnp.zeros(K), False)
    truth = np.linalg.solve(borders[[0, 0, 1]], stacked(rhs)[:, :, None])[:, :, 0]
    atol = SOLVE * np.finfo(float).eps * np.linalg.cond(borders).max() ** 2 * np.linalg.norm(truth, axis=1).max()
    chex.assert_trees_all_close(stacked(found), truth, rtol=0, atol=atol)
    chex.assert_tree_all_finite(found)
