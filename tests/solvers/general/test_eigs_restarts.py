"""Restarts of `eigs` far from normal: they drop rounding errors only, and the search reports a correct status."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import Status, as_operator, eigs
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import orthonormalized
from eigenjax.krylov.general.general_ritz import converged_first, general_ritz_pairs, no_pairs, schur_basis
from eigenjax.krylov.solve_spec import SolveSpec
from eigenjax.solvers.general import krylov_schur
from eigenjax.vectors.pseudorandom import seed_of

SIZE, K = 36, 3


def convection(drift, n=SIZE):
    return 2 * np.eye(n) - (1 + drift) * np.eye(n, k=-1) - (1 - drift) * np.eye(n, k=1)


def top_of_convection(drift, n, k):
    return 2 + 2 * np.sqrt(1 - drift**2) * np.cos(np.pi * np.arange(1, k + 1) / (n + 1))


def far_from_normal():
    n = SIZE
    return {
        "triangular": np.triu(1 + np.arange(n * n * 1.0).reshape(n, n)),
        "triangle of ones": np.triu(np.ones((n, n))),
        "convection": convection(0.92),
        "Grcar": np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=i) for i in (1, 2, 3)),
        "Jordan block": np.eye(n) + np.eye(n, k=1),
    }


@functools.cache
def stepping(steps):
    spec = SolveSpec(k=4, which="LM", interior=False, verify=True, max_matvecs=500, random_start=True)

    @jax.jit
    def run(matrix, start):
        op = as_operator(matrix)
        state = krylov_schur.init(start[None], spec, krylov_dim=20, seed=seed_of(None))
        advance = lambda _, state: krylov_schur.step(op, state, spec, tol=None)
        return jax.lax.fori_loop(0, steps, advance, state)

    return run


@pytest.mark.slow
def test_restarts_and_searches_violate_the_decomposition_by_at_most_the_tolerance():
    for matrix in (convection(0.3), convection(0.6), *far_from_normal().values()):
        start = np.random.default_rng(5).normal(size=SIZE).astype(np.float32)
        part = stepping(60)(jnp.asarray(matrix.astype(np.float32)), jnp.asarray(start)).krylov
        assert int(part.num_restarts) >= 1
        basis, residual = np.asarray(part.basis, np.float64), np.asarray(part.residual_block, np.float64)
        # Predicted matvecs: A V = V H + d b^H.
        predicted = np.asarray(part.matrix, np.float64).T @ basis + np.outer(part.coupling[0], residual)
        discrepancy = np.linalg.norm(basis @ matrix.T - predicted, axis=1)
        # The bound is the tolerance: locked pairs have converged to it.
        assert discrepancy.max() <= np.finfo(np.float32).eps ** 0.5 * np.linalg.norm(matrix, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", far_from_normal())
def test_every_cut_of_the_schur_basis_is_invariant(name):
    matrix = jnp.asarray(far_from_normal()[name].astype(np.float32)[:20, :20])
    part = orthonormalized(begin(jnp.ones((1, 20), jnp.float32), 20, seed_of(None)))
    part = part._replace(valid=jnp.ones(20, bool), matrix=matrix)
    basis = jax.jit(lambda part: schur_basis(part, general_ritz_pairs(part, "LM", real=True), "LM"))(part)
    vectors, small = np.asarray(basis.coefficients, np.float64), np.asarray(matrix, np.float64)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(small, 2)
    assert np.abs(vectors.T @ vectors - np.eye(20)).max() < 1e-6
    for cut in range(1, 20):
        if not basis.second[cut]:
            images = small @ vectors[:, :cut]
            outside = images - vectors[:, :cut] @ (vectors[:, :cut].T @ images)
            assert np.linalg.norm(outside, axis=0).max() <= 64 * rounding


solve = jax.jit(eigs, static_argnames=("k", "which", "verify"))


def check_residuals(result, matrix, tol):
    wide, vectors = matrix.astype(np.float64), np.asarray(result.eigenvectors, complex)
    residuals = np.linalg.norm(vectors @ wide.T - np.asarray(result.eigenvalues)[:, None] * vectors, axis=1)
    rounding = np.finfo(matrix.dtype).eps * np.linalg.norm(wide, 2)
    assert np.abs(residuals - np.asarray(result.residuals)).max() <= 30 * rounding
    assert residuals.max() <= tol * np.linalg.norm(wide, 2) + 30 * rounding


@pytest.mark.slow
def test_residuals_and_status_far_from_normal_are_correct_in_float32():
    for name, matrix in far_from_normal().items():
        matrix = matrix.astype(np.float32)
        result = solve(jnp.asarray(matrix), k=K)
        # An interrupted search that has not converged must not displace converged pairs.
        assert bool(jnp.all(result.converged)), name
        assert int(result.status) in (Status.CONVERGED, Status.UNVERIFIED), name
        check_residuals(result, matrix, np.finfo(np.float32).eps ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("drift", [0.25, 0.32])
def test_a_search_in_float32_ends_where_rounding_leaves_eigenvalues_apart(drift):
    matrix = convection(drift).astype(np.float32)
    result = solve(jnp.asarray(matrix), k=K)
    assert int(result.status) == Status.CONVERGED
    check_residuals(result, matrix, 2e-6)
    np.testing.assert_allclose(result.eigenvalues, top_of_convection(drift, SIZE, K), atol=5e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("drift", [0.5, 0.58])
def test_a_search_ends_where_eigenvalues_are_ill_conditioned_but_determined(drift):
    # Condition numbers of 1e7 to 1e9: residuals of tol / 10 would leave eigenvalue errors above tol.
    result = solve(jnp.asarray(convection(drift)), k=K)
    assert int(result.status) == Status.CONVERGED
    check_residuals(result, convection(drift), 1e-8)
    np.testing.assert_allclose(result.eigenvalues, top_of_convection(drift, SIZE, K), atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_copies_of_ill_conditioned_eigenvalues_are_found():
    # Two copies of one matrix, rotated: every eigenvalue is double.
    twice = scipy.linalg.block_diag(convection(0.4, SIZE // 2), convection(0.4, SIZE // 2))
    rotation = np.linalg.qr(np.random.default_rng(8).normal(size=(SIZE, SIZE)))[0]
    result = solve(jnp.asarray(rotation @ twice @ rotation.T), k=4)
    assert int(result.status) == Status.CONVERGED
    true = np.repeat(top_of_convection(0.4, SIZE // 2, 2), 2)
    np.testing.assert_allclose(result.eigenvalues, true, atol=1e-6)


def test_pairs_that_have_not_converged_come_last_and_conjugate_pairs_stay_together():
    values = jnp.array([5.0, 4 + 1j, 4 - 1j, 3.0, 2.0], jnp.complex64)
    found = no_pairs(5, jnp.complex64, jnp.float32)._replace(
        values=values,
        coefficients=jnp.eye(5, dtype=jnp.complex64),
        residuals=jnp.array([1e-6, 1e-6, 1.0, 1.0, 1e-6], jnp.float32),
        paired=jnp.array([False, True, False, False, False]),
    )
    ordered = converged_first(found, jnp.float32(1e-3))
    np.testing.assert_allclose(ordered.values, [5, 2, 4 + 1j, 4 - 1j, 3])
    np.testing.assert_array_equal(np.argmax(np.abs(ordered.coefficients), axis=0), [0, 4, 1, 2, 3])
