"""Diagnostics of a gradient: `gauge_residual` and `adjoint_info`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import EigenResult, adjoint_info, eigs, eigsh, gauge_residual, lanczos, left_eigenvectors, svds
from eigenjax.solvers.linear.minres import minres_together

SIZE, K = 30, 4

pytestmark = pytest.mark.usefixtures("float64")


def clustered(rng, *, complex_entries=False):
    """Return a matrix with eigenvalues 6, 6, 6, 4 above the others in [-2, 2], and these eigenvalues."""
    noise = rng.normal(size=(SIZE, SIZE)) + 1j * complex_entries * rng.normal(size=(SIZE, SIZE))
    vectors, _ = np.linalg.qr(noise if complex_entries else noise.real)
    values = np.concatenate([[6.0, 6.0, 6.0, 4.0], np.linspace(2, -2, SIZE - 4)])
    matrix = (vectors * values) @ vectors.conj().T
    return jnp.asarray((matrix + matrix.conj().T) / 2), values


@pytest.mark.slow
@pytest.mark.parametrize("complex_entries", [False, True])
def test_the_gauge_residual_is_zero_for_projectors_and_half_the_slope_of_a_turn_for_others(complex_entries, rng):
    matrix, values = clustered(rng, complex_entries=complex_entries)
    result = lanczos(matrix, K, which="LA", krylov_dim=SIZE)
    assert_allclose(result.eigenvalues, values[:K], atol=1e-10)
    weights = matrix @ jnp.diag(jnp.arange(SIZE).astype(matrix.dtype)) @ matrix
    energy = lambda x: jnp.real(jnp.conj(x) @ weights @ x)
    of_projectors = lambda x: (energy(x[0]) + energy(x[1]) + energy(x[2])) * energy(x[3])
    of_one = lambda x: energy(x[1]) * energy(x[3])
    residual = lambda loss: gauge_residual(result, jax.grad(loss)(result.eigenvectors))
    scale = float(jnp.max(jnp.abs(jax.grad(of_projectors)(result.eigenvectors))))
    assert residual(of_projectors) < 1e-12 * scale
    assert residual(lambda x: energy(x[3])) < 1e-12 * scale

    def turned(angle, i, j, phase=1.0):
        x = result.eigenvectors
        x_i = math.cos(angle) * x[i] + math.sin(angle) * phase * x[j]
        x_j = math.cos(angle) * x[j] - math.sin(angle) * phase.conjugate() * x[i]
        return of_one(x.at[i].set(x_i).at[j].set(x_j))

    h = 1e-5
    phases = (1.0, 1j) if complex_entries else (1.0,)
    # The maximum of the slope over phases is that of the modulus.
    slope = lambda i, j, phase: (turned(h, i, j, phase) - turned(-h, i, j, phase)) / (2 * h)
    slopes = [np.linalg.norm([slope(i, j, phase) for phase in phases]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert_allclose(residual(of_one), max(slopes) / 2, rtol=1e-6)


def test_a_loss_of_the_phase_has_a_derivative_and_a_cotangent_of_the_whole_result_is_taken(rng):
    matrix, _ = clustered(rng, complex_entries=True)
    result = lanczos(matrix, 1, which="SA", krylov_dim=SIZE)
    of_phase = jax.grad(lambda x: jnp.sum(x.real**3))(result.eigenvectors)
    assert gauge_residual(result, of_phase) < 1e-14
    several = lanczos(matrix, K, which="LA", krylov_dim=SIZE)
    free = jax.grad(lambda x: jnp.sum(jnp.abs(x[3]) ** 4))(several.eigenvectors)
    # For one vector of a cluster, not even the phase is defined.
    of_phase = jax.grad(lambda x: jnp.imag(x[1, 0] * jnp.conj(x[1, 1])))(several.eigenvectors)
    whole = EigenResult(*[None] * 6)._replace(eigenvalues=jnp.ones(K), eigenvectors=of_phase)
    assert gauge_residual(several, free) < 1e-14
    assert gauge_residual(several, of_phase) > 1e-4
    assert gauge_residual(several, whole) == gauge_residual(several, of_phase)
    with pytest.raises(ValueError, match="cotangent of the eigenvectors"):
        gauge_residual(result, of_phase[0])


@pytest.mark.slow
def test_adjoint_info_tells_how_the_solves_went(rng):
    matrix, _ = clustered(rng)
    solve = jax.jit(functools.partial(eigsh, k=K, krylov_dim=20), static_argnames="verify")
    cotangent = jnp.asarray(rng.normal(size=(K, SIZE)))
    for tol in (1e-3, 1e-12):
        result = solve(matrix, tol=tol, verify=True)
        info = adjoint_info(matrix, result, cotangent)
        assert np.all(info.converged)
        assert info.num_steps <= info.num_matvecs <= K * info.num_steps
        assert np.all(np.asarray(info.residuals) <= np.maximum(info.targets, 1e-13))
    tight = adjoint_info(matrix, result, cotangent, adjoint_tol=1e-11)
    loose = adjoint_info(matrix, result, cotangent, adjoint_tol=1e-2)
    assert loose.num_matvecs < tight.num_matvecs
    assert np.all(tight.residuals < 1e-10)
    by_own_gaps = adjoint_info(matrix, result, cotangent, which="LA")
    assert np.all(by_own_gaps.converged)
    assert by_own_gaps.num_matvecs <= info.num_matvecs
    cut = adjoint_info(matrix, result, cotangent, adjoint_tol=1e-11, adjoint_max_iter=2)
    assert not np.any(cut.converged)
    assert cut.num_matvecs == 2 * K
    silent = adjoint_info(matrix, result, jnp.zeros((K, SIZE)))
    assert silent.num_matvecs == 0
    assert np.all(silent.converged)
    assert_allclose(info.gauge, gauge_residual(result, cotangent), rtol=1e-12)


def test_systems_side_by_side_are_those_one_by_one_and_rest_when_they_are_done(rng):
    matrix, _ = clustered(rng)
    shifts, rhs = jnp.array([9.0, 0.03, 3.0, 7.0]), jnp.asarray(rng.normal(size=(K, SIZE)))
    apply = lambda v: v @ matrix - shifts[:, None] * v
    solve = jax.jit(lambda rhs: minres_together(apply, rhs, targets=lambda x: jnp.full(K, 1e-9), max_iter=200))
    found = solve(rhs.at[3].set(0.0))
    for shift, x, b in zip(shifts[:3], found.solution, rhs, strict=False):
        assert_allclose(x, np.linalg.solve(matrix - shift * np.eye(SIZE), b), rtol=1e-6, atol=1e-6)
    assert not np.any(found.solution[3])
    assert found.num_matvecs[3] == 0
    assert found.num_matvecs[0] < found.num_matvecs[1]


def dense_slope(matrix, order, weights, direction):
    """Differentiate sum_i <w_i, |v_i|^2> along a direction, by dense bordered systems of NumPy's eigenpairs.

    There is one pair for each weight: those with the smallest values of `order`.
    """
    values, vectors = np.linalg.eig(matrix)
    n, slope = len(values), 0.0
    for i, weight in zip(np.argsort(order(values)), weights, strict=False):
        v = vectors[:, i]
        bordered = np.block([[matrix - values[i] * np.eye(n), -v[:, None]], [v.conj()[None], np.zeros((1, 1))]])
        dv = np.linalg.solve(bordered, np.append(-direction @ v, 0))[:n]
        slope += np.sum(weight * 2 * np.real(v.conj() * dv))
    return slope


@pytest.mark.slow
def test_of_general_pairs_it_tells_where_the_solve_ends_early_and_the_condition_where_pairs_are_wrong(rng):
    n, k = 100, 2
    weights, direction = rng.normal(size=(2, n, n))
    ones = lambda j: np.diag(np.ones(n - abs(j)), j)
    grcar = sum(ones(j) for j in range(4)) - ones(-1)  # eigenvalues with condition numbers up to 1e10
    loss = lambda x: jnp.sum(weights[:k] * jnp.abs(x) ** 2)

    @functools.partial(jax.jit, static_argnames="limit")
    def found(matrix, limit=None):
        options = {"adjoint_max_iter": limit}
        result = eigs(matrix, k, verify=False)
        info = adjoint_info(matrix, result, jax.grad(loss)(result.eigenvectors), **options)
        slope = jnp.sum(jax.grad(lambda a: loss(eigs(a, k, verify=False, **options).eigenvectors))(matrix) * direction)
        return info, slope, left_eigenvectors(matrix, result).conditions

    def error(matrix, slope):
        """Return the relative error of a slope."""
        order = lambda values: -np.abs(values) - 1e-9 * values.imag
        expected = dense_slope(matrix, order, weights[:k], direction)
        return abs(slope - expected) / abs(expected)

    matrix = rng.normal(size=(n, n)) / 10
    info, slope, conditions = found(jnp.asarray(matrix))
    assert np.all(info.converged)
    assert np.all(conditions < 100)
    assert info.gauge == 0
    assert np.all(np.asarray(info.residuals) <= np.maximum(info.targets, 1e-13))
    assert 0 < info.num_steps <= info.num_matvecs <= 2 * k * info.num_steps
    assert error(matrix, slope) < 1e-5
    early, slope, _ = found(jnp.asarray(grcar), limit=40)
    assert not np.any(early.converged)
    assert np.all(early.residuals > 10 * early.targets)
    assert np.isfinite(slope)
    # The systems are solved to rounding, but the pairs belong to another matrix.
    info, slope, conditions = found(jnp.asarray(grcar))
    assert np.all(info.converged)
    assert np.all(np.isinf(conditions))
    assert error(grcar, slope) > 0.1


@pytest.mark.slow
def test_of_triplets_it_tells_how_the_solves_went(rng):
    matrix = jnp.asarray(rng.normal(size=(SIZE, 20)))
    result = svds(matrix, K, tol=1e-10)
    cotangent = (jnp.asarray(rng.normal(size=(K, SIZE))), jnp.asarray(rng.normal(size=(K, 20))))
    info = adjoint_info(matrix, result, cotangent)
    assert np.all(info.converged)
    assert np.all(np.asarray(info.residuals) <= np.maximum(info.targets, 1e-13))
    assert info.gauge == 0
    cut = adjoint_info(matrix, result, cotangent, adjoint_max_iter=2)
    assert not np.any(cut.converged)
    # Each system takes two iterations, and one matvec to reduce it to the smaller side and back.
    assert cut.num_matvecs == 2 * (2 + 1) * K
    twice = jnp.eye(SIZE, 20) * jnp.array([[3.0, 3.0, *np.linspace(2, 0.1, 18)]])
    of_one = adjoint_info(twice, svds(twice, 3), jax.tree.map(lambda x: x[:3], cotangent))
    assert of_one.gauge > 0.1
    with pytest.raises(ValueError, match="cotangent of the singular vectors"):
        adjoint_info(matrix, result, cotangent[::-1])


@pytest.mark.slow
def test_systems_of_a_convection_diffusion_operator_converge(rng):
    # GMRES that restarts after 40 vectors stagnates here, at residuals a million times their targets.
    side, k = 30, 6
    line = lambda wind: (
        2 * np.eye(side) - np.diag(np.full(side - 1, 1 + wind), -1) - np.diag(np.ones(side - 1) - wind, 1)
    )
    matrix = np.kron(line(0.4), np.eye(side)) + 1.1 * np.kron(np.eye(side), line(0.2))
    weights = rng.normal(size=(k, side**2))
    loss = lambda x: jnp.sum(weights * jnp.abs(x) ** 2)
    result = eigs(jnp.asarray(matrix), k, which="LR", tol=1e-12, verify=False, dense=False)
    bars = jax.grad(loss)(result.eigenvectors)
    info = adjoint_info(jnp.asarray(matrix), result, bars)
    assert np.all(info.converged)
    direction = rng.normal(size=matrix.shape)
    solve = lambda a: eigs(a, k, which="LR", tol=1e-12, verify=False, dense=False).eigenvectors
    slope = jnp.sum(jax.grad(lambda a: loss(solve(a)))(jnp.asarray(matrix)) * direction)
    expected = dense_slope(matrix, lambda values: -values.real, weights, direction)
    assert abs(slope - expected) <= 1e-4 * abs(expected)
