"""`eigs` with an inverse: the eigenvalues nearest to a shift, of operators without symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from eigenjax import Status, as_operator, eigs, shift_inverse

pytestmark = pytest.mark.usefixtures("float64")

N = 150


def matrix(is_complex=False):
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal((N, N)) / np.sqrt(N)
    return draw() + (1j * draw() if is_complex else 0) + np.diag(np.linspace(-2, 2, N))


def nearest(a, sigma, k):
    values = np.linalg.eigvals(a)
    return values[np.argsort(np.abs(values - sigma), kind="stable")[:k]]


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_nearest_pairs_are_found_in_few_products(is_complex):
    a = matrix(is_complex)
    result = eigs(a, 4, sigma=0.3, inverse=shift_inverse(a, 0.3))
    assert result.status == Status.CONVERGED
    expected = nearest(a, 0.3, 6)
    distances = np.abs(np.asarray(result.eigenvalues)[:, None] - expected[None, :]).min(axis=1)
    assert np.max(distances) < 1e-9
    np.testing.assert_allclose(np.sort(np.abs(result.eigenvalues - 0.3)), np.abs(expected[:4] - 0.3), rtol=1e-9)
    x = np.asarray(result.eigenvectors)
    residuals = np.linalg.norm(x @ a.T - np.asarray(result.eigenvalues)[:, None] * x, axis=1)
    np.testing.assert_allclose(result.residuals, residuals, rtol=1e-5, atol=1e-13)
    assert result.num_solves < 80
    assert result.num_matvecs == (4 if is_complex else 8) + 1


def test_sparse_matrices_and_pytrees():
    convection = scipy.sparse.diags([-1.02, 2.0, -0.98], [-1, 0, 1], (N, N)).tocsr()
    result = eigs(convection, 3, inverse=shift_inverse(convection))
    np.testing.assert_allclose(result.eigenvalues, nearest(convection.toarray(), 0.0, 3), rtol=1e-6)
    a = jnp.asarray(matrix())
    join, split = lambda v: jnp.concatenate(list(v)), lambda v: (v[:50], v[50:])
    op = as_operator(lambda v: split(a @ join(v)), like=split(jnp.zeros(N)))
    found = eigs(op, 2, sigma=0.3, inverse=lambda v: split(jnp.linalg.solve(a - 0.3 * jnp.eye(N), join(v))))
    np.testing.assert_allclose(np.abs(found.eigenvalues - 0.3), np.abs(nearest(a, 0.3, 2) - 0.3), rtol=1e-9)


def test_a_wrong_inverse_is_told():
    a = matrix()
    result = eigs(a, 2, sigma=0.3, inverse=shift_inverse(a + np.diag(np.linspace(0, 1, N)), 0.3))
    assert result.status == Status.INCONSISTENT
    assert not jnp.any(result.converged)


def test_the_gradient_of_an_eigenvalue_is_that_of_differences():
    rng = np.random.default_rng(1)
    a, direction = np.diag(np.linspace(-2, 2, N)) + 0.002 * rng.standard_normal((N, N)), rng.standard_normal((N, N)) / N
    inverse = shift_inverse(a, 2.5)
    assert np.isreal(nearest(a, 2.5, 1)[0])
    loss = lambda t: eigs(jnp.asarray(a) + t * direction, 1, sigma=2.5, inverse=inverse).eigenvalues[0].real
    h = 1e-5
    expected = (nearest(a + h * direction, 2.5, 1)[0] - nearest(a - h * direction, 2.5, 1)[0]).real / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), expected, rtol=1e-6)


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="leave which out"):
        eigs(matrix(), 2, which="LR", inverse=matrix())
    with pytest.raises(TypeError, match="inverse="):
        eigs(matrix(), 2, inverse="lu")
    with pytest.raises(ValueError, match="inverse"):
        eigs(matrix(), 2, inverse=np.eye(3))
