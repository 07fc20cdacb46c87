"""`eigs(a, b=B)`: A x = lambda B x without symmetry, against LAPACK in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from numpy.testing import assert_allclose

from eigenjax import Status, as_operator, eigs, shift_inverse

pytestmark = pytest.mark.usefixtures("float64")

N = 90


def pair(rng, is_complex=False):
    draw = lambda: rng.standard_normal((N, N)) + (1j * rng.standard_normal((N, N)) if is_complex else 0)
    a = draw() / np.sqrt(N) + np.diag(np.linspace(0, 6, N))
    b = draw()
    return a, b @ b.conj().T / N + np.eye(N)


def check(result, a, b, key, *, slack=1e-6):
    """Compare the values that `key` ranks first with those of LAPACK, and the residuals with true ones."""
    assert result.status == Status.CONVERGED
    values, found = scipy.linalg.eigvals(a, b), np.asarray(result.eigenvalues)
    assert_allclose(key(found), np.sort(key(values))[: len(found)], rtol=slack, atol=slack)
    assert np.max(np.abs(found[:, None] - values[None, :]).min(axis=1)) < slack
    x = np.asarray(result.eigenvectors)
    assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-6)
    residuals = np.linalg.norm(x @ a.T - found[:, None] * (x @ b.T), axis=1)
    assert_allclose(result.residuals, residuals, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("is_complex", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_largest_eigenvalues(is_complex, rng):
    a, b = pair(rng, is_complex)
    result = eigs(jnp.asarray(a), 4, b=jnp.asarray(b))
    check(result, a, b, lambda x: -np.abs(x))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["SR", "LI"])
def test_other_ends(which, rng):
    a, b = pair(rng)
    key = {"SR": lambda x: x.real, "LI": lambda x: -np.abs(x.imag)}[which]
    check(eigs(jnp.asarray(a), 3, which=which, b=jnp.asarray(b)), a, b, key)


@pytest.mark.parametrize("sigma", [1.7, pytest.param(1.7 + 0.4j, marks=pytest.mark.slow)])
def test_shift_invert(sigma, rng):
    a, b = pair(rng)
    result = eigs(jnp.asarray(a), 4, b=jnp.asarray(b), sigma=sigma, inverse=shift_inverse(a, sigma, b))
    check(result, a, b, lambda x: np.abs(x - sigma), slack=1e-8)
    assert result.num_solves < 100


def test_a_semidefinite_b_with_an_inverse(rng):
    a, b = pair(rng)
    b[:, :10] = b[:10, :] = 0.0
    result = eigs(jnp.asarray(a), 3, b=jnp.asarray(b), sigma=0.5, inverse=shift_inverse(a, 0.5, b))
    assert result.status == Status.CONVERGED
    values = scipy.linalg.eigvals(a, b)
    distances = np.sort(np.abs(values[np.isfinite(values) & (np.abs(values) < 1e8)] - 0.5))[:3]
    assert_allclose(np.abs(result.eigenvalues - 0.5), distances, rtol=1e-8)


@pytest.mark.slow
def test_a_sparse_mass_matrix_and_pytrees(rng):
    # Convection and diffusion by linear finite elements.
    h = 1 / (N + 1)
    stiffness = scipy.sparse.diags([-1 / h - 3, 2 / h, -1 / h + 3], [-1, 0, 1], (N, N)).tocsr()
    mass = scipy.sparse.diags([h / 6, 4 * h / 6, h / 6], [-1, 0, 1], (N, N)).tocsr()
    dense = stiffness.toarray(), mass.toarray()
    result = eigs(stiffness, 3, b=mass, inverse=shift_inverse(stiffness, 0.0, mass))
    check(result, *dense, np.abs)
    largest = eigs(stiffness, 2, b=mass)
    check(largest, *dense, lambda x: -np.abs(x))
    join, split = lambda v: jnp.concatenate(list(v)), lambda v: (v[:50], v[50:])
    a, b = map(jnp.asarray, dense)
    op = as_operator(lambda v: split(a @ join(v)), like=split(jnp.zeros(N)))
    found = eigs(op, 2, b=lambda v: split(b @ join(v)))
    assert_allclose(found.eigenvalues, largest.eigenvalues, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
def test_derivatives_are_those_of_differences(shifted, rng):
    a, b = pair(rng)
    da = rng.standard_normal((N, N)) / np.sqrt(N)
    db = rng.standard_normal((N, N)) / np.sqrt(N)
    db, weights = db + db.T, rng.standard_normal(N)
    sigma = 6.0 if shifted else None
    inverse = shift_inverse(a, sigma, b) if shifted else None

    def loss(t, u):
        first, second = jnp.asarray(a) + t * da, jnp.asarray(b) + u * db
        inner = (
            None if inverse is None else shift_inverse(jax.lax.stop_gradient(first), 6.0, jax.lax.stop_gradient(second))
        )
        result = eigs(first, 2, b=second, sigma=sigma, inverse=inner, tol=1e-12)
        return jnp.abs(result.eigenvalues[0]) ** 2 + jnp.abs(result.eigenvectors[0] @ weights.astype(complex)) ** 2

    def exact(t, u):
        values, vectors = scipy.linalg.eig(a + t * da, b + u * db)
        i = np.argmin(np.abs(values - sigma) if shifted else -np.abs(values))
        x = vectors[:, i] / np.linalg.norm(vectors[:, i])
        return np.abs(values[i]) ** 2 + np.abs(x @ weights) ** 2

    h = 2e-4
    grid = np.arange(-2, 3) * h
    gradient = jax.grad(loss, (0, 1))
    of_a, of_b = np.array([exact(t, 0) for t in grid]), np.array([exact(0, u) for u in grid])
    first = np.array([1, -8, 0, 8, -1]) / (12 * h)
    assert_allclose(gradient(0.0, 0.0), (of_a @ first, of_b @ first), rtol=1e-6)
    mixed = (exact(h, h) - exact(h, -h) - exact(-h, h) + exact(-h, -h)) / (4 * h**2)
    assert_allclose(jax.grad(lambda t: gradient(t, 0.0)[1])(0.0), mixed, rtol=1e-4)
    tangent = jax.jvp(
        lambda u: eigs(jnp.asarray(a), 1, b=jnp.asarray(b) + u * db, derivative="forward").eigenvalues[0],
        (0.0,),
        (1.0,),
    )[1]
    if not shifted:
        value = lambda u: max(scipy.linalg.eigvals(a, b + u * db), key=np.abs)
        assert_allclose(tangent.real, (value(h) - value(-h)).real / (2 * h), rtol=1e-5)


def test_an_indefinite_b_and_a_wrong_inverse_are_told(rng):
    a, b = pair(rng)
    indefinite = eigs(jnp.asarray(a), 2, b=jnp.asarray(b - 3 * np.eye(N)))
    assert indefinite.status == Status.INCONSISTENT
    assert not np.any(indefinite.converged)
    wrong = eigs(jnp.asarray(a), 2, b=jnp.asarray(b), sigma=1.7, inverse=shift_inverse(a, 1.7))
    assert wrong.status == Status.INCONSISTENT


def test_errors_name_the_argument(rng):
    a, b = pair(rng)
    with pytest.raises(ValueError, match="eigs: b"):
        eigs(jnp.asarray(a), 2, b=jnp.asarray(b[:5, :5]))
    with pytest.raises(TypeError, match="b="):
        eigs(jnp.asarray(a), 2, b="mass")
    with pytest.raises(TypeError, match="make the operator complex too"):
        eigs(jnp.asarray(a), 2, b=jnp.asarray(b + 0j))


@pytest.mark.usefixtures("dense_by_default")
def test_small_matrices_are_decomposed(rng):
    a, b = pair(rng)
    check(eigs(jnp.asarray(a), 4, b=jnp.asarray(b)), a, b, lambda x: -np.abs(x), slack=1e-9)
    check(eigs(jnp.asarray(a), 4, b=jnp.asarray(b), sigma=2.0 + 0.1j), a, b, lambda x: np.abs(x - 2 - 0.1j), slack=1e-9)
    loss = lambda t: jnp.abs(eigs(jnp.asarray(a), 1, b=jnp.asarray(b) + t * jnp.eye(N)).eigenvalues[0])
    exact = lambda t: np.max(np.abs(scipy.linalg.eigvals(a, b + t * np.eye(N))))
    assert_allclose(jax.grad(loss)(0.0), (exact(1e-5) - exact(-1e-5)) / 2e-5, rtol=1e-6)
