"""Gradients of losses of eigenpairs against central differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import as_operator, deflated_power_iteration, hessian, lanczos

SIZE, K = 10, 3
# Step of a fourth-order difference: h^4 truncation against eps / h rounding.
STEP = 1e-4
TOLERANCE = 1e-6

pytestmark = pytest.mark.usefixtures("float64")

SOLVERS = {
    "lanczos": functools.partial(lanczos, k=K, which="LA", krylov_dim=SIZE),
    "power": functools.partial(deflated_power_iteration, k=K, which="LA", max_iter=2000, tol=1e-13, momentum=0.9),
}


def symmetric(rng, *, complex_entries=False):
    a = rng.normal(size=(SIZE, SIZE))
    if complex_entries:
        a = a + 1j * rng.normal(size=(SIZE, SIZE))
    return (a + a.conj().T) / 2


def dense_operator(theta):
    return theta


def callable_operator(theta):
    return as_operator(lambda v: theta @ v, like=jnp.ones(SIZE))


def hessian_operator(theta):
    # Both the parameters and the data of the Hessian depend on theta and are differentiated.
    data = jnp.eye(SIZE) + 0.3 * theta
    loss = lambda p, batch: jnp.mean(jnp.tanh(batch @ p["w"]) ** 2 + jnp.cos(batch @ p["w"]) * p["w"][0])
    return hessian(loss, {"w": jnp.sum(theta, axis=0) / SIZE}, data, batch_size=4)


OPERATORS = {"dense": dense_operator, "callable": callable_operator, "hessian": hessian_operator}


def loss_of(operator, solver, weights, theta):
    result = solver(operator(theta))
    (vectors,) = jax.tree.leaves(result.eigenvectors)
    return jnp.sum(jnp.sin(weights * vectors)) + jnp.sum(jnp.cos(result.eigenvalues)) + vectors[0] @ vectors[1] ** 2


def central_difference(function, theta, direction):
    at = lambda steps: function(theta + steps * STEP * direction)
    return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)


def assert_derivative(function, theta, direction, scale=1.0):
    ours = jnp.sum(jax.grad(function)(theta) * direction)
    difference = central_difference(function, theta, direction)
    assert abs(difference) > 1e-3, "the direction shows nothing"
    assert_allclose(ours, difference, rtol=TOLERANCE, atol=TOLERANCE * scale * 1e-3)


# One rule serves all solvers and operators: the quick run tests each of them once.
QUICK = {("dense", "power"), ("hessian", "lanczos")}


@pytest.mark.parametrize(
    ("operator", "solver"),
    [
        pytest.param(operator, solver, marks=() if (operator, solver) in QUICK else pytest.mark.slow)
        for operator in OPERATORS
        for solver in SOLVERS
    ],
)
def test_gradient_and_its_gradient(operator, solver, rng):
    weights = jnp.asarray(rng.normal(size=(K, SIZE)))
    theta, direction, other = (jnp.asarray(symmetric(rng)) for _ in range(3))
    loss = jax.jit(functools.partial(loss_of, OPERATORS[operator], SOLVERS[solver], weights))
    assert_derivative(loss, theta, direction)
    slope = jax.jit(lambda theta: jnp.sum(jax.grad(loss)(theta) * other))
    assert_derivative(slope, theta, direction)


@pytest.mark.slow
def test_vmap_over_64_matrices(rng):
    weights = jnp.asarray(rng.normal(size=(K, SIZE)))
    loss = functools.partial(loss_of, dense_operator, SOLVERS["lanczos"], weights)
    thetas = jnp.asarray(np.stack([symmetric(rng) for _ in range(64)]))
    directions = jnp.asarray(np.stack([symmetric(rng) for _ in range(64)]))
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(thetas)
    differences = central_difference(jax.jit(jax.vmap(loss)), thetas, directions)
    assert_allclose(jnp.sum(gradients * directions, axis=(1, 2)), differences, rtol=TOLERANCE, atol=1e-7)
    along = lambda theta, direction: jnp.sum(jax.grad(loss)(theta) * direction)
    slopes = jax.jit(jax.vmap(along))
    difference = central_difference(lambda thetas: slopes(thetas, directions), thetas, directions)
    ours = jnp.sum(jax.jit(jax.vmap(jax.grad(along)))(thetas, directions) * directions, axis=(1, 2))
    assert_allclose(ours, difference, rtol=TOLERANCE, atol=TOLERANCE * float(jnp.median(jnp.abs(difference))))


@pytest.mark.slow
def test_jit_of_vmap_of_grad_equals_one_by_one(rng):
    loss = functools.partial(loss_of, dense_operator, SOLVERS["lanczos"], jnp.ones((K, SIZE)))
    thetas = jnp.asarray(np.stack([symmetric(rng) for _ in range(3)]))
    together = jax.jit(jax.vmap(jax.grad(loss)))(thetas)
    one_by_one = jnp.stack([jax.grad(loss)(theta) for theta in thetas])
    assert_allclose(together, one_by_one, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_every_which_has_the_same_rule(which, rng):
    weights = jnp.asarray(rng.normal(size=(K, SIZE)))
    solver = functools.partial(lanczos, k=K, which=which, krylov_dim=SIZE)
    theta, direction = jnp.asarray(symmetric(rng)), jnp.asarray(symmetric(rng))
    assert_derivative(jax.jit(functools.partial(loss_of, dense_operator, solver, weights)), theta, direction)


@pytest.mark.slow
def test_complex_hermitian(rng):
    # The loss is invariant to phases; a JAX gradient g means d loss = Re sum g dA.
    probe = jnp.asarray(rng.normal(size=(SIZE, 2)) + 1j * rng.normal(size=(SIZE, 2)))
    theta, direction = (jnp.asarray(symmetric(rng, complex_entries=True)) for _ in range(2))

    @jax.jit
    def loss(theta):
        result = lanczos(theta, k=K, which="LA", krylov_dim=SIZE)
        return jnp.sum(jnp.abs(result.eigenvectors @ probe) ** 2 * jnp.arange(1.0, K + 1)[:, None]) + jnp.sum(
            result.eigenvalues**2
        )

    slope = jax.jit(lambda theta: jnp.real(jnp.sum(jax.grad(loss)(theta) * direction)))
    assert_allclose(slope(theta), central_difference(loss, theta, direction), rtol=TOLERANCE)
    second = jnp.real(jnp.sum(jax.grad(slope)(theta) * direction))
    assert_allclose(second, central_difference(slope, theta, direction), rtol=TOLERANCE)


@pytest.mark.slow
def test_the_separated_vector_beside_a_repeated_eigenvalue():
    # The derivative is dv = (4 - 1)^-1 P dA v in closed form; jnp.linalg.eigh gives NaN here.
    matrix = jnp.diag(jnp.array([4.0, 1.0, 1.0]))
    gradient = jax.grad(lambda a: lanczos(a, k=1).eigenvectors[0, 1])(matrix)
    assert_allclose(gradient, [[0, 1 / 6, 0], [1 / 6, 0, 0], [0, 0, 0]], atol=1e-14)
    assert not np.all(np.isfinite(jax.grad(lambda a: jnp.linalg.eigh(a)[1][1, 2])(matrix)))


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3])
def test_a_loss_of_the_subspace_of_a_repeated_eigenvalue(k, rng):
    # The loss tr(M V V^T) over the double eigenvalue 4 (and the next) is smooth, though the vectors are not.
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    matrix = jnp.asarray(rotation @ np.diag([4.0, 4.0, 2.0, 1.0, 0.5]) @ rotation.T)
    weight, direction = rng.normal(size=(5, 5)), rng.normal(size=(5, 5))
    weight, direction = weight + weight.T, direction + direction.T

    def loss(a):
        vectors = lanczos(a, k=k, which="LA").eigenvectors
        return jnp.trace(weight @ vectors.T @ vectors)

    def exact(a):
        vectors = np.linalg.eigh(a)[1][:, -k:]
        return np.trace(weight @ vectors @ vectors.T)

    difference = central_difference(exact, np.asarray(matrix), direction)
    assert_allclose(jnp.sum(jax.grad(loss)(matrix) * direction), difference, rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_never_nan_on_repeated_eigenvalues(k):
    loss = lambda a: jnp.sum(lanczos(a, k=k, which="LA").eigenvectors ** 3)
    for matrix in (jnp.eye(4), jnp.zeros((4, 4)), jnp.diag(jnp.array([2.0, 2.0, 1.0, 1.0]))):
        assert np.all(np.isfinite(jax.grad(loss)(matrix)))


@pytest.mark.slow
def test_no_complement_when_all_pairs_are_asked_for(rng):
    matrix, direction = jnp.asarray(symmetric(rng)), jnp.asarray(symmetric(rng))
    weights = jnp.asarray(rng.normal(size=(SIZE, SIZE)))
    loss = jax.jit(lambda a: jnp.sum(weights * lanczos(a, k=SIZE, which="LA").eigenvectors ** 2))
    assert_derivative(loss, matrix, direction)
    assert_allclose(
        jax.grad(lambda a: lanczos(a, k=1).eigenvectors[0, 0] + lanczos(a, k=1).eigenvalues[0])(jnp.eye(1)), 1
    )


def test_the_gradient_of_a_matrix_is_symmetric_and_that_of_eigh(rng):
    matrix, weights = jnp.asarray(symmetric(rng)), jnp.asarray(rng.normal(size=(K, SIZE)))
    ours = jax.grad(lambda a: jnp.sum((weights * lanczos(a, k=K, which="LA", krylov_dim=SIZE).eigenvectors) ** 2))(
        matrix
    )
    theirs = jax.grad(lambda a: jnp.sum((weights * jnp.linalg.eigh(a)[1][:, ::-1][:, :K].T) ** 2))(matrix)
    assert_allclose(ours, ours.T, atol=1e-14)
    assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def count_products(function, *args):
    """Count the matvecs that are executed, with a host callback."""
    counts = []

    def product(theta, v):
        jax.debug.callback(lambda: counts.append(1))
        return theta @ v

    jax.block_until_ready(function(lambda theta: as_operator(lambda v: product(theta, v), like=jnp.ones(SIZE)), *args))
    jax.effects_barrier()
    return len(counts)


@pytest.mark.slow
def test_a_zero_cotangent_of_the_eigenvectors_costs_no_solve(rng):
    theta = jnp.asarray(symmetric(rng))
    values = lambda operator, theta: jax.grad(lambda t: jnp.sum(lanczos(operator(t), k=K).eigenvalues ** 2))(theta)
    vectors = lambda operator, theta: jax.grad(lambda t: jnp.sum(lanczos(operator(t), k=K).eigenvectors ** 3))(theta)
    zeros = lambda operator, theta: jax.grad(
        lambda t: jnp.sum(0 * lanczos(operator(t), k=K).eigenvectors) + jnp.sum(lanczos(operator(t), k=K).eigenvalues)
    )(theta)
    forward = count_products(lambda operator, theta: lanczos(operator(theta), k=K), theta)
    assert forward == SIZE + 1
    # The pull-back evaluates the k matvecs that it transposes, as one batch.
    assert count_products(values, theta) <= forward + K
    assert count_products(zeros, theta) <= 2 * (forward + K)
    assert count_products(vectors, theta) > forward + 2 * K


def test_v0_and_key_get_zero_cotangents(rng):
    theta = jnp.asarray(symmetric(rng))
    v0 = jnp.asarray(rng.normal(size=SIZE))
    gradient = jax.grad(lambda v0: jnp.sum(lanczos(theta, k=K, v0=v0).eigenvectors))(v0)
    assert not np.any(gradient)


def test_parameters_that_are_not_used_get_zeros():
    params = {"used": jnp.arange(1.0, 5.0), "unused": jnp.ones(2), "count": jnp.arange(2)}
    top = lambda p: lanczos(hessian(lambda q: jnp.sum(q["used"] ** 4), {"used": p["used"]}), k=1).eigenvalues[0]
    gradient = jax.grad(top, allow_int=True)(params)
    assert_allclose(gradient["used"], [0, 0, 0, 96.0], atol=1e-10)
    assert not np.any(gradient["unused"])


def test_integer_data_is_no_obstacle(rng):
    labels = jnp.asarray(rng.integers(0, 3, size=8))
    data = (jnp.asarray(rng.normal(size=(8, SIZE))), labels)
    params = jnp.asarray(rng.normal(size=(SIZE, 3)))
    loss = lambda p, b: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(b[0] @ p), b[1][:, None], axis=1))
    top = jax.jit(lambda p: lanczos(hessian(loss, p, data), k=1, krylov_dim=20).eigenvalues[0])
    assert_derivative(top, params, jnp.asarray(rng.normal(size=params.shape)))


def test_through_scan(rng):
    theta, direction = jnp.asarray(symmetric(rng)), jnp.asarray(symmetric(rng))

    @jax.jit
    def loss(theta):
        body = lambda total, shift: (total + jnp.sin(lanczos(theta + shift * jnp.eye(SIZE), k=1).eigenvalues[0]), None)
        return jax.lax.scan(body, 0.0, jnp.arange(3.0))[0]

    assert_derivative(loss, theta, direction)


def test_the_error_grows_no_faster_than_the_reciprocal_gap():
    # For v_1 of diag(1, 1 - gap, 0), d v_1 / d a_12 = 1 / gap, to a relative accuracy of eps / gap.
    for gap in (1e-3, 1e-5, 1e-7):
        matrix = jnp.diag(jnp.array([1.0, 1.0 - gap, 0.0]))
        gradient = jax.grad(lambda a: lanczos(a, k=1, which="LA").eigenvectors[0, 1])(matrix)
        assert_allclose(gradient[0, 1], 0.5 / gap, rtol=1e-13 / gap + 1e-12)


def test_static_options_must_be_python_values():
    with pytest.raises(TypeError, match=r"traced k.*static_argnames"):
        jax.jit(lambda k: lanczos(jnp.eye(3), k))(2)


@pytest.mark.slow
def test_adjoint_options_bound_the_solve(rng):
    theta = jnp.asarray(symmetric(rng))
    grad = lambda **options: jax.grad(lambda a: jnp.sum(lanczos(a, k=1, which="LA", **options).eigenvectors ** 3))(
        theta
    )
    exact = grad()
    assert_allclose(grad(adjoint_tol=1e-12), exact, rtol=1e-8, atol=1e-9)
    assert np.max(np.abs(grad(adjoint_tol=0.5) - exact)) > 1e-3
    assert np.max(np.abs(grad(adjoint_max_iter=1) - exact)) > 1e-3
