"""Rule derivative="forward" of `svds` and `eigs`: jacfwd, jax.hessian, grad, against NumPy central differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import eigs, svds
from tests.implicit.test_forward_mode import dense_derivatives

K = 2

pytestmark = pytest.mark.usefixtures("float64")


def family(rng, base):
    """Return the family A(s, t) = A + s B + t (C + t B / 3)."""
    b, c = (rng.normal(size=base.shape) / 4 for _ in range(2))
    if np.iscomplexobj(base):
        b, c = b + 1j * rng.normal(size=base.shape) / 4, c + 1j * rng.normal(size=base.shape) / 4
    return lambda s: base + s[0] * b + s[1] * (c + s[1] / 3 * b)


def triplets_loss(left, values, right, weights, xp):
    """Compute a loss of singular triplets that is invariant to the common phase of a pair of vectors."""
    first, second = weights
    across = xp.einsum("ki,ij,kj->k", left.conj(), first, right)
    inside = xp.abs(left[0].conj() @ (second @ right[1])) ** 2 + xp.abs(right.conj() @ first.conj().T[:, 0]) @ values
    return xp.sum(xp.sin(values)) + values[0] * values[1] + xp.sum(across.real - across.imag / 2) + inside


def dense_triplets(matrices, weights, which, s):
    left, values, right = np.linalg.svd(matrices(s), full_matrices=False)
    if which == "SM":
        left, values, right = left[:, ::-1], values[::-1], right[::-1]
    return triplets_loss(left.T[:K], values[:K], right.conj()[:K], weights, np)


def pairs_loss(values, vectors, weights, xp):
    """Compute a loss of eigenvalues and eigenvectors that depends on the phase of the vectors."""
    of_values = xp.sum(xp.sin(values.real) + values.imag**2)
    return of_values + xp.sum(xp.sin(weights[0] * vectors.real) + xp.cos(1 + weights[1] * vectors.imag))


def dense_pairs(matrices, weights, s):
    values, vectors = np.linalg.eig(matrices(s))
    order = np.argsort(-np.abs(values))[:K]
    rows = vectors.T[order]
    largest = rows[np.arange(K), np.abs(rows).argmax(axis=1)]
    rows = rows * (np.abs(largest) / largest)[:, None] / np.linalg.norm(rows, axis=1)[:, None]
    return pairs_loss(values[order], rows, weights, np)


def check(loss, dense, points, every):
    """Compare all modes and orders with differences, or jacfwd alone, which compiles faster."""
    forward, reverse = (functools.partial(loss, derivative=mode) for mode in ("forward", "reverse"))
    firsts = (jax.jacfwd(forward), jax.grad(forward), jax.grad(reverse))[: 3 if every else 1]
    seconds = (jax.hessian(forward),)[: 1 if every else 0]
    found = jax.jit(jax.vmap(lambda s: ([derive(s) for derive in firsts], [derive(s) for derive in seconds])))(points)
    for i, point in enumerate(points):
        gradient, hessian = dense_derivatives(dense, point)
        for ours in found[0]:
            assert_allclose(ours[i], gradient, rtol=1e-6, atol=1e-8)
        for second in found[1]:
            assert_allclose(second[i], hessian, rtol=1e-5, atol=1e-5)
            assert_allclose(second[i], second[i].T, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "n", "is_complex", "every", "which"),
    [
        (6, 5, False, False, "LM"),
        (6, 5, False, True, "LM"),
        (5, 7, True, True, "LM"),
        (6, 5, False, True, "SM"),
        (5, 7, True, True, "SM"),
        (5, 5, False, True, "SM"),
    ],
)
def test_every_mode_and_order_of_singular_triplets(p, n, is_complex, every, which, rng):
    draw = lambda *shape: rng.normal(size=shape) + 1j * is_complex * rng.normal(size=shape)
    left, right = (np.linalg.qr(draw(rows, min(p, n)))[0] for rows in (p, n))
    base = (left * np.linspace(4, 1, min(p, n))) @ right.conj().T
    weights = np.stack([draw(p, n), draw(p, n)])
    base, weights = (base, weights) if is_complex else (base.real, weights.real)
    matrices = family(rng, base)

    def loss(s, derivative):
        matrix = matrices(s.astype(base.dtype))
        result = svds(matrix, K, which=which, tol=1e-13, krylov_dim=5, derivative=derivative)
        return triplets_loss(result.left, result.values, result.right, jnp.asarray(weights), jnp)

    check(loss, functools.partial(dense_triplets, matrices, weights, which), rng.normal(size=(2, 2)) / 8, every)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("is_complex", "every"),
    [
        (False, False),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_every_mode_and_order_of_general_pairs(is_complex, every, rng):
    n = 6
    transform = np.eye(n) + 0.3 * rng.normal(size=(n, n)) + 0.3j * is_complex * rng.normal(size=(n, n))
    blocks = np.diag([0.0, 0.0, 2.0, -1.4, 1.0, 0.3]) + 0j
    # A dominant pair 2 +- 2.2i: complex eigenvectors of a real matrix.
    blocks[:2, :2] = [[2.0, 2.2], [-2.2, 2.0]]
    if is_complex:
        blocks[0, 0] += 0.9
    base = transform @ blocks @ np.linalg.inv(transform)
    base = base if is_complex else base.real
    matrices, weights = family(rng, base), rng.normal(size=(2, K, n))

    def loss(s, derivative):
        matrix = matrices(s.astype(base.dtype))
        result = eigs(matrix, K, tol=1e-13, adjoint_tol=1e-12, derivative=derivative)
        return pairs_loss(result.eigenvalues, result.eigenvectors, jnp.asarray(weights), jnp)

    check(loss, functools.partial(dense_pairs, matrices, weights), rng.normal(size=(2, 2)) / 8, every)
