"""Solver `svds` on sets of singular values that are difficult for solvers, against dense float64 arithmetic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from eigenjax import EigenError, Status, as_operator, raise_if_failed, svds
from eigenjax.operators.maps import MatrixMap
from eigenjax.operators.rectangular import as_rectangular

SLOW = pytest.mark.slow
P, N, K = 40, 30, 6
# Residuals and singular values may differ from the exact ones by UNITS * eps * ||A||.
UNITS = 50.0
DEFAULT_TOL = np.finfo(np.float32).eps ** 0.5
ORTHONORMALITY = {"float32": 1e-5, "float64": 1e-12}

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


def flat(vectors):
    """Return the (k, n) rows of a pytree in double precision."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(vectors)]
    wide = np.complex128 if any(map(np.iscomplexobj, leaves)) else np.float64
    return np.concatenate([leaf.astype(wide).reshape(len(leaf), -1) for leaf in leaves], axis=1)


def check_result(result, matrix, *, tol=None, complete=True):
    """Compare a SingularResult with the dense matrix."""
    matrix = np.asarray(matrix)
    eps = np.finfo(matrix.dtype).eps
    dense = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    truth = np.linalg.svd(dense, compute_uv=False)
    tol = eps**0.5 if tol is None else tol
    slack = UNITS * eps * truth[0] + np.finfo(float).tiny
    left, values, right = flat(result.left), np.asarray(result.values, float), flat(result.right)
    forward = np.linalg.norm(right @ dense.T - values[:, None] * left, axis=1)
    back = np.linalg.norm(left @ dense.conj() - values[:, None] * right, axis=1)
    residuals, converged = np.hypot(forward, back), np.asarray(result.converged)
    assert_allclose(np.asarray(result.residuals, float), residuals, rtol=0, atol=slack)
    assert (residuals[converged] <= tol * truth[0] + slack).all()
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()
    for side in (left, right):
        bound = ORTHONORMALITY[str(np.asarray(result.values).dtype)]
        assert_allclose(side.conj() @ side.T, np.eye(len(values)), rtol=0, atol=bound)
    assert_signs_fixed(right)
    if complete:
        assert converged.all(), f"not converged: {np.flatnonzero(~converged)}"
        assert int(result.status) == Status.CONVERGED
        # The error (squared residual over gap) is far below this bound, and in a cluster at most the cluster's width.
        assert_allclose(values, truth[: len(values)], rtol=0, atol=slack)


def assert_signs_fixed(rows):
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    assert_allclose(largest, np.abs(largest), rtol=1e-5)


@functools.cache
def verified():
    """Solve all problems in float64 and two with NaN or Inf in one batch, with the missed-pair search."""
    broken = [np.where(np.arange(N) == 3, value, matrices(np.float64)["normal"]) for value in (np.nan, np.inf)]
    stack = jnp.asarray(np.stack([*matrices(np.float64).values(), *broken]))
    return jax.tree.map(np.asarray, jax.vmap(lambda a: svds(a, K, verify=True, tol=1e-13))(stack))


def lane(results, index):
    return jax.tree.map(lambda x: x[index], results)


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
    jax.tree.map(assert_array_equal, result, solved(matrix, v0))


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


@SLOW
@pytest.mark.parametrize(("p", "n"), [(1, 1), (5, 1), (1, 5)])
def test_the_smallest_operators(p, n):
    matrix = np.arange(1.0, p * n + 1).reshape(p, n).astype(np.float32) - 4
    check_result(svds(jnp.asarray(matrix), 1), matrix)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["derived", pytest.param("wrong", marks=SLOW)])
