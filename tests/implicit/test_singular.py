"""Gradients of losses of singular triplets against fourth-order differences of dense NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import svds
from eigenjax.implicit.systems import dilation
from eigenjax.implicit.systems.triplets import SolvedTriplets
from eigenjax.operators.rectangular import as_rectangular
from eigenjax.solvers.singular.svds import svds as solver

K = 3
STEP = 1e-4  # step of a fourth-order difference
WIDE_STEP = 1e-2  # step of a difference of differences
TOLERANCE = 1e-6

pytestmark = pytest.mark.usefixtures("float64")


def problem(p, n, seed, *, is_complex=False):
    """Construct a matrix with well-separated singular values, two directions and two weights of a loss."""
    generator = np.random.default_rng(seed)
    draw = lambda *shape: generator.standard_normal(shape) + 1j * is_complex * generator.standard_normal(shape)
    left, right = (np.linalg.qr(draw(rows, min(p, n)))[0] for rows in (p, n))
    matrix = (left * np.linspace(4, 1, min(p, n))) @ right.conj().T
    stack = np.stack([matrix, *(draw(p, n) for _ in range(4))])
    return stack if is_complex else stack.real


def loss_of(left, values, right, weights, xp):
    """Compute a loss of values, left and right vectors, invariant to the common phase of a pair of vectors."""
    first, second = weights
    across = xp.einsum("ki,ij,kj->k", left.conj(), first, right)
    inside = xp.abs(left[0].conj() @ (second @ right[1])) ** 2 + xp.abs(right.conj() @ first.conj().T[:, 0]) @ values
    return xp.sum(xp.sin(values)) + values[0] * values[1] + xp.sum(0.8 * across.real - 0.5 * across.imag) + inside


def dense_loss(matrix, weights, k):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return loss_of(left.T[:k], values[:k], right.conj()[:k], weights, np)


def central_difference(function, at, direction, step=STEP):
    f = lambda steps: function(at + steps * step * direction)
    return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * step)


def pairing(gradient, direction):
    """Return Re sum g dA, the change of the loss for a JAX gradient g."""
    return np.sum(np.asarray(gradient) * direction).real


def loss(matrix, weights, k, **options):
    result = svds(matrix, k, tol=1e-13, **options)
    return loss_of(result.left, result.values, result.right, weights, jnp)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p", "n", "k"),
    [(9, 7, 3), (7, 9, 3), (7, 7, 7)],
)
def test_the_gradient_of_many_real_matrices_at_once(p, n, k):
    check_gradients(p, n, k, range(4))


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("p", "n", "is_complex"), [(5, 4, False), (5, 6, True)])
def test_the_gradient_of_the_gradient(p, n, is_complex):
    matrix, direction, other, *weights = problem(p, n, 1, is_complex=is_complex)
    function = lambda matrix: loss(matrix, jnp.stack(weights), k=2)
    slope = jax.jit(jax.grad(lambda matrix: jnp.sum(jax.grad(function)(matrix) * direction).real))
    # An independent value without JAX: a difference of differences.
    dense = lambda matrix: dense_loss(matrix, weights, 2)
    along = lambda at: central_difference(dense, at, 0.1 * direction, WIDE_STEP)
    mixed = central_difference(along, matrix, 0.1 * other, WIDE_STEP) / 0.01
    assert abs(mixed) > 1e-2
    assert_allclose(pairing(slope(jnp.asarray(matrix)), other), mixed, rtol=1e-4)


def matrix_of(theta, xp):
    """Assemble a (6, 5) matrix from parameters: weighted differences of v, and two sums."""
    differences = xp.asarray(np.eye(5)[1:] - np.eye(5)[:-1])
    return xp.concatenate([theta["weights"][:, None] * differences, xp.stack([theta["row"], xp.sin(theta["row"])])])


def matrix_free(theta):
    def product(v):
        sums = jnp.stack([theta["row"] @ v, jnp.sin(theta["row"]) @ v])
        return {"differences": theta["weights"] * (v[1:] - v[:-1]), "sums": sums}

    return product


def objective(theta, weights):
    result = svds(matrix_free(theta), 2, v0=jnp.ones(5), tol=1e-13)
    left = jnp.concatenate([result.left["differences"], result.left["sums"]], axis=1)
    return loss_of(left, result.values, result.right, weights, jnp)


@pytest.mark.slow
def test_a_callable_with_parameters(rng):
    theta = {"weights": np.array([1.0, 2.0, 0.5, 3.0]), "row": rng.standard_normal(5), "unused": np.ones(2)}
    weights = rng.standard_normal((2, 6, 5))
    found = jax.jit(jax.grad(objective))(theta, weights)
    assert not np.any(found["unused"])
    for name in ("weights", "row"):
        direction = rng.standard_normal(theta[name].shape)
        dense = lambda x, name=name: dense_loss(matrix_of(theta | {name: x}, np), weights, 2)
        expected = central_difference(dense, theta[name], direction)
        assert_allclose(np.sum(found[name] * direction), expected, rtol=TOLERANCE)


@pytest.mark.slow
def test_a_loss_of_the_values_costs_one_pull_back_and_no_solve(rng):
    matrix, calls = rng.standard_normal((6, 5)), []

    @jax.jit
    @jax.grad
    def gradient(matrix):
        def product(v):
            jax.debug.callback(lambda: calls.append(1))
            return matrix @ v

        return jnp.sum(svds(product, 2, v0=jnp.ones(5)).values ** 2)

    found = jax.block_until_ready(gradient(jnp.asarray(matrix)))
    jax.effects_barrier()
    # Five steps and the verification take two matvecs each (transposes call back too), and the pull-back takes two.
    assert len(calls) <= 2 * 6 + 2
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    assert_allclose(found, 2 * (left[:, :2] * values[:2]) @ right[:2], atol=1e-12)


def polar(matrix, weight, r):
    left, _, right = np.linalg.svd(matrix)
    projector = right[:r].T @ right[:r]
    return np.sum(weight * (left[:, :r] @ right[:r])) + np.sum(projector[0]), np.sum(np.linalg.svd(matrix)[1][:r])


@functools.cache
def gradients():
    """Compile the gradient of an invariant loss of three triplets, or of components; also return sum u v^H."""

    @functools.partial(jax.grad, has_aux=True)
    def gradient(matrix, weight, of_components):
        result = svds(matrix, 3, tol=1e-13)
        across = result.left.T @ result.right
        invariant = jnp.sum(weight * across) + jnp.sum((result.right.T @ result.right)[0])
        return jnp.where(of_components, result.left[0, 1] + 3 * result.right[0, 2], invariant), across

    return jax.jit(gradient)


@pytest.mark.slow
def test_invariant_losses_of_repeated_and_of_zero_singular_values(rng):
    # A loss of sum u v^H and of the projector on the leading right vectors is smooth, though the vectors are not.
    weight, direction = rng.standard_normal((2, 5, 5))
    rotations = [np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2)]
    for values in ([4, 4, 4, 2, 1], [4, 4, 3, 0, 0], [3, 3, 3, 0, 0]):
        matrix = (rotations[0] * np.asarray(values, float)) @ rotations[1].T
        gradient, nuclear = gradients()(jnp.asarray(matrix), weight, False)
        expected = central_difference(lambda a: np.array(polar(a, weight, 3)), matrix, direction)
        assert_allclose(pairing(gradient, direction), expected[0], rtol=TOLERANCE)
        assert_allclose(np.sum(nuclear * direction), expected[1], rtol=TOLERANCE)


def test_zero_and_repeated_singular_values_give_no_nan_and_harm_no_other():
    gradient = lambda matrix: gradients()(jnp.asarray(matrix), np.ones((5, 5)), True)[0]
    for values in ([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [2, 2, 1, 1, 1], [2, 1, 0, 0, 0]):
        assert np.all(np.isfinite(gradient(np.diag(np.asarray(values, float)))))
    # Rank one, in closed form: d u_1 = P_U dA v_1 / s and d v_1 = P_V dA^H u_1 / s, for any basis of the null space.
    expected = np.zeros((5, 5))
    expected[1, 0], expected[0, 2] = 1 / 2, 3 / 2
    assert_allclose(gradient(np.diag([2.0, 0, 0, 0, 0])), expected, atol=1e-12)


@pytest.mark.slow
def test_the_systems_are_solved_as_well_as_the_triplets_are_known_at_few_products():
    p, n, k = 90, 60, 5
    generator = np.random.default_rng(3)
    left, values, right = np.linalg.svd(generator.normal(size=(p, n)), full_matrices=False)
    matrix, bars = (left * values) @ right, (generator.normal(size=(k, p)), generator.normal(size=(k, n)))

    @functools.partial(jax.jit, static_argnames="is_wide")
    def solved(matrix, bars, is_wide):
        op = as_rectangular(matrix.T if is_wide else matrix)
        result, recycled = solver(op, k, tol=1e-6, verify=False)
        given = SolvedTriplets(op, result.left, result.values, result.right, result.residuals, None, recycled)
        bars = bars[::-1] if is_wide else bars
        return result, [dilation.iterate(x, bars, None) for x in (given, given._replace(recycled=None))]

    dilated = np.block([[np.zeros((p, p)), matrix], [matrix.T, np.zeros((n, n))]])
    outside = np.eye(p + n) - np.block(
        [
            [left[:, :k] @ left[:, :k].T, np.zeros((p, n))],
            [np.zeros((n, p)), right[:k].T @ right[:k]],
        ]
    )
    exact = []
    for value, *bar in zip(values[:k], *bars, strict=True):
        system = outside @ (value * np.eye(p + n) - dilated) @ outside
        exact.append(np.linalg.lstsq(system, outside @ np.concatenate(bar))[0])
    for is_wide in (False, True):
        result, (found, plain) = solved(jnp.asarray(matrix), tuple(map(jnp.asarray, bars)), is_wide)
        inherent = np.linalg.norm(result.residuals / (values[:k] - values[k]) * np.linalg.norm(exact, axis=1))
        for way in (found, plain):
            pair = way.vectors[::-1] if is_wide else way.vectors
            assert np.linalg.norm(np.concatenate(pair, axis=1) - exact) <= 2 * inherent
            assert np.all(way.residuals <= way.targets)
        assert 2 * int(jnp.sum(found.num_steps)) < 2 * int(result.num_matvecs)
        assert int(jnp.sum(found.num_steps)) < 0.6 * int(jnp.sum(plain.num_steps))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("which", ["LM", "SM"])
def test_the_gradient_of_tiny_and_huge_matrices_in_float32(which, scale, rng):
    left, _, right = np.linalg.svd(rng.normal(size=(14, 11)), full_matrices=False)
    matrix = (left * np.linspace(3, 0.5, 11)) @ right
    weights, direction = rng.normal(size=(2, 14, 11))

    @jax.grad
    def gradient(matrix):
        result = svds(matrix, K, which=which, tol=1e-6, krylov_dim=K + 3)
        return jnp.sum((result.left.T @ result.right) * jnp.asarray(weights, jnp.float32))

    def dense(matrix):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        wanted = slice(K) if which == "LM" else slice(-K, None)
        return np.sum((left[:, wanted] @ right[wanted]) * weights)

    found = np.asarray(gradient(jnp.asarray(scale * matrix, jnp.float32)), np.float64) * scale
    assert_allclose(np.sum(found * direction), central_difference(dense, matrix, direction), rtol=1e-3)
