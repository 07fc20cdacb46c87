"""Algebra of operators against dense matrices, and errors that name the leaf."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from numpy.testing import assert_allclose

from eigenjax import LinearOperator, as_operator, check_operator, hessian, symmetry_error, to_dense

STRUCTURE = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}


def tree_operator():
    return as_operator(lambda v: {"kernel": 2 * v["kernel"], "bias": v["bias"] + v["kernel"].sum(0)}, like=STRUCTURE)


@pytest.fixture
def matrices(rng):
    return [rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2)]


def test_the_algebra_is_that_of_matrices(matrices, rng):
    a, b = matrices
    op_a, op_b = as_operator(a), as_operator(b)
    cases = {
        "sum": (op_a + op_b, a + b),
        "difference": (op_a - op_b, a - b),
        "scaled": (2 * op_a * np.float32(3), 6 * a),
        "negative": (-op_a, -a),
        "shifted": (op_a.shift(0.5), a - 0.5 * np.eye(4)),
        "nested": (jnp.float32(2) * (op_a - op_b).shift(1.0) + op_b, 2 * (a - b - np.eye(4)) + b),
    }
    v = rng.normal(size=4).astype(np.float32)
    for name, (op, dense) in cases.items():
        assert_allclose(to_dense(op), dense, rtol=1e-5, atol=1e-5, err_msg=name)
        assert_allclose(op(jnp.asarray(v)), dense @ v, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_numpy_scalar_on_the_left_scales():
    assert isinstance(np.float32(2) * as_operator(jnp.eye(2)), LinearOperator)


def test_operators_of_different_structure_do_not_add():
    with pytest.raises(ValueError, match=r"left operand.*shape"):
        as_operator(jnp.eye(2)) + as_operator(jnp.eye(3))
    with pytest.raises(TypeError):
        as_operator(jnp.eye(2)) + 1


def test_size_and_dtype():
    op = tree_operator()
    assert op.size == 9
    assert op.dtype == jnp.float32
    mixed = as_operator(lambda v: v, like=(jnp.ones(2, jnp.bfloat16), jnp.ones(1, jnp.float32)))
    assert mixed.dtype == jnp.float32
    assert as_operator(jnp.eye(2, dtype=jnp.bfloat16)).dtype == jnp.bfloat16


def test_to_dense_follows_the_raveled_order():
    dense = np.diag([1.0, 1, 1, 2, 2, 2, 2, 2, 2])  # bias, then kernel, row by row
    dense[:3, 3:6] = dense[:3, 6:] = np.eye(3)
    assert_allclose(to_dense(tree_operator()), dense)


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ({"kernel": jnp.ones((2, 3))}, ValueError, r"leaves missing: \['bias'\]"),
        ({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "b2": 1.0}, ValueError, r"leaves too many: \['b2'\]"),
        ({"kernel": jnp.ones((3, 2)), "bias": jnp.ones(3)}, ValueError, r"\['kernel'\] has shape \(3, 2\).*\(2, 3\)"),
        ({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3, jnp.bfloat16)}, TypeError, r"\['bias'\].*bfloat16.*astype"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused_and_the_leaf_named(vector, error, message):
    with pytest.raises(error, match=message):
        tree_operator()(vector)


def test_dense_arrays_of_integers_become_floats():
    assert as_operator(np.eye(2, dtype=int)).dtype == jnp.float32
    assert_allclose(to_dense(as_operator([[1, 2], [2, 1]])), [[1, 2], [2, 1]])


@pytest.mark.slow
def test_sparse_matrices(rng):
    dense = (rng.normal(size=(6, 6)) * (rng.uniform(size=(6, 6)) < 0.4)).astype(np.float32)
    for matrix in (sparse.BCOO.fromdense(dense), sparse.BCSR.fromdense(dense)):
        assert_allclose(to_dense(as_operator(matrix)), dense, rtol=1e-6)


class WithMv:
    """Matrix behind an `mv` method, as in lineax."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def mv(self, v):
        return self.matrix @ v


