"""Limits of `eigsh`: no budget, the smallest basis, the whole spectrum, unattainable accuracy, wrong arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigsh

pytestmark = pytest.mark.usefixtures("float64")

N, K = 60, 4


@pytest.fixture
def matrix(rotated):
    return rotated(np.linspace(-1, 1, N) ** 3 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0, 1, 30])
def test_a_budget_is_kept_and_what_was_not_found_is_not_reported(budget, matrix, check_result):
    result = eigsh(jnp.asarray(matrix), K, max_matvecs=budget, tol=1e-12)
    assert int(result.num_matvecs) <= budget + 1
    assert int(result.status) == Status.NOT_CONVERGED
    assert not np.all(result.converged)
    if budget <= 1:
        assert not np.any(np.asarray(result.converged)[budget:])
    else:
        check_result(result, matrix, which="LA", tol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("krylov_dim", [K + 1, K + 2])
def test_the_least_room_is_enough(krylov_dim, matrix, check_result):
    result = eigsh(jnp.asarray(matrix), K, krylov_dim=krylov_dim, tol=1e-8)
    check_result(result, matrix, which="LA", tol=1e-8, complete=True, accuracy=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("k", [8, 7])
def test_all_pairs_and_all_but_one(k, rotated, check_result):
    matrices = np.stack(
        [rotated([4, 4, 3, 2, 2, 2, -1, -5]), np.eye(8), np.zeros((8, 8)), np.diag(np.arange(8.0)), -np.ones((8, 8))]
    )
    results = jax.vmap(lambda a: eigsh(a, k, verify=True))(jnp.asarray(matrices))
    for lane, matrix in enumerate(matrices):
        result = jax.tree.map(lambda x, lane=lane: x[lane], results)
        check_result(result, matrix, which="LA", complete=True)
        assert int(result.num_matvecs) <= 8 + 1


@pytest.mark.parametrize("tol", [0.0, 1e-300, 1e-17])
def test_an_accuracy_that_cannot_be_had_ends_soon_and_says_so(tol, matrix, check_result):
    sane = eigsh(jnp.asarray(matrix), K, krylov_dim=20, tol=1e-14)
    result = eigsh(jnp.asarray(matrix), K, krylov_dim=20, tol=tol)
    check_result(result, matrix, which="LA", tol=tol)
    assert int(result.status) in (Status.STAGNATED, Status.NOT_CONVERGED)
    assert int(result.num_matvecs) <= 1.5 * int(sane.num_matvecs)
    np.testing.assert_allclose(result.eigenvalues, np.linalg.eigvalsh(matrix)[: -K - 1 : -1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k=0: .*1 <= k <= 10"),
        ({"k": 11}, r"k=11: .*1 <= k <= 10"),
        ({"k": -1}, r"k=-1: .*1 <= k <= 10"),
        ({"krylov_dim": 3}, r"krylov_dim=3: .*krylov_dim >= 4"),
        ({"krylov_dim": 0}, r"krylov_dim=0: give 1 or more"),
        ({"krylov_dim": 5, "block_size": 3}, r"krylov_dim=5: .*krylov_dim >= 6"),
        ({"block_size": 0}, r"block_size=0: give 1 or more"),
        ({"block_size": -2}, r"block_size=-2: give 1 or more"),
        ({"max_matvecs": -1}, r"max_matvecs=-1: give 0 or more"),
        ({"which": "largest"}, r"which='largest'.*choose one of .*'LA'"),
        ({"v0": np.ones(9)}, r"v0: .*shape \(9,\).*\(10,\)"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        eigsh(jnp.eye(10), **({"k": 3} | options))


@pytest.mark.parametrize("name", ["k", "krylov_dim", "block_size", "max_matvecs"])
@pytest.mark.parametrize("value", [2.5, "4", True])
def test_counts_are_ints(name, value):
    with pytest.raises(TypeError, match=f"{name}={value!r}"):
        eigsh(jnp.eye(10), **({"k": 3} | {name: value}))


def test_a_callable_without_an_example_says_what_it_needs():
    with pytest.raises(TypeError, match="like"):
        eigsh(lambda v: v, 3)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        eigsh(jnp.ones((4, 3)), 2)
