"""First and second derivatives at sizes from 1 to 60, real and complex, for spectra with repeated eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import eig, eigh, svd

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
SIZES = [1, 2, 3, 5, 17, 60]


def loss(function, a, xp):
    """Compute a loss of the invariant subspace of eigenvalues above 1/2 (each 1, 2 or 3), and of their sum."""
    n = a.shape[-1]
    hermitian = (a + a.conj().T) / 2
    probe = xp.cos(xp.arange(n * n, dtype=float)).reshape(n, n)
    if function == "eigh":
        values, vectors = eigh(a) if xp is jnp else np.linalg.eigh(hermitian)
        projector = (vectors * (values > 0.5).astype(vectors.dtype)[None, :]) @ vectors.conj().T
    elif function == "eig":
        values, vectors = eig(a) if xp is jnp else np.linalg.eig(a)
        projector = (vectors * (values.real > 0.5).astype(vectors.dtype)[None, :]) @ xp.linalg.inv(vectors)
    else:
        u, values, vh = svd(a) if xp is jnp else np.linalg.svd(a)
        projector = (u * (values > 0.5).astype(u.dtype)[None, :]) @ vh
    total = xp.sum(xp.where(values.real > 0.5, values.real, 0.0))
    return xp.sum(projector.real * probe) + xp.sum((xp.abs(projector) * probe) ** 2) + total * xp.sin(total / n)


@pytest.mark.parametrize("function", ["eigh", "eig", "svd"])
@pytest.mark.parametrize("size", SIZES)
def test_over_sizes(function, size, check, draw):
    for complex_entries in (False, True):
        values = np.resize([3.0, 1.0, 0.0, 2.0, 1.0], size)
        basis, other = (draw.rotation(size, complex_entries=complex_entries) for _ in range(2))
        other = basis if function == "eigh" else other
        a = (basis * values) @ other.conj().T
        if function == "eig":
            basis = basis + 0.3 * other
            a = (basis * values) @ np.linalg.inv(basis)
        direction = draw(size, size, complex_entries=complex_entries) / size
        compiled = check.derivatives(lambda a: loss(function, a, jnp))
        value, slopes, curvatures = compiled(jnp.asarray(a), jnp.asarray(direction))
        truth = lambda a: loss(function, a, np)
        slope = check.central_difference(truth, a, direction)
        curvature = check.second_difference(truth, a, direction)
        np.testing.assert_allclose(value, truth(a), rtol=1e-9)
        np.testing.assert_allclose(slopes, np.full(2, slope), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(curvatures, np.full(3, curvature), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 32])
def test_jit_of_vmap_equals_one_by_one(size, draw):
    gradient = jax.grad(lambda a: loss("eig", a, jnp) + loss("eigh", a, jnp) + loss("svd", a, jnp))
    batch = draw(3, size, size)
    together = jax.jit(jax.vmap(gradient))(batch)
    one_by_one = jax.jit(gradient)
    np.testing.assert_allclose(together, np.stack([one_by_one(a) for a in batch]), rtol=1e-8, atol=1e-9)
