"""Krylov-Schur method step by step: the relation, the restart, and results against dense NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator
from eigenjax.krylov.expansion import orthonormalized
from eigenjax.krylov.general.general_ritz import SchurBasis
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.solvers.general import finalize as finalizing
from eigenjax.solvers.general import krylov_schur
from eigenjax.vectors.pseudorandom import seed_of

N, M, K, BUDGET = 18, 8, 2, 150
SPEC = SolveSpec(k=K, which="LM", interior=False, verify=True, max_matvecs=BUDGET, random_start=True)
# Sums of N products in a matvec and of M + 1 terms in two Gram-Schmidt passes. A restart rounds V C and C^H H C, sums
# of M terms, and takes C from a Schur form that is unitary to M eps.
UNITS, RESTART = N + 2 * (M + 1), 4 * M
# A restart counts smaller terms as rounding and does not record them (multiples of eps * ||A|| for each restart).
UNRECORDED = 64


@jax.jit
def init(start):
    return krylov_schur.init(start[None], SPEC, krylov_dim=M, seed=seed_of(jax.random.key(5)))


@jax.jit
@chex.assert_max_traces(n=3)  # one for each dtype: no step changes the types of its state
def step(matrix, state, tol):
    return krylov_schur.step(as_operator(matrix), state, SPEC, tol=tol)


@jax.jit
def finalize(matrix, state, tol):
    return finalizing.finalize(as_operator(matrix), state, SPEC, tol=tol)


READY = jax.jit(orthonormalized)


def wide(x):
    return np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64)


def assert_decomposes(part, matrix):
    """Assert orthonormal V and d, and A V - V H - d b^H within `defects` and the rounding of all restarts."""
    part = READY(part)
    valid = np.asarray(part.valid)
    V, d, H, b = (wide(x) for x in (part.basis, part.residual_block, part.matrix, part.coupling))
    eps, restarts = np.finfo(part.matrix.dtype).eps, int(part.num_restarts)
    rows = np.concatenate([V[valid], d]) if valid.sum() < V.shape[1] else V
    assert not V[~valid].any()
    chex.assert_trees_all_close(
        rows.conj() @ rows.T, np.eye(len(rows)), rtol=0, atol=(UNITS + RESTART * restarts) * eps
    )
    left = np.linalg.norm(wide(matrix) @ V.T - V.T @ H - d.T @ b, axis=0)
    slack = (UNITS + (RESTART + UNRECORDED) * restarts) * eps * np.linalg.norm(matrix)
    assert (left <= wide(part.defects) + slack).all()


def advanced(matrix, start, tol, checked=True):
    """Step until the solve ends, and check the relation in each state."""
    state = init(jnp.asarray(start))
    while not bool(state.done):
        spent = int(state.krylov.num_matvecs)
        state = step(jnp.asarray(matrix), state, tol)
        assert int(state.krylov.num_matvecs) > spent
        if checked:
            assert_decomposes(state.krylov, matrix)
    return state


def assert_found(result, matrix, tol, conditions=4.0):
    """Assert the K eigenvalues of largest magnitude, with true residuals within tol and equal to the reported ones."""
    dense = wide(matrix).astype(complex)
    norm, eps = np.linalg.norm(dense, 2), np.finfo(result.residuals.dtype).eps
    values, vectors = wide(result.eigenvalues), wide(result.eigenvectors)
    truth = np.linalg.eigvals(dense)
    truth = truth[np.lexsort((-truth.imag.round(9), -np.abs(truth).round(9)))][:K]
    assert int(result.status) == Status.CONVERGED
    assert np.all(result.converged)
    true = np.linalg.norm(vectors @ dense.T - values[:, None] * vectors, axis=1)
    rounding = 2 * N * eps * norm
    assert (true <= tol * norm + rounding).all()
    # One matvec verifies the estimated residuals; each of them may then have an error of 64 eps * ||A||.
    chex.assert_trees_all_close(wide(result.residuals), true, rtol=0, atol=UNRECORDED * eps * norm + rounding)
    # The error of an eigenvalue is at most its condition number times the residual.
    chex.assert_trees_all_close(values, truth, rtol=0, atol=conditions * (true.max() + rounding))


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.slow), "complex128"])
def problem(request, normal, rng):
    """Draw a triangular matrix in a random basis, moderately nonnormal; the two largest eigenvalues are complex."""
    dtype = np.dtype(request.param)
    with jax.enable_x64(dtype.name != "float32"):
        triangle = np.diag(np.linspace(-3, 4, N)) + 0.1 * np.triu(normal(rng, (N, N), dtype), 1)
        if dtype.kind == "c":
            triangle[0, 0], triangle[1, 1] = 6 + 2j, -5 + 3j
        else:
            triangle[:2, :2] = [[6, 2], [-2, 6]]
        basis = np.linalg.qr(normal(rng, (N, N), complex if dtype.kind == "c" else float))[0]
        matrix = (basis @ triangle @ basis.conj().T).astype(dtype)
        tol = 1e-4 if dtype.name == "float32" else 1e-9
        yield matrix, normal(rng, N, dtype), tol


@pytest.mark.slow
def test_every_step_keeps_the_relation_and_the_last_has_the_eigenpairs(problem):
    matrix, start, tol = problem
    state = advanced(matrix, start, tol)
    assert int(state.krylov.num_restarts) > 1
    result = finalize(jnp.asarray(matrix), state, tol)
    assert_found(result, matrix, tol)
    assert int(result.num_matvecs) > int(state.krylov.num_matvecs)


@pytest.mark.slow
def test_an_invariant_start_hides_no_larger_eigenvalue(problem):
    matrix, _, tol = problem
    # The start is a sum of eigenvectors of the smallest eigenvalues: their space is invariant.
    values, vectors = np.linalg.eig(wide(matrix))
    smallest = np.argsort(np.abs(values))[:2]
    start = vectors[:, smallest].sum(axis=1)
    state = advanced(matrix, (start if matrix.dtype.kind == "c" else start.real).astype(matrix.dtype), tol)
    assert_found(finalize(jnp.asarray(matrix), state, tol), matrix, tol)


@pytest.mark.slow
def test_a_breakdown_ends_the_expansion_and_the_next_step_clears_it(normal, rng):
    # Without a missed-pair search the breakdown alone shows that the space is not the whole one.
    spec, tol = SPEC._replace(verify=False, random_start=False), 1e-4
    step = jax.jit(functools.partial(krylov_schur.step, spec=spec, tol=tol))
    # The space of e_0 is that of three eigenvalues of magnitude 2, exactly; the wanted ones are 6 +- 2i.
    matrix, block = np.zeros((N, N)), np.diag(np.linspace(-3, 4, N - 3))
    matrix[[1, 2, 0], [0, 1, 2]], block[:2, :2] = 2, [[6, 2], [-2, 6]]
    basis = np.linalg.qr(normal(rng, (N - 3, N - 3), float))[0]
    matrix[3:, 3:] = basis @ (block + 0.1 * np.triu(normal(rng, block.shape, float), 2)) @ basis.T
    matrix = matrix.astype(np.float32)
    state = step(as_operator(jnp.asarray(matrix)), init(jnp.eye(N)[0]))
    assert int(state.krylov.num_matvecs) == 3
    assert bool(state.krylov.broken_down)
    assert not bool(state.done)
    spent = 3
    while not bool(state.done):
        state = step(as_operator(jnp.asarray(matrix)), state)
        assert int(state.krylov.num_matvecs) > spent
        assert not bool(state.krylov.broken_down)
        spent = int(state.krylov.num_matvecs)
    result = finalizing.finalize(as_operator(jnp.asarray(matrix)), state, spec, tol=tol)
    assert_found(result, matrix, tol)


@pytest.mark.slow
def test_the_whole_space_is_no_breakdown(normal, rng):
    # The residuals of a search would be recomputed; here one matvec verifies them all.
    matrix = normal(rng, (M, M), np.float32)
    spec = SPEC._replace(verify=False)
    state = krylov_schur.init(jnp.ones((1, M)), spec, krylov_dim=M, seed=seed_of(jax.random.key(5)))
    step = jax.jit(functools.partial(krylov_schur.step, spec=spec, tol=0.0))
    while not bool(state.done):
        state = step(as_operator(jnp.asarray(matrix)), state)
    assert int(state.krylov.num_matvecs) == M
    result = finalizing.finalize(as_operator(jnp.asarray(matrix)), state, spec, tol=1e-4)
    assert int(result.num_matvecs) == M + 1
    assert_found(result, matrix, 1e-4)


def test_finalize_recomputes_residuals_that_a_matvec_contradicts(problem):
    matrix, start, tol = problem
    state = advanced(matrix, start, tol, checked=False)
    other = (matrix + 0.1 * np.eye(N)[::-1]).astype(matrix.dtype)
    result = finalize(jnp.asarray(other), state, tol)
    values, vectors = wide(result.eigenvalues), wide(result.eigenvectors)
    true = np.linalg.norm(vectors @ wide(other).T - values[:, None] * vectors, axis=1)
    rounding = 2 * N * np.finfo(result.residuals.dtype).eps * np.linalg.norm(other, 2)
    chex.assert_trees_all_close(wide(result.residuals), true, rtol=0, atol=rounding)
    assert int(result.status) == Status.INCONSISTENT
    assert not np.any(result.converged)


def test_the_budget_ends_a_solve_that_cannot_converge():
    # All eigenvalues of a cyclic shift have magnitude one, and no restart separates them.
    matrix = np.roll(np.eye(N, dtype=np.float32), 1, axis=0)
    state = advanced(matrix, np.eye(N, dtype=np.float32)[0] + 0.5 * np.eye(N, dtype=np.float32)[3], 1e-6)
    assert int(state.krylov.num_matvecs) == BUDGET
    result = finalize(jnp.asarray(matrix), state, 1e-6)
    assert int(result.status) == Status.NOT_CONVERGED
    values, vectors = wide(result.eigenvalues), wide(result.eigenvectors)
    true = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    assert (true <= wide(result.residuals) + UNITS * np.finfo(np.float32).eps).all()


def test_nan_ends_the_solve():
    matrix = np.eye(N, dtype=np.float32)
    matrix[2, 3] = np.nan
    state = step(jnp.asarray(matrix), init(jnp.ones(N)), 1e-4)
    assert bool(state.done)
    assert int(finalize(jnp.asarray(matrix), state, 1e-4).status) == Status.NONFINITE


def test_no_budget_is_over_before_the_first_matvec():
    none = SPEC._replace(max_matvecs=0)
    state = krylov_schur.init(jnp.ones((1, N)), none, krylov_dim=M, seed=seed_of(None))
    assert bool(state.done)
    assert int(state.krylov.num_matvecs) == 0
    assert not bool(init(jnp.ones(N)).done)


@pytest.mark.parametrize(
    ("pairs", "k", "most", "expected"),
    [
        # The number k plus half of the others, 2 + (10 - 2) / 2 = 6, at least k + 1 and at most `most`.
        ((), 2, 9, 6),
        ((), 2, 4, 4),
        ((), 9, 10, 10),
        # The second vector of a conjugate pair follows the first; if only one fits, both are dropped.
        ((6,), 2, 9, 7),
        ((6,), 2, 6, 5),
        ((5, 7), 2, 9, 6),
    ],
)
def test_the_number_kept_divides_no_conjugate_pair(pairs, k, most, expected):
    second = np.zeros(10, bool)
    second[list(pairs)] = True
    basis = SchurBasis(jnp.zeros((10, 10)), jnp.asarray(second))
    assert int(krylov_schur.num_keep(basis, k, most)) == expected
