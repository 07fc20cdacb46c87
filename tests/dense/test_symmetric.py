"""Eigenvalues of `eigh` against NumPy, derivatives against differences of NumPy, finite at repeated eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

from eigenjax import eigh

SIZE = 6
# Ascending eigenvalues, and weights that are equal within each cluster.
SPECTRA = {
    "distinct": ([-2.0, -1.0, 0.5, 1.0, 2.5, 4.0], [1.0, -0.5, 2.0, 0.3, 0.0, 1.5]),
    "double and triple": ([-2.0, 1.0, 1.0, 1.0, 4.0, 4.0], [0.0, 2.0, 2.0, 2.0, -1.0, -1.0]),
    "nearly so": ([-2.0, 1.0, 1.0 + 1e-10, 1.0 + 2e-10, 4.0, 4.0 + 1e-10], [0.0, 2.0, 2.0, 2.0, -1.0, -1.0]),
    "rank two": ([0.0, 0.0, 0.0, 0.0, 1.0, 3.0], [0.7, 0.7, 0.7, 0.7, 2.0, -1.0]),
    "projector": ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
}


def hermitian(a):
    return (a + a.conj().T) / 2


def subspace_loss(values, vectors, weights, probe, xp):
    """Compute a loss of sum_i weights_i v_i v_i^H and sum_i weights_i lambda_i, defined if clusters share a weight."""
    mixed = (vectors * weights.astype(vectors.dtype)[None, :]) @ vectors.conj().T
    return xp.sum(xp.abs(mixed * probe) ** 2) + xp.real(xp.trace(mixed @ probe)) + xp.sum(weights * values) ** 2


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("complex_entries", [False, True])
def test_derivatives_of_what_the_subspaces_determine(complex_entries, check, draw):
    loss = lambda a, weights, probe, tol: subspace_loss(*eigh(a, degeneracy_tol=tol), weights, probe, jnp)
    truth = lambda a, weights, probe, _: subspace_loss(*np.linalg.eigh(hermitian(a)), weights, probe, np)
    compiled = check.derivatives(loss)
    for values, weights in SPECTRA.values():
        a = draw.with_spectrum(values, complex_entries)
        probe, direction = (draw.hermitian(SIZE, SIZE, complex_entries=complex_entries) for _ in range(2))
        check.assert_derivatives(compiled, truth, a, direction, np.asarray(weights), probe, 1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("complex_entries", [False, True])
def test_generalised_in_both_matrices(complex_entries, check, draw):
    def loss(x, weights, probe, x_bar, y, y_bar):
        return subspace_loss(*eigh(x_bar * x + y_bar, x * (1 - x_bar) + y), weights, probe, jnp)

    def truth(x, weights, probe, x_bar, y, y_bar):
        pencil = hermitian(x_bar * x + y_bar), hermitian(x * (1 - x_bar) + y)
        return subspace_loss(*scipy.linalg.eigh(*pencil), weights, probe, np)

    compiled = check.derivatives(loss)
    zero = np.zeros((SIZE, SIZE), complex if complex_entries else float)
    for name in ("distinct", "double and triple"):
        values, weights = map(np.asarray, SPECTRA[name])
        factor = draw(SIZE, SIZE, complex_entries=complex_entries) * 0.3 + np.eye(SIZE)
        b = factor @ factor.conj().T
        a = factor @ draw.with_spectrum(values, complex_entries) @ factor.conj().T
        probe, direction = (draw.hermitian(SIZE, SIZE, complex_entries=complex_entries) for _ in range(2))
        one = np.asarray(1.0, zero.dtype)
        # The derivative in a with b fixed, then in b with a fixed.
        check.assert_derivatives(compiled, truth, a, direction, weights, probe, one, b, zero)
        check.assert_derivatives(compiled, truth, b, direction / 10, weights, probe, 0 * one, zero, a)


@pytest.mark.usefixtures("float64")
def test_eigenvectors_one_by_one(check, draw):
    weights = draw(SIZE, SIZE)
    compiled = check.derivatives(lambda a: jnp.sum(weights * eigh(a).eigenvectors ** 2))
    truth = lambda a: np.sum(weights * np.linalg.eigh(hermitian(a))[1] ** 2)
    check.assert_derivatives(compiled, truth, draw.hermitian(SIZE, SIZE), draw.hermitian(SIZE, SIZE))


@pytest.mark.usefixtures("float64")
def test_the_separated_vector_beside_a_double_eigenvalue():
    # The derivative is d v = (4 - 1)^-1 P dA v; the gradient is its symmetric part.
    matrix = jnp.diag(jnp.array([4.0, 1.0, 1.0]))

    def component(a):
        vectors = eigh(a).eigenvectors
        return vectors[1, 2] * jnp.sign(vectors[0, 2])

    assert_allclose(jax.jit(jax.grad(component))(matrix), [[0, 1 / 6, 0], [1 / 6, 0, 0], [0, 0, 0]], atol=1e-15)

    def projector(a):
        vectors = eigh(a).eigenvectors[:, :2]
        return vectors @ vectors.T

    expected = np.zeros((3, 3, 3, 3))
    for i in (1, 2):  # dP = -(E v v^T / 3 + transpose) for a perturbation E that couples e_0 and e_i
        expected[0, i, 0, i] = expected[0, i, i, 0] = expected[i, 0, 0, i] = expected[i, 0, i, 0] = -1 / 6
    assert_allclose(jax.jit(jax.jacrev(projector))(matrix), expected, atol=1e-15)
    assert_allclose(jax.jit(jax.jacfwd(projector))(matrix), expected, atol=1e-15)


@pytest.mark.usefixtures("float64")
def test_within_the_tolerance_exact_to_the_gap_beyond_it_to_rounding_over_the_gap(check, draw):
    # The default separates eigenvalues 1e-10 apart: derivatives of single vectors are defined, with error eps / gap.
    values, weights = map(np.asarray, SPECTRA["nearly so"])
    matrix, probe, direction = draw.with_spectrum(values), draw.hermitian(SIZE, SIZE), draw.hermitian(SIZE, SIZE)
    slope = jax.jit(
        lambda a, tol: jax.jvp(
            lambda a: subspace_loss(*eigh(a, degeneracy_tol=tol), jnp.asarray(weights), probe, jnp), (a,), (direction,)
        )[1]
    )
    truth = lambda a: subspace_loss(*np.linalg.eigh(hermitian(a)), weights, probe, np)
    expected = check.central_difference(truth, matrix, direction)
    assert_allclose(slope(matrix, 1e-9), expected, rtol=1e-8)
    assert_allclose(slope(matrix, 1e-13), expected, rtol=1e-4)


@pytest.mark.usefixtures("float64")
def test_what_cannot_be_told_within_a_cluster_is_what_the_docstring_says():
    # For exp(A) at A = 2 I the result is the diagonal of the derivative; the trace lacks the term f'' |E_ij|^2.
    change = jnp.array([[0.3, 0.5], [0.5, -0.2]])
    along = lambda function: lambda t: function(2 * jnp.eye(2) + t * change)

    def exponential(a):
        values, vectors = eigh(a)
        return (vectors * jnp.exp(values)[None, :]) @ vectors.T

    slope = jax.jit(jax.jacfwd(along(exponential)))(0.0)
    assert_allclose(slope, np.exp(2) * np.diag([0.3, -0.2]), rtol=1e-14)
    trace = along(lambda a: jnp.sum(jnp.exp(eigh(a).eigenvalues)))
    assert_allclose(jax.jit(jax.grad(trace))(0.0), np.exp(2) * 0.1, rtol=1e-13)
    assert_allclose(jax.jit(jax.grad(jax.grad(trace)))(0.0), np.exp(2) * (0.09 + 0.04), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("dtype_name", ["float32", "float64", "complex64", "complex128"])
def test_values_of_a_batch(dtype_name, draw):
    with jax.enable_x64(dtype_name in ("float64", "complex128")):
        a = draw.hermitian(3, 5, 5, complex_entries="complex" in dtype_name).astype(dtype_name)
        values, vectors = map(np.asarray, jax.jit(eigh)(a))
        assert (values.dtype, vectors.dtype) == (np.finfo(dtype_name).dtype, dtype_name)
        unit = 50 * np.finfo(dtype_name).eps
        assert_allclose(values, np.linalg.eigvalsh(a), atol=unit)
        assert_allclose(a @ vectors, vectors * values[:, None, :], atol=unit)
        assert_allclose(np.swapaxes(vectors, -1, -2).conj() @ vectors, np.broadcast_to(np.eye(5), a.shape), atol=unit)
        gradient = jax.grad(lambda a: jnp.sum(eigh(a).eigenvalues ** 2))
        one_by_one, together = jax.jit(jax.vmap(gradient))(a), jax.jit(gradient)(a)
        assert_allclose(one_by_one, together, atol=unit)
        assert_allclose(together, 2 * a.conj(), atol=10 * unit)


@pytest.mark.usefixtures("float64")
def test_generalised_values_and_a_second_matrix_that_is_not_positive(draw):
    a, factor = draw.hermitian(5, 5, complex_entries=True), draw(5, 5, complex_entries=True)
    b = factor @ factor.conj().T + np.eye(5)
    values, vectors = map(np.asarray, eigh(a, b))
    assert_allclose(values, scipy.linalg.eigh(a, b, eigvals_only=True), atol=1e-13)
    assert_allclose(vectors.conj().T @ b @ vectors, np.eye(5), atol=1e-13)
    assert np.all(np.isnan(eigh(a, -b).eigenvalues))
    assert np.all(np.isnan(np.abs(eigh(a, -b).eigenvectors)))


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3, 3), (1, 1)])
def test_empty_and_single(shape):
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(eigh(a).eigenvalues) + jnp.sum(eigh(a).eigenvectors)))
    assert_allclose(gradient(jnp.ones(shape)), np.ones(shape))


def test_nan_in_one_matrix_of_a_batch():
    batch = jnp.stack([jnp.full((3, 3), jnp.nan), jnp.eye(3)])
    values, vectors = eigh(batch)
    assert np.all(np.isnan(values[0]))
    assert np.all(np.isnan(vectors[0]))
    assert_allclose(values[1], 1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((jnp.ones((2, 3)),), ValueError, "a has shape"),
        ((jnp.ones(3),), ValueError, "a has shape"),
        ((jnp.eye(3, dtype=jnp.int32),), TypeError, r"a\.astype"),
        ((jnp.eye(3, dtype=jnp.bfloat16),), TypeError, r"a\.astype"),
        ((jnp.eye(3), jnp.eye(2)), ValueError, "one size"),
        ((jnp.eye(3), jnp.ones((3, 2))), ValueError, "b has shape"),
        ((jnp.eye(3), jnp.eye(3, dtype=jnp.complex64)), TypeError, "wider"),
    ],
)
def test_bad_input_is_named(arguments, error, match):
    with pytest.raises(error, match=match):
        eigh(*arguments)


def test_a_tolerance_is_one_number():
    with pytest.raises(ValueError, match=r"degeneracy_tol.*one number"):
        eigh(jnp.eye(2), degeneracy_tol=jnp.ones(2))
