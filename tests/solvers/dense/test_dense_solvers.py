"""Solves of `eigsh`, `eigs` and `svds` by a dense decomposition, against float64 NumPy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from jax.experimental import sparse

from eigenjax import Status, eigs, eigsh, svds

pytestmark = pytest.mark.usefixtures("dense_by_default")
SIZE = 12

# Kinds of operators with the entries of a matrix (n, n).
KINDS = {
    "array": jnp.asarray,
    "BCOO": lambda a: sparse.BCOO.fromdense(jnp.asarray(a)),
    "BCSR": lambda a: sparse.BCSR.fromdense(jnp.asarray(a)),
    "SciPy": scipy.sparse.csc_array,
    "function": lambda a: lambda v: jnp.asarray(a) @ v,
    "pytree": lambda a: lambda v: _split(jnp.asarray(a) @ jnp.concatenate([v["a"].ravel(), v["b"]])),
    "host": scipy.sparse.linalg.aslinearoperator,
}


def _split(x):
    return {"a": x[:4].reshape(2, 2), "b": x[4:]}


def operator_and_example(kind, matrix):
    """Return an operator, and the options that give the structure of its vectors."""
    example = jnp.zeros(len(matrix), matrix.dtype)
    like = {"function": example, "pytree": _split(example)}.get(kind)
    return KINDS[kind](matrix), {} if like is None else {"like": like}


def skip_doubles_on_host(kind, dtype):
    if kind == "host" and np.finfo(dtype).bits == 64:
        pytest.skip("callbacks run on a thread of their own, where JAX does not see the enable_x64 of a test")


def hermitian(normal, rng, dtype, size=SIZE):
    a = normal(rng, (size, size), dtype)
    return (a + a.conj().T) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_eigsh_of_every_kind_of_operator(kind, scalar, normal, rng, check_result):
    skip_doubles_on_host(kind, scalar)
    matrix = hermitian(normal, rng, scalar)
    op, options = operator_and_example(kind, matrix)
    result = eigsh(op, 3, which="LM", **options)
    check_result(result, matrix, which="LM", complete=True)
    is_matrix = kind in ("array", "BCOO", "BCSR", "SciPy")
    assert int(result.num_matvecs) == (3 if is_matrix else SIZE)
    assert int(result.num_probes) == int(result.num_recovered) == 0


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE", "SM"])
def test_eigsh_orders_pairs_as_asked(which, normal, rng, check_result):
    matrix = hermitian(normal, rng, np.float32)
    result = eigsh(matrix, 5, which=which)
    truth = np.linalg.eigvalsh(matrix.astype(float))
    if which == "SM":
        wanted = truth[np.argsort(np.abs(truth))][:5]
        np.testing.assert_allclose(result.eigenvalues, wanted, atol=1e-5)
    else:
        check_result(result, matrix, which=which, complete=True)
    everything = np.setdiff1d(np.arange(SIZE), [np.argmin(np.abs(truth - value)) for value in result.eigenvalues])
    gap = np.min(np.abs(np.asarray(result.eigenvalues)[:, None] - truth[everything]))
    # The gap is the distance to the first pair that is not wanted, the nearest one for an end of the spectrum.
    assert float(result.gap) >= gap - 1e-5


def test_eigsh_next_to_a_number_also_traced_and_batched(normal, rng):
    matrix = hermitian(normal, rng, np.float32)
    truth = np.linalg.eigvalsh(matrix.astype(float))
    shifts = jnp.array([-0.5, 0.3])
    values = jax.jit(jax.vmap(lambda s: eigsh(matrix, 2, sigma=s).eigenvalues))(shifts)
    for shift, pair in zip(shifts, values, strict=True):
        np.testing.assert_allclose(pair, truth[np.argsort(np.abs(truth - shift))][:2], atol=1e-5)


def test_every_copy_of_a_repeated_eigenvalue(rotated, float64):
    matrix = rotated([7.0] * 5 + [3.0] * 4 + [*range(-3, 0)])
    result = eigsh(matrix, 7)
    np.testing.assert_allclose(result.eigenvalues, [7.0] * 5 + [3.0] * 2, atol=1e-13)
    np.testing.assert_allclose(result.eigenvectors @ result.eigenvectors.T, np.eye(7), atol=1e-13)


def test_error_bounds_hold(rotated, dtype):
    for spectrum in (np.logspace(-8, 3, 40), np.zeros(40), [1e6] * 20 + [1.0] * 20, np.linspace(-1, 1, 40)):
        matrix = rotated(spectrum).astype(dtype)
        truth = np.linalg.eigvalsh(matrix.astype(float))[::-1][:10]
        result = eigsh(matrix, 10)
        assert (np.abs(np.asarray(result.eigenvalues, float) - truth) <= np.asarray(result.error_bounds)).all()
        assert int(result.status) == Status.CONVERGED


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "host"])
def test_eigs_of_every_kind_of_operator(kind, normal, rng, float64):
    matrix = normal(rng, (SIZE, SIZE), np.float64)
    op, options = operator_and_example(kind, matrix)
    for which, key in {"LM": np.abs, "LR": np.real, "SR": lambda x: -x.real, "LI": lambda x: np.abs(x.imag)}.items():
        result = eigs(op, 5, which=which, **options)
        truth = np.linalg.eigvals(matrix)
        np.testing.assert_allclose(key(result.eigenvalues), np.sort(key(truth))[::-1][:5], atol=1e-12)
        vectors = np.concatenate([np.reshape(x, (5, -1)) for x in jax.tree.leaves(result.eigenvectors)], axis=1)
        np.testing.assert_allclose(vectors @ matrix.T, result.eigenvalues[:, None] * vectors, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-14)
        for first, second in zip(result.eigenvalues[:-1], result.eigenvalues[1:], strict=True):
            assert abs(first - second.conj()) > 1e-12 or first.imag >= 0  # of two conjugates the upper one is first
        assert int(result.num_matvecs) == (10 if kind in ("array", "BCOO", "BCSR", "SciPy") else SIZE)


def test_eigs_of_a_normal_matrix_has_orthonormal_vectors_of_each_copy(rotated, rng, float64):
    unitary, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    rotations = [np.array([[2.0, 5.0], [-5.0, 2.0]])] * 2 + [7.0 * np.eye(3), np.eye(1)]
    blocks = np.zeros((8, 8))
    for i, block in zip((0, 2, 4, 7), rotations, strict=True):
        blocks[i : i + len(block), i : i + len(block)] = block
    matrix = unitary @ blocks @ unitary.T
    result = eigs(matrix, 7)
    vectors = np.asarray(result.eigenvectors)
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(7), atol=1e-13)
    np.testing.assert_allclose(vectors @ matrix.T, result.eigenvalues[:, None] * vectors, atol=1e-13)
    np.testing.assert_allclose(result.eigenvalues, [7, 7, 7, 2 + 5j, 2 - 5j, 2 + 5j, 2 - 5j], atol=1e-13)
    weights = jnp.asarray(rng.standard_normal((8, 8)))
    direction = jnp.asarray(rng.standard_normal((8, 8)))

    def loss(a):
        triple = eigs(a, 3).eigenvectors
        return jnp.sum(weights * jnp.real(triple.T @ jnp.conj(triple)))

    # Along symmetric perturbations of a symmetric matrix the projector is that of a subspace of copies.
    symmetric = jnp.asarray(rotated([7.0, 7.0, 7.0, 4.0, 3.0, 2.0, 1.0, -1.0]))
    expected = central(lambda d: loss(symmetric + d + d.T), direction)
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(symmetric) * (direction + direction.T)), expected, rtol=1e-7)


def test_eigs_near_a_defective_eigenvalue_returns_eigenvectors(float64):
    matrix = np.diag(np.full(6, 3.0)) + np.diag(np.ones(5), 1)
    values, vectors = map(np.asarray, eigs(matrix, 6)[:2])
    assert np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1).max() < 1e-13
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-14)
    matrix = jnp.asarray(matrix)
    assert np.isfinite(jax.grad(lambda a: jnp.sum(eigs(a, 6).eigenvectors.real))(matrix)).all()


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (40, SIZE), (SIZE, 40)])
@pytest.mark.parametrize("kind", ["array", "BCOO", "SciPy", "function", "host"])
def test_svds_of_every_kind_and_shape(kind, shape, scalar, normal, rng):
    skip_doubles_on_host(kind, scalar)
    matrix = normal(rng, shape, scalar)
    like = {"like": jnp.zeros(shape[1], scalar)} if kind == "function" else {}
    result = svds(KINDS[kind](matrix), 4, **like)
    truth = np.linalg.svd(matrix.astype(np.complex128), compute_uv=False)[:4]
    eps = np.finfo(scalar).eps
    np.testing.assert_allclose(result.values, truth, atol=40 * eps * truth[0])
    left, right = np.asarray(result.left, np.complex128), np.asarray(result.right, np.complex128)
    np.testing.assert_allclose(right @ matrix.T, truth[:, None] * left, atol=100 * eps * truth[0])
    np.testing.assert_allclose(left @ matrix.conj(), truth[:, None] * right, atol=100 * eps * truth[0])
    largest = right[np.arange(4), np.argmax(np.abs(right), axis=1)]
    assert (largest.real > 0).all()
    assert (np.abs(largest.imag) < 10 * eps).all()
    assert int(result.status) == Status.CONVERGED
    assert int(result.num_matvecs) == (4 + SIZE if kind in ("function", "host") else 8)


def test_vectors_follow_the_sign_and_phase_of_a_start(normal, rng, float64):
    for dtype in (np.float64, np.complex128):
        matrix = hermitian(normal, rng, dtype)
        start = normal(rng, SIZE, dtype)
        rows = np.asarray(eigsh(matrix, 3, v0=jnp.asarray(start)).eigenvectors)
        overlaps = rows.conj() @ start
        assert (overlaps.real > 0).all()
        assert (np.abs(overlaps.imag) < 1e-12).all()
        again = eigsh(matrix, 3, v0=eigsh(matrix, 3)._replace(eigenvectors=-jnp.asarray(rows)))
        np.testing.assert_allclose(again.eigenvectors, -rows, atol=1e-12)


LOSSES = {
    "eigsh": lambda a: _of_pairs(eigsh((a + a.T) / 2, 2)),
    "eigs": lambda a: _of_pairs(eigs(a + jnp.diag(jnp.arange(1.0, SIZE + 1)), 3, which="LR")),
    "svds": lambda a: jnp.sum(jnp.sin(svds(a[:8], 2).values)) + jnp.sum(svds(a[:8], 2).left[:, 0] ** 3),
    "function": lambda a: _of_pairs(eigsh(lambda v: a @ v + a.T @ v, 2, v0=jnp.ones(SIZE))),
}


def _of_pairs(result):
    return jnp.sum(jnp.sin(result.eigenvalues.real)) + jnp.sum(jnp.real(result.eigenvectors[:, 2] ** 3))


def central(function, direction, step=1e-4):
    """Return the directional derivative of a function at zero, to fourth order in the step."""
    at = lambda t: np.asarray(function(t * direction))
    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_first_and_second_order(name, rng, float64):
    loss, matrix = LOSSES[name], jnp.asarray(rng.standard_normal((SIZE, SIZE)))
    direction = jnp.asarray(rng.standard_normal((SIZE, SIZE)))
    moved = jax.jit(lambda d: loss(matrix + d))
    gradient = jax.jit(jax.grad(loss))
    expected = central(moved, direction)
    np.testing.assert_allclose(jnp.sum(gradient(matrix) * direction), expected, rtol=1e-7)
    # Both modes need no option.
    np.testing.assert_allclose(jax.jvp(loss, (matrix,), (direction,))[1], expected, rtol=1e-7)
    second = jax.jit(jax.grad(lambda a: jnp.sum(gradient(a) * direction)))(matrix)
    np.testing.assert_allclose(second, central(lambda d: gradient(matrix + d), direction), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_batches_are_solved_as_single_matrices(name, rng, float64):
    stack = jnp.asarray(rng.standard_normal((3, SIZE, SIZE)))
    both = jax.value_and_grad(LOSSES[name])
    values, gradients = jax.jit(jax.vmap(both))(stack)
    for matrix, value, gradient in zip(stack, values, gradients, strict=True):
        np.testing.assert_allclose(value, both(matrix)[0], rtol=1e-10)
        np.testing.assert_allclose(gradient, both(matrix)[1], rtol=1e-7, atol=1e-9)


def test_a_loss_of_the_subspace_of_a_repeated_eigenvalue(rotated, rng, float64):
    matrix, direction = jnp.asarray(rotated([5.0, 5.0, 5.0, *range(-4, 0)])), rng.standard_normal((7, 7))
    direction = jnp.asarray(direction + direction.T)
    weights = jnp.asarray(rng.standard_normal((7, 7)))
    loss = lambda a: jnp.sum(weights * (eigsh(a, 3).eigenvectors.T @ eigsh(a, 3).eigenvectors))
    gradient = jax.grad(loss)(matrix)
    np.testing.assert_allclose(jnp.sum(gradient * direction), central(lambda d: loss(matrix + d), direction), rtol=1e-7)
    # A loss of single vectors has no derivative here, but a finite one is returned.
    assert np.isfinite(jax.grad(lambda a: eigsh(a, 3).eigenvectors[0, 0])(matrix)).all()


def test_gradients_in_the_entries_of_a_sparse_matrix(normal, rng, float64):
    matrix = sparse.BCOO.fromdense(jnp.asarray(hermitian(normal, rng, np.float64)))
    direction = jnp.asarray(rng.standard_normal(matrix.data.shape))

    def loss(data):
        op = sparse.BCOO((data, matrix.indices), shape=matrix.shape)
        return jnp.sum(eigsh(op, 2).eigenvalues ** 2)

    expected = central(lambda d: loss(matrix.data + d), direction)
    np.testing.assert_allclose(jnp.sum(jax.grad(loss)(matrix.data) * direction), expected, rtol=1e-6)


def test_status_of_operators_that_are_wrong(normal, rng):
    lower = jnp.asarray(np.tril(normal(rng, (SIZE, SIZE), np.float32)))
    assert int(eigsh(lower, 2).status) == Status.INCONSISTENT
    assert int(eigsh(lambda v: lower @ v, 2, v0=jnp.ones(SIZE)).status) == Status.INCONSISTENT
    wrong = svds(lambda v: lower @ v, 2, v0=jnp.ones(SIZE), adjoint=lambda u: lower @ u)
    assert int(wrong.status) == Status.INCONSISTENT
    assert not np.any(wrong.converged)
    wide = svds(lambda v: lower[:5] @ v, 2, v0=jnp.ones(SIZE), adjoint=lambda u: 2 * (u @ lower[:5]))
    assert int(wide.status) == Status.INCONSISTENT


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad):
    matrix = jnp.eye(SIZE).at[2, 3].set(bad).at[3, 2].set(bad)
    for solver in (eigsh, eigs, svds):
        result = solver(matrix, 2)
        assert int(result.status) == Status.NONFINITE
        assert not np.any(result.converged)
        assert all(np.isnan(x).all() for x in result[:2])


def test_a_tolerance_below_rounding_is_told(normal, rng):
    result = eigsh(hermitian(normal, rng, np.float32, 60), 3, tol=0.0)
    assert int(result.status) == Status.STAGNATED


def test_sixteen_bits(normal, rng):
    matrix = jnp.asarray(hermitian(normal, rng, np.float32)).astype(jnp.bfloat16)
    truth = np.linalg.eigvalsh(np.asarray(matrix, float))[::-1][:3]
    result = eigsh(matrix, 3)
    assert result.eigenvectors.dtype == jnp.float32
    np.testing.assert_allclose(result.eigenvalues, truth, atol=1e-5)
    assert svds(matrix, 3).left.dtype == jnp.float32
    assert eigs(matrix, 3).eigenvectors.dtype == jnp.complex64


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("solver", [eigsh, eigs, svds])
def test_very_small_and_very_large_matrices(solver, scale, rotated):
    spectrum = np.arange(1.0, 11)
    result = solver((scale * rotated(spectrum)).astype(np.float32), 3)
    values = result.values if solver is svds else result.eigenvalues
    np.testing.assert_allclose(np.real(np.asarray(values, complex)) / scale, [10, 9, 8], rtol=1e-5)
    assert int(result.status) == Status.CONVERGED
    assert (np.asarray(result.residuals) < 1e-5 * 10 * scale).all()
