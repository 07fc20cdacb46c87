"""Losses of a subspace with nearly repeated eigenvalues: exact gradients at arbitrarily small gaps within it.

The expected gradient is that of the projector on the group, P = X X^H, from the constructed eigenvectors:

    dP = sum over i in the group, j outside of  x_j <x_j, dA x_i> x_i^H / (lambda_i - lambda_j)  and its adjoint

This formula contains no gap within the group.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import eigh, eigsh, lanczos, svd, svds
from eigenjax.implicit.systems.pairs import without_rounding

SIZE, FIRST, LAST = 12, 1, 4
GAPS = np.logspace(-13, -3, 5)

pytestmark = pytest.mark.usefixtures("float64")


def planted(seed, gap, *, complex_entries):
    """Return a matrix with eigenvalues 6, 4 + 2.5 gap, 4 + gap, 4 and others; loss weights; and the exact gradient."""
    rng = np.random.default_rng(seed)
    draw = lambda: rng.normal(size=(SIZE, SIZE)) + (1j * rng.normal(size=(SIZE, SIZE)) if complex_entries else 0)
    rotation = np.linalg.qr(draw())[0]
    values = np.concatenate([[6, 4 + 2.5 * gap, 4 + gap, 4], np.linspace(2.5, 1, SIZE - LAST)])
    weights = draw()
    weights = (weights + weights.conj().T) / 2
    group, others = rotation[:, FIRST:LAST], np.delete(rotation, range(FIRST, LAST), axis=1)
    outside = np.delete(values, range(FIRST, LAST))
    half = others @ (others.conj().T @ weights @ group / (values[FIRST:LAST] - outside[:, None])) @ group.conj().T
    matrix = (rotation * values) @ rotation.conj().T
    return (matrix + matrix.conj().T) / 2, weights, half + half.conj().T


VECTORS = {
    "eigsh": lambda a: eigsh(a, k=LAST, tol=1e-14, krylov_dim=SIZE).eigenvectors[FIRST:],
    "lanczos": lambda a: lanczos(a, k=LAST, which="LA", krylov_dim=SIZE).eigenvectors[FIRST:],
    "eigh": lambda a: eigh(a).eigenvectors.T[::-1][FIRST:LAST],
    "eigh of a pencil": lambda a: (
        eigh(2 * a, 2 * jnp.eye(SIZE, dtype=a.dtype)).eigenvectors.T[::-1][FIRST:LAST] * 2**0.5
    ),
    "svds": lambda a: svds(a, k=LAST, tol=1e-14).right[FIRST:],
    "svd": lambda a: svd(a).vh.conj()[FIRST:LAST],
}


def check(name, seeds, gaps, *, complex_entries=False):
    def loss(matrix, weights):
        x = VECTORS[name](matrix)
        return jnp.sum(weights * (x.conj().T @ x)).real

    cases = [planted(seed, gap, complex_entries=complex_entries) for seed in seeds for gap in gaps]
    matrices, weights, truths = (np.stack(x) for x in zip(*cases, strict=True))
    gradients = np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(jnp.asarray(matrices), jnp.asarray(weights))).conj()
    # The solvers take the matrix as Hermitian; the gradient of svd need not be, so symmetrize it.
    gradients = (gradients + np.swapaxes(gradients, 1, 2).conj()) / 2
    errors = np.linalg.norm(gradients - truths, axis=(1, 2)) / np.linalg.norm(truths, axis=(1, 2))
    assert errors.max() < 1e-6, errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lanczos", "eigh", "svd"])
def test_the_gradient_of_a_loss_of_a_projector(name):
    check(name, range(2), GAPS)


@pytest.mark.slow
@pytest.mark.parametrize("complex_entries", [False, True])
@pytest.mark.parametrize("name", VECTORS)
def test_two_hundred_derivatives(name, complex_entries):
    check(name, range(40), GAPS, complex_entries=complex_entries)


def test_what_is_more_than_rounding_stays_and_so_do_derivatives():
    sizes = jnp.array([1.0, 1e3])
    numerators = lambda x: jnp.array([[0.0, x], [-x, 0.0]])
    for entry, expected in ((1e-13, 0.0), (1e-9, 1e-9)):
        found, dot = jax.jvp(lambda x: without_rounding(numerators(x), sizes)[0, 1], (entry,), (1.0,))
        assert found == expected
        assert dot == 1.0


@pytest.mark.slow
def test_a_loss_that_tells_close_vectors_apart_keeps_its_gradient():
    gap = 1e-6
    matrix, weights, _ = planted(3, gap, complex_entries=False)
    values, vectors = np.linalg.eigh(matrix)
    x = vectors[:, ::-1][:, FIRST]
    # The derivative is d x = (lambda - A)^+ dA x, and the loss is <x, M x>.
    gaps = values[::-1][FIRST] - values
    inverse = (vectors * np.where(gaps == 0, 0, 1 / np.where(gaps == 0, 1, gaps))) @ vectors.T
    half = np.outer(inverse @ weights @ x, x)
    for name in ("eigh", "lanczos"):
        found = jax.grad(lambda a, of=VECTORS[name]: of(a)[0] @ weights @ of(a)[0])(jnp.asarray(matrix))
        found = (found + found.T) / 2
        assert np.linalg.norm(found - half - half.T) < 1e-6 * np.linalg.norm(half)
