"""Solver `eigs` against dense float64: the wanted pairs, true residuals, and correct flags."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import eig, orth

from eigenjax import Status, eigs
from eigenjax.operators.convert import MatrixOperator

SIZE, K = 40, 4
# A residual may differ from the recomputed one by RESIDUAL_UNITS * eps * ||A||.
RESIDUAL_UNITS = 100.0
CALLS = []

pytestmark = pytest.mark.usefixtures("float64")


def normal(n=SIZE):
    """Construct a normal matrix with conjugate pairs and a few real eigenvalues in a random basis."""
    rng = np.random.default_rng(1)
    blocks = np.zeros((n, n))
    for i in range(0, n - 1, 2):
        modulus, angle = rng.uniform(0.2, 1) ** 2, rng.uniform(0, np.pi)
        blocks[i : i + 2, i : i + 2] = modulus * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
    blocks[0, 0], blocks[1, 1], blocks[0, 1], blocks[1, 0] = 1.2, -1.1, 0, 0
    vectors, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return vectors @ blocks @ vectors.T


def matrices(n=SIZE):
    rng = np.random.default_rng(0)
    chain = rng.uniform(size=(n, n)) ** 4
    return {
        "normal": normal(n),
        "random": rng.normal(size=(n, n)),
        "convection-diffusion": 2 * np.eye(n) - 1.3 * np.eye(n, k=-1) - 0.7 * np.eye(n, k=1),
        "Markov chain": chain / chain.sum(axis=1, keepdims=True),
        "rank three": rng.normal(size=(n, 3)) @ rng.normal(size=(3, n)),
        "triangular": np.diag(np.linspace(1, 3, n) ** 2) + 0.1 * np.triu(rng.normal(size=(n, n)), 1),
        "Grcar": np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=i) for i in (1, 2, 3)),
        "symmetric": (lambda a: a + a.T)(rng.normal(size=(n, n))),
    }


def solve(matrix, tol, v0=None, *, k=K, **options):
    # Compiled once for all calls that share the options; no missed-pair search, which `test_missed_pairs` covers.
    return eigs(matrix, k, tol=tol, v0=v0, **{"verify": False} | options)


def keys(values, which, *, real=True):
    imaginary = -np.abs(values.imag) if real else -values.imag
    return {"LM": -np.abs(values), "LR": -values.real, "SR": values.real, "LI": imaginary}[which]


def check(result, matrix, which="LM", *, tol, complete=True, k=K):
    """Compare one result with the dense matrix."""
    unit, matrix = np.finfo(matrix.dtype).eps, matrix.astype(np.result_type(matrix.dtype, np.float64))
    size = np.linalg.norm(matrix, 2)
    values = np.asarray(result.eigenvalues).astype(complex)
    vectors = np.asarray(result.eigenvectors).astype(complex)
    residuals = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    slack = RESIDUAL_UNITS * unit * size + np.finfo(float).tiny
    assert (np.abs(residuals - np.asarray(result.residuals)) <= slack).all()
    assert (residuals[np.asarray(result.converged)] <= tol * size + slack).all()
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=RESIDUAL_UNITS * unit)
    # Any component of largest magnitude: those of a cyclic permutation's vectors are equal up to rounding.
    sizes = np.abs(vectors)
    is_largest = sizes >= sizes.max(axis=1, keepdims=True) - RESIDUAL_UNITS * unit
    assert (is_largest & np.isclose(vectors, sizes, rtol=1e-7, atol=RESIDUAL_UNITS * unit)).any(axis=1).all()
    found = keys(values, which, real=np.isrealobj(matrix))
    assert (np.diff(found) >= -slack).all()
    if np.isrealobj(matrix):
        assert_conjugates_follow_each_other(values)
    if complete:
        assert result.converged.all(), result.residuals
        assert int(result.status) == Status.CONVERGED
        truth, left, right = eig(matrix, left=True)
        order = np.argsort(keys(truth, which, real=np.isrealobj(matrix)), kind="stable")
        conditions = 1 / np.abs(np.sum(left.conj() * right, axis=0))[order]
        wanted = keys(truth, which, real=np.isrealobj(matrix))[order][:k]
        allowed = 4 * conditions[:k].max() * (tol * size + slack)
        assert_allclose(found, wanted, rtol=0, atol=allowed)
        assert np.abs(values[:, None] - truth).min(axis=1).max() <= allowed


def assert_conjugates_follow_each_other(values):
    i = 0
    while i < len(values):
        if values[i].imag == 0:
            i += 1
            continue
        assert values[i].imag > 0, values
        assert i + 1 == len(values) or values[i + 1] == values[i].conj(), values
        i += 2


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "which", ["LM", pytest.param("LI", marks=SLOW), pytest.param("LR", marks=SLOW), pytest.param("SR", marks=SLOW)]
)
def test_the_pairs_wanted_of_every_matrix(which):
    for name, matrix in matrices().items():
        # All imaginary parts of real eigenvalues are equal.
        if which == "LI" and name in ("convection-diffusion", "symmetric", "rank three", "triangular"):
            continue
        result = solve(jnp.asarray(matrix), 1e-9, which=which)
        check(result, matrix, which, tol=1e-9)


@SLOW
def test_a_basis_hardly_larger_than_the_pairs():
    for name in ("normal", "random", "convection-diffusion"):
        matrix = matrices()[name]
        check(solve(jnp.asarray(matrix), 1e-6, k=6, krylov_dim=10, max_matvecs=5000), matrix, tol=1e-6, k=6)


def test_float32_and_its_default_tolerance():
    for matrix in matrices().values():
        matrix = matrix.astype(np.float32)
        result = solve(jnp.asarray(matrix), None)
        assert result.eigenvectors.dtype == np.complex64
        check(result, matrix, tol=np.finfo(np.float32).eps ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["LM", "LI"])
def test_complex_operators(which, rng):
    matrix = rng.normal(size=(SIZE, SIZE)) + 1j * rng.normal(size=(SIZE, SIZE))
    check(solve(jnp.asarray(matrix), 1e-9, which=which), matrix, which, tol=1e-9)


@pytest.mark.slow
def test_a_cyclic_permutation_and_a_rotation():
    # All eigenvalues have modulus one: any k distinct ones are correct.
    for matrix in (np.roll(np.eye(SIZE), 1, axis=0), orth(np.random.default_rng(2).normal(size=(SIZE, SIZE)))):
        result = solve(jnp.asarray(matrix), 1e-9, krylov_dim=SIZE)
        check(result, matrix, tol=1e-9)
        assert len(np.unique(np.round(np.asarray(result.eigenvalues), 6))) == K


@pytest.mark.slow
def test_multiples_of_the_identity_and_zero():
    for factor in (0.0, 1.0, 1e-6, -1e6):
        result = solve(factor * jnp.eye(SIZE), 1e-9)
        check(result, factor * np.eye(SIZE), tol=1e-9)
        assert_allclose(result.eigenvalues, factor, rtol=1e-12)
        assert np.linalg.matrix_rank(np.asarray(result.eigenvectors), tol=1e-6) == K
        # One matvec for each pair and one that finds no other pair; then residuals are computed, not estimated.
        assert int(result.num_matvecs) <= K + 1 + 2 * K + 1


def test_a_defective_matrix_has_true_residuals():
    for shift in (0.0, 1.0):
        block = shift * np.eye(SIZE) + np.eye(SIZE, k=1)
        result = solve(jnp.asarray(block), 1e-9, krylov_dim=SIZE)
        check(result, block, tol=1e-9, complete=False)
        # The result is exact for a nearby matrix: its eigenvalues lie within a circle of radius eps^(1/n).
        assert np.all(np.abs(result.eigenvalues - shift) < 1.01)
    restarted = solve(jnp.asarray(block), 1e-9)
    check(restarted, block, tol=1e-9, complete=False)


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


def test_a_warm_start_is_cheap():
    matrix = jnp.asarray(normal())
    cold, accurate = solve(matrix, 1e-6), solve(matrix, 1e-11)
    again = jax.jit(lambda key: eigs(matrix, K, tol=1e-6, v0=accurate, key=key, verify=False))
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
    for one, other, third in zip(first, again, jitted, strict=True):
        if one is not None:
            assert_array_equal(one, other)
            assert_allclose(one, third, rtol=1e-7, atol=1e-12)


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


def test_what_does_not_fit_is_reported():
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
