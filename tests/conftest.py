"""Fixtures of all tests: simulated devices, fast compilation, strict promotion, comparison with dense `eigh`."""

import functools
import os
import pathlib

import jaxlib

# XLA compilation takes nearly all of the test time; the compiled programs run for milliseconds. Unoptimized machine
# code takes a quarter of the compile time (half with later jaxlibs, which do not know the second flag). Flags that
# the caller has set come later in the string and take precedence.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if jaxlib.__version__.startswith("0.10.") else "",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from eigenjax import Status
from eigenjax.solvers.dense import choice

# A residual may differ from the recomputed one by RESIDUAL_UNITS * eps * ||A||.
RESIDUAL_UNITS = 50.0
# Largest allowed error of orthonormality for each dtype.
ORTHONORMALITY = {"float32": 1e-5, "float64": 1e-12, "complex64": 1e-5, "complex128": 1e-12}
# Bound for one process after a test, under Linux. The kernel allows 65,530; a program takes about seven, and no test
# more than 15,000 in all.
_MAX_MEMORY_MAPPINGS = 20_000


@pytest.fixture(autouse=True)
def _programs_are_let_go():
    # XLA keeps every program that a jitted function has compiled. Past the kernel's bound the next compilation crashes.
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MAX_MEMORY_MAPPINGS:
        jax.clear_caches()


# These tests run code as users write it, for example with a bias added to a batch of rows: rank promotion is allowed.
_RANKS_ARE_PROMOTED = ("test_accelerator_benchmark", "test_benchmarks", "test_notebooks", "report", "runs")


