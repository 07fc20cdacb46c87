"""`eigs` near a shift without an inverse (harmonic Ritz vectors), with a complex shift, and for which="SM"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import Status, as_operator, eigs, shift_inverse

pytestmark = pytest.mark.usefixtures("float64")

N = 120


def blocks(rng):
    """Return a matrix similar to blocks [x, y; -y, x]: conjugate pairs along the positive axis."""
    x = np.linspace(0.5, 10, N // 2)
    matrix = np.diag(np.repeat(x, 2))
    for i, y in enumerate(0.3 + 0.02 * np.arange(N // 2)):
        matrix[2 * i, 2 * i + 1], matrix[2 * i + 1, 2 * i] = y, -y
    basis = np.linalg.qr(rng.standard_normal((N, N)))[0] + 0.02 * rng.standard_normal((N, N))
    return np.linalg.solve(basis, matrix @ basis)


def check(result, matrix, sigma, *, slack=1e-6, rounding=1e-12):
    """Compare with all eigenvalues from LAPACK: the distances from sigma, and true residuals."""
    assert result.status == Status.CONVERGED
    values, found = np.linalg.eigvals(matrix), np.asarray(result.eigenvalues)
    expected = np.sort(np.abs(values - sigma))[: len(found)]
    assert_allclose(np.abs(found - sigma), expected, rtol=slack, atol=slack)
    assert np.max(np.abs(found[:, None] - values[None, :]).min(axis=1)) < slack
    x = np.asarray(result.eigenvectors)
    residuals = np.linalg.norm(x @ matrix.T - found[:, None] * x, axis=1)
    assert_allclose(result.residuals, residuals, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("k", [1, 4])
def test_the_smallest_eigenvalues_of_a_real_operator(k, rng):
    matrix = blocks(rng)
    result = eigs(jnp.asarray(matrix), k, which="SM")
    check(result, matrix, 0.0)
    assert result.num_matvecs < 600


@pytest.mark.slow
def test_real_eigenvalues_near_a_shift_inside(rng):
    basis = np.eye(N) + 0.1 * rng.standard_normal((N, N)) / np.sqrt(N)
    matrix = np.linalg.solve(basis, np.linspace(0.1, 10, N)[:, None] * basis)
    check(eigs(jnp.asarray(matrix), 4, sigma=3.02), matrix, 3.02)


@pytest.mark.slow
def test_a_complex_operator(rng):
    matrix = blocks(rng) * (1 + 1j)
    check(eigs(jnp.asarray(matrix), 3, which="SM"), matrix, 0.0)


def test_a_shift_at_an_eigenvalue_and_copies(rng):
    values = np.concatenate([np.linspace(1, 5, N - 3), [0.0, 0.25, 0.25]])
    basis = np.linalg.qr(rng.standard_normal((N, N)))[0]
    matrix = basis @ np.diag(values) @ basis.T + 0.05 * basis[:, :1] @ basis[:, 5:6].T
    result = eigs(jnp.asarray(matrix), 3, which="SM")
    check(result, matrix, 0.0)
    assert_allclose(np.sort(result.eigenvalues.real), [0.0, 0.25, 0.25], atol=1e-7)


def test_a_complex_shift_of_a_real_operator(rng):
    matrix, sigma = blocks(rng), 0.4 + 0.8j
    result = eigs(jnp.asarray(matrix), 3, sigma=sigma)
    check(result, matrix, sigma)
    inverted = eigs(jnp.asarray(matrix), 3, sigma=sigma, inverse=shift_inverse(matrix, sigma))
    check(inverted, matrix, sigma, slack=1e-8)
    assert_allclose(inverted.eigenvalues, result.eigenvalues, rtol=1e-6)
    assert inverted.num_solves < 60
    dense = eigs(jnp.asarray(matrix), 3, sigma=sigma, dense=True)
    assert_allclose(dense.eigenvalues, inverted.eigenvalues, rtol=1e-8)


@pytest.mark.slow
def test_pytrees_jit_and_vmap(rng):
    matrix = jnp.asarray(blocks(rng))
    join, split = lambda v: jnp.concatenate(list(v)), lambda v: (v[:50], v[50:])
    op = as_operator(lambda v: split(matrix @ join(v)), like=split(jnp.zeros(N)))
    for sigma in (0.2, 0.3 + 0.7j):
        result = jax.jit(lambda s: eigs(op, 2, sigma=s))(sigma)
        assert result.status == Status.CONVERGED
        distances = np.sort(np.abs(np.linalg.eigvals(matrix) - sigma))[:2]
        assert_allclose(np.abs(result.eigenvalues - sigma), distances, rtol=1e-6)
    shifts = jnp.array([0.0, 0.2])
    batch = jax.vmap(lambda s: eigs(matrix, 2, sigma=s))(shifts)
    for i, sigma in enumerate(shifts):
        check(jax.tree.map(lambda x, i=i: x[i], batch), np.asarray(matrix), float(sigma))


@pytest.mark.parametrize("sigma", [0.2, pytest.param(0.3 + 0.8j, marks=pytest.mark.slow)])
def test_derivatives_are_those_of_differences(sigma, rng):
    matrix, direction = jnp.asarray(blocks(rng)), jnp.asarray(rng.standard_normal((N, N)) / np.sqrt(N))

    def loss(t):
        result = eigs(matrix + t * direction, 2, sigma=sigma, tol=1e-12)
        return jnp.abs(result.eigenvalues[0] - 1.0) ** 2 + jnp.abs(result.eigenvectors[0, 3]) ** 2

    def exact(t):
        values, vectors = np.linalg.eig(np.asarray(matrix + t * direction))
        nearest = np.argsort(np.abs(values - sigma) - 1e-9 * values.imag)[0]
        x = vectors[:, nearest] / np.linalg.norm(vectors[:, nearest])
        return np.abs(values[nearest] - 1.0) ** 2 + np.abs(x[3]) ** 2

    # Differences of fourth order.
    h = 2e-3
    values = np.array([exact(i * h) for i in range(-2, 3)])
    first, second = values @ [1, -8, 0, 8, -1] / (12 * h), values @ [-1, 16, -30, 16, -1] / (12 * h**2)
    assert_allclose(jax.grad(loss)(0.0), first, rtol=1e-6)
    assert_allclose(jax.grad(jax.grad(loss))(0.0), second, rtol=1e-5)


def test_float32(rng):
    matrix = blocks(rng).astype(np.float32)
    result = eigs(jnp.asarray(matrix), 2, which="SM")
    check(result, matrix.astype(np.float64), 0.0, slack=2e-3, rounding=1e-6)


def test_errors_name_the_remedy(rng):
    matrix = jnp.asarray(blocks(rng))
    with pytest.raises(ValueError, match="leave which out"):
        eigs(matrix, 2, which="LR", sigma=1.0)
    with pytest.raises(TypeError, match="give one finite number"):
        eigs(matrix, 2, sigma="one")
    with pytest.raises(ValueError, match="give one finite number"):
        eigs(matrix, 2, sigma=complex(float("nan"), 0.0))
    with pytest.raises(TypeError, match="needs complex128"):
        eigs(matrix, 2, sigma=1.0 + 1.0j, inverse=shift_inverse(matrix, 1.0))


@pytest.mark.usefixtures("dense_by_default")
def test_small_matrices_are_decomposed(rng):
    matrix = blocks(rng)
    for options, sigma in (({"which": "SM"}, 0.0), ({"sigma": 3.0}, 3.0), ({"sigma": 3.0 + 1.0j}, 3.0 + 1.0j)):
        check(eigs(jnp.asarray(matrix), 3, **options), matrix, sigma)
