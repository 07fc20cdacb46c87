"""Acceptance tests for defective inputs and for several kinds of operator, for every solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, deflated_power_iteration, eigsh, lanczos

SOLVERS = {
    "lanczos": lanczos,
    "power": deflated_power_iteration,
    "eigsh": lambda *args, **options: eigsh(*args, which="LM", **options),
}
POWER_TOL = 1e-4  # the default of `deflated_power_iteration`

TROUBLES = {
    "sound": (np.zeros((8, 8)), 1e-3),
    "NaN": (np.diag([np.nan] + [0.0] * 7), 1e-3),
    "Inf": (np.diag([0.0] * 7 + [np.inf]), 1e-3),
    "tol 0": (np.zeros((8, 8)), 0.0),
    "not symmetric": (0.05 * np.eye(8, k=3), 1e-3),
    "slightly not symmetric": (3e-6 * np.eye(8, k=3), 1e-3),
}


@pytest.fixture(params=SOLVERS)
def troubled(request, dtype, rotated):
    """Return the matrices of TROUBLES and their results, solved in one batch."""
    stack = np.stack([rotated([5, -4, 3, 2, 1, 0.5, 0, -1]) + trouble for trouble, _ in TROUBLES.values()]).astype(
        dtype
    )
    tols = np.array([tol for _, tol in TROUBLES.values()], dtype)
    results = jax.vmap(lambda a, tol: SOLVERS[request.param](a, 3, tol=tol))(jnp.asarray(stack), jnp.asarray(tols))
    lane = lambda i: jax.tree.map(lambda x: x[i], results)
    return request.param, {name: (stack[i], lane(i)) for i, name in enumerate(TROUBLES)}


@pytest.mark.slow
def test_trouble_in_one_lane_is_told_and_harms_no_other(troubled, check_result):
    solver, lanes = troubled
    for name in ("NaN", "Inf"):
        result = lanes[name][1]
        assert int(result.status) == Status.NONFINITE
        assert not result.converged.any()
        assert np.isnan(result.eigenvalues).all()
    matrix, result = lanes["sound"]
    check_result(result, matrix, tol=1e-3, complete=solver != "power")
    matrix, result = lanes["tol 0"]
    check_result(result, matrix, tol=0.0)
    assert int(result.status) in (Status.STAGNATED, Status.NOT_CONVERGED)
    assert not result.converged.all()
    for name in ("not symmetric", "slightly not symmetric"):
        matrix, result = lanes[name]
        assert_honest(result, matrix, 1e-3)
    if solver != "power":
        assert int(lanes["not symmetric"][1].status) == Status.INCONSISTENT


def assert_honest(result, matrix, tol):
    """Assert true residuals, and flags consistent with them, for any matrix."""
    matrix, vectors = matrix.astype(float), np.asarray(result.eigenvectors, float)
    values = np.asarray(result.eigenvalues, float)
    residuals = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    size = np.linalg.norm(matrix, 2)
    slack = 50 * np.finfo(np.asarray(result.residuals).dtype).eps * size
    np.testing.assert_allclose(np.asarray(result.residuals, float), residuals, rtol=0, atol=slack)
    assert (residuals[np.asarray(result.converged)] <= tol * size + slack).all()


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_complex_hermitian(solver, dtype, rotated, check_result):
    matrix = rotated([5, 4, -3, 2, 2, 1, 0, -1], is_complex=True).astype(np.result_type(dtype, np.complex64))
    tol = POWER_TOL if solver == "power" else None
    result = SOLVERS[solver](jnp.asarray(matrix), 5)
    assert result.eigenvalues.dtype == dtype
    check_result(result, matrix, tol=tol, complete=True, accuracy=tol)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_bfloat16_operator_is_solved_to_its_rounding(solver, rotated, check_result):
    matrix = jnp.asarray(rotated([8, -6, 4, 3, 2, 1, 0.5, 0]), jnp.bfloat16)
    dense, unit = np.asarray(matrix, np.float32), float(jnp.finfo(jnp.bfloat16).eps)
    result = SOLVERS[solver](matrix, 3)
    assert result.eigenvalues.dtype == jnp.float32
    check_result(result, dense, tol=POWER_TOL if solver == "power" else None, unit=unit)
    truth = np.linalg.eigvalsh(dense.astype(float))[[7, 0, 6]]
    np.testing.assert_allclose(result.eigenvalues, truth, rtol=0, atol=2 * unit * 8)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SOLVERS)
def test_empty_scalar_and_mixed_leaves(solver, dtype, rotated, check_result):
    narrow = {"float32": "bfloat16", "float64": "float32"}[str(dtype)]
    like = {"a": jnp.zeros((2, 3), dtype), "b": jnp.zeros(0), "c": jnp.zeros((), dtype), "d": jnp.zeros(2, narrow)}
    dense = rotated([9, 7, -5, 3, 3, 1, 0, -1, 2]).astype(dtype)

    def product(v):
        image = jnp.asarray(dense) @ jnp.concatenate([leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(v)])
        pieces = jnp.split(image, [6, 6, 7])
        return jax.tree.map(
            lambda x, leaf: x.reshape(leaf.shape).astype(leaf.dtype), dict(zip(like, pieces, strict=True)), like
        )

    result = SOLVERS[solver](as_operator(product, like=like), 3)
    unit = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(like))
    check_result(result, dense, tol=POWER_TOL if solver == "power" else None, unit=unit)
    np.testing.assert_allclose(result.eigenvalues, [9, 7, -5], rtol=0, atol=max(2 * unit * 9, 1e-3))
