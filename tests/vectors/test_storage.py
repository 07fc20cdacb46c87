"""Basis storage in fewer bits or on the host: equal to a plain basis, up to the rounding of stored rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax.vectors import storage, tree
from eigenjax.vectors.storage import Storage, StoredBasis

M = 6  # not a multiple of the number of rows read at once
KINDS = [Storage("bfloat16"), Storage("float16"), Storage(None, on_host=True), Storage("bfloat16", on_host=True)]


def filled_basis(rows, stored_as):
    basis = storage.zero_basis(tree.row(rows, 0), M, stored_as)
    for i in range(M):
        basis = storage.set_row(basis, i, tree.row(rows, i))
    return basis


@pytest.fixture
def rows(rng):
    normal = lambda *shape: jnp.asarray(rng.standard_normal((M, *shape)), jnp.float32)
    return {"kernel": normal(3, 5), "bias": normal()}


@pytest.mark.slow
@pytest.mark.parametrize("stored_as", KINDS, ids=str)
def test_products_with_stored_rows_equal_those_with_rounded_rows(rows, stored_as, rng):
    basis = filled_basis(rows, stored_as)
    flat = lambda x: np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)], 1)
    rounded = jax.vmap(lambda x: storage.rounded(basis, x))(rows)
    read = jax.tree.map(lambda *x: jnp.stack(x), *[storage.row(basis, i) for i in range(M)])
    np.testing.assert_array_equal(flat(read), flat(rounded))
    np.testing.assert_allclose(flat(read), flat(rows), rtol=stored_as.unit / 2, atol=0)
    assert (flat(read) != flat(rows)).any() == bool(stored_as.dtype)

    x, weights = tree.row(rows, 2), jnp.asarray(rng.standard_normal((M, 2)), jnp.float32)
    expected = flat(read) @ flat(jax.tree.map(lambda leaf: leaf[None], x))[0]
    np.testing.assert_allclose(np.asarray(jax.jit(storage.project)(basis, x)), expected, rtol=1e-5, atol=1e-6)
    both = flat(jax.jit(storage.combine)(weights, basis))
    np.testing.assert_allclose(both, np.asarray(weights, float).T @ flat(read), rtol=1e-5, atol=1e-6)
    one = storage.combine(weights[:, 0], basis)
    np.testing.assert_allclose(flat(jax.tree.map(lambda leaf: leaf[None], one))[0], both[0], rtol=1e-5, atol=1e-6)

    few = storage.keep_rows(basis, jnp.arange(M) % 2 == 0)
    left = np.stack([flat(jax.tree.map(lambda x: x[None], storage.row(few, i)))[0] for i in range(M)])
    np.testing.assert_array_equal(left, flat(read) * (np.arange(M) % 2 == 0)[:, None])


@pytest.mark.usefixtures("float64")
def test_float64_and_complex128_are_stored_in_half_the_bits():
    x = {"real": jnp.full(3, 1 / 3), "complex": jnp.full(2, 1 / 3 - 2j / 3)}
    basis = storage.set_row(storage.zero_basis(x, 2, Storage("float32")), 1, x)
    assert {name: str(leaf.dtype) for name, leaf in basis.rows.items()} == {"real": "float32", "complex": "complex64"}
    back = storage.row(basis, 1)
    chex.assert_trees_all_equal_dtypes(back, x)
    chex.assert_trees_all_close(back, x, rtol=1e-7)
    chex.assert_trees_all_equal(back, storage.rounded(basis, x))
    assert storage.vector_bytes(tree.structure_of(x), Storage("float32")) == 3 * 4 + 2 * 8


def test_vectors_in_few_bits_are_stored_unchanged():
    assert not storage.loses(jnp.ones(3), Storage("float32"))
    assert storage.loses(jnp.ones(3, jnp.bfloat16), Storage("bfloat16"))  # bfloat16 operators are solved in float32
    assert not isinstance(storage.zero_basis(jnp.ones(3), 2, Storage()), StoredBasis)


def test_complex_vectors_cannot_be_stored_in_sixteen_bits():
    with pytest.raises(ValueError, match=r"basis_dtype='bfloat16'.*'float32'"):
        storage.loses(jnp.ones(3, jnp.complex64), Storage("bfloat16"))
