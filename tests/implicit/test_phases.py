"""Derivatives of complex vectors with the phase that the solvers return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax import deflated_power_iteration, eigh, eigsh, lanczos, svd, svds
from eigenjax.implicit.phases import at_fixed_phase

SIZE, K = 5, 2
STEP = 1e-5

pytestmark = pytest.mark.usefixtures("float64")


def drawn(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def hermitian(matrix):
    return matrix + matrix.conj().T


START = drawn(3, SIZE)
TIGHT = {"k": K, "tol": 1e-13}
SYMMETRIC = {
    "eigsh": lambda a, **options: eigsh(a, krylov_dim=SIZE, **TIGHT, **options).eigenvectors,
    "eigsh from a vector": lambda a, **options: eigsh(a, v0=START, **TIGHT, **options).eigenvectors,
    "lanczos": lambda a, **options: lanczos(a, k=K, krylov_dim=SIZE, **options).eigenvectors,
    "lanczos from a vector": lambda a, **options: lanczos(a, k=K, krylov_dim=SIZE, v0=START, **options).eigenvectors,
    "power iteration": lambda a, **options: deflated_power_iteration(a, max_iter=2000, **TIGHT, **options).eigenvectors,
}
RECTANGULAR = {
    "svds": lambda a, **options: (lambda found: jnp.concatenate([found.left, found.right], 1))(
        svds(a, **TIGHT, **options)
    ),
}
DENSE = {
    "eigh": (lambda a: eigh(a).eigenvectors.T[:K], True),
    "eigh of a pencil": (
        lambda a: eigh(a, jnp.diag(jnp.arange(1.0, SIZE + 1).astype(complex))).eigenvectors.T[:K],
        True,
    ),
    "svd, tall": (lambda a: (lambda found: jnp.concatenate([found.u.T, found.vh], 1)[:K])(svd(a)), False),
    "svd, wide": (lambda a: (lambda found: jnp.concatenate([found.u.T, found.vh], 1)[:K])(svd(a.T)), False),
}


def problem(square):
    shape = (SIZE, SIZE) if square else (SIZE + 1, SIZE)
    matrix, direction = drawn(1, *shape), drawn(2, *shape)
    return tuple(jnp.asarray(hermitian(x) if square else x) for x in (matrix, direction))


def check(vectors, square, *, forward, second):
    """Compare slopes along one direction with central differences of the loss and of its gradient."""
    matrix, direction = problem(square)
    weights = jnp.asarray(drawn(4, *jax.eval_shape(vectors, matrix).shape))

    def along(t, **options):
        found = vectors(matrix + t.astype(matrix.dtype) * direction, **options)
        return jnp.sum(weights * found).real

    loss, slope = jax.jit(along), jax.jit(jax.grad(along))
    at = jnp.array([-STEP, 0.0, STEP])
    below, _, above = (float(loss(t)) for t in at)
    assert_allclose(slope(at[1]), (above - below) / (2 * STEP), rtol=1e-6, atol=1e-6)
    tangent = jax.jvp(lambda t: along(t, **forward), (at[1],), (jnp.ones(()),))[1]
    assert_allclose(tangent, slope(at[1]), rtol=1e-9, atol=1e-9)
    if second:
        of_slope = (slope(at[2]) - slope(at[0])) / (2 * STEP)
        assert_allclose(jax.grad(slope)(at[1]), of_slope, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("eigsh", True),
        pytest.param("eigsh from a vector", True, marks=pytest.mark.slow),
        pytest.param("lanczos", False, marks=pytest.mark.slow),
        ("lanczos from a vector", False),
        pytest.param("power iteration", False, marks=pytest.mark.slow),
    ],
)
def test_of_symmetric_solvers(name, second):
    check(SYMMETRIC[name], True, forward={"derivative": "forward"}, second=second)


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_of_triplets(second):
    check(RECTANGULAR["svds"], False, forward={"derivative": "forward"}, second=second)


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_of_dense_decompositions(name):
    vectors, square = DENSE[name]
    check(vectors, square, forward={}, second=True)


@pytest.mark.slow
def test_an_invariant_loss_has_the_gradient_of_numpy():
    matrix, direction = (np.asarray(x) for x in problem(True))
    weights = hermitian(drawn(5, SIZE, SIZE))
    energy = lambda x, xp: xp.sum(xp.real(xp.conj(x) * (weights @ x)))
    truth = lambda t: energy(np.linalg.eigh(matrix + t * direction)[1][:, -1], np)
    expected = (truth(STEP) - truth(-STEP)) / (2 * STEP)
    for vectors in (SYMMETRIC["eigsh"], lambda a: eigh(a).eigenvectors.T[::-1]):
        gradient = jax.grad(lambda a, of=vectors: energy(of(a)[0], jnp))(jnp.asarray(matrix))
        assert_allclose(jnp.sum(gradient * direction).real, expected, rtol=1e-6)


def test_a_fixed_phase_changes_nothing_and_does_not_feel_a_phase():
    vectors = jnp.asarray(drawn(6, 3, SIZE))
    fixed = at_fixed_phase(vectors)
    assert_allclose(at_fixed_phase(fixed), fixed, rtol=1e-14)
    assert_allclose(at_fixed_phase(jnp.exp(2j) * vectors), fixed, rtol=1e-13)
    assert_allclose(jnp.vdot(START, at_fixed_phase(vectors, jnp.asarray(START))[1]).imag, 0, atol=1e-13)
    near = at_fixed_phase(vectors, references=jnp.asarray(START)[None])
    assert_allclose(near, at_fixed_phase(vectors, jnp.asarray(START)), rtol=1e-13)
    np.testing.assert_array_equal(at_fixed_phase(vectors.real), vectors.real)
