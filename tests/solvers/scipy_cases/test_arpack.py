"""Cases of SciPy's test_arpack: matrices of size 6, all `which`, modes and dtypes, against LAPACK in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from numpy.testing import assert_allclose
from scipy.sparse.linalg import aslinearoperator

import eigenjax
from eigenjax import Status

from .adapter import eigs, eigsh

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64", "dense_by_default")]

N, K = 6, 2
MATRIX_TYPES = (scipy.sparse.csr_array, aslinearoperator, np.asarray)
TOLERANCES = {"f": 1e-3, "F": 1e-3, "d": 1e-7, "D": 1e-7}


def random_matrix(rng, *, is_complex=False, definite=False):
    a = rng.random((N, N)) + (1j * rng.random((N, N)) if is_complex else 0)
    a = a.conj() @ a.T if definite else a
    return a.astype("F" if is_complex else "f").astype("D" if is_complex else "d")


def positions(values, k, which, *, is_real):
    """Return the values that `which` selects, those of a transformed problem."""
    if which in ("LM", "SM"):
        keys = np.abs(values)
    elif which in ("LI", "SI"):
        keys = np.abs(values.imag) if is_real else values.imag
    else:
        keys = values.real
    order = np.argsort(np.round(keys, 5), kind="stable")
    if which == "BE":
        return np.concatenate([order[: k // 2], order[k // 2 - k :]])
    return order[-k:] if which[0] == "L" else order[:k]


def check(found, vectors, a, m, expected, tolerance):
    vectors, m = vectors.astype("D"), np.eye(N) if m is None else m
    scale = np.max(np.abs(expected))
    for value in expected:
        # Of two conjugates either may be selected.
        assert min(np.min(np.abs(found - value)), np.min(np.abs(found - np.conj(value)))) < tolerance * scale
    assert_allclose(vectors @ a.T, found[:, None] * (vectors @ m.T), atol=tolerance * np.linalg.norm(a) * 5)


def symmetric_cases():
    rng = np.random.default_rng(2300)
    a, m = random_matrix(rng, definite=True), random_matrix(rng, definite=True)
    b, c = (random_matrix(rng, is_complex=True, definite=True) for _ in range(2))
    return {"symmetric": (a, None), "pencil": (a, m), "hermitian": (b, None), "mixed": (b, m), "complex": (b, c)}


@pytest.mark.parametrize("name", symmetric_cases())
@pytest.mark.parametrize("mode", [None, "normal", "buckling", "cayley"])
def test_symmetric_and_hermitian_modes(name, mode):
    a, m = symmetric_cases()[name]
    if np.iscomplexobj(a) and mode in ("buckling", "cayley"):
        pytest.skip("SciPy has these modes for real matrices")
    values = scipy.linalg.eigh(a, m, eigvals_only=True)
    sigma = None if mode is None else 0.5
    shown = {
        None: lambda x: x,
        "normal": lambda x: 1 / (x - 0.5),
        "buckling": lambda x: x / (x - 0.5),
        "cayley": lambda x: (x + 0.5) / (x - 0.5),
    }[mode](values)
    for kind, which in itertools.product("FD" if np.iscomplexobj(a) else "fd", ("LM", "SM", "LA", "SA", "BE")):
        expected = values[positions(shown, K, which, is_real=True)]
        for matrix_type in MATRIX_TYPES if mode is None else MATRIX_TYPES[::2]:
            first, second = matrix_type(a.astype(kind)), None
            if m is not None:
                second = matrix_type(m.astype(kind if np.iscomplexobj(m) else kind.lower()))
            found, vectors = eigsh(first, K, second, sigma=sigma, which=which, mode=mode or "normal")
            check(found, vectors, a, m, expected, TOLERANCES[kind])


def general_cases():
    rng = np.random.default_rng(2300)
    a, m = random_matrix(rng), random_matrix(rng, definite=True)
    b = random_matrix(rng, is_complex=True)
    return {"real": (a, None), "real pencil": (a, m), "complex": (b, None), "complex pencil": (b, m)}


@pytest.mark.parametrize("name", general_cases())
@pytest.mark.parametrize(("sigma", "part"), [(None, None), (0.1, "r"), (0.1 + 0.1j, "r"), (0.1 + 0.1j, "i")])
def test_general_modes(name, sigma, part):
    a, m = general_cases()[name]
    is_real = not np.iscomplexobj(a)
    if not is_real and part == "i":
        pytest.skip("SciPy has this mode for real matrices")
    values = scipy.linalg.eigvals(a, m)
    part = part if is_real else None
    shown = values
    if sigma is not None:
        one, other = 1 / (values - sigma), 1 / (values - np.conj(sigma))
        shown = {None: one, "r": (one + other) / 2, "i": (one - other) / 2j}[part]
    for kind, which in itertools.product("fd" if is_real else "FD", ("LM", "LR", "LI")):
        if which == "LI" and np.all(np.abs(shown.imag) < 1e-9):
            continue
        expected = values[positions(shown, K, which, is_real=is_real)]
        for matrix_type in MATRIX_TYPES if sigma is None else MATRIX_TYPES[2:]:
            first = matrix_type(a.astype(kind))
            second = None if m is None else matrix_type(m.astype(kind.lower()))
            found, vectors = eigs(first, K, second, sigma=sigma, which=which, part=part)
            check(found, vectors, a, m, expected, TOLERANCES[kind] * 10)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_start_vectors(k):
    rng = np.random.default_rng(5)
    a, m = symmetric_cases()["pencil"]
    values = np.sort(scipy.linalg.eigh(a, m, eigvals_only=True))[-k:]
    found, vectors = eigsh(a, k, m, v0=rng.uniform(size=N))
    check(found, vectors, a, m, values, 1e-7)
    if k < 5:
        b = general_cases()["complex"][0]
        found, vectors = eigs(b, k, v0=rng.uniform(size=N).astype("D"))
        exact = scipy.linalg.eigvals(b)
        check(found, vectors, b, None, exact[positions(exact, k, "LM", is_real=False)], 1e-7)


def test_a_budget_that_ends_is_told_with_what_has_converged():
    rng = np.random.default_rng(1234)
    a = rng.random((30, 30))
    a = a @ a.T
    result = eigenjax.eigsh(jnp.asarray(a), 4, which="LM", v0=jnp.asarray(a[:, 0]), max_matvecs=12, krylov_dim=9)
    assert result.status == Status.NOT_CONVERGED
    x, values = np.asarray(result.eigenvectors), np.asarray(result.eigenvalues)
    assert np.any(result.converged)
    assert_allclose((x @ a)[result.converged], (values[:, None] * x)[result.converged], atol=1e-6 * np.linalg.norm(a))


def test_the_nine_largest_of_a_thousand():
    values = np.arange(1, 1001)
    for dtype in (np.float32, np.float64):
        matrix = scipy.sparse.diags_array([values.astype(dtype)], offsets=[0])
        v0 = jnp.asarray(np.random.default_rng(0).random(1000).astype(dtype))
        result = eigenjax.eigs(matrix, 9, krylov_dim=19, v0=v0)
        assert_allclose(np.sort(result.eigenvalues.real), values[-9:], rtol=1e-4)


def test_fewer_pairs_are_a_subset_of_more():
    rng = np.random.default_rng(2)
    a = scipy.sparse.random_array((10, 10), density=0.5, rng=rng).toarray()
    a = np.where(a != 0, 2 * a - 1, 0)
    a = a + a.T
    cases = ((None, np.float32), (None, np.float64), (0.0, np.float64), (5.0, np.float64))
    for which, (sigma, dtype) in itertools.product(("LM", "SM", "LR", "SR"), cases):
        before, eps = np.zeros(0), np.finfo(dtype).eps
        for k in (1, 2, 4, 5, 8):
            found, vectors = eigs(a.astype(dtype), k, sigma=sigma, which=which, v0=np.ones(10, dtype))
            assert_allclose(np.linalg.norm(vectors @ a.T - found[:, None] * vectors), 0, atol=10 * np.sqrt(eps))
            assert np.all(np.abs(before[:, None] - found).min(axis=1, initial=np.inf) < 10 * np.sqrt(eps))
            before = found


@pytest.mark.parametrize("dtype", ["f", "d", "F", "D"])
def test_one_of_a_conjugate_pair(dtype):
    a = np.array([[-1.3, 2.7, 0.2], [0.8, 4.1, 2.2], [2.1, 4.4, -1.9]], dtype)
    found, vectors = eigs(a, 1, which="SR")
    assert_allclose(found.real, -2.495689365014214, atol=1e-4)
    assert_allclose(np.abs(found.imag), 0.5173365219668336, atol=1e-4)
    assert_allclose(vectors @ a.T, found[:, None] * vectors, atol=1e-4)


def test_bad_calls_and_operators_that_call_a_solver():
    with pytest.raises(ValueError, match="square"):
        eigenjax.eigs(scipy.sparse.csc_array((2, 3)), 1)
    with pytest.raises(ValueError, match="which"):
        eigenjax.eigs(np.zeros((8, 8)), 2, which="XX")
    chain = jnp.asarray(scipy.sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(50, 50)).toarray())
    inner = lambda v: eigenjax.eigsh(chain, 1).eigenvalues[0] * v
    assert jax.jit(lambda: eigenjax.eigsh(inner, 1, like=jnp.zeros(50)).status)() == Status.CONVERGED
