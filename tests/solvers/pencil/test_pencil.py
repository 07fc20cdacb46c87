"""Generalized and shift-inverted symmetric problems: right, B-orthonormal, all copies, in few products."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from benchmarks.support.finite_elements import cube
from eigenjax import Status, as_operator, diagonal_operator, eigsh, shift_inverse

pytestmark = pytest.mark.usefixtures("float64")


def pencil(n=60, is_complex=False, seed=0):
    """Return a random Hermitian matrix and a positive definite one."""
    rng = np.random.default_rng(seed)
    draw = lambda: rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if is_complex else 0)
    a, w = draw(), draw()
    return (a + a.conj().T) / 2, w @ w.conj().T / n + np.eye(n)


@functools.cache
def elements():
    return cube(9, 2)


def check(result, a, b, expected, tol=1e-9):
    """Compare a result with the truth, and its residuals with those that one recomputes."""
    x = np.asarray(result.eigenvectors)
    b = np.eye(len(a)) if b is None else b
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=tol, atol=tol)
    np.testing.assert_allclose(x.conj() @ b @ x.T, np.eye(len(expected)), atol=1e-11)
    residuals = np.linalg.norm(x @ a.T - np.asarray(result.eigenvalues)[:, None] * (x @ b.T), axis=1)
    np.testing.assert_allclose(result.residuals, residuals, rtol=1e-4, atol=1e-12 * np.linalg.norm(a))
    errors = np.abs(np.asarray(result.eigenvalues) - expected)
    assert np.all(errors <= np.asarray(result.error_bounds) + 1e-12 * np.max(np.abs(expected)))


def nearest(values, sigma, k):
    return values[np.argsort(np.abs(values - sigma))[:k]]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE", "SM"])
def test_generalized_pairs_equal_those_of_scipy(which, is_complex):
    a, b = pencil(is_complex=is_complex)
    values = scipy.linalg.eigh(a, b, eigvals_only=True)
    orders = {"LA": -values, "SA": values, "LM": -np.abs(values), "SM": np.abs(values)}
    expected = values[[-1, 0, -2]] if which == "BE" else values[np.argsort(orders.get(which, values))[:3]]
    check(eigsh(a, 3, b=b, which=which), a, b, expected)


@pytest.mark.parametrize("with_b", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
def test_shift_invert_takes_few_products_and_counts_them(with_b, is_complex):
    a, b = pencil(200, is_complex=is_complex)
    b = b if with_b else None
    expected = nearest(scipy.linalg.eigh(a, b, eigvals_only=True), 0.3, 4)
    result = eigsh(a, 4, b=b, sigma=0.3, inverse=shift_inverse(a, 0.3, b))
    check(result, a, b, expected)
    assert result.num_solves < 60
    assert result.num_matvecs == 5


def test_a_callable_inverse_and_no_shift():
    a, b = pencil()
    inverse = np.linalg.inv(a)
    result = eigsh(a, 3, b=b, inverse=lambda v: jnp.asarray(inverse) @ v)
    check(result, a, b, nearest(scipy.linalg.eigh(a, b, eigvals_only=True), 0.0, 3))


def test_all_copies_of_the_modes_of_a_square_are_found():
    stiffness, mass = elements()
    # Alone, these matrices of two triangles in each cell are not symmetric under a rotation by 90 degrees.
    stiffness, mass = stiffness + stiffness[::-1][:, ::-1], mass + mass[::-1][:, ::-1]
    a, b = stiffness.toarray(), mass.toarray()
    double = lambda x: scipy.linalg.block_diag(x, x)
    a, b = double(a), double(b)
    expected = scipy.linalg.eigh(a, b, eigvals_only=True)[:6]
    assert np.abs(expected[0] - expected[1]) < 1e-10
    check(eigsh(a, 6, b=b, which="SA"), a, b, expected)
    result = eigsh(a, 6, b=b, sigma=0.0, inverse=shift_inverse(scipy.sparse.csr_matrix(a), 0.0, b))
    check(result, a, b, expected)


def test_a_singular_mass_matrix_is_allowed_with_an_inverse():
    a, _ = pencil(80)
    a = a @ a + np.eye(80)
    mass = np.diag(np.r_[np.ones(50), np.zeros(30)])
    reduced = a[:50, :50] - a[:50, 50:] @ np.linalg.solve(a[50:, 50:], a[50:, :50])
    expected = np.linalg.eigvalsh(reduced)[:3]
    result = eigsh(a, 3, b=mass, inverse=shift_inverse(a))
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-9)
    assert jnp.max(result.residuals) < 1e-8 * np.linalg.norm(a)


def test_an_indefinite_b_and_a_wrong_inverse_are_told():
    a, b = pencil()
    assert eigsh(a, 2, b=b - 2 * np.eye(60)).status == Status.INCONSISTENT
    indefinite = diagonal_operator(jnp.linspace(-1.0, 1.0, 60))
    assert eigsh(a, 2, b=indefinite, max_matvecs=200).status != Status.CONVERGED
    wrong = shift_inverse(a + 0.1 * np.diag(np.arange(60.0)), 0.3)
    result = eigsh(a, 2, sigma=0.3, inverse=wrong)
    assert result.status == Status.INCONSISTENT
    assert not jnp.any(result.converged)


@pytest.mark.parametrize("which", ["SA", "LA"])
def test_a_preconditioner_works_with_b(which):
    stiffness, mass = elements()
    a, b = stiffness.toarray(), mass.toarray()
    a = a if which == "SA" else -a
    inverse = np.linalg.inv(stiffness.toarray())
    result = eigsh(stiffness if which == "SA" else -stiffness, 3, b=mass, which=which, preconditioner=inverse)
    values = scipy.linalg.eigh(a, b, eigvals_only=True)
    expected = values[:3] if which == "SA" else values[::-1][:3]
    assert result.status == Status.CONVERGED
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-10)
    assert result.num_matvecs < eigsh(stiffness, 3, b=mass, which="SA", verify=False).num_matvecs


def test_pytrees_sparse_matrices_and_a_warm_start():
    stiffness, mass = elements()
    a, b = jnp.asarray(stiffness.toarray()), jnp.asarray(mass.toarray())
    join, split = lambda v: jnp.concatenate([v["x"], v["y"]]), lambda v: {"x": v[:30], "y": v[30:]}
    like = split(jnp.zeros(64))
    on_tree = lambda matrix: as_operator(lambda v: split(matrix @ join(v)), like=like)
    expected = scipy.linalg.eigh(a, b, eigvals_only=True)[:3]
    result = eigsh(on_tree(a), 3, b=on_tree(b), which="SA")
    np.testing.assert_allclose(result.eigenvalues, expected, rtol=1e-10)
    again = eigsh(on_tree(a), 3, b=on_tree(b), which="SA", v0=result, verify=False)
    assert again.status == Status.CONVERGED
    assert 2 * int(again.num_matvecs) < int(result.num_matvecs)
    sparse = eigsh(stiffness, 3, b=mass, which="SA")
    np.testing.assert_allclose(sparse.eigenvalues, expected, rtol=1e-10)
    lumped = diagonal_operator(jnp.asarray(mass.sum(axis=1)).reshape(-1))
    found = eigsh(stiffness, 3, b=lumped, which="SA").eigenvalues
    expected = scipy.linalg.eigh(a, np.diag(np.asarray(mass.sum(axis=1)).ravel()), eigvals_only=True)[:3]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_vmap_over_pencils_and_one_program_for_all_shifts():
    matrices = [pencil(seed=seed) for seed in range(3)]
    a, b = (jnp.stack(parts) for parts in zip(*matrices, strict=True))
    found = jax.vmap(lambda a, b: eigsh(a, 2, b=b, which="LA").eigenvalues)(a, b)
    expected = [scipy.linalg.eigh(x, y, eigvals_only=True)[::-1][:2] for x, y in matrices]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    solve = jax.jit(lambda sigma: eigsh(a[0], 2, b=b[0], sigma=sigma, inverse=shift_inverse(a[0], sigma, b[0])))
    values = scipy.linalg.eigh(*matrices[0], eigvals_only=True)
    for sigma in (-1.0, 0.5):
        np.testing.assert_allclose(solve(sigma).eigenvalues, nearest(values, sigma, 2), rtol=1e-10)


@pytest.mark.usefixtures("dense_by_default")
def test_small_matrices_are_decomposed():
    a, b = pencil()
    values = scipy.linalg.eigh(a, b, eigvals_only=True)
    result = eigsh(a, 3, b=b, sigma=0.5)
    np.testing.assert_allclose(result.eigenvalues, nearest(values, 0.5, 3), rtol=1e-10)
    assert result.num_matvecs == 3
    check(result, a, b, nearest(values, 0.5, 3))
    assert eigsh(a, 3, b=b - 2 * np.eye(60)).status == Status.INCONSISTENT


@pytest.mark.parametrize("kind", ["dense", "tridiagonal", "sparse", "bcoo"])
def test_shift_inverse_solves_with_the_shifted_matrix(kind):
    from jax.experimental import sparse

    stiffness, mass = cube(30, 1) if kind == "tridiagonal" else elements()
    a, b = stiffness.toarray(), mass.toarray()
    given = {"dense": (a, b), "bcoo": (sparse.BCOO.fromdense(jnp.asarray(a)), mass)}.get(kind, (stiffness, mass))
    inverse = shift_inverse(given[0], 3.5, given[1])
    v = np.random.default_rng(0).standard_normal(len(a))
    expected = np.linalg.solve(a - 3.5 * b, v)
    np.testing.assert_allclose(inverse(jnp.asarray(v)), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(inverse.adjoint_mv(jnp.asarray(v)), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(inverse))(jnp.stack([v, 2 * v]))[1], 2 * expected, rtol=1e-8, atol=1e-10
    )


def test_the_inverse_of_another_shift_is_told():
    a, b = pencil()
    for options in ({}, {"sigma": 0.3}):
        result = eigsh(a, 3, b=b, inverse=shift_inverse(a, 5.0, b), **options)
        assert result.status == Status.INCONSISTENT
        assert not jnp.any(result.converged)
        # The bounds of the inverse's eigenvalues belong to other eigenvalues.
        assert jnp.all(jnp.isinf(result.error_bounds) & jnp.isinf(result.error_estimates))
    assert eigsh(a, 3, inverse=shift_inverse(-a)).status == Status.INCONSISTENT


@pytest.mark.parametrize("with_b", [False, True])
def test_error_estimates_with_an_inverse_are_not_below_the_rounding(with_b):
    # A shift at the distance of 1e-7 from an eigenvalue: the inverse alone determines it far below its rounding.
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    exact = np.arange(200.0)
    a, b = (q * exact) @ q.T, None
    if with_b:
        factor = np.diag(rng.uniform(1, 2, 200))
        a, b = factor @ a @ factor, factor @ factor
    a = (a + a.T) / 2
    sigma = 125 + 1e-7
    result = eigsh(a, 3, b=b, sigma=sigma, inverse=shift_inverse(a, sigma, b))
    errors = np.abs(np.asarray(result.eigenvalues) - np.round(result.eigenvalues))
    assert np.all(np.asarray(result.error_estimates) >= np.spacing(125.0))
    # The matrix itself has rounding errors of this size.
    assert np.all(errors <= np.asarray(result.error_estimates) + 4 * np.finfo(float).eps * np.linalg.norm(a, 2))


def test_a_start_at_an_eigenvector():
    a, b = pencil()
    inverse = shift_inverse(a, 0.3, b)
    one = eigsh(a, 1, b=b, sigma=0.3, inverse=inverse)
    expected = nearest(scipy.linalg.eigh(a, b, eigvals_only=True), 0.3, 4)
    for start in (one, one.eigenvectors[0]):
        check(eigsh(a, 4, b=b, sigma=0.3, inverse=inverse, v0=start), a, b, expected)


def test_a_shift_at_an_eigenvalue_is_refused():
    rng = np.random.default_rng(0)
    weights = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.2), 1)
    weights += weights.T
    laplacian = np.diag(weights.sum(axis=1)) - weights
    for matrix in (laplacian, scipy.sparse.csr_matrix(laplacian)):
        with pytest.raises(ValueError, match="is an eigenvalue, at least to rounding"):
            shift_inverse(matrix)
    a, b = pencil()
    value = float(scipy.linalg.eigh(a, b, eigvals_only=True)[7])
    assert shift_inverse(a, value + 1e-9, b).size == 60
    with pytest.raises(ValueError, match="is an eigenvalue, at least to rounding"):
        shift_inverse(a, value, b)
    scaled = np.diag(np.logspace(-6, 6, 50))
    np.testing.assert_allclose(shift_inverse(scaled)(jnp.ones(50)), np.logspace(6, -6, 50), rtol=1e-12)


def test_bounds_hold_in_float32():
    stiffness, mass = cube(200, 1)
    stiffness, mass = (x.astype(np.float32) for x in (stiffness, mass))
    values = scipy.linalg.eigh(stiffness.toarray().astype(float), mass.toarray().astype(float), eigvals_only=True)
    for sigma in (0.0, 500.0):
        result = eigsh(stiffness, 3, b=mass, sigma=sigma, inverse=shift_inverse(stiffness, sigma, mass))
        errors = np.abs(np.asarray(result.eigenvalues, float) - nearest(values, sigma, 3))
        assert np.all(errors <= np.asarray(result.error_bounds))


def test_a_real_b_stands_beside_a_complex_operator_and_not_the_reverse():
    a, _ = pencil(is_complex=True)
    b = np.diag(np.linspace(1.0, 2.0, 60))
    check(eigsh(a, 2, b=b), a, b, scipy.linalg.eigh(a, b, eigvals_only=True)[::-1][:2])
    with pytest.raises(TypeError, match="make the operator complex"):
        eigsh(a.real, 2, b=b.astype(complex))


def test_nan_is_told_from_an_indefinite_b():
    a, b = pencil()
    for dense in (True, False):
        assert eigsh(a * np.nan, 2, b=b, dense=dense).status == Status.NONFINITE
        assert eigsh(a, 2, b=b * np.nan, dense=dense).status == Status.NONFINITE
        assert eigsh(a, 2, b=b - 2 * np.eye(60), dense=dense).status == Status.INCONSISTENT
    negative = scipy.sparse.diags(np.linspace(-1.0, 1.0, 60)).tocsr()
    assert eigsh(a, 2, b=negative).status == Status.INCONSISTENT


def test_errors_name_the_argument_and_the_remedy():
    a, b = pencil()
    for given in ("x", lambda v: v, as_operator(lambda v: v, like=jnp.zeros(3))):
        with pytest.raises(TypeError, match="shift_inverse"):
            shift_inverse(given, 0.3)
    lumped = diagonal_operator(jnp.linspace(1.0, 2.0, 60))
    expected = np.linalg.solve(a - 0.3 * np.diag(np.linspace(1.0, 2.0, 60)), np.ones(60))
    np.testing.assert_allclose(shift_inverse(a, 0.3, lumped)(jnp.ones(60)), expected, rtol=1e-8)
    with pytest.raises(ValueError, match="sigma="):
        shift_inverse(a, float("nan"))
    with pytest.raises(ValueError, match="eigsh: b: the array has shape"):
        eigsh(a, 2, b=b[:10, :10])
    with pytest.raises(ValueError, match="leave which out"):
        eigsh(a, 2, inverse=a, which="SA")
    with pytest.raises(TypeError, match="inverse="):
        eigsh(a, 2, inverse="lu")
    with pytest.raises(ValueError, match="basis_dtype"):
        eigsh(a, 2, b=b, basis_dtype="float32")
    with pytest.raises(ValueError, match="recompute"):
        eigsh(a, 2, b=b, basis="recompute")
    with pytest.raises(ValueError, match="is an eigenvalue"):
        shift_inverse(jnp.diag(jnp.arange(4.0)), 2.0)
    with pytest.raises(ValueError, match="is an eigenvalue"):
        shift_inverse(scipy.sparse.diags(np.arange(4.0)).tocsr() + 0 * scipy.sparse.eye(4, k=3), 2.0)
    with pytest.raises(ValueError, match="one size"):
        shift_inverse(a, 0.0, b[:10, :10])
