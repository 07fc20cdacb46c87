"""Warm starts of `eigsh`: known vectors save matvecs, and wrong ones do no harm."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigsh
from eigenjax.operators.convert import MatrixOperator

pytestmark = pytest.mark.usefixtures("float64")

N, K = 120, 5
SPECTRUM = [50, 41, 33, 26, 20, 15, 11, *np.random.default_rng(3).uniform(-0.5, 2, N - 7)]
CALLS = []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountedMatrix(MatrixOperator):
    """Matrix that records each executed matvec on the host."""

    def mv(self, vector):
        jax.debug.callback(lambda _: CALLS.append(1), vector[0])  # in a batch, one call for each lane
        return super().mv(vector)


def solve(matrix, v0=None, tol=1e-8, verify=False):
    """Solve, by default without missed-pair search, and check the matvec count against the recorded calls."""
    jax.effects_barrier()
    CALLS.clear()
    result = jax.block_until_ready(eigsh(CountedMatrix(jnp.asarray(matrix)), K, tol=tol, v0=v0, verify=verify))
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(CALLS)
    return result


@pytest.fixture
def matrix(rotated):
    return rotated(SPECTRUM)


@pytest.fixture
def exact(matrix):
    """Return (n, n) rows, the eigenvectors in order of descending eigenvalues."""
    return np.linalg.eigh(matrix)[1].T[::-1]


@pytest.mark.slow
def test_a_result_given_back_costs_a_product_a_pair_and_one(matrix, check_result):
    cold = solve(matrix)
    again = solve(matrix, v0=cold)
    check_result(again, matrix, which="LA", tol=1e-8, complete=True)
    assert int(again.num_matvecs) <= K + 1 < int(cold.num_matvecs)


@pytest.mark.slow
def test_exact_eigenvectors_cost_a_product_each_and_one(matrix, exact, rng, check_result):
    turned = np.linalg.qr(rng.standard_normal((K, K)))[0] @ exact[:K]
    for rows in (exact[:K], exact[:K][::-1], 7 * exact[:K], turned):
        result = solve(matrix, v0=jnp.asarray(rows))
        check_result(result, matrix, which="LA", tol=1e-8, complete=True)
        assert int(result.num_matvecs) <= K + 1


@pytest.mark.slow
def test_copies_that_the_vectors_given_lack_are_found(rotated, check_result):
    matrix = rotated([50, 50, 41, 33, 33, 20, *np.linspace(-0.5, 2, N - 6)])
    one_copy = jnp.asarray(np.linalg.eigh(matrix)[1].T[::-1][[0, 2, 3, 5, 6]])
    estimates = solve(matrix, v0=one_copy)
    np.testing.assert_allclose(estimates.eigenvalues, [50, 41, 33, 20, np.linalg.eigvalsh(matrix)[-7]], atol=1e-8)
    result = solve(matrix, v0=one_copy, verify=True)
    check_result(result, matrix, which="LA", tol=1e-8, complete=True)
    assert result.num_recovered == 2


def test_right_vectors_cost_what_the_search_costs(matrix, exact, check_result):
    result = solve(matrix, v0=jnp.asarray(exact[:K]), verify=True)
    check_result(result, matrix, which="LA", tol=1e-8, complete=True)
    assert result.num_probes == 1
    assert K + 1 < int(result.num_matvecs) <= K + 16


def starts(exact, generator):
    random = generator.standard_normal((K, N))
    with_a_copy, with_a_zero, first = exact[:K].copy(), exact[:K].copy(), np.tile(exact[0], (K, 1))
    with_a_copy[2], with_a_zero[3] = exact[1], 0
    return {
        "random": random,
        "a copy": with_a_copy,
        "a copy but for rounding": with_a_copy + 1e-14 * random,
        "a row of zeros": with_a_zero,
        "nothing but zeros": np.zeros((K, N)),
        "the same row everywhere": first,
        "huge": 1e200 * random,
        "tiny": 1e-200 * random,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", starts(np.eye(N), np.random.default_rng(0)))
def test_several_vectors_that_are_no_basis_do_no_harm(name, matrix, exact, rng, check_result):
    cold = solve(matrix)
    result = solve(matrix, v0=jnp.asarray(starts(exact, rng)[name]))
    check_result(result, matrix, which="LA", tol=1e-8, complete=True)
    assert int(result.num_matvecs) <= int(cold.num_matvecs) + 5


def test_vectors_nearly_right_are_improved_not_believed(matrix, exact, rng, check_result):
    # With errors of 1e-3 the Ritz values are accurate to 1e-5 and resemble eigenvalues.
    interior = exact[:K] + 1e-3 * rng.standard_normal((K, N)) / np.sqrt(N)
    result = solve(matrix, v0=jnp.asarray(interior))
    check_result(result, matrix, which="LA", tol=1e-8, complete=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eigenvector", "sum of all", "zero", "unwanted eigenvector"])
def test_one_vector_is_a_start(name, matrix, exact, check_result):
    vectors = {
        "eigenvector": exact[0],
        "sum of all": exact[:K].sum(axis=0),
        "zero": np.zeros(N),
        "unwanted eigenvector": exact[-1],
    }
    result = solve(matrix, v0=jnp.asarray(vectors[name]))
    check_result(result, matrix, which="LA", tol=1e-8, complete=True)


def drifting(matrix, generator, count, size):
    for _ in range(count):
        change = generator.standard_normal((N, N)) / np.sqrt(N)
        matrix = matrix + size * (change + change.T)
        yield matrix


@pytest.mark.slow
def test_twenty_small_changes_cost_less_when_tracked(matrix, rng, check_result):
    previous, warm_products, cold_products = solve(matrix, tol=1e-3), 0, 0
    for changed in drifting(matrix, rng, 20, 1e-3):
        cold_products += int(solve(changed, tol=1e-3).num_matvecs)
        previous = solve(changed, v0=previous, tol=1e-3)
        warm_products += int(previous.num_matvecs)
        check_result(previous, changed, which="LA", tol=1e-3, complete=True, accuracy=1e-3)
    assert warm_products <= 0.75 * cold_products, (warm_products, cold_products)


def test_signs_follow_the_vectors_given(matrix, exact):
    flips = np.array([1.0, -1, -1, 1, -1])[:, None]
    for rows in (flips * exact[:K], -flips * exact[:K]):
        vectors = np.asarray(solve(matrix, v0=jnp.asarray(rows)).eigenvectors)
        np.testing.assert_allclose(vectors, rows, rtol=0, atol=1e-8)
    # The signs also follow a result, for perturbations too small to rotate its vectors much.
    turned = solve(matrix)._replace(eigenvectors=jnp.asarray(rows))
    for changed in drifting(matrix, np.random.default_rng(5), 2, 1e-2):
        followed = np.asarray(solve(changed, v0=turned).eigenvectors)
        assert (np.sum(followed * rows, axis=1) > 0.9).all()


def test_signs_follow_a_single_vector_too(matrix, exact):
    start = (np.array([3.0, -2, 1, -1, 2])[:, None] * exact[:K]).sum(axis=0)
    vectors = np.asarray(solve(matrix, v0=jnp.asarray(start)).eigenvectors)
    assert (vectors @ start > 0).all()


@pytest.mark.parametrize(
    ("shape", "error"), [((N - 1,), ValueError), ((K, N + 1), ValueError), ((2, 3, N), ValueError), ((), ValueError)]
)
def test_vectors_of_another_shape_are_an_error_that_names_v0(shape, error, matrix):
    with pytest.raises(error, match=r"v0.*shape"):
        eigsh(jnp.asarray(matrix), K, v0=jnp.ones(shape))


def test_a_result_of_another_operator_is_an_error_that_names_v0(matrix):
    other = eigsh(jnp.eye(8), 2)
    with pytest.raises(ValueError, match=r"v0.*shape"):
        eigsh(jnp.asarray(matrix), K, v0=other)
    with pytest.raises((TypeError, ValueError), match="v0"):
        eigsh(jnp.asarray(matrix), K, v0=jnp.full((K, N), 1 + 1j))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_start_that_is_not_finite_claims_nothing_wrong_and_ends_soon(poison, matrix, exact, check_result):
    rows = exact[:K].copy()
    rows[1, 4] = poison
    for v0 in (jnp.asarray(rows), jnp.asarray(rows[1]), solve(matrix)._replace(eigenvectors=jnp.asarray(rows))):
        result = solve(matrix, v0=v0)
        if int(result.status) == Status.CONVERGED:
            check_result(result, matrix, which="LA", tol=1e-8, complete=True)
        else:
            assert int(result.status) == Status.NONFINITE
            assert not np.any(result.converged)
            assert int(result.num_matvecs) <= K + 1
