"""Gradients of losses of singular triplets against fourth-order differences of dense numpy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import svds

K = 3
STEP = 1e-4  # of a fourth-order difference
WIDE_STEP = 1e-2  # of a difference of differences
TOLERANCE = 1e-6

pytestmark = pytest.mark.usefixtures("float64")


def problem(p, n, seed, *, is_complex=False):
    """A matrix whose singular values stand apart, two directions and the weights of a loss."""
    generator = np.random.default_rng(seed)
    draw = lambda *shape: generator.standard_normal(shape) + 1j * is_complex * generator.standard_normal(shape)
    left, right = (np.linalg.qr(draw(rows, min(p, n)))[0] for rows in (p, n))
    matrix = (left * np.linspace(4, 1, min(p, n))) @ right.conj().T
    stack = np.stack([matrix, *(draw(p, n) for _ in range(4))])
    return stack if is_complex else stack.real


def loss_of(left, values, right, weights, xp):
    """Depends on values, left and right vectors, and on no phase that a pair of vectors shares."""
    first, second = weights
    across = xp.einsum("ki,ij,kj->k", left.conj(), first, right)
    inside = xp.abs(left[0].conj() @ (second @ right[1])) ** 2 + xp.abs(right.conj() @ first.conj().T[:, 0]) @ values
    return xp.sum(xp.sin(values)) + values[0] * values[1] + xp.sum(xp.exp(0.5j) * across).real + inside


def dense_loss(matrix, weights, k):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return loss_of(left.T[:k], values[:k], right.conj()[:k], weights, np)


def central_difference(function, at, direction, step=STEP):
    f = lambda steps: function(at + steps * step * direction)
    return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * step)


def pairing(gradient, direction):
    """JAX's gradient g means d loss = Re sum g dA."""
    return np.sum(np.asarray(gradient) * direction).real


def loss(matrix, weights, k, **options):
    result = svds(matrix, k, tol=1e-13, **options)
    return loss_of(result.left, result.values, result.right, weights, jnp).real


def check_gradients(p, n, k, seeds, *, is_complex=False):
    stacks = jnp.asarray(np.stack([problem(p, n, seed, is_complex=is_complex) for seed in seeds]))
    function = functools.partial(loss, k=k, krylov_dim=k + 3)
    both = jax.jit(jax.vmap(jax.value_and_grad(function)))
    values, gradients = both(stacks[:, 0], stacks[:, 3:])
    for value, gradient, (matrix, direction, _, *weights) in zip(values, gradients, np.asarray(stacks), strict=True):
        dense = lambda matrix, weights=weights: dense_loss(matrix, weights, k)
        assert_allclose(value, dense(matrix), rtol=0, atol=1e-10)
        expected = central_difference(dense, matrix, direction)
        assert abs(expected) > 1e-2, "the direction shows nothing"
        assert_allclose(pairing(gradient, direction), expected, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("p", "n", "k"),
    [(9, 7, 3), pytest.param(7, 9, 3, marks=pytest.mark.slow), pytest.param(7, 7, 7, marks=pytest.mark.slow)],
)
def test_the_gradient_of_many_real_matrices_at_once(p, n, k):
    check_gradients(p, n, k, range(4))


