"""Lanczos method beyond the acceptance tests: steps, options, errors, signs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, as_operator, lanczos
from eigenjax.solvers.symmetric import lanczos as method

SPECTRUM = [10, 10, 7, 5, 3, 2, 1, 0, -1, -4, -6, -8]


def steps(op, state, count, **options):
    return jax.lax.scan(lambda state, _: (method.step(op, state, **options), None), state, length=count)[0]


def counting(matrix, calls):
    """Return an operator that records each executed matvec."""

    def product(v):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.asarray(matrix) @ v

    return product


@pytest.fixture
def matrix(rotated):
    return rotated(SPECTRUM).astype(np.float32)


def test_a_scan_over_step_is_the_solver(matrix, check_result):
    op = as_operator(jnp.asarray(matrix))
    end = jax.jit(lambda op: method.finalize(op, steps(op, method.init(op, krylov_dim=12), 12), 4))(op)
    check_result(end, matrix, complete=True)
    chex.assert_trees_all_close(end, lanczos(op, 4, krylov_dim=12), rtol=0, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("count", "k"))
def judged_early(op, count, k):
    return method.finalize(op, steps(op, method.init(op, krylov_dim=12), count), k)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e14])
@pytest.mark.parametrize("eigenvalues", [SPECTRUM, [0] * 12, [1] * 12, [3, 2, -1] + [0] * 9])
def test_a_state_half_filled_can_be_judged(eigenvalues, scale, rotated, check_result):
    matrix = (scale * rotated(eigenvalues)).astype(np.float32)
    result = judged_early(as_operator(jnp.asarray(matrix)), count=7, k=4)
    check_result(result, matrix, complete=len(set(eigenvalues)) < 5)
    assert int(result.num_matvecs) == 8


def test_pairs_that_a_state_has_no_vectors_for_are_not_reported(matrix):
    result = judged_early(as_operator(jnp.asarray(matrix)), count=3, k=5)
    assert not np.any(result.converged[3:])
    assert int(result.status) == Status.NOT_CONVERGED


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e14])
def test_an_exhausted_krylov_space_is_left_uncoupled(scale, dtype, rotated):
    # Two distinct eigenvalues: after two matvecs the next direction consists of rounding errors.
    op = as_operator(jnp.asarray((scale * rotated([50] * 6 + [1] * 6)).astype(dtype)))
    state = jax.jit(lambda op: steps(op, method.init(op, krylov_dim=12), 2))(op)
    assert bool(state.broken_down)
    assert float(state.offdiagonal[0]) > scale
    assert float(state.offdiagonal[1]) == 0


def test_products_are_counted_exactly(matrix):
    calls = []
    result = lanczos(counting(matrix, calls), 3, krylov_dim=9, v0=jnp.ones(12))
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(calls) == 10


def test_the_audit_of_a_non_symmetric_operator_is_counted_too(matrix):
    calls = []
    result = lanczos(counting(matrix + np.eye(12, k=2, dtype=np.float32), calls), 3, krylov_dim=9, v0=jnp.ones(12))
    jax.effects_barrier()
    assert int(result.num_matvecs) == len(calls) == 13
    assert int(result.status) == Status.INCONSISTENT


def outliers(n=60):
    return np.diag(np.concatenate([[100.0, 80, 60, 40], np.linspace(0, 1, n - 4)]))


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_only_reorthogonalisation_keeps_the_basis_orthonormal(reorthogonalize):
    op = as_operator(jnp.asarray(outliers(), jnp.float32))
    state = jax.jit(lambda op: steps(op, method.init(op, krylov_dim=50), 50, reorthogonalize=reorthogonalize))(op)
    basis = np.asarray(state.basis, float)
    defect = np.abs(basis @ basis.T - np.eye(50)).max()
    assert defect < 1e-5 if reorthogonalize else defect > 0.5


@pytest.mark.parametrize("which", ["LM", "BE"])
def test_ghosts_are_no_converged_pairs(which):
    truth = np.diag(outliers())
    result = lanczos(jnp.asarray(outliers(), jnp.float32), 10, krylov_dim=60, which=which, reorthogonalize=False)
    converged = np.asarray(result.converged)
    vectors, values = np.asarray(result.eigenvectors, float), np.asarray(result.eigenvalues, float)
    residuals = np.linalg.norm(vectors * truth - values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(np.asarray(result.residuals), residuals, rtol=0, atol=50 * 1.2e-7 * 100)
    assert (residuals[converged] <= 4e-4 * 100).all()
    assert [np.sum(np.abs(values[converged] - outlier) < 1) for outlier in (100, 80, 60, 40)] == [1, 1, 1, 1]
    overlaps = np.abs(vectors @ vectors.T)[np.ix_(converged, converged)]
    assert (overlaps - np.eye(len(overlaps)) < 0.5).all()


@pytest.mark.parametrize(
    ("which", "expected"),
    [("LM", [10, 10, -8, 7]), ("LA", [10, 10, 7, 5]), ("SA", [-8, -6, -4, -1]), ("BE", [10, -8, 10, -6])],
)
def test_which_end(matrix, which, expected):
    np.testing.assert_allclose(lanczos(jnp.asarray(matrix), 4, which=which).eigenvalues, expected, atol=1e-4)


def test_the_smallest_magnitudes_are_eigshs_task():
    with pytest.raises(ValueError, match="eigsh"):
        lanczos(jnp.eye(3), 1, which="SM")
    with pytest.raises(ValueError, match="choose one of 'LM', 'LA', 'SA', 'BE'"):
        lanczos(jnp.eye(3), 1, which="largest")


def test_the_same_key_gives_the_same_bits_and_another_key_another_start(matrix):
    solve = lambda seed: lanczos(jnp.asarray(matrix), 2, krylov_dim=4, key=jax.random.key(seed))
    first, again, other = solve(0), solve(0), solve(1)
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first.eigenvectors, other.eigenvectors)
    assert np.array_equal(lanczos(jnp.asarray(matrix), 2, krylov_dim=4).eigenvectors, first.eigenvectors)


@pytest.mark.slow
def test_eager_jitted_and_batched_agree(matrix):
    a = jnp.asarray(matrix)
    eager = lanczos(a, 3)
    jitted = jax.jit(lambda a: lanczos(a, 3))(a)
    lanes = jax.vmap(lambda a: lanczos(a, 3))(jnp.stack([-a, a]))
    for result in (jitted, jax.tree.map(lambda x: x[1], lanes)):
        np.testing.assert_allclose(result.eigenvalues, eager.eigenvalues, rtol=0, atol=1e-5)
        # The eigenvalue 10 is double: compare its eigenspace, not its vectors.
        projector = lambda found: np.asarray(found.eigenvectors).T @ np.asarray(found.eigenvectors)
        np.testing.assert_allclose(projector(result), projector(eager), rtol=0, atol=1e-4)
        assert int(result.num_matvecs) == int(eager.num_matvecs)


@pytest.mark.parametrize(("krylov_dim", "products"), [(3, 4), (4, 5), (99, 13)])
def test_krylov_dim_from_k_to_beyond_n(matrix, krylov_dim, products):
    result = lanczos(jnp.asarray(matrix), 3, krylov_dim=krylov_dim)
    assert int(result.num_matvecs) == products


def test_arguments_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="krylov_dim=2 is less than k=3"):
        lanczos(jnp.eye(5), 3, krylov_dim=2)
    with pytest.raises(ValueError, match="k=0"):
        lanczos(jnp.eye(5), 0)
    with pytest.raises(ValueError, match="v0: the array has shape"):
        lanczos(jnp.eye(5), 1, v0=jnp.ones(4))
    with pytest.raises(TypeError, match="krylov_dim"):
        lanczos(jnp.eye(5), 1, krylov_dim=2.5)


@pytest.mark.parametrize("k", [2.0, "2", True, None])
def test_k_is_an_int(k):
    # A compiled program may be cached for an int that compares equal; it must not be used for other types.
    lanczos(jnp.eye(5), 1)
    lanczos(jnp.eye(5), 2)
    with pytest.raises(TypeError, match="k="):
        lanczos(jnp.eye(5), k)


def test_numpy_ints_are_ints():
    assert lanczos(jnp.eye(5), np.int64(2), krylov_dim=np.int32(3)).eigenvalues.shape == (2,)


@pytest.mark.parametrize("v0", [np.ones(5) + 1j, np.ones(5, int)])
def test_a_start_vector_of_another_kind_is_taken_whole_or_refused(v0):
    # Integers widen without loss; the imaginary part of a complex vector must not be dropped silently.
    if np.iscomplexobj(v0):
        with pytest.raises(TypeError, match="v0"):
            lanczos(jnp.eye(5), 1, v0=jnp.asarray(v0))
    else:
        assert int(lanczos(jnp.eye(5), 1, v0=jnp.asarray(v0)).status) == Status.CONVERGED


def test_tol_is_traced_and_decides_flags_only(matrix):
    solve = jax.jit(chex.assert_max_traces(lambda tol: lanczos(jnp.asarray(matrix), 4, krylov_dim=6, tol=tol), n=1))
    loose, tight = solve(1.0), solve(0.0)
    assert np.all(loose.converged)
    assert not np.any(tight.converged)
    np.testing.assert_array_equal(loose.eigenvalues, tight.eigenvalues)


def test_signs_follow_the_start_vector_else_the_largest_component(matrix, rng):
    v0 = jnp.asarray(rng.standard_normal(12), jnp.float32)
    towards = np.asarray(lanczos(jnp.asarray(matrix), 12, v0=v0).eigenvectors)
    away = np.asarray(lanczos(jnp.asarray(matrix), 12, v0=-v0).eigenvectors)
    # In the double eigenspace only one direction has a component along v0.
    simple = [i for i in range(12) if np.abs(towards[i] @ np.asarray(v0)) > 1e-2]
    assert len(simple) >= 11
    assert (towards[simple] @ np.asarray(v0) > 0).all()
    assert (away[simple] @ np.asarray(v0) < 0).all()
    free = np.asarray(lanczos(jnp.asarray(matrix), 12).eigenvectors)
    assert (free[np.arange(12), np.abs(free).argmax(axis=1)] > 0).all()


def test_the_largest_component_of_a_complex_vector_is_real_and_positive(rotated):
    matrix = rotated(SPECTRUM, is_complex=True).astype(np.complex64)
    vectors = np.asarray(lanczos(jnp.asarray(matrix), 4).eigenvectors)
    largest = vectors[np.arange(4), np.abs(vectors).argmax(axis=1)]
    np.testing.assert_allclose(largest.imag, 0, atol=1e-6)
    assert (largest.real > 0).all()
