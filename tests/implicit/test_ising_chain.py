"""Ground state of the transverse-field Ising chain (Xie, Liu and Wang 2020), matrix-free, in both modes.

H = - sum_j sz_j sz_{j+1} - g sum_j sx_j,    periodic
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import as_operator, eigsh

pytestmark = pytest.mark.usefixtures("float64")

# Values at g = 1 and N = 10: E0 / N and its first and second derivative in g.
KNOWN = (-1.2784906443, -0.6392453221, -0.8947920801)


def chain(num_spins):
    """Return the function g -> H(g), an operator on state vectors of 2^N numbers."""
    spins = 1 - 2 * ((np.arange(2**num_spins)[:, None] >> np.arange(num_spins)) & 1)
    bonds = jnp.asarray(-np.sum(spins * np.roll(spins, 1, axis=1), axis=1).astype(float))

    def flipped(v):
        cube = v.reshape((2,) * num_spins)
        return sum(jnp.flip(cube, axis) for axis in range(num_spins)).reshape(v.shape)

    return lambda g: as_operator(lambda v: bonds * v - g * flipped(v), like=bonds)


def exact_energy(g, num_spins):
    """Compute the ground-state energy per spin of free fermions (Pfeuty 1970), in the even-parity sector."""
    momenta = np.pi * (2 * np.arange(num_spins) + 1) / num_spins
    return -np.sum(np.sqrt(1 + g**2 - 2 * g * np.cos(momenta))) / num_spins


def energy_and_overlap(num_spins, mode):
    """Return g -> derivatives of E0 / N, and the fidelity susceptibility -d^2/dg'^2 log |<v(g)|v(g')>| at g' = g."""
    operator = chain(num_spins)

    def ground(g):
        return eigsh(operator(g), 1, which="SA", tol=1e-12, krylov_dim=30, derivative=mode)

    energy = lambda g: ground(g).eigenvalues[0] / num_spins

    def log_overlap(other, v):
        return jnp.log(jnp.abs(ground(other).eigenvectors[0] @ v))

    outer = jax.jacfwd if mode == "forward" else jax.grad

    @jax.jit
    def derivatives(g):
        v = ground(g).eigenvectors[0]
        return energy(g), jax.grad(energy)(g), outer(jax.grad(energy))(g), -outer(jax.grad(log_overlap))(g, v)

    return derivatives


def susceptibility(num_spins, g):
    """Compute sum_n |<n| dH |0>|^2 / (E_n - E_0)^2 from dense eigenpairs."""
    operator = jax.jit(lambda g: jax.vmap(chain(num_spins)(g))(jnp.eye(2**num_spins)))
    dense, field = np.asarray(operator(g)), np.asarray(operator(1.0) - operator(0.0))
    values, vectors = np.linalg.eigh(dense)
    coupling = vectors.T[1:] @ (field @ vectors[:, 0])
    return np.sum((coupling / (values[1:] - values[0])) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("reverse", marks=pytest.mark.slow), "forward"])
def test_energy_and_fidelity_of_ten_spins(mode):
    derivatives = energy_and_overlap(10, mode)
    for g in (1.0, 0.6):
        energy, slope, curvature, fidelity = derivatives(g)
        assert_allclose(energy, exact_energy(g, 10), rtol=0, atol=1e-10)
        h = 1e-3
        around = np.array([exact_energy(g + j * h, 10) for j in (-2, -1, 0, 1, 2)])
        assert_allclose(slope, np.dot([1, -8, 0, 8, -1], around) / (12 * h), rtol=0, atol=1e-9)
        assert_allclose(curvature, np.dot([-1, 16, -30, 16, -1], around) / (12 * h**2), rtol=0, atol=1e-7)
        assert_allclose(fidelity, susceptibility(10, g), rtol=1e-6)
        if g == 1.0:
            assert_allclose((energy, slope, curvature), KNOWN, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_energy_of_fourteen_spins(mode):
    energy, slope, curvature, _ = energy_and_overlap(14, mode)(1.0)
    h = 1e-3
    around = np.array([exact_energy(1 + j * h, 14) for j in (-2, -1, 0, 1, 2)])
    assert_allclose(energy, around[2], rtol=0, atol=1e-10)
    assert_allclose(slope, np.dot([1, -8, 0, 8, -1], around) / (12 * h), rtol=0, atol=1e-9)
    assert_allclose(curvature, np.dot([-1, 16, -30, 16, -1], around) / (12 * h**2), rtol=0, atol=1e-7)