@pytest.fixture(autouse=True)
def _strict_promotion(request):
    is_users = any(part in _RANKS_ARE_PROMOTED for part in request.path.with_suffix("").parts)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("allow" if is_users else "raise"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _krylov_methods():
    """Let small matrices test the Krylov methods, as large operators do."""
    with pytest.MonkeyPatch.context() as patch:
        decide = choice.is_small
        patch.setattr(choice, "is_small", lambda solver, op, options: _DENSE and decide(solver, op, options))
        yield


_DENSE: list[bool] = []


@pytest.fixture
def dense_by_default():
    """Decompose small matrices in one test, as users see it."""
    _DENSE.append(True)
    yield
    _DENSE.clear()


@pytest.fixture
def float64():
    """Enable float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    """Return a NumPy generator with the same seed in every test."""
    return np.random.default_rng(0)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Return each real dtype, float32 and float64; enable float64 for the second."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture(params=["float32", "float64", "complex64", "complex128"])
def scalar(request):
    """Return each of the four working dtypes; enable float64 for float64 and complex128."""
    with jax.enable_x64(request.param in ("float64", "complex128")):
        yield np.dtype(request.param)


@pytest.fixture
def counted_compilations():
    """Yield a function that returns the number of programs compiled by XLA since the test began."""
    compiled = []
    listen = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(compiled)
    jax.monitoring.unregister_event_duration_listener(listen)


def rotated(eigenvalues, seed=0, *, is_complex=False):
    """Construct a dense float64 symmetric (complex Hermitian) matrix with these eigenvalues and random eigenvectors."""
    generator = np.random.default_rng(seed)
    n = len(eigenvalues)
    normal = generator.standard_normal((n, n)) + 1j * is_complex * generator.standard_normal((n, n))
    vectors, _ = np.linalg.qr(normal)
    matrix = (vectors * np.asarray(eigenvalues, float)) @ vectors.conj().T
    matrix = (matrix + matrix.conj().T) / 2
    return matrix if is_complex else matrix.real


def normal(generator, shape, dtype):
    """Draw standard normal numbers; complex ones have a real and an imaginary part."""
    numbers = generator.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        numbers = numbers + 1j * generator.standard_normal(shape)
    return numbers.astype(dtype)


def flat(vectors):
    """Return the (k, n) float64 or complex128 rows of a pytree with a leading axis k on every leaf."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(vectors)]
    wide = np.complex128 if any(np.iscomplexobj(leaf) for leaf in leaves) else np.float64
    return np.concatenate([leaf.astype(wide).reshape(len(leaf), -1) for leaf in leaves], axis=1)


@functools.lru_cache(maxsize=100)
def dense_eigenvalues(data, dtype):
    """Compute the (n,) ascending eigenvalues of the Hermitian matrix with these bytes."""
    entries = np.frombuffer(data, dtype)
    return np.linalg.eigvalsh(entries.reshape(int(len(entries) ** 0.5), -1))


def wanted_keys(values, which):
    """Return the sorted keys, the most wanted first; for "LM" the keys are magnitudes."""
    values = np.sort(np.asarray(values, float))
    if which == "BE":
        ends = [values[::-1][i // 2] if i % 2 == 0 else values[i // 2] for i in range(len(values))]
        return np.array(ends)
    return {"LM": np.sort(np.abs(values))[::-1], "LA": values[::-1], "SA": values}[which]


def check_result(result, matrix, *, which="LM", tol=None, unit=None, complete=False, accuracy=None):
    """Compare an EigenResult with the dense matrix it was computed from.

    Args:
        result: result without batch axes.
        matrix: (n, n) matrix in the dtype of the operator; widened to float64 here.
        which: the `which` of the solve.
        tol: the `tol` of the solve; None is sqrt(eps) of the result's dtype.
        unit: machine epsilon of the operator; None is the eps of the matrix's dtype.
        complete: True if all k wanted eigenvalues must be found and flagged as converged.
        accuracy: error allowed in complete eigenvalues, relative to ||A||; None is the rounding error of the residuals.
    """
    matrix = np.asarray(matrix)
    unit = np.finfo(matrix.dtype).eps if unit is None else unit
    dense = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    truth = dense_eigenvalues(dense.tobytes(), dense.dtype)
    size = np.abs(truth).max()
    slack = RESIDUAL_UNITS * unit * size
    values, vectors = np.asarray(result.eigenvalues, float), flat(result.eigenvectors)
    converged = np.asarray(result.converged)
    tol = np.finfo(np.asarray(result.residuals).dtype).eps ** 0.5 if tol is None else tol

    true_residuals = np.linalg.norm(vectors @ dense.T - values[:, None] * vectors, axis=1)
    np.testing.assert_array_less(
        np.abs(true_residuals - np.asarray(result.residuals, float)), slack + np.finfo(float).tiny
    )
    bound = max(ORTHONORMALITY[str(leaf.dtype)] for leaf in jax.tree.leaves(result.eigenvectors))
    np.testing.assert_allclose(vectors.conj() @ vectors.T, np.eye(len(values)), rtol=0, atol=bound)
    np.testing.assert_array_less(true_residuals[converged], tol * size + slack + np.finfo(float).tiny)
    assert_each_counted_once(values[converged], true_residuals[converged], truth, slack)
    assert_in_order(values, which)
    if complete:
        assert converged.all(), f"not converged: {np.flatnonzero(~converged)}"
        assert int(result.status) == Status.CONVERGED
        found, wanted = wanted_keys(values, which), wanted_keys(truth, which)[: len(values)]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=slack if accuracy is None else accuracy * size)


def assert_each_counted_once(values, residuals, truth, slack):
    """Assert that distinct eigenvalues, counted with multiplicity, lie within the error bound of the values."""
    if len(values):
        bound = np.sqrt(np.sum(residuals**2)) + slack
        too_far = np.abs(values[:, None] - truth[None, :]) > bound
        rows, columns = linear_sum_assignment(too_far)
        assert not too_far[rows, columns].any(), f"of {values} some are no eigenvalues, or counted twice"


def assert_in_order(values, which):
    """Assert that the most wanted value comes first."""
    if which == "BE":
        np.testing.assert_array_equal(values, wanted_keys(values, which))
    else:
        keys = {"LM": -np.abs(values), "LA": -values, "SA": values}[which]
        assert (np.diff(keys) >= 0).all(), values


def operations(jaxpr):
    """Yield the operations of a program, and those of all programs inside: of loops, branches and calls."""
    is_program = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(inner):
                yield from operations(getattr(inner, "jaxpr", inner))


@pytest.fixture(name="operations", scope="session")
def _operations():
    return operations


@pytest.fixture(name="rotated", scope="session")
def _rotated():
    return rotated


@pytest.fixture(name="check_result", scope="session")
def _check_result():
    return check_result


@pytest.fixture(name="normal", scope="session")
def _normal():
    return normal


@pytest.fixture(name="flat", scope="session")
def _flat():
    return flat
