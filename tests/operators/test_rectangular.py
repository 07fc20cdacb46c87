"""Rectangular operators: matvecs, adjoints derived by JAX or given by the user, and errors that name the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from numpy.testing import assert_allclose

from eigenjax import as_operator
from eigenjax.operators.maps import AdjointMap, FunctionMap, MatrixMap
from eigenjax.operators.rectangular import Dilation, adjoint_matvec, as_rectangular, matvec

pytestmark = pytest.mark.usefixtures("float64")


def normal(rng, *shape, is_complex=False):
    numbers = rng.standard_normal(shape)
    return numbers + 1j * rng.standard_normal(shape) if is_complex else numbers


KINDS = {
    "dense": jnp.asarray,
    "list": lambda a: a.tolist(),
    "numpy": np.asarray,
    "BCOO": sparse.BCOO.fromdense,
    "BCSR": sparse.BCSR.fromdense,
    "callable": lambda a: lambda v: jnp.asarray(a) @ v,
}


@pytest.mark.slow
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_matrix(kind, is_complex, rng):
    matrix = normal(rng, 5, 3, is_complex=is_complex)
    matrix[1, 2] = 0
    op = as_rectangular(KINDS[kind](matrix), like=jnp.zeros(3, matrix.dtype) if kind == "callable" else None)
    v, u = normal(rng, 3, is_complex=is_complex), normal(rng, 5, is_complex=is_complex)
    assert op.shape == (5, 3)
    assert_allclose(matvec(op, jnp.asarray(v)), matrix @ v, atol=1e-14)
    assert_allclose(adjoint_matvec(op, jnp.asarray(u)), matrix.conj().T @ u, atol=1e-14)
    swapped = AdjointMap(op)
    assert swapped.shape == (3, 5)
    assert_allclose(matvec(swapped, jnp.asarray(u)), matrix.conj().T @ u, atol=1e-14)
    assert_allclose(adjoint_matvec(swapped, jnp.asarray(v)), matrix @ v, atol=1e-14)
    image = Dilation(op)((jnp.asarray(u), jnp.asarray(v)))
    assert_allclose(image[0], matrix @ v, atol=1e-14)
    assert_allclose(image[1], matrix.conj().T @ u, atol=1e-14)


def test_a_square_operator_need_not_be_symmetric(rng):
    matrix = normal(rng, 4, 4)
    op = as_rectangular(as_operator(jnp.asarray(matrix)))
    assert_allclose(adjoint_matvec(op, jnp.ones(4)), matrix.T @ np.ones(4))


def test_both_sides_are_pytrees_of_any_dtype(rng):
    matrix = normal(rng, 3, 2)

    def product(v):
        return {"image": jnp.asarray(matrix) @ v["x"], "sum": jnp.sum(v["y"], dtype=jnp.float32), "none": jnp.zeros(0)}

    like = {"x": jnp.zeros(2), "y": jnp.zeros((2, 2), jnp.bfloat16)}
    op = as_rectangular(product, like=like)
    assert op.shape == (4, 6)
    image = matvec(op, {"x": jnp.ones(2), "y": jnp.ones((2, 2), jnp.float32)})
    assert_allclose(image["image"], matrix.sum(axis=1))
    assert image["sum"] == 4
    back = adjoint_matvec(op, {"image": jnp.ones(3), "sum": jnp.float32(2), "none": jnp.zeros(0)})
    assert_allclose(back["x"], matrix.sum(axis=0))
    # The solvers hold this leaf in float32.
    assert back["y"].dtype == jnp.float32
    assert_allclose(back["y"], 2 * np.ones((2, 2)))


def test_the_product_of_a_network_is_transposed(rng):
    weights, x = jnp.asarray(normal(rng, 5, 3)), jnp.asarray(normal(rng, 3))
    network = jax.jit(lambda x: jnp.tanh(jax.nn.relu(weights @ x)))
    op = as_rectangular(lambda v: jax.jvp(network, (x,), (v,))[1], like=x)
    assert_allclose(op.adjoint_mv(jnp.ones(5)), jax.vjp(network, x)[1](jnp.ones(5))[0])


def test_a_given_adjoint_is_used_and_the_function_need_not_be_transposable():
    op = as_rectangular(lambda v: jnp.sort(v), like=jnp.ones(3), adjoint=lambda u: 2 * u)
    assert isinstance(op, FunctionMap)
    assert_allclose(op.adjoint_mv(jnp.ones(3)), 2 * np.ones(3))


def test_what_is_closed_over_is_a_leaf():
    weights, other = jnp.arange(3.0), jnp.ones(3)
    op = as_rectangular(lambda v: weights * v, like=jnp.ones(3), adjoint=lambda u: other * u)
    doubled = jax.tree.map(lambda x: 2 * x, op)
    assert len(jax.tree.leaves(op)) == 2
    assert_allclose(doubled.mv(jnp.ones(3)), [0, 2, 4])
    assert_allclose(doubled.adjoint_mv(jnp.ones(3)), [2, 2, 2])
    assert as_rectangular(op) is op


def test_integers_become_floats():
    assert isinstance(as_rectangular([[1, 2, 3]]), MatrixMap)
    assert_allclose(as_rectangular([[1, 2, 3]]).adjoint_mv(jnp.ones(1)), [1, 2, 3])


WRONG = {
    "no structure": (lambda: as_rectangular(lambda v: v), TypeError, "pass v0="),
    "not linear": (lambda: as_rectangular(jnp.sin, like=jnp.ones(2)), TypeError, "pass adjoint="),
    "half complex": (lambda: as_rectangular(lambda v: v.astype(complex), like=jnp.ones(2)), TypeError, "real vectors"),
    "misshapen adjoint": (
        lambda: as_rectangular(lambda v: v[1:], like=jnp.ones(3), adjoint=lambda u: u),
        ValueError,
        r"the result of adjoint: the array has shape \(2,\), but the operator needs \(3,\)",
    ),
    "adjoint of a matrix": (lambda: as_rectangular(jnp.ones((2, 3)), adjoint=lambda u: u), TypeError, "of its own"),
    "batch": (lambda: as_rectangular(jnp.ones((2, 3, 3))), ValueError, "use jax.vmap"),
    "vector": (lambda: as_rectangular(jnp.ones(3)), ValueError, r"expected a matrix \(p, n\)"),
    "empty": (lambda: as_rectangular(jnp.ones((0, 3))), ValueError, "not empty"),
    "nothing": (lambda: as_rectangular("A"), TypeError, "got str"),
    "integers": (lambda: as_rectangular(lambda v: v, like=jnp.arange(2)), TypeError, "has dtype int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_remedy(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()
