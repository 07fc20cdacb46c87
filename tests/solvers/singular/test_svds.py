"""Solver `svds` on sets of singular values that are difficult for solvers, against dense float64 arithmetic."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import EigenError, Status, raise_if_failed, svds
from eigenjax.operators.maps import MatrixMap

from .conftest import check_result

SLOW = pytest.mark.slow
P, N, K = 40, 30, 6
DEFAULT_TOL = np.finfo(np.float32).eps ** 0.5

SPECTRA = {
    "linear": np.linspace(30, 1, N),
    "graded": np.logspace(0, -10, N),
    "1 / i": 1 / np.arange(1.0, N + 1),
    "rank 3": [3, 2, 1] + [0] * 27,
    "rank 10": [*range(10, 0, -1)] + [0] * 20,
    "triple five": [5] * 3 + [*np.linspace(3, 1, 27)],
    "two values": [50] * 15 + [1] * 15,
    "all one": np.ones(N),
    "1e-6 all one": np.full(N, 1e-6),
    "clusters": [1 + 1e-3, 1 + 1e-5, 1, 0.9 + 1e-7, 0.9, *np.linspace(0.5, 0, 25)],
    "zero": np.zeros(N),
}


def rotated(values, p=P, n=N, seed=0, *, is_complex=False):
    """Construct a dense (p, n) matrix with these singular values and random singular vectors."""
    generator = np.random.default_rng(seed)
    draw = lambda rows: generator.standard_normal((rows, len(values)))
    left, right = (np.linalg.qr(draw(rows) + 1j * is_complex * draw(rows))[0] for rows in (p, n))
    matrix = (left * np.asarray(values, float)) @ right.conj().T
    return matrix if is_complex else matrix.real


@functools.cache
def matrices(dtype):
    """Return all (40, 30) problems by name."""
    normal = np.random.default_rng(1).standard_normal((P, N))
    scaled = {f"times {scale:.0e}": scale * normal for scale in (1e-20, 1e-14, 1e14, 1e18)}
    square = {"orthogonal, and a zero row": np.eye(P, N), "a column": normal * (np.arange(N) == 7)}
    problems = {name: rotated(values) for name, values in SPECTRA.items()} | {"normal": normal} | scaled | square
    return {name: matrix.astype(dtype) for name, matrix in problems.items()}


NAMES = [*matrices(np.float64)]


@functools.cache
def verified():
    """Solve all problems in float64 and two with NaN or Inf in one batch, with the missed-pair search."""
    broken = [np.where(np.arange(N) == 3, value, matrices(np.float64)["normal"]) for value in (np.nan, np.inf)]
    stack = jnp.asarray(np.stack([*matrices(np.float64).values(), *broken]))
    return jax.tree.map(np.asarray, jax.vmap(lambda a: svds(a, K, verify=True, tol=1e-13))(stack))


def lane(results, index):
    return jax.tree.map(lambda x: x[index], results)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_wanted_triplets_to_the_last_digit(name, float64):
    check_result(lane(verified(), NAMES.index(name)), matrices(np.float64)[name], tol=1e-13)


@pytest.mark.parametrize("index", [-1, -2])
def test_nan_and_inf_are_told_and_harm_no_other(index, float64):
    result = lane(verified(), index)
    assert int(result.status) == Status.NONFINITE
    assert not result.converged.any()
    assert np.isnan(result.values).all()
    with pytest.raises(EigenError, match="NONFINITE"):
        raise_if_failed(verified())
    raise_if_failed(lane(verified(), 0))


CALLS = []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountedMap(MatrixMap):
    """Matrix that records each executed matvec on the host."""

    def mv(self, vector):
        jax.debug.callback(lambda _: CALLS.append("A"), vector[0])
        return super().mv(vector)

    def adjoint_mv(self, vector):
        jax.debug.callback(lambda _: CALLS.append("A^H"), vector[0])
        return super().adjoint_mv(vector)


@jax.jit
def counted_solve(op, v0, tol):
    return svds(op, K, v0=v0, tol=tol, key=jax.random.key(3))


def solved(matrix, v0, tol=DEFAULT_TOL):
    """Solve once and check the number of matvecs against the calls that the host recorded."""
    jax.effects_barrier()
    CALLS.clear()
    result = jax.block_until_ready(counted_solve(CountedMap(jnp.asarray(matrix)), jnp.asarray(v0), jnp.float32(tol)))
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(CALLS)
    return result


COPIES = {"triple five"}  # a restarted Krylov space may miss copies of these; the returned triplets are correct


@SLOW
@pytest.mark.parametrize("name", NAMES)
def test_wide_matrices_in_float32(name, rng):
    matrix = matrices(np.float32)[name].T
    v0 = rng.standard_normal(P).astype(np.float32)
    result = solved(matrix, v0)
    check_result(result, matrix, complete=name not in COPIES | {"clusters"})
    chex.assert_trees_all_equal(result, solved(matrix, v0))


def test_a_looser_tolerance_costs_less_and_none_stagnates():
    matrix, v0 = matrices(np.float32)["normal"].T, np.ones(P, np.float32)
    loose, tight, none = (solved(matrix, v0, tol) for tol in (1e-1, 1e-4, 0.0))
    check_result(loose, matrix, tol=1e-1, complete=False)
    check_result(none, matrix, tol=0.0, complete=False)
    assert loose.converged.all()
    assert int(loose.num_matvecs) < min(int(tight.num_matvecs), int(none.num_matvecs))
    assert int(none.status) in (Status.STAGNATED, Status.NOT_CONVERGED)


@pytest.mark.parametrize("fill", [0.0, np.nan, 1e-30, 1e30])
def test_any_start_vector(fill):
    matrix = matrices(np.float32)["normal"].T
    check_result(solved(matrix, np.full(P, fill, np.float32)), matrix)


def test_a_start_that_is_a_singular_vector_or_a_null_vector():
    matrix = np.zeros((N, P), np.float32)
    matrix[np.arange(20), np.arange(20)] = np.arange(20, 0, -1)
    for start in (0, 3, 25):
        check_result(solved(matrix, np.eye(P, dtype=np.float32)[start]), matrix)


@pytest.mark.parametrize("budget", [1, *(pytest.param(budget, marks=SLOW) for budget in (0, 2, 9))])
def test_a_budget_that_does_not_suffice_claims_nothing(budget):
    matrix = np.arange(1.0, 21).reshape(4, 5).astype(np.float32) ** 1.5
    result = svds(jnp.asarray(matrix), 3, max_matvecs=budget, v0=jnp.ones(5))
    assert int(result.num_matvecs) <= budget + 2 * 4
    assert np.isinf(np.asarray(result.residuals)[budget // 2 :]).all()
    if budget < 9:
        assert not np.asarray(result.converged)[max(budget // 2, 0) :].any()
        assert int(result.status) == Status.NOT_CONVERGED
    else:
        check_result(result, matrix, complete=True)


@SLOW
def test_all_triplets_of_complex_matrices(float64):
    # The start vector has no component of a second copy: all copies are found only when the space is full.
    solve = jax.jit(lambda a: svds(a, 9))
    for values in (np.linspace(3, 1, 9), [2] * 4 + [1] * 3 + [0] * 2, np.logspace(0, -12, 9), np.zeros(9)):
        matrix = rotated(values, p=12, n=9, is_complex=True)
        result = solve(jnp.asarray(matrix))
        check_result(result, matrix)
        assert int(result.num_matvecs) == 2 * 9 + 2
