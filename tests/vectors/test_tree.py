"""Vector space operations on pytrees against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eigenjax.vectors import random_vectors, tree

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32, "complex64": jnp.complex64}


def vector(rng, dtypes):
    shapes = [(3, 4), (), (5,), (0, 2)]
    leaves = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        numbers = rng.normal(size=shape)
        if np.issubdtype(np.dtype(dtype), np.complexfloating):
            numbers = numbers + 1j * rng.normal(size=shape)
        leaves.append(jnp.asarray(numbers).astype(dtype))
    return {"kernel": leaves[0], "scale": leaves[1], "nested": [leaves[2], leaves[3]]}


def flat(x):
    return np.concatenate([np.asarray(leaf).astype(np.complex128).reshape(-1) for leaf in jax.tree.leaves(x)])


MIXTURES = {
    "float32": [jnp.float32] * 4,
    "bfloat16 among float32": [jnp.bfloat16, jnp.float32, jnp.float32, jnp.bfloat16],
    "all bfloat16": [jnp.bfloat16] * 4,
    "complex64": [jnp.complex64] * 4,
}


@pytest.mark.parametrize("dtypes", MIXTURES.values(), ids=MIXTURES.keys())
def test_inner_and_norm_are_those_of_the_raveled_vectors(rng, dtypes):
    x, y = vector(rng, dtypes), vector(rng, dtypes)
    assert tree.inner(x, y).dtype == tree.accumulation_dtype(x)
    assert_allclose(tree.inner(x, y), np.vdot(flat(x), flat(y)), rtol=1e-5, atol=1e-5)
    assert_allclose(tree.norm(x), np.linalg.norm(flat(x)), rtol=1e-6)


def test_float64_leaves_are_accumulated_in_float64(rng, float64):
    x = {"wide": jnp.asarray(rng.normal(size=1000)), "narrow": jnp.asarray(rng.normal(size=7), jnp.float32)}
    assert tree.inner(x, x).dtype == jnp.float64
    assert_allclose(tree.norm(x), np.linalg.norm(flat(x)), rtol=1e-15)


def test_bfloat16_leaves_are_accumulated_in_float32():
    # The inner product of 1000 ones: a bfloat16 sum would stop growing at 256.
    ones = jnp.ones(1000, jnp.bfloat16)
    assert tree.inner(ones, ones) == 1000
    assert_allclose(tree.norm(ones), np.sqrt(1000), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-20, 1e-8, 1.0, 1e8, 1e18, 1e30, 1e36])
def test_norm_neither_underflows_nor_overflows(size, rng):
    x = np.float32(size) * rng.uniform(0.5, 1, size=37).astype(np.float32)
    # Subnormal numbers may be flushed to zero.
    atol = 1e-37 if size < 1e-37 else 0
    assert_allclose(tree.norm(jnp.asarray(x)), np.linalg.norm(x.astype(np.float64)), rtol=1e-6, atol=atol)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_norm_in_float64(size, rng, float64):
    x = rng.uniform(0.5, 1, size=37)
    assert_allclose(tree.norm(jnp.asarray(x * size)), np.linalg.norm(x) * size, rtol=1e-15)


def test_norm_of_zero_nan_and_inf():
    assert tree.norm(jnp.zeros(3)) == 0
    assert jnp.isnan(tree.norm(jnp.array([1.0, jnp.nan])))
    assert not jnp.isfinite(tree.norm(jnp.array([1.0, jnp.inf])))


def test_norm_of_many_numbers_keeps_its_digits(rng):
    x = rng.normal(size=10**6).astype(np.float32)
    assert_allclose(tree.norm(jnp.asarray(x)), np.linalg.norm(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", MIXTURES.values(), ids=MIXTURES.keys())
def test_project_combine_and_gram_are_matrix_products(rng, dtypes):
    rows = [vector(rng, dtypes) for _ in range(4)]
    basis = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    dense = np.stack([flat(r) for r in rows])
    assert_allclose(tree.project(basis, rows[1]), dense.conj() @ dense[1], rtol=1e-5, atol=1e-5)
    assert_allclose(tree.gram(basis, basis), dense.conj() @ dense.T, rtol=1e-5, atol=1e-5)
    widened = tree.cast_like(basis, tree.working_structure(basis))
    coefficients = rng.normal(size=(4, 2)).astype(np.float32)
    combined = tree.combine(jnp.asarray(coefficients), widened)
    assert_allclose(flat(tree.row(combined, 1)), coefficients[:, 1] @ dense, rtol=1e-5, atol=1e-5)
    assert_allclose(
        flat(tree.combine(jnp.asarray(coefficients[:, 0]), widened)), coefficients[:, 0] @ dense, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("shape", "largest"), [((2**20,), 1), ((2048, 512), 1), ((3, 349525), 1000), ((2**20 - 1,), 9)]
)
def test_inner_products_of_many_numbers_keep_their_digits(shape, largest, devices, rng, monkeypatch):
    # A CPU's matrix products accumulate sequentially, with an error of 2e-5 to 5e-4 of the length. The implementation
    # that avoids this depends on whether there may be several devices.
    monkeypatch.setattr(jax, "device_count", lambda *_: devices)
    jit = lambda function: jax.jit(lambda *arguments: function(*arguments))
    numbers = rng.normal(size=(3, *shape))
    numbers.reshape(3, -1)[:, 0] *= largest
    basis = jnp.asarray(numbers, jnp.float32)
    dense = np.asarray(basis, float).reshape(3, -1)
    truth = dense @ dense.T
    close = functools.partial(assert_allclose, rtol=0, atol=1e-6 * truth.max())
    project, gram = jit(tree.project), jit(tree.gram)
    close(project(basis, basis[0]), truth[0])
    close(gram(basis[:1], basis), truth[:1])
    close(gram(basis, basis[:1]), truth[:, :1])
    close(gram(basis, basis), truth)
    close(jit(tree.self_gram)(basis), truth)
    in_loop = jax.jit(lambda basis: jax.lax.map(lambda x: tree.project(basis, x), basis))
    close(in_loop(basis), truth)


def test_coefficients_of_valid_rows_are_computed_wherever_they_stand(rng, monkeypatch):
    # On one device of a CPU, long rows that are not valid are not read.
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    valid = np.array([False, True, False, True, True, False])
    numbers = rng.normal(size=(6, 2**14 + 1)) * valid[:, None]
    basis, x = jnp.asarray(numbers, jnp.float32), jnp.asarray(rng.normal(size=2**14 + 1), jnp.float32)
    expected = np.asarray(basis, float) @ np.asarray(x, float)
    found = jax.jit(lambda *arguments: tree.project(*arguments))(basis, x, jnp.asarray(valid))
    assert_allclose(found, expected, rtol=0, atol=1e-6 * 2**14)


def test_rows_are_written_and_read(rng):
    x, y = vector(rng, [jnp.float32] * 4), vector(rng, [jnp.float32] * 4)
    basis = tree.set_row(tree.set_row(tree.zero_basis(x, 3), 2, y), 0, x)
    assert_allclose(flat(tree.row(basis, 2)), flat(y))
    assert_allclose(flat(tree.row(basis, 0)), flat(x))
    assert not np.any(flat(tree.row(basis, 1)))


def test_add_scaled_scale_and_where(rng):
    x, y = vector(rng, MIXTURES["complex64"]), vector(rng, MIXTURES["complex64"])
    assert_allclose(flat(tree.add_scaled(y, 2j, x)), flat(y) + 2j * flat(x), rtol=1e-6)
    assert_allclose(flat(tree.scale(0.5, x)), 0.5 * flat(x), rtol=1e-6)
    assert_allclose(flat(tree.where(jnp.asarray(False), x, y)), flat(y))


def test_a_complex_factor_of_a_real_vector_is_refused():
    with pytest.raises(TypeError, match="complex factor"):
        tree.scale(1j, jnp.ones(2))


def test_random_vectors_have_the_working_dtypes_and_the_right_moments():
    structure = {"a": jax.ShapeDtypeStruct((20000,), jnp.bfloat16), "b": jax.ShapeDtypeStruct((2,), jnp.complex64)}
    normal = random_vectors.normal(jax.random.key(0), structure)
    assert normal["a"].dtype == jnp.float32
    assert normal["b"].dtype == jnp.complex64
    assert abs(float(jnp.mean(normal["a"]))) < 0.03
    assert abs(float(jnp.var(normal["a"])) - 1) < 0.05
    signs = random_vectors.rademacher(jax.random.key(0), structure["a"])
    assert set(np.unique(np.asarray(signs))) == {-1.0, 1.0}
    assert abs(float(jnp.mean(signs))) < 0.03


def test_leaves_of_one_vector_are_drawn_independently():
    x = random_vectors.normal(jax.random.key(0), {"a": jnp.ones(50), "b": jnp.ones(50)})
    assert not np.allclose(x["a"], x["b"])