@pytest.mark.parametrize(
    ("p", "n", "k"),
    [
        (6, 8, 3),
        pytest.param(8, 6, 6, marks=pytest.mark.slow),
        pytest.param(6, 6, 3, marks=pytest.mark.slow),
        pytest.param(6, 8, 6, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_of_complex_matrices(p, n, k):
    check_gradients(p, n, k, range(2), is_complex=True)


@pytest.mark.parametrize(("p", "n", "is_complex"), [(5, 4, False), pytest.param(5, 6, True, marks=pytest.mark.slow)])
def test_the_gradient_of_the_gradient(p, n, is_complex):
    matrix, direction, other, *weights = problem(p, n, 1, is_complex=is_complex)
    function = lambda matrix: loss(matrix, jnp.stack(weights), k=2)
    slope = jax.jit(jax.grad(lambda matrix: jnp.sum(jax.grad(function)(matrix) * direction).real))
    # Without one product of ours: a difference of differences.
    dense = lambda matrix: dense_loss(matrix, weights, 2)
    along = lambda at: central_difference(dense, at, 0.1 * direction, WIDE_STEP)
    mixed = central_difference(along, matrix, 0.1 * other, WIDE_STEP) / 0.01
    assert abs(mixed) > 1e-2
    assert_allclose(pairing(slope(jnp.asarray(matrix)), other), mixed, rtol=1e-4)


def matrix_of(theta, xp):
    """A (6, 5) matrix that depends on parameters: differences of v, weighted, and two sums."""
    differences = xp.asarray(np.eye(5)[1:] - np.eye(5)[:-1])
    return xp.concatenate([theta["weights"][:, None] * differences, xp.stack([theta["row"], xp.sin(theta["row"])])])


def matrix_free(theta):
    def product(v):
        sums = jnp.stack([theta["row"] @ v, jnp.sin(theta["row"]) @ v])
        return {"differences": theta["weights"] * (v[1:] - v[:-1]), "sums": sums}

    return product


def test_a_callable_with_parameters_and_its_products(rng):
    theta = {"weights": np.array([1.0, 2.0, 0.5, 3.0]), "row": rng.standard_normal(5), "unused": np.ones(2)}
    weights = rng.standard_normal((2, 6, 5))
    calls = []

    def objective(theta, of_vectors):
        def counted(v):
            jax.debug.callback(lambda: calls.append(1))
            return matrix_free(theta)(v)

        result = svds(counted, 2, v0=jnp.ones(5), tol=1e-13)
        left = jnp.concatenate([result.left["differences"], result.left["sums"]], axis=1)
        return loss_of(left, result.values, result.right, weights, jnp) if of_vectors else jnp.sum(result.values**2)

    gradient = jax.jit(jax.grad(objective), static_argnums=1)
    found = gradient(theta, True)
    assert not np.any(found["unused"])
    for name in ("weights", "row"):
        direction = rng.standard_normal(theta[name].shape)
        dense = lambda x, name=name: dense_loss(matrix_of(theta | {name: x}, np), weights, 2)
        expected = central_difference(dense, theta[name], direction)
        assert_allclose(np.sum(found[name] * direction), expected, rtol=TOLERANCE)
    jax.effects_barrier()
    calls.clear()
    found = gradient(theta, False)
    jax.block_until_ready(found)
    jax.effects_barrier()
    # Forward: five steps and the audit, with the callback in A only (a transpose has none); then k in one pull-back.
    assert len(calls) <= 6 + 2
    truth = lambda x: np.sum(np.linalg.svd(matrix_of(theta | {"row": x}, np), compute_uv=False)[:2] ** 2)
    direction = rng.standard_normal(5)
    assert_allclose(found["row"] @ direction, central_difference(truth, theta["row"], direction), rtol=TOLERANCE)


def polar(matrix, weight, r):
    left, _, right = np.linalg.svd(matrix)
    projector = right[:r].T @ right[:r]
    return np.sum(weight * (left[:, :r] @ right[:r])) + np.sum(projector[0]), np.sum(np.linalg.svd(matrix)[1][:r])


def test_invariant_losses_of_repeated_and_of_zero_singular_values(rng):
    # sum u v^H and the projector on the right vectors of the leading group: smooth, though the vectors are not.
    weight, direction = rng.standard_normal((2, 5, 5))
    rotations = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2)]

    @jax.jit
    def gradients(matrix):
        result = svds(matrix, 3, tol=1e-13)
        left, right = result.left, result.right
        of_vectors = lambda r: jnp.sum(weight * (r.left.T @ r.right)) + jnp.sum((r.right.T @ r.right)[0])
        return jax.grad(lambda a: of_vectors(svds(a, 3, tol=1e-13)))(matrix), left.T @ right

    for values in ([4, 4, 4, 2, 1], [4, 4, 3, 0, 0], [3, 3, 3, 0, 0]):
        matrix = (rotations[0] * np.asarray(values, float)) @ rotations[1].T
        gradient, nuclear = gradients(jnp.asarray(matrix))
        expected = central_difference(lambda a: np.array(polar(a, weight, 3)), matrix, direction)
        assert_allclose(pairing(gradient, direction), expected[0], rtol=TOLERANCE)
        assert_allclose(np.sum(nuclear * direction), expected[1], rtol=TOLERANCE)


def test_never_nan():
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(jnp.sin(svds(a, 3).left) ** 3 + svds(a, 3).right ** 3)))
    for matrix in (
        np.eye(4),
        np.zeros((4, 4)),
        np.diag([2.0, 2, 1, 1]),
        np.diag([2.0, 1, 0, 0]),
        np.diag([2.0] * 3 + [1]),
    ):
        assert np.all(np.isfinite(gradient(jnp.asarray(matrix))))


def test_the_vectors_of_a_zero_singular_value_beside_others():
    # Rank one: d u_1 = P_U dA v_1 / s and d v_1 = P_V dA^H u_1 / s in closed form, whatever is made of the zeros.
    matrix = jnp.zeros((4, 3)).at[0, 0].set(2.0)
    gradient = jax.jit(jax.grad(lambda a: svds(a, 3).left[0, 1] + 3 * svds(a, 3).right[0, 2]))(matrix)
    expected = np.zeros((4, 3))
    expected[1, 0], expected[0, 2] = 1 / 2, 3 / 2
    assert_allclose(gradient, expected, atol=1e-12)
