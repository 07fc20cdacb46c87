"""Solver `eigs` called in each way: start vectors, budgets, batches, sparse matrices, callables, wrong arguments."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from numpy.testing import assert_allclose

from eigenjax import Status, eigs
from eigenjax.operators.convert import MatrixOperator

from .conftest import SIZE, K, check, matrices, normal, solve

SLOW = pytest.mark.slow
CALLS = []

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.slow
@pytest.mark.parametrize("n", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)])
def test_small_and_all_pairs(n, rng):
    matrix = rng.normal(size=(n, n))
    result = eigs(jnp.asarray(matrix), n)
    check(result, matrix, tol=1e-7, k=n)
    with pytest.raises(ValueError, match=f"k={n + 1}"):
        eigs(jnp.asarray(matrix), n + 1)


@SLOW
@pytest.mark.parametrize("k", [11, 12])
def test_all_pairs_or_all_but_one(k, rng):
    matrix = rng.normal(size=(12, 12))
    check(eigs(jnp.asarray(matrix), k), matrix, tol=1e-7, k=k)


@pytest.mark.slow
def test_start_vectors_of_every_kind():
    matrix = normal()
    values, vectors = np.linalg.eig(matrix)
    starts = {
        "zero": np.zeros(SIZE),
        "not a number": np.full(SIZE, np.nan),
        "an eigenvector of another eigenvalue": vectors[:, np.argmin(values.real)].real,
        "tiny": np.full(SIZE, 1e-300),
    }
    for start in starts.values():
        check(solve(jnp.asarray(matrix), 1e-9, jnp.asarray(start)), matrix, tol=1e-9)


@pytest.mark.slow
def test_a_warm_start_is_cheap():
    matrix = jnp.asarray(normal())
    cold, known = solve(matrix, 1e-6), solve(matrix, 1e-11)
    again = jax.jit(lambda key: eigs(matrix, K, tol=1e-6, v0=known, key=key, verify=False))
    # For any signs in the sum of the known vectors.
    for seed in range(8):
        warm = again(jax.random.key(seed))
        check(warm, normal(), tol=1e-6)
        assert int(warm.num_matvecs) < int(cold.num_matvecs) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountedMatrix(MatrixOperator):
    """Matrix that records each executed matvec on the host."""

    def mv(self, vector):
        jax.debug.callback(lambda _: CALLS.append(1), vector[0])
        return super().mv(vector)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    ["converged", *(pytest.param(end, marks=SLOW) for end in ("at rounding", "budget of none", "budget of one"))],
)
def test_products_are_counted_exactly(end):
    tol = 0.0 if end == "at rounding" else 1e-8
    budget = {"budget of none": 0, "budget of one": 1}.get(end, 90)
    jax.effects_barrier()
    CALLS.clear()
    result = eigs(CountedMatrix(jnp.asarray(matrices()["random"])), 3, tol=tol, max_matvecs=budget)
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(CALLS)
    if budget < 2:
        assert not result.converged.any()
        assert int(result.status) == Status.NOT_CONVERGED
        assert len(CALLS) <= budget + 1


def test_tol_zero_ends_at_rounding():
    result = solve(jnp.asarray(normal()), 0.0)
    assert int(result.status) == Status.STAGNATED
    check(result, normal(), tol=0.0, complete=False)
    assert int(result.num_matvecs) < 600


@pytest.mark.slow
def test_nan_stays_in_its_lane_and_lanes_are_single():
    # Nearly normal matrices: otherwise the different rounding of the two programs would be visible.
    normal, random = (matrices()[name] for name in ("normal", "random"))
    batch = np.stack([normal, random, random.T])
    batch[1, 3, 5] = np.nan
    together = jax.jit(jax.vmap(lambda a: solve(a, 1e-9)))(jnp.asarray(batch))
    assert together.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]
    assert np.isnan(together.eigenvalues[1]).all()
    for i in (0, 2):
        alone = solve(jnp.asarray(batch[i]), 1e-9)
        assert_allclose(together.eigenvalues[i], alone.eigenvalues, rtol=1e-10)
        assert_allclose(together.eigenvectors[i], alone.eigenvectors, atol=1e-7)
        assert int(together.num_matvecs[i]) == int(alone.num_matvecs)


@SLOW
def test_same_key_same_bits_and_jit_is_eager():
    matrix = jnp.asarray(normal())
    first, again = (solve(matrix, 1e-9) for _ in range(2))
    jitted = jax.jit(lambda a: solve(a, 1e-9))(matrix)
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_close(first, jitted, rtol=1e-7, atol=1e-12)


@SLOW
def test_sparse_matrices(rng):
    matrix = np.where(rng.uniform(size=(SIZE, SIZE)) < 0.2, rng.normal(size=(SIZE, SIZE)), 0)
    check(eigs(sparse.BCOO.fromdense(jnp.asarray(matrix)), K, tol=1e-9), matrix, tol=1e-9)


@pytest.mark.slow
def test_a_callable_on_pytrees_is_traced_once(rng):
    matrix = rng.normal(size=(SIZE, SIZE))

    @chex.assert_max_traces(n=1)
    def product(tree):
        flat = jnp.concatenate([tree["a"].ravel(), tree["b"]])
        image = jnp.asarray(matrix) @ flat
        return {"a": image[:30].reshape(5, 6), "b": image[30:]}

    result = eigs(product, K, tol=1e-9, v0={"a": jnp.zeros((5, 6)), "b": jnp.zeros(10)})
    joined = np.concatenate([np.asarray(result.eigenvectors["a"]).reshape(K, -1), result.eigenvectors["b"]], axis=1)
    check(result._replace(eigenvectors=joined), matrix, tol=1e-9)


def test_what_does_not_fit_is_told():
    matrix = jnp.asarray(normal())
    with pytest.raises(ValueError, match="which='LA'"):
        eigs(matrix, 2, which="LA")
    with pytest.raises(ValueError, match="krylov_dim >= 7"):
        eigs(matrix, 4, krylov_dim=6)
    with pytest.raises(TypeError, match=r"max_matvecs=1\.5"):
        eigs(matrix, 4, max_matvecs=1.5)
    with pytest.raises(ValueError, match="max_matvecs=-1"):
        eigs(matrix, 4, max_matvecs=-1)
    with pytest.raises(TypeError, match="real and complex leaves"):
        eigs(lambda v: v, 1, v0=(jnp.ones(3), jnp.ones(3, complex)))
