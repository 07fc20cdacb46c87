"""The Jacobian of a function at a point, as the two products J v and J^T u; one evaluation serves both."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.tree import PyTree


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
    value, forward, rest = jax.linearize(function, point, has_aux=True)
    backward = jax.linear_transpose(forward, point)
    pull = lambda u: backward(u)[0]

    def push(v: PyTree) -> PyTree:
        try:
            return forward(v)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
        return jax.vjp(pull, jax.tree.map(jnp.zeros_like, value))[1](v)[0]

    return Linearization(value, rest, push, pull)
