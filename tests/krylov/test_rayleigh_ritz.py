"""Ritz pairs and harmonic Ritz pairs of a decomposition, against dense pencils in NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eigenjax import Status, as_operator, eigsh
from eigenjax.krylov.decomposition import begin
from eigenjax.krylov.expansion import expand, orthonormalized
from eigenjax.krylov.rayleigh_ritz import harmonic_pairs, ritz_pairs
from eigenjax.solvers.symmetric import restarted_lanczos
from eigenjax.vectors.pseudorandom import seed_of

pytestmark = pytest.mark.usefixtures("float64")

N, M, K = 60, 15, 3
SPECTRUM = np.linspace(-4, 4, N) ** 3 / 8
SIGMA = 0.7


@functools.partial(jax.jit, static_argnames="block_size")
def grown(matrix, block_size, steps):
    starts = jax.random.normal(jax.random.key(0), (block_size, N), jnp.float64).astype(matrix.dtype)
    state = orthonormalized(begin(starts, M, seed_of(jax.random.key(1))))
    return jax.lax.fori_loop(0, steps, lambda _, state: expand(as_operator(matrix), state), state)


nearest = jax.jit(lambda state, sigma, target: harmonic_pairs(state, sigma, target, K))
at_an_end = jax.jit(ritz_pairs, static_argnames="which")

CASES = pytest.mark.parametrize(
    ("block_size", "steps", "is_complex"),
    [(3, 5, False), pytest.param(1, 11, False, marks=pytest.mark.slow), (1, 15, True)],
)


def residuals_of(state, found, matrix):
    vectors = np.asarray(found.coefficients).T @ np.asarray(state.basis)
    return np.linalg.norm(vectors @ matrix.T - np.asarray(found.values)[:, None] * vectors, axis=1)


@pytest.mark.slow
@CASES
def test_ritz_pairs_are_those_of_numpy_in_the_order_wanted(block_size, steps, is_complex, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    state = grown(jnp.asarray(matrix), block_size, steps)
    num_valid = block_size * steps
    expected = np.linalg.eigvalsh(np.asarray(state.matrix)[:num_valid, :num_valid])
    orders = {"SA": expected, "LM": expected[np.argsort(-np.abs(expected))]}
    for which, values in orders.items():
        found = at_an_end(state, which=which)
        np.testing.assert_allclose(found.values[:num_valid], values, rtol=0, atol=1e-12)
        valid = np.isfinite(found.residuals)
        assert (valid == (np.arange(M) < num_valid)).all()
        np.testing.assert_allclose(
            found.residuals[valid], residuals_of(state, found, matrix)[valid], rtol=0, atol=1e-12
        )


@CASES
def test_harmonic_pairs_are_those_of_scipys_pencil(block_size, steps, is_complex, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    state = grown(jnp.asarray(matrix), block_size, steps)
    num_valid = block_size * steps
    for target in (SIGMA, -1.3):
        found = nearest(state, SIGMA, target)
        projected, coupling = (
            np.asarray(state.matrix)[:num_valid, :num_valid],
            np.asarray(state.coupling)[:, :num_valid],
        )
        shifted = projected - target * np.eye(num_valid)
        reciprocals, vectors = scipy.linalg.eigh(shifted, shifted @ shifted + coupling.conj().T @ coupling)
        wanted, _ = np.linalg.qr(vectors[:, np.argsort(-np.abs(reciprocals))[: K + 2]])
        ours = np.asarray(found.coefficients)[:num_valid, : K + 2]
        np.testing.assert_allclose(ours @ ours.conj().T, wanted @ wanted.conj().T, rtol=0, atol=1e-9)
        # Within their span a Rayleigh-Ritz step follows, ordered by the distance to sigma.
        values = np.linalg.eigvalsh(wanted.conj().T @ projected @ wanted)
        values = values[np.argsort(np.abs(values - SIGMA))]
        np.testing.assert_allclose(found.values[: K + 2], values, rtol=0, atol=1e-9)


@CASES
def test_harmonic_coefficients_are_orthonormal_and_residuals_true(block_size, steps, is_complex, rotated):
    matrix = rotated(SPECTRUM, is_complex=is_complex)
    state = grown(jnp.asarray(matrix), block_size, steps)
    found = nearest(state, SIGMA, SIGMA)
    num_valid = block_size * steps
    coefficients = np.asarray(found.coefficients)[:, :num_valid]
    np.testing.assert_allclose(coefficients.conj().T @ coefficients, np.eye(num_valid), rtol=0, atol=1e-12)
    assert (np.isfinite(found.residuals) == (np.arange(M) < num_valid)).all()
    true = residuals_of(state, found, matrix)[:num_valid]
    np.testing.assert_allclose(found.residuals[:num_valid], true, rtol=0, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 3])
def test_a_decomposition_near_a_number_survives_its_restarts(block_size, rotated):
    matrix = rotated(SPECTRUM)
    op = as_operator(jnp.asarray(matrix))
    spec = restarted_lanczos.SolveSpec(k=K, which="LA", interior=True, verify=False, max_matvecs=10_000)
    starts = jax.random.normal(jax.random.key(0), (block_size, N), jnp.float64)
    state = restarted_lanczos.init(starts, spec, krylov_dim=M, first_check=K, seed=seed_of(jax.random.key(1)))
    step = jax.jit(lambda op, state: restarted_lanczos.step(op, state, spec, tol=1e-12, sigma=SIGMA))
    for _ in range(40):
        state = step(op, state)
    held = state.krylov
    assert int(held.num_restarts) >= 4
    basis, residual_block = np.asarray(held.basis), np.asarray(held.residual_block)
    rows = np.concatenate([basis[np.asarray(held.valid)], residual_block])
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), rtol=0, atol=1e-12)
    defect = matrix @ basis.T - basis.T @ np.asarray(held.matrix) - residual_block.T @ np.asarray(held.coupling)
    np.testing.assert_allclose(defect, 0, atol=1e-10)


def cycle(n):
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0)


def free_path(n):
    ends = np.zeros((n, n))
    ends[0, 0] = ends[-1, -1] = 1
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1) - ends


def near_problems(rotated):
    """Return {name: (matrix (100, 100), sigma)}."""
    n = 100
    wide = rotated(np.linspace(-5, 5, n))
    path_values = 4 * np.sin(np.pi * np.arange(n) / (2 * n)) ** 2
    return {
        "zero of a path": (free_path(n), 0.0),
        "an interior eigenvalue of a path": (free_path(n), path_values[40]),
        "zero of a weighted cycle": (cycle(n) * 3 + np.diag(np.linspace(0, 1e-9, n)), 0.0),
        "an eigenvalue of a diagonal": (np.diag(np.arange(100.0)), 41.0),
        "between two": (wide, 0.0),
        "nearer to the one below": (wide, 1.2),
        "below all": (wide, -7.0),
        "above all": (wide, 7.0),
        "negative": (wide, -3.33),
        "of a huge operator": (1e12 * wide, 1.2e12),
        "of a tiny operator": (1e-12 * wide, 1.2e-12),
    }


@functools.cache
def near_solved(rotated):
    matrices, sigmas = zip(*near_problems(rotated).values(), strict=True)
    solve = lambda a, sigma: eigsh(a, 4, sigma=sigma, krylov_dim=40, tol=1e-9, verify=True)
    return jax.tree.map(np.asarray, jax.vmap(solve)(jnp.asarray(np.stack(matrices)), jnp.asarray(sigmas)))


@pytest.mark.slow
@pytest.mark.parametrize("name", near_problems(lambda values: np.diag(values)))
def test_the_eigenvalues_nearest_to_a_number_on_either_side(name, rotated):
    problems = near_problems(rotated)
    lane = [*problems].index(name)
    result = jax.tree.map(lambda x: x[lane], near_solved(rotated))
    matrix, sigma = problems[name]
    truth, size = np.linalg.eigvalsh(matrix), np.linalg.norm(matrix, 2)
    distances = np.abs(result.eigenvalues - sigma)
    np.testing.assert_allclose(distances, np.sort(np.abs(truth - sigma))[:4], rtol=0, atol=1e-9 * size)
    assert (np.abs(result.eigenvalues[:, None] - truth[None, :]).min(axis=1) <= 1e-9 * size).all()
    residuals = np.linalg.norm(result.eigenvectors @ matrix - result.eigenvalues[:, None] * result.eigenvectors, axis=1)
    np.testing.assert_allclose(residuals, result.residuals, rtol=0, atol=1e-12 * size)
    assert int(result.status) == Status.CONVERGED


@pytest.mark.slow
def test_the_smallest_magnitudes_of_a_complex_operator_are_those_nearest_to_zero(rotated):
    values = np.concatenate([[0.02, -0.05, 0.3, -0.31], np.linspace(1, 6, 38), -np.linspace(1, 6, 38)])
    matrix = rotated(values, is_complex=True)
    result = eigsh(jnp.asarray(matrix), 4, which="SM", krylov_dim=40, tol=1e-10)
    np.testing.assert_allclose(result.eigenvalues, [0.02, -0.05, 0.3, -0.31], rtol=0, atol=1e-9)
    vectors = np.asarray(result.eigenvectors)
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(4), rtol=0, atol=1e-12)
    np.testing.assert_allclose(vectors @ matrix.T, values[:4, None] * vectors, rtol=0, atol=1e-8)
