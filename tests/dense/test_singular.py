"""Singular values of `svd` against NumPy, derivatives against differences of NumPy, finite at repeated values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import svd

# Descending singular values, and weights that are equal within each cluster and zero for zero singular values.
SPECTRA = {
    "distinct": ([4.0, 2.5, 1.5, 0.7], [1.0, -0.5, 2.0, 0.3]),
    "repeated": ([3.0, 3.0, 1.0, 1.0], [1.5, 1.5, -0.5, -0.5]),
    "rank two": ([3.0, 1.0, 0.0, 0.0], [1.5, -0.5, 0.0, 0.0]),
    "rank two, repeated": ([2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]),
}
SHAPES = [(6, 4, False), (4, 6, True), (4, 4, False)]


def subspace_loss(u, s, vh, weights, probe, xp):
    """Compute a loss of sum weights_i M_i, M_i = u_i v_i^H, u_i u_i^H or v_i v_i^H, and of sum weights_i s_i."""
    u_weighted, v = u * weights.astype(u.dtype)[None, :], vh.conj().T
    left, right = u_weighted @ u.conj().T, (v * weights.astype(v.dtype)[None, :]) @ vh
    cross = xp.real(xp.sum((u_weighted @ vh) * probe))
    mass = lambda x: xp.sum(xp.abs(x) ** 4)
    return cross + cross**2 / 10 + mass(left) + mass(right) + xp.sum(weights * s) ** 2


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("m", "n", "complex_entries"), SHAPES)
def test_derivatives_of_what_the_subspaces_determine(m, n, complex_entries, check, draw):
    compiled = check.derivatives(lambda a, *data: subspace_loss(*svd(a), *data, jnp))
    truth = lambda a, *data: subspace_loss(*np.linalg.svd(a, full_matrices=False), *data, np)
    for values, weights in SPECTRA.values():
        u, v = (draw.rotation(rows, 4, complex_entries) for rows in (m, n))
        a, direction = (u * np.asarray(values)) @ v.conj().T, 0.3 * draw(m, n, complex_entries=complex_entries)
        probe = draw(m, n, complex_entries=complex_entries)
        check.assert_derivatives(compiled, truth, a, direction, np.asarray(weights), probe)


@pytest.mark.usefixtures("float64")
def test_vectors_one_by_one(check, draw):
    left, right = draw(6, 4), draw(4, 4)
    loss = lambda u, s, vh, xp: xp.sum(left * u**2) + xp.sum(right * vh**2) + xp.sum(xp.sin(s))
    compiled = check.derivatives(lambda a: loss(*svd(a), jnp))
    truth = lambda a: loss(*np.linalg.svd(a, full_matrices=False), np)
    a = (draw.rotation(6, 4) * np.asarray(SPECTRA["distinct"][0])) @ draw.rotation(4)
    check.assert_derivatives(compiled, truth, a, 0.2 * draw(6, 4))


@pytest.mark.slow
@pytest.mark.parametrize("dtype_name", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(("m", "n"), [(5, 3), (3, 5)])
def test_values_of_a_batch(dtype_name, m, n, draw):
    with jax.enable_x64(dtype_name in ("float64", "complex128")):
        a = draw(2, m, n, complex_entries="complex" in dtype_name).astype(dtype_name)
        u, s, vh = map(np.asarray, jax.jit(svd)(a))
        assert (u.dtype, s.dtype, vh.dtype) == (dtype_name, np.finfo(dtype_name).dtype, dtype_name)
        unit = 50 * np.finfo(dtype_name).eps
        assert_allclose(s, np.linalg.svd(a, compute_uv=False), atol=unit)
        assert_allclose((u * s[:, None, :].astype(dtype_name)) @ vh, a, atol=unit)
        gradient = jax.jit(jax.grad(lambda a: jnp.sum(svd(a).s ** 2)))(a)
        assert_allclose(gradient, 2 * a.conj(), atol=20 * unit)


@pytest.mark.usefixtures("float64")
def test_the_nuclear_norm_of_a_multiple_of_a_rotation(draw):
    rotation = draw.rotation(5)
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(svd(a).s)))
    assert_allclose(gradient(3 * rotation), rotation, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3), (0, 3, 2), (1, 1)])
def test_empty_and_single(shape):
    u, s, vh = svd(jnp.ones(shape))
    k = min(shape[-2:])
    assert (u.shape, s.shape, vh.shape) == (
        (*shape[:-1], k),
        (*shape[:-2], k),
        (*shape[:-2], k, shape[-1]),
    )
    loss = lambda a: jnp.sum(svd(a).u @ svd(a).vh)
    assert jax.jit(jax.grad(loss))(jnp.ones(shape)).shape == shape


def test_nan_in_one_matrix_of_a_batch():
    u, s, vh = svd(jnp.stack([jnp.full((3, 2), jnp.nan), jnp.ones((3, 2))]))
    assert all(np.all(np.isnan(part[0])) for part in (u, s, vh))
    assert_allclose(s[1], [6**0.5, 0], atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="a has shape"):
        svd(jnp.ones(3))
    with pytest.raises(TypeError, match=r"a\.astype"):
        svd(jnp.ones((3, 2), jnp.bfloat16))
