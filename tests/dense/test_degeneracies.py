"""Finite derivatives on a thousand matrices with repeated, zero and defective eigenvalues, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import eig, eigh, svd

SIZE, COUNT, HESSIANS = 6, 1000, 16
COMPLEX = [pytest.param(name, marks=pytest.mark.slow) for name in ("complex64", "complex128")]
DTYPES = ["float32", "float64", *COMPLEX]


def eigh_loss(a):
    values, vectors = eigh(a)
    return jnp.sum(jnp.real(vectors) ** 3) + jnp.sum(jnp.sin(values))


def eig_loss(a):
    values, vectors = eig(a)
    return jnp.sum(jnp.real(vectors) ** 3) + jnp.sum(values**2).real


def svd_loss(a):
    u, s, vh = svd(a[:, :4])
    return jnp.sum(jnp.real(u) ** 3) + jnp.sum(jnp.real(vh) ** 3) + jnp.sum(jnp.sin(s))


LOSSES = {"eigh": eigh_loss, "eig": eig_loss, "svd": svd_loss}


def planted(rng, draw, dtype):
    """Draw one matrix at a random scale: few distinct eigenvalues, some of them 0, diagonal or in a random basis."""
    values = rng.choice([-1.0, 0.0, 1.0, 2.0], size=SIZE) * 10.0 ** rng.integers(-3, 4)
    complex_entries = np.issubdtype(dtype, np.complexfloating)
    kind = rng.integers(6)
    if kind == 0:
        return np.diag(values)
    if kind == 1:
        return values[0] * np.eye(SIZE)
    if kind == 2:
        return np.diag(values) + np.diag(np.ones(SIZE - 1), 1)  # Jordan blocks
    if kind == 3:
        rank = rng.integers(1, SIZE)
        return draw(SIZE, rank, complex_entries=complex_entries) @ draw(rank, SIZE, complex_entries=complex_entries)
    if kind == 4:
        return np.eye(SIZE)[rng.permutation(SIZE)]
    return draw.with_spectrum(values, complex_entries)


@pytest.mark.slow
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_never_nan(function, dtype_name, rng, draw):
    with jax.enable_x64(dtype_name in ("float64", "complex128")):
        batch = np.stack([planted(rng, draw, dtype_name) for _ in range(COUNT)]).astype(dtype_name)
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(LOSSES[function])))(batch)
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(gradients))


@pytest.mark.slow
@pytest.mark.parametrize("function", LOSSES)
@pytest.mark.parametrize("dtype_name", DTYPES)
def test_never_nan_in_second_derivatives(function, dtype_name, rng, draw):
    loss = LOSSES[function]

    def curvatures(a, direction):
        forward = lambda a: jax.jvp(loss, (a,), (direction,))[1]
        return jax.grad(forward)(a), jax.jvp(forward, (a,), (direction,))[1]

    with jax.enable_x64(dtype_name in ("float64", "complex128")):
        batch = np.stack([planted(rng, draw, dtype_name) for _ in range(COUNT)]).astype(dtype_name)
        directions = draw(*batch.shape, complex_entries="complex" in dtype_name).astype(dtype_name)
        for part in jax.jit(jax.vmap(curvatures))(batch, directions):
            assert np.all(np.isfinite(part))


@pytest.mark.usefixtures("float64")
def test_hessians_are_finite_and_symmetric(rng, draw):
    batch = np.stack([planted(rng, draw, "float64") for _ in range(HESSIANS)])
    hessians = jax.jit(jax.vmap(jax.hessian(lambda a: jnp.sum(jnp.sin(eigh(a).eigenvalues)))))(batch)
    flat = np.asarray(hessians).reshape(HESSIANS, SIZE**2, SIZE**2)
    assert np.all(np.isfinite(flat))
    np.testing.assert_allclose(flat, np.swapaxes(flat, 1, 2), atol=1e-8 * np.max(np.abs(flat)))
