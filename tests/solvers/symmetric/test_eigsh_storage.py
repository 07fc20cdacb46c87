"""Basis storage of `eigsh` in fewer bits or on the host: accuracy, memory savings and reported status."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import Status, eigsh
from eigenjax.solvers.symmetric.eigsh import eigsh as solver

N, K = 120, 5
SPECTRUM = [50, 41, 33, 26, 20, 15, 11, *np.random.default_rng(3).uniform(-0.5, 2, N - 7)]
# The error of an eigenvalue is about the squared residual, and the residual is about the eps of the storage.
EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23}


def relative(result, matrix):
    """Compute the largest true residual and the largest error of an eigenvalue, divided by ||A||."""
    values, vectors = np.asarray(result.eigenvalues, float), np.asarray(result.eigenvectors, float)
    residuals = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    truth = np.linalg.eigvalsh(matrix)[::-1][: len(values)]
    return residuals / SPECTRUM[0], np.abs(values - truth).max() / SPECTRUM[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_eigenvalues_keep_twice_the_digits_of_the_vectors(dtype, rotated):
    matrix = np.asarray(rotated(SPECTRUM), np.float32)
    result = eigsh(matrix, K, basis_dtype=dtype, krylov_dim=12)
    residuals, error = relative(result, matrix.astype(float))
    assert int(result.status) == Status.CONVERGED
    np.testing.assert_allclose(np.asarray(result.residuals) / SPECTRUM[0], residuals, rtol=0.01, atol=1e-6)
    assert residuals.max() < EPS[dtype]
    assert error < EPS[dtype] ** 2 + 1e-6
    vectors = np.asarray(result.eigenvectors, float)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(K), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_more_than_the_storage_has_is_not_reported(rotated):
    matrix = np.asarray(rotated(SPECTRUM), np.float32)
    result = eigsh(matrix, K, basis_dtype="bfloat16", tol=1e-6)
    assert int(result.status) == Status.STAGNATED
    assert not np.asarray(result.converged).any()
    assert int(result.num_matvecs) < 100  # the solve ends before its budget


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_float32_basis_serves_float64_and_hermitian_operators(rotated):
    for is_complex in (False, True):
        matrix = rotated(SPECTRUM, is_complex=is_complex)
        result = eigsh(matrix, K, basis_dtype="float32", tol=1e-6)
        assert int(result.status) == Status.CONVERGED
        np.testing.assert_allclose(np.asarray(result.eigenvalues), np.sort(SPECTRUM)[::-1][:K], rtol=1e-11)


@pytest.mark.slow
def test_a_basis_on_the_host_changes_nothing(rotated):
    matrix = np.asarray(rotated(SPECTRUM), np.float32)
    on_device, offloaded = (eigsh(matrix, K, krylov_dim=12, basis=basis) for basis in ("device", "offload"))
    assert int(on_device.num_matvecs) == int(offloaded.num_matvecs)
    np.testing.assert_allclose(np.asarray(offloaded.eigenvalues), np.asarray(on_device.eigenvalues), rtol=1e-5)
    assert relative(offloaded, matrix.astype(float))[0].max() < 4e-4


def test_the_rows_on_the_host_are_declared_there():
    # A CPU has one memory for both, so inspect the program exported for other devices.
    program = jax.jit(functools.partial(solver, k=2, basis="offload"))
    exported = jax.export.export(program, platforms=["cuda", "tpu"])(jax.ShapeDtypeStruct((50, 50), jnp.float32))
    assert "pinned_host" in exported.mlir_module()


@pytest.mark.slow
def test_fewer_bits_are_less_memory():
    n = 20_000

    def vectors(**options):
        program = jax.jit(lambda d: solver(lambda v: d * v, 4, v0=d, krylov_dim=40, **options).result)
        compiled = program.lower(jax.ShapeDtypeStruct((n,), jnp.float32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * n)

    wide, narrow = vectors(), vectors(basis_dtype="bfloat16")
    assert wide < 40 + max(4, 40 / 5) + 4 + 2  # the number in the docstring of `eigsh`, and a margin for scalars
    assert narrow < 0.9 * 40 + 2 * 4 + 5 + 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "disk"}, "basis='disk': choose one of 'device', 'offload', 'recompute'"),
        ({"basis_dtype": "int8"}, "basis_dtype='int8': choose one of 'bfloat16'"),
        ({"basis_dtype": "bfloat16", "basis": "recompute"}, "basis_dtype"),
    ],
)
def test_an_unknown_way_to_keep_it_is_an_error_that_names_the_choices(options, message):
    with pytest.raises(ValueError, match=message):
        eigsh(np.eye(10, dtype=np.float32), 2, **options)
