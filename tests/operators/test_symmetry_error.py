"""Detection of unsuitable operators before a solve."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eigenjax import as_operator, check_operator, hessian, symmetry_error
from eigenjax.operators.base import LinearOperator

KEY = jax.random.key(0)
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "v": jnp.ones(3)}
INPUTS = jnp.linspace(0.0, 2.0, 32).reshape(8, 4)


def loss(params, inputs, mask=1.0):
    return jnp.mean((jnp.tanh(inputs @ params["w"]) * mask @ params["v"]) ** 2)


def product(v, gradient=None, **options):
    """Compute H v explicitly, as users write it."""
    gradient = gradient or jax.grad(lambda p: loss(p, INPUTS, **options))
    return jax.jvp(gradient, (PARAMS,), (v,))[1]


@pytest.mark.slow
def test_a_good_operator_passes():
    report = check_operator(hessian(loss, PARAMS, INPUTS, batch_size=3), KEY)
    assert report.change == 0
    assert max(report.nonlinearity, report.asymmetry) < 1e-5 < report.tolerance
    assert check_operator(product, KEY, like=PARAMS).asymmetry < 1e-5
    assert check_operator(as_operator(np.zeros((3, 3))), KEY).nonlinearity == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_rounding_in_narrow_dtypes_is_no_mistake(dtype, rng):
    a = rng.normal(size=(30, 30)) + (1j * rng.normal(size=(30, 30)) if dtype == "complex64" else 0)
    op = as_operator(jnp.asarray(a + a.conj().T, dtype))
    assert check_operator(op, KEY).asymmetry < 0.05


def dropout_with_a_fresh_key():
    keys = (jax.random.key(i) for i in itertools.count())

    def multiply(v):
        return product(v, mask=jax.random.bernoulli(next(keys), 0.5, (8, 3)).astype(jnp.float32))

    return multiply


def shuffled_batches():
    generator = np.random.default_rng(0)
    return lambda v: product(v, gradient=jax.grad(lambda p: loss(p, INPUTS[generator.permutation(8)[:4]])))


def clipped(v):
    return jax.tree.map(lambda x: jnp.clip(x, -0.1, 0.1), product(v))


@jax.custom_vjp
def straight_through(x):
    return jnp.sign(x)


straight_through.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (g / (1 + x**2),))


def product_with_a_custom_derivative(v):
    binary = lambda p: loss({"w": jax.tree.map(straight_through, p["w"]), "v": p["v"]}, INPUTS)
    return jax.linearize(jax.grad(binary), PARAMS)[1](v)


MISTAKES = {
    "a fresh key": (dropout_with_a_fresh_key(), "changes between two calls.*one fixed key"),
    "a shuffled batch": (shuffled_batches(), "changes between two calls"),
    "a gradient": (lambda v: jax.grad(lambda p: loss(p, INPUTS))(v), "not linear.*jax.jvp"),
    "a constant": (lambda v: jax.tree.map(lambda x: x + 1, product(v)), "not linear"),
    "clipping": (clipped, "not linear.*clips"),
    "a straight-through estimate": (product_with_a_custom_derivative, "not symmetric.*custom_vjp"),
    "a root at zero": (lambda v: product(v, gradient=jax.grad(lambda p: jnp.sum(jnp.sqrt(p["w"])))), "not finite"),
    "a shape": (lambda v: v | {"v": jnp.ones(2)}, r"the matvec: leaf \['v'\] has shape \(2,\)"),
    "half a structure": (lambda v: {"w": v["w"]}, r"the matvec has the structure.*missing: \['v'\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_usual_mistakes_are_named(mistake):
    multiply, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        check_operator(multiply, KEY, like=PARAMS)


def test_a_wrong_dtype_is_named():
    with pytest.raises(TypeError, match=r"the matvec: leaf \['v'\] has dtype bfloat16.*cast back"):
        check_operator(lambda v: v | {"v": v["v"].astype(jnp.bfloat16)}, KEY, like=PARAMS)
    with pytest.raises(TypeError, match="together with like="):
        check_operator(product, KEY)


def test_conjugation_is_not_linear():
    with pytest.raises(ValueError, match="not linear"):
        check_operator(jnp.conj, KEY, like=jnp.ones(3, jnp.complex64))


def test_it_is_refused_under_jit():
    with pytest.raises(TypeError, match="outside"):
        jax.jit(lambda op: check_operator(op, KEY).change)(as_operator(jnp.eye(2)))


def test_an_operator_written_by_hand():
    class Doubling(LinearOperator):
        structure = jax.ShapeDtypeStruct((3,), jnp.float32)

        def mv(self, vector):
            return 2 * vector

    assert check_operator(Doubling(), KEY).asymmetry == 0


def test_compiled_randomness_is_frozen_and_not_seen():
    # The mask is drawn once, when the callable is traced: each call uses the same one, and the operator is symmetric.
    op = as_operator(dropout_with_a_fresh_key(), like=PARAMS)
    assert check_operator(op, KEY).change == 0
    assert symmetry_error(op, KEY) < 1e-5
