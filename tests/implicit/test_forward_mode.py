"""Rule derivative="forward": jvp, jacfwd, jax.hessian and grad, against central differences in float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import deflated_power_iteration, eigsh, lanczos

SIZE, K = 8, 2
# Step of a fourth-order difference. At ten times this step the second derivative has a truncation error of 1e-4.
STEP = 1e-3
MODES = ("forward", "reverse")
SPECTRUM = np.array([5.0, 3.7, 2.1, 1.2, 0.4, -0.5, -1.3, -2.0])

pytestmark = pytest.mark.usefixtures("float64")


def family(rng, *, complex_entries=False):
    """Return the Hermitian family A(s, t) = A + s B + t (C + t B / 3)."""

    def draw():
        a = rng.normal(size=(SIZE, SIZE)) + 1j * complex_entries * rng.normal(size=(SIZE, SIZE))
        return (a + a.conj().T) / 2 if complex_entries else ((a + a.T) / 2).real

    rotation = np.linalg.qr(draw())[0]
    base, b, c = (rotation * SPECTRUM) @ rotation.conj().T, draw(), draw()
    return lambda s: base + s[0] * b + s[1] * (c + s[1] / 3 * b)


def loss_of(values, vectors, weights, xp):
    """Compute a loss of eigenvalues and eigenvectors that is invariant to signs and phases."""
    overlaps = xp.abs(vectors @ weights) ** 2
    return xp.sum(xp.sin(overlaps) * xp.arange(1.0, K + 1)[:, None]) + xp.sum(xp.cos(values)) + values[0] * values[1]


def dense_loss(matrices, weights, s):
    values, vectors = np.linalg.eigh(matrices(s))
    return loss_of(values[: -K - 1 : -1], vectors.T[: -K - 1 : -1], weights, np)


def dense_derivatives(function, at):
    """Compute gradient and Hessian by nested central differences of fourth order."""
    weights = {2: -1 / 12, 1: 8 / 12, -1: -8 / 12, -2: 1 / 12}
    unit = np.eye(len(at))

    def slope(function, i, step):
        return lambda s: sum(w * function(s + j * step * unit[i]) for j, w in weights.items()) / step

    gradient = [slope(function, i, STEP)(at) for i in range(len(at))]
    second = [[slope(slope(function, i, STEP), j, STEP)(at) for j in range(len(at))] for i in range(len(at))]
    return np.array(gradient), np.array(second)


@pytest.mark.slow
@pytest.mark.parametrize("complex_entries", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_mode_and_order_is_that_of_dense_numpy(complex_entries, rng):
    matrices = family(rng, complex_entries=complex_entries)
    weights = rng.normal(size=(SIZE, 2)) + 1j * complex_entries * rng.normal(size=(SIZE, 2))
    weights = weights if complex_entries else weights.real
    points = rng.normal(size=(2, 2)) / 4

    def loss(s, derivative):
        s = s.astype(weights.dtype)
        result = lanczos(matrices(s), K, which="LA", krylov_dim=SIZE, derivative=derivative)
        return loss_of(result.eigenvalues, result.eigenvectors, jnp.asarray(weights), jnp)

    forward, reverse = (functools.partial(loss, derivative=mode) for mode in ("forward", "reverse"))
    derivatives = (jax.grad(forward), jax.grad(reverse), jax.jacfwd(forward), jax.hessian(forward))
    found = jax.jit(jax.vmap(lambda s: [derive(s) for derive in derivatives]))(jnp.asarray(points))
    for point, by_transposing, by_adjoint, by_tangents, second in zip(points, *found, strict=True):
        gradient, hessian = dense_derivatives(functools.partial(dense_loss, matrices, weights), point)
        for ours in (by_transposing, by_adjoint, by_tangents):
            assert_allclose(ours, gradient, rtol=1e-6, atol=1e-8)
        assert_allclose(second, hessian, rtol=1e-6, atol=1e-5)
        assert_allclose(second, second.T, atol=1e-9)


@pytest.mark.slow
def test_grad_of_a_matrix_is_symmetric_and_that_of_the_reverse_rule(rng):
    matrix = jnp.asarray(family(rng)(np.zeros(2)))
    weights = jnp.asarray(rng.normal(size=(K, SIZE)))
    for solver, options in ((eigsh, {}), (deflated_power_iteration, {"max_iter": 2000, "tol": 1e-13, "which": "LA"})):
        loss = lambda a, mode, solver=solver, options=options: jnp.sum(
            (weights * solver(a, K, derivative=mode, **options).eigenvectors) ** 3
        )
        forward, reverse = (jax.jit(jax.grad(functools.partial(loss, mode=mode)))(matrix) for mode in MODES)
        assert_allclose(forward, forward.T, atol=1e-14)
        assert_allclose(forward, reverse, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_cluster_has_exact_derivatives_of_losses_of_its_projector_in_both_orders(mode, rng):
    """Check k = 3 of the eigenvalues {4, 4, 2 | 1, 0, -1}: a cluster, a simple eigenvalue and a complement."""
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    base = (rotation * np.array([4.0, 4.0, 2.0, 1.0, 0.0, -1.0])) @ rotation.T
    base, b, weights = (base + base.T) / 2, rng.normal(size=(6, 6)), rng.normal(size=(6, 6))
    b, weights = b + b.T, weights + weights.T

    def of_projectors(vectors):
        return (vectors[0] @ weights @ vectors[0] + vectors[1] @ weights @ vectors[1]) * (
            2 + vectors[2] @ weights @ vectors[2]
        )

    def loss(t):
        result = eigsh(base + t * b, 3, tol=1e-13, verify=True, derivative=mode)
        return of_projectors(result.eigenvectors) + jnp.sum(result.eigenvalues[:2])

    def exact(t):
        values, vectors = np.linalg.eigh(base + t * b)
        return of_projectors(vectors.T[::-1]) + values[-1] + values[-2]

    first, second = jax.jit(lambda t: (jax.grad(loss)(t), jax.grad(jax.grad(loss))(t)))(0.0)
    h = 2e-3
    assert_allclose(first, (8 * (exact(h) - exact(-h)) - (exact(2 * h) - exact(-2 * h))) / (12 * h), rtol=1e-7)
    around = [exact(j * h) for j in (-2, -1, 0, 1, 2)]
    assert_allclose(second, np.dot([-1, 16, -30, 16, -1], around) / (12 * h * h), rtol=1e-5)


def test_start_key_and_tolerance_have_zero_tangents(rng):
    matrix, v0 = jnp.asarray(family(rng)(np.zeros(2))), jnp.ones(SIZE)
    solve = lambda v0, tol: eigsh(matrix, K, v0=v0, tol=tol, key=jax.random.key(1), derivative="forward")[:3]
    _, tangents = jax.jvp(solve, (v0, 1e-10), (jnp.ones(SIZE), 1.0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(tangents))


def test_an_unknown_derivative_is_named():
    with pytest.raises(ValueError, match="derivative='both': choose 'reverse'"):
        lanczos(jnp.eye(3), 1, derivative="both")
    with pytest.raises(ValueError, match="adjoint_max_iter=0: give 1 or more"):
        lanczos(jnp.eye(3), 1, adjoint_max_iter=0)
