"""Derivatives of the smallest singular triplets against central differences of dense NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import adjoint_info, svds
from tests.implicit.test_singular import central_difference, loss_of, pairing, problem

TOLERANCE = 1e-6
SLOW = pytest.mark.slow

pytestmark = pytest.mark.usefixtures("float64")


def dense_smallest(matrix, k):
    """Return the rows of left vectors, the values and the rows of right vectors of the k smallest triplets."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left.T[::-1][:k], values[::-1][:k], right.conj()[::-1][:k]


def loss(matrix, weights, k, **options):
    result = svds(matrix, k, which="SM", tol=1e-13, **options)
    return loss_of(result.left, result.values, result.right, weights, jnp)


SHAPES = [(9, 7, 3, False), (7, 9, 3, False), (7, 7, 3, False), (7, 7, 7, False), (8, 6, 3, True), (6, 8, 6, True)]


@pytest.mark.parametrize(
    ("p", "n", "k", "is_complex"), [pytest.param(*shape, marks=() if shape[:2] == (9, 7) else SLOW) for shape in SHAPES]
)
@pytest.mark.parametrize("options", [{}, {"derivative": "forward"}, {"dense": True}], ids=str)
def test_the_gradient_of_a_batch(p, n, k, is_complex, options):
    stacks = jnp.asarray(np.stack([problem(p, n, seed, is_complex=is_complex) for seed in range(2)]))
    options = options if "dense" in options else options | {"krylov_dim": k + 3}
    both = jax.jit(jax.vmap(jax.value_and_grad(functools.partial(loss, k=k, **options))))
    values, gradients = both(stacks[:, 0], stacks[:, 3:])
    for value, gradient, (matrix, direction, _, *weights) in zip(values, gradients, np.asarray(stacks), strict=True):
        dense = lambda matrix, weights=weights: loss_of(*dense_smallest(matrix, k), weights, np)
        assert_allclose(value, dense(matrix), rtol=0, atol=1e-10)
        expected = central_difference(dense, matrix, direction)
        assert abs(expected) > 1e-2, "the direction shows nothing"
        assert_allclose(pairing(gradient, direction), expected, rtol=TOLERANCE)


def of_values(left, values, right, weight, xp):
    return xp.sum(values)


def of_squares(left, values, right, weight, xp):
    return xp.sum(values**2)


def of_right_projector(left, values, right, weight, xp):
    return xp.sum(weight * (right.T @ right))


def of_both_projectors(left, values, right, weight, xp):
    return xp.sum(weight * (right.T @ right)) + xp.sum(weight[:, :2].T * (left.T @ left)[:2])


def of_products(left, values, right, weight, xp):
    return xp.sum(weight * (left.T @ right)) + of_both_projectors(left, values, right, weight, xp)


INVARIANT = {
    # values, k, p, loss: a loss that depends on no choice of vectors
    "three equal values": ([4, 3, 2, 1, 1, 1], 3, 6, of_products),
    "two equal values beside another": ([4, 3, 2, 1, 1, 0.5], 3, 6, of_products),
    "values of three equal ones": ([4, 3, 2, 1, 1, 1], 3, 9, of_values),
    "squares of three equal ones": ([4, 3, 2, 1, 1, 1], 3, 9, of_squares),
    "a zero, square": ([4, 3, 2.5, 2, 1, 0], 2, 6, of_both_projectors),
    "two zeros, square": ([4, 3, 2.5, 2, 0, 0], 2, 6, of_both_projectors),
    "three zeros and a value, tall": ([4, 3, 1, 0, 0, 0], 4, 9, of_right_projector),
    "a zero, tall": ([4, 3, 2.5, 2, 1, 0], 1, 9, of_right_projector),
    "squares with zeros": ([4, 3, 1, 0, 0, 0], 4, 6, of_squares),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "two zeros, square" else SLOW) for name in INVARIANT]
)
@pytest.mark.parametrize("mode", ["reverse", pytest.param("forward", marks=SLOW), pytest.param("wide", marks=SLOW)])
def test_losses_that_do_not_depend_on_the_choice_of_vectors(name, mode, rng):
    values, k, p, function = INVARIANT[name]
    left, right = (np.linalg.qr(rng.standard_normal((rows, rows)))[0] for rows in (p, 6))
    matrix, (weight, direction) = (left[:, :6] * np.asarray(values)) @ right, rng.standard_normal((2, p, 6))
    # A projector is an array of the larger of its sizes: the weight has as many rows as needed.
    weight = weight[:6] if p > 6 and function is not of_products else weight

    def ours(matrix):
        given = matrix.T if mode == "wide" else matrix
        derivative = "forward" if mode == "forward" else "reverse"
        result = svds(given, k, which="SM", tol=1e-13, krylov_dim=5, derivative=derivative)
        sides = (result.right, result.left) if mode == "wide" else (result.left, result.right)
        return function(sides[0], result.values, sides[1], jnp.asarray(weight), jnp)

    expected = central_difference(lambda a: function(*dense_smallest(a, k), weight, np), matrix, direction)
    if mode == "forward":
        found = jax.jit(lambda a: jax.jvp(ours, (a,), (jnp.asarray(direction),))[1])(jnp.asarray(matrix))
    else:
        found = pairing(jax.jit(jax.grad(ours))(jnp.asarray(matrix)), direction)
    assert_allclose(found, expected, rtol=TOLERANCE, atol=1e-8)