def test_objects_with_mv(matrices):
    a = jnp.asarray(matrices[0])
    assert_allclose(to_dense(as_operator(WithMv(a))), a, rtol=1e-6)
    assert_allclose(jax.grad(lambda a: as_operator(WithMv(a))(jnp.ones(4)).sum())(a), np.ones((4, 4)))


def test_arrays_that_a_callable_closes_over_become_leaves(matrices):
    a, labels = jnp.asarray(matrices[0]), jnp.arange(4)
    op = as_operator(lambda v: a @ v + labels.astype(v.dtype) * v, like=jnp.ones(4))
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(op))
    assert shapes == [(4,), (4, 4)]


def test_tracers_that_a_callable_closes_over_become_leaves(matrices):
    a = jnp.asarray(matrices[0])

    @jax.jit
    def column_sums(a, labels):
        return as_operator(lambda v: a @ v * labels.astype(v.dtype), like=jnp.ones(4))(jnp.ones(4))

    assert_allclose(column_sums(a, jnp.arange(4)), np.arange(4) * matrices[0].sum(1), rtol=1e-5)


def test_what_a_callable_closes_over_is_read_anew_each_time():
    scope = {"factor": jnp.ones(())}
    function = lambda v: scope["factor"] * v
    first = to_dense(as_operator(function, like=jnp.ones(2)))
    scope["factor"] = jnp.full((), 3.0)
    assert_allclose(to_dense(as_operator(function, like=jnp.ones(2))), 3 * first)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_operator(jnp.ones((2, 3))), ValueError, r"square.*\(2, 3\)"),
        (lambda: as_operator(jnp.ones((5, 2, 2))), ValueError, r"\(5, 2, 2\).*vmap"),
        (lambda: as_operator(lambda v: v), TypeError, "like="),
        (lambda: as_operator("matrix"), TypeError, "str"),
        (lambda: as_operator(lambda v: v[:1], like=jnp.ones(2)), ValueError, r"callable's result.*\(1,\).*\(2,\)"),
        (lambda: as_operator(lambda v: (v,), like=jnp.ones(2)), ValueError, "structure"),
        (lambda: as_operator(lambda v: v.astype(jnp.bfloat16), like=jnp.ones(2)), TypeError, "bfloat16"),
        (lambda: as_operator(lambda v: v, like=(3,)), TypeError, r"like\[0\] has dtype int32.*ShapeDtypeStruct"),
    ],
)
def test_what_is_no_operator_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_operator_crosses_jit_without_a_retrace(matrices):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def apply(op, v):
        return op(v)

    for a in matrices:
        assert_allclose(apply(as_operator(a) + 2 * as_operator(a), jnp.ones(4)), 3 * a.sum(1), rtol=1e-5)


def test_an_operator_is_vmapped_over(matrices):
    stacked = jax.vmap(as_operator)(jnp.stack([jnp.asarray(a) for a in matrices]))
    products = jax.vmap(lambda op: op(jnp.ones(4)))(stacked)
    assert_allclose(products, [a.sum(1) for a in matrices], rtol=1e-5)


def test_symmetry_error_tells_symmetric_from_not(rng):
    a = rng.normal(size=(50, 50)).astype(np.float32)
    key = jax.random.key(1)
    assert symmetry_error(as_operator(a + a.T), key) < 1e-5
    slightly = a + a.T + 0.1 * (a - a.T)
    expected = np.linalg.norm(slightly - slightly.T) / np.linalg.norm(slightly)
    assert expected / 20 < symmetry_error(as_operator(slightly), key) < 20 * expected
    assert symmetry_error(as_operator(np.zeros((3, 3))), key) == 0


@pytest.mark.slow
def test_check_operator_finds_a_loss_that_is_not_the_same_at_every_call():
    calls = iter(range(100))
    noisy = lambda p: jnp.sum(p**2) * (1 + next(calls))
    op = hessian(noisy, jnp.ones(3))
    with pytest.raises(ValueError, match="changes between two calls"):
        check_operator(op, jax.random.key(0))
