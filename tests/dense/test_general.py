"""Eigenvalues of `eig` against NumPy, derivatives against differences of NumPy, finite derivatives everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import eig, eigenvalue_condition

SIZE = 5
# Eigenvalues, and weights that are equal within each cluster.
SPECTRA = {
    "distinct": ([-2.0, -1.0, 0.5, 1.5, 3.0], [1.0, -0.5, 2.0, 0.3, 1.5]),
    "double, semisimple": ([1.0, 1.0, 3.0, 3.0, -2.0], [1.5, 1.5, -0.5, -0.5, 2.0]),
    "zero, semisimple": ([0.0, 0.0, 0.0, 2.0, -1.0], [0.0, 0.0, 0.0, 1.0, 2.0]),
}


def projector_loss(values, vectors, planted, weights, probe, xp):
    """Compute a loss of sum_i weights_i P_i and sum_i weights_i lambda_i, for the spectral projectors P_i."""
    nearest = xp.argmin(xp.abs(values[:, None] - planted.astype(complex)[None, :]), axis=1)
    weights = weights[nearest].astype(complex)
    mixed = (vectors * weights[None, :]) @ xp.linalg.inv(vectors)
    return xp.sum(xp.abs(mixed * probe) ** 2) + xp.sum(mixed * probe).real + xp.abs(xp.sum(weights * values)) ** 2


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("complex_entries", [False, True])
def test_derivatives_of_what_the_subspaces_determine(complex_entries, check, draw):
    compiled = check.derivatives(lambda a, *data: projector_loss(*eig(a), *data, jnp))
    truth = lambda a, *data: projector_loss(*np.linalg.eig(a), *data, np)
    for values, weights in SPECTRA.values():
        basis = np.eye(SIZE) + 0.3 * draw(SIZE, SIZE, complex_entries=complex_entries)
        a = (basis * np.asarray(values)) @ np.linalg.inv(basis)
        direction = 0.1 * draw(SIZE, SIZE, complex_entries=complex_entries)
        probe = draw(SIZE, SIZE, complex_entries=True)
        check.assert_derivatives(compiled, truth, a, direction, np.asarray(values), np.asarray(weights), probe)


def dominant_component_loss(a, weights, xp, solve):
    """Compute sum |v_0|^2 weights for the dominant eigenvector; of a pair, the one with positive imaginary part."""
    values, vectors = solve(a)
    order = xp.abs(values) + 1e-9 * values.imag
    vector = vectors[:, xp.argmax(order)]
    return xp.sum(xp.abs(vector) ** 2 * weights)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [3, 7])
def test_all_entries_of_the_gradient_of_the_dominant_eigenvector(size, check, draw):
    weights = draw(size)
    gradient = jax.jit(jax.grad(lambda a: dominant_component_loss(a, weights, jnp, eig)))
    batched = jax.jit(jax.vmap(gradient))
    truth = lambda a: dominant_component_loss(a, weights, np, np.linalg.eig)
    matrices, is_real = [], []
    while len(matrices) < 4:  # two with a real dominant eigenvalue, two with a complex pair
        a = draw(size, size)
        values = np.linalg.eigvals(a)
        dominant = abs(values[np.argmax(abs(values))].imag) < 1e-12
        if is_real.count(dominant) < 2 and np.max(np.linalg.norm(np.linalg.inv(np.linalg.eig(a)[1]), axis=1)) < 5:
            matrices.append(a)
            is_real.append(dominant)
    units = np.eye(size * size).reshape(-1, size, size)
    expected = np.stack(
        [np.reshape([check.central_difference(truth, a, unit, 1e-3) for unit in units], (size, size)) for a in matrices]
    )
    scale = np.max(np.abs(expected))
    assert_allclose(np.stack([gradient(a) for a in matrices]), expected, rtol=1e-6, atol=1e-6 * scale)
    assert_allclose(batched(np.stack(matrices)), expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.usefixtures("float64")
def test_the_phase_is_that_of_the_largest_component(check, draw):
    weights = draw(SIZE, SIZE, complex_entries=True)

    def normalized(a):
        values, vectors = np.linalg.eig(a)
        largest = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=0)[None], axis=0)
        return values, vectors * (np.abs(largest) / largest) / np.linalg.norm(vectors, axis=0)

    loss = lambda pairs, xp: xp.sum(xp.sin(pairs[1] * weights)).real + xp.sum(pairs[0] ** 3).imag
    compiled = check.derivatives(lambda a: loss(eig(a), jnp))
    a, direction = draw(SIZE, SIZE, complex_entries=True), 0.1 * draw(SIZE, SIZE, complex_entries=True)
    check.assert_derivatives(compiled, lambda a: loss(normalized(a), np), a, direction, first=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype_name", ["float32", "float64", "complex64", "complex128"])
def test_values_of_a_batch(dtype_name, draw):
    with jax.enable_x64(dtype_name in ("float64", "complex128")):
        a = draw(3, 5, 5, complex_entries="complex" in dtype_name).astype(dtype_name)
        values, vectors = map(np.asarray, jax.jit(eig)(a))
        assert values.dtype == vectors.dtype == np.result_type(dtype_name, np.complex64)
        unit = 100 * np.finfo(dtype_name).eps
        assert_allclose(a @ vectors, vectors * values[:, None, :], atol=unit)
        assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=unit)
        largest = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=1)[:, None], axis=1)
        assert_allclose(largest, np.abs(largest), atol=unit)
        assert_allclose(values, np.asarray(jnp.linalg.eigvals(a)), atol=unit)
        gradient = jax.jit(jax.grad(lambda a: jnp.sum(eig(a).eigenvalues ** 2).real))(a)
        assert gradient.dtype == dtype_name
        assert_allclose(gradient, 2 * np.swapaxes(a, 1, 2), atol=20 * unit)  # the gradient of tr A^2


def test_condition_numbers_tell_of_a_defective_eigenvalue(draw):
    jordan = jnp.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    condition = eigenvalue_condition(jordan)
    assert np.all(condition[:2] > 1e6)
    assert_allclose(condition[2], 1)
    triangular = np.array([[1.0, 7.0], [0.0, 2.0]])
    assert_allclose(eigenvalue_condition(triangular.astype("float32")), np.sqrt(50) * np.ones(2), rtol=1e-5)
    assert_allclose(eigenvalue_condition(draw.rotation(4).astype("float32")), 1, rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_a_defective_eigenvalue_leaves_the_others_exact():
    # An inverse of the matrix of eigenvectors would lose the derivatives of all eigenvalues.
    gradient = jax.jit(jax.jacrev(lambda a: eig(a).eigenvalues.real))
    jordan = jnp.array([[2.0, 1.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
    slopes = gradient(jordan)
    assert np.all(np.isfinite(slopes))
    # The derivative of lambda_3 is d lambda_3 = u^H dA v, with u^H = (0, 0, 1) and v = (2, 1, 1).
    assert_allclose(slopes[2], [[0, 0, 0], [0, 0, 0], [2, 1, 1]], atol=1e-14)
    # A change of 1e-8 splits the double eigenvalue by 1e-4; the mean of the two remains smooth.
    basis = np.linalg.qr(np.arange(9.0).reshape(3, 3) + np.eye(3))[0]
    split = basis @ jordan.at[1, 0].set(-1e-8) @ basis.T
    slopes = gradient(split)
    values = np.asarray(eig(split).eigenvalues)
    double = np.abs(values - 2) < 0.1
    assert np.all(np.isfinite(slopes))
    expected = basis @ (np.eye(3) - np.array([[0, 0, 0], [0, 0, 0], [2, 1, 1]])) @ basis.T
    assert_allclose(np.sum(slopes[double], axis=0), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [np.eye(4, k=1), np.zeros((4, 4)), np.eye(4), np.eye(4) + np.eye(4, k=1)])
def test_never_nan_where_there_is_no_derivative(matrix):
    loss = lambda a: jnp.sum(jnp.abs(eig(a).eigenvectors) ** 4) + jnp.sum(eig(a).eigenvalues ** 2).real
    first = jax.grad(loss)
    first, second = jax.jit(lambda a: (first(a), jax.jvp(first, (a,), (jnp.ones_like(a),))[1]))(matrix)
    assert np.all(np.isfinite(first))
    assert np.all(np.isfinite(second))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (1, 1)])
def test_empty_and_single(shape):
    loss = lambda a: jnp.sum(eig(a).eigenvalues).real + jnp.sum(eig(a).eigenvectors).real
    assert_allclose(jax.jit(jax.grad(loss))(jnp.ones(shape)), np.ones(shape))


def test_nan_in_one_matrix_of_a_batch():
    values, vectors = eig(jnp.stack([jnp.full((3, 3), jnp.nan), jnp.eye(3)]))
    assert np.all(np.isnan(values[0].real))
    assert np.all(np.isnan(vectors[0].real))
    assert_allclose(values[1], 1)


@pytest.mark.parametrize("function", [eig, eigenvalue_condition])
def test_bad_input_is_named(function, monkeypatch):
    with pytest.raises(ValueError, match="a has shape"):
        function(jnp.ones((2, 3)))
    with pytest.raises(TypeError, match=r"a\.astype"):
        function(jnp.eye(3, dtype=jnp.int32))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(NotImplementedError, match="on the host"):
        function(jnp.eye(4))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_eigenvalues_of_very_small_and_very_large_matrices(scale):
    matrix = np.array([[1.0, 2.0], [-3.0, 4.0]])
    values, vectors = eig(jnp.asarray(scale * matrix, jnp.float32))
    np.testing.assert_allclose(np.asarray(values, complex) / scale, np.linalg.eigvals(matrix), rtol=1e-5)
    residuals = (
        np.asarray(vectors, complex).T @ matrix.T - np.asarray(values, complex)[:, None] / scale * np.asarray(vectors).T
    )
    assert np.abs(residuals).max() < 1e-5