@SLOW
def test_the_second_derivative_at_a_zero_value(rng):
    left, right = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
    *directions, weight = rng.standard_normal((3, 6, 6))
    matrix = (left * np.array([4, 3, 2.5, 2, 1, 0])) @ right
    for k, function in ((2, of_squares), (1, of_squares), (2, of_both_projectors)):
        given = lambda xp, found, f=function: f(*found, xp.asarray(weight), xp)
        ours = lambda a, k=k, f=given: f(jnp, svds(a, k, which="SM", tol=1e-13, krylov_dim=5)[:3])
        slope = jax.jit(jax.grad(lambda a, f=ours: jnp.sum(jax.grad(f)(a) * directions[0])))
        dense = lambda a, k=k, f=given: f(np, dense_smallest(a, k))
        along = lambda at, f=dense: central_difference(f, at, 0.1 * directions[0], 1e-2)
        expected = central_difference(along, matrix, 0.1 * directions[1], 1e-2) / 0.01
        assert_allclose(pairing(slope(jnp.asarray(matrix)), directions[1]), expected, rtol=1e-4)


@SLOW
def test_no_nan_at_zero_and_repeated_values():
    gradient = jax.jit(
        jax.grad(lambda a: jnp.sum(svds(a, 3, which="SM").left[0]) + jnp.sum(svds(a, 3, which="SM").right[2]))
    )
    for values in ([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [2, 2, 1, 1, 1], [2, 1, 0, 0, 0], [3, 2, 1, 0, 0]):
        for p in (5, 7):
            assert np.all(np.isfinite(gradient(jnp.eye(p, 5) * jnp.asarray([values], float))))


@SLOW
@pytest.mark.parametrize(("p", "n"), [(60, 40), (40, 60), (40, 40)])
def test_the_systems_converge_and_their_report_says_so(p, n, rng):
    left, right = (np.linalg.qr(rng.standard_normal((rows, 40)))[0] for rows in (p, n))
    matrix = (left * np.r_[np.linspace(1, 0.1, 37), 1e-2, 1e-3, 0]) @ right.T
    weight = rng.standard_normal((p, n))

    def function(a):
        result = svds(a, 4, which="SM", tol=1e-12)
        values = jnp.sum(result.values[1:] ** 2)
        side = result.right if p >= n else result.left
        return values + weight[0, : side.shape[1]] @ side.T @ side[:, 0]

    dense = lambda a: _dense_function(a, weight, p, n)
    direction = rng.standard_normal((p, n))
    found = pairing(jax.jit(jax.grad(function))(jnp.asarray(matrix)), direction)
    # The value of 1e-3 bends the loss: a smaller step.
    assert_allclose(found, central_difference(dense, matrix, direction, 1e-6), rtol=1e-5)
    result = svds(matrix, 4, which="SM", tol=1e-12)
    cotangent = (jnp.asarray(rng.standard_normal((4, p))), jnp.asarray(rng.standard_normal((4, n))))
    info = adjoint_info(matrix, result, cotangent, which="SM")
    assert np.all(info.converged)


def _dense_function(matrix, weight, p, n):
    left, values, right = dense_smallest(matrix, 4)
    side = right if p >= n else left
    return np.sum(values[1:] ** 2) + np.sum(weight[0, : side.shape[1]] @ side.T @ side[:, 0])
