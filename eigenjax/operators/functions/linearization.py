"""Jacobian of a function at a point, as the two maps v -> J v and u -> J^T u of one evaluation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import hoist
from eigenjax.vectors.tree import PyTree


class Linearization(NamedTuple):
    """Value and derivative of a function at a point."""

    value: PyTree
    aux: PyTree  # second result of the function, which is not differentiated
    push: Callable[[PyTree], PyTree]  # v -> J v
    pull: Callable[[PyTree], PyTree]  # u -> J^T u


def linearized(function: Callable[[PyTree], tuple[PyTree, PyTree]], point: PyTree) -> Linearization:
    """Evaluate a function and store the intermediates that J v and J^T u share.

    A `custom_vjp` has no J v of its own; it is then computed from J^T u,

        J v = d/du <J^T u, v>,

    which is linear in u, so that the derivative may be taken at any u.

    Args:
        function: function of the point; returns a pair (value, aux) of pytrees; `value` holds floating-point arrays
            only.
        point: pytree of floating-point arrays.

    Returns:
        The linearization. Cost: one evaluation, whose intermediates are stored, and about one more for each J v and
        for each J^T u.

    Example:
        >>> line = linearized(lambda x: (x[:1] * x[1:], None), jnp.array([2.0, 3.0]))
        >>> print(line.push(jnp.ones(2)), line.pull(jnp.ones(1)))
        [5.] [3. 2.]
    """
    # Trace once: J v and J^T u then differentiate the same program, whose values XLA computes once.
    traced, constants = hoist(function, point)
    again = lambda x: traced(constants, x)
    value, reverse, aux = jax.vjp(again, point, has_aux=True)
    pull = lambda u: reverse(u)[0]

    forward = lambda v: jax.jvp(lambda x: again(x)[0], (point,), (v,))[1]
    backward = lambda v: jax.vjp(pull, jax.tree.map(jnp.zeros_like, value))[1](v)[0]
    return Linearization(value, aux, lambda v: first_evaluable((forward, backward), v), pull)


def first_evaluable(products: Sequence[Callable[[PyTree], PyTree]], vector: PyTree) -> PyTree:
    """Return the value of the first function that JAX can evaluate.

    A function is skipped if it would differentiate a `custom_vjp` in forward mode; the last one is always accepted.

    A custom_vjp whose forward rule calls another custom_vjp (as here, and in most attention kernels) has no jvp, and
    inside a scan no linearization either. The trace shows this. Outside jit the evaluation raises an error; under jit
    the program contains a `custom_lin` primitive that fails only at lowering.
    """
    for product in products[:-1]:
        try:
            traced, constants = hoist(product, vector)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
        else:
            if not traced.mentions("custom_lin"):
                return traced(constants, vector)
    return products[-1](vector)
