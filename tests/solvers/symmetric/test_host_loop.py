"""Solves outside of any program: the same results as under jit, and programs that operators share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigsh

N, K = 60, 3


@pytest.fixture
def matrix(rotated):
    return jnp.asarray(rotated(np.linspace(-1.0, 2.0, N) ** 3, 3), jnp.float32)


def wanted_eigenvalues(matrix, which="LA", sigma=None):
    """Return the K wanted eigenvalues of the dense matrix in float64."""
    values = np.linalg.eigvalsh(np.asarray(matrix, "f8"))
    if sigma is not None:
        return values[np.argsort(np.abs(values - sigma))[:K]]
    return values[[-1, 0, -2]] if which == "BE" else values[::-1][:K]


def test_a_second_operator_compiles_its_matvec_only(counted_compilations):
    like = jnp.zeros(N)
    diagonal = jnp.arange(1.0, N + 1)
    eigsh(lambda v: diagonal * v, K, like=like, krylov_dim=10)
    before = counted_compilations()
    # Another function, another structure of the same size, and another tolerance.
    result = eigsh(lambda v: 2.0 * (diagonal * v), K, like=like, krylov_dim=10)
    assert counted_compilations() - before == 1
    np.testing.assert_allclose(result.eigenvalues, 2 * np.arange(N, N - K, -1), rtol=1e-5)
    tree = {"a": jnp.zeros((5, 6)), "b": jnp.zeros(N - 30)}
    eigsh(lambda v: jax.tree.map(lambda x: 3.0 * x, v), K, like=tree, krylov_dim=10, tol=1e-3)
    # Its matvec, its result in leaves, and at most the constants of this test.
    assert counted_compilations() - before <= 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"which": "BE"}, {"sigma": 0.3}, {"block_size": 2}, {"max_matvecs": 12}, {"verify": False}, {"tol": 1e-2}],
    ids=str,
)
def test_the_result_is_that_of_a_program(matrix, options):
    alone = eigsh(matrix, K, krylov_dim=20, **options)
    inside = jax.jit(lambda matrix: eigsh(matrix, K, krylov_dim=20, **options))(matrix)
    for name in ("status", "num_probes", "converged"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(inside, name))
    # Two programs round differently, and a convergence check may come a turn later.
    assert abs(int(alone.num_matvecs) - int(inside.num_matvecs)) <= 4
    if alone.status == Status.CONVERGED:
        np.testing.assert_allclose(alone.eigenvalues, inside.eigenvalues, rtol=0, atol=1e-5)
        same = np.abs(np.sum(np.asarray(alone.eigenvectors) * np.asarray(inside.eigenvectors), axis=1))
        np.testing.assert_allclose(same, 1, atol=2e-3)
        wanted = wanted_eigenvalues(matrix, options.get("which", "LA"), options.get("sigma"))
        np.testing.assert_allclose(alone.eigenvalues, wanted, rtol=0, atol=max(1e-5, 8 * options.get("tol", 0)))
    assert jax.tree.structure(alone) == jax.tree.structure(inside)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), alone) == jax.tree.map(lambda x: (x.shape, x.dtype), inside)


def test_the_number_of_matvecs_is_true(matrix):
    made = []

    def multiply(v):
        jax.debug.callback(lambda: made.append(1))
        return matrix @ v

    result = eigsh(multiply, K, like=jnp.zeros(N), krylov_dim=10)
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(made)


def test_residuals_are_recomputed_where_the_recurrence_is_contradicted(matrix):
    # Not symmetric: the recurrence predicts other images than the operator gives.
    lopsided = matrix + 0.3 * jnp.eye(N, k=1)
    made = []

    def multiply(v):
        jax.debug.callback(lambda: made.append(1))
        return lopsided @ v

    result = eigsh(multiply, K, like=jnp.zeros(N), krylov_dim=10, max_matvecs=30)
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(made)
    vectors, values = np.asarray(result.eigenvectors, "f8"), np.asarray(result.eigenvalues, "f8")
    expected = np.linalg.norm(vectors @ np.asarray(lopsided, "f8").T - values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(result.residuals, expected, rtol=1e-3)
    assert int(result.status) == Status.INCONSISTENT


def test_nan_in_a_matvec_ends_the_solve(matrix):
    result = eigsh(matrix.at[0, 0].set(jnp.nan), K, krylov_dim=10)
    assert int(result.status) == Status.NONFINITE


def test_a_call_in_a_program_without_traced_arguments(matrix):
    # The matrix is a constant of the program.
    inside = jax.jit(lambda: eigsh(np.asarray(matrix), K, krylov_dim=20).eigenvalues)()
    np.testing.assert_allclose(inside, wanted_eigenvalues(matrix), atol=1e-5)


def test_transforms_of_the_operator_see_one_program(matrix):
    value = lambda scale: eigsh(scale * matrix, K, krylov_dim=20).eigenvalues
    wanted = wanted_eigenvalues(matrix)
    np.testing.assert_allclose(jax.vmap(value)(jnp.array([1.0, 2.0])), [wanted, 2 * wanted], atol=2e-5)
    np.testing.assert_allclose(jax.jacrev(value)(1.0), wanted, atol=2e-5)


def test_switches_of_jax_change_nothing(matrix):
    for switch in (jax.debug_infs(True), jax.debug_nans(True), jax.transfer_guard("disallow")):
        with switch:
            found = eigsh(matrix, K, krylov_dim=20).eigenvalues
        np.testing.assert_allclose(found, wanted_eigenvalues(matrix), rtol=0, atol=2e-5)


def test_vectors_are_on_the_device_of_the_operator(matrix):
    device = jax.devices()[3]
    result = eigsh(jax.device_put(matrix, device), K, krylov_dim=20)
    assert result.eigenvectors.devices() == {device}