def test_pytrees_on_both_sides_and_one_trace(adjoint, rng):
    matrix = rng.standard_normal((7, 9)).astype(np.float32)
    traces = []

    def product(v):
        traces.append(1)
        image = jnp.asarray(matrix) @ jnp.concatenate([v["a"].ravel(), v["b"][None], v["c"].astype(jnp.float32)])
        return image[:3], {"rest": image[3:].reshape(2, 2)}

    like = {"a": jnp.ones((2, 3)), "b": jnp.ones(()), "c": jnp.ones(2), "empty": jnp.ones(0)}
    if adjoint == "wrong":
        wrong = svds(product, 7, v0=like, adjoint=lambda u: jax.tree.map(jnp.ones_like, like))
        assert int(wrong.status) == Status.INCONSISTENT
        assert not np.any(wrong.converged)
        return
    result = svds(product, 7, v0=like)
    assert len(traces) == 1
    check_result(result, matrix)
    assert jax.tree.map(jnp.shape, result.left) == ((7, 3), {"rest": (7, 2, 2)})
    assert jax.tree.map(jnp.shape, result.right) == {"a": (7, 2, 3), "b": (7,), "c": (7, 2), "empty": (7, 0)}
    wrong = svds(product, 7, v0=like, adjoint=lambda u: jax.tree.map(jnp.ones_like, like))
    assert int(wrong.status) == Status.INCONSISTENT
    assert not np.any(wrong.converged)


@SLOW
def test_a_symmetric_operator_has_the_moduli_of_its_eigenvalues(float64):
    result = svds(as_operator(jnp.diag(jnp.array([1.0, -5.0, 3.0, 0.0]))), 3)
    assert_allclose(result.values, [5, 3, 1], atol=1e-14)
    assert_allclose(jnp.sum(result.left * result.right, axis=1), [-1, 1, 1], atol=1e-14)


@SLOW
def test_one_basis_is_held_on_each_side():
    n, m, k = 40_000, 32, 5
    op = as_rectangular(lambda v: jnp.concatenate([v[1:] - v[:-1], v]), like=jnp.zeros(n))
    for options in ({}, {"verify": True}):
        solve = jax.jit(lambda op, options=options: svds(op, k, krylov_dim=m, **options))
        held = solve.lower(op).compile().memory_analysis().temp_size_in_bytes
        assert held <= (m + k + 3) * 4 * sum(op.shape)


@SLOW
@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit])
def test_sharded_vectors_stay_where_they_are(mode, rng):
    weights = rng.standard_normal((64, 32)).astype(np.float32)
    like = {"x": np.ones((32, 4), np.float32), "w": np.ones(16, np.float32)}
    mesh = jax.make_mesh((8,), ("d",), axis_types=(mode,))
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    def solve(weights, v0, sharding):
        def product(v):
            return {"y": jnp.einsum("ij,jk->ik", weights, v["x"], out_sharding=sharding), "z": 2 * v["w"]}

        return svds(product, 3, v0=v0, krylov_dim=12)

    alone = solve(jnp.asarray(weights), like, None)
    with jax.set_mesh(mesh):
        sharding = PartitionSpec("d", None) if mode == AxisType.Explicit else None
        program = jax.jit(lambda weights, v0: solve(weights, v0, sharding))
        placed = place(weights, "d", None), {"x": place(like["x"], None, None), "w": place(like["w"], "d")}
        compiled = program.lower(*placed).compile()
        together = compiled(*placed)
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    assert_allclose(together.values, alone.values, rtol=2e-6)
    for leaf in (together.left["y"], together.left["z"], together.right["w"]):
        assert leaf.addressable_shards[0].data.size == leaf.size // 8


WRONG = {
    "k too large": ({"k": 4}, ValueError, "k=4: the operator is 3 x 5, so choose 1 <= k <= 3"),
    "k zero": ({"k": 0}, ValueError, "choose 1 <= k <= 3"),
    "k float": ({"k": 2.0}, TypeError, "give an int, the number of triplets"),
    "krylov_dim small": ({"k": 2, "krylov_dim": 2}, ValueError, "k=2 triplets need krylov_dim >= 3"),
    "krylov_dim float": ({"k": 2, "krylov_dim": 9.0}, TypeError, "krylov_dim=9.0: give an int"),
    "budget": ({"k": 2, "max_matvecs": -1}, ValueError, "max_matvecs=-1: give 0 or more"),
    "budget float": ({"k": 2, "max_matvecs": 1.5}, TypeError, "max_matvecs=1.5: give an int"),
    "v0": ({"k": 2, "v0": jnp.ones(3)}, ValueError, r"v0: the array has shape \(3,\), but the operator needs \(5,\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_answered_by_name(case):
    options, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        svds(jnp.ones((3, 5)), **options)
