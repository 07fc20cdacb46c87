"""The Jacobian of a function at a point, as the two products J v and J^T u; one evaluation serves both."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.functions.closure import hoist
from eigenjax.vectors.tree import PyTree


class Linearization(NamedTuple):
    """A function at a point, to first order."""

    value: PyTree
    rest: PyTree  # what the function returned beside its value
    push: Callable[[PyTree], PyTree]  # v -> J v
    pull: Callable[[PyTree], PyTree]  # u -> J^T u


def linearized(function: Callable[[PyTree], tuple[PyTree, PyTree]], point: PyTree) -> Linearization:
    """Evaluates a function and keeps what both products need.

    A `custom_vjp` has no J v of its own; there it is taken from the other product,

        J v = d/du <J^T u, v>,

    which is linear in u, so that it does not matter where the derivative is taken.

    Args:
        function: of the point; returns (value, rest), pytrees, of which the first holds floating-point arrays only.
        point: pytree of floating-point arrays.

    Returns:
        The linearization. Cost: one evaluation, whose intermediates are kept, and about one more for each product.

    Example:
        >>> line = linearized(lambda x: (x[:1] * x[1:], None), jnp.array([2.0, 3.0]))
        >>> print(line.push(jnp.ones(2)), line.pull(jnp.ones(1)))
        [5.] [3. 2.]
    """
    # Traced once: the two products then differentiate the same program, whose own values XLA computes once.
    traced, constants = hoist(function, point)
    again = lambda x: traced(constants, x)
    value, reverse, rest = jax.vjp(again, point, has_aux=True)
    pull = lambda u: reverse(u)[0]

    forward = lambda v: jax.jvp(lambda x: again(x)[0], (point,), (v,))[1]
    backward = lambda v: jax.vjp(pull, jax.tree.map(jnp.zeros_like, value))[1](v)[0]
    return Linearization(value, rest, lambda v: first_evaluable((forward, backward), v), pull)


def first_evaluable(products: Sequence[Callable[[PyTree], PyTree]], vector: PyTree) -> PyTree:
    """The value of the first of these that JAX can evaluate: the last, or one before it that meets no `custom_vjp`.

    A custom_vjp whose forward rule calls a custom_vjp again (as ours, and most attention kernels, do) has no jvp, and
    within a scan no linearization either. Only the trace tells: evaluated at once it raises an error, under jit it
    stands in the program as a `custom_lin` that only lowering finds to be without meaning.
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
