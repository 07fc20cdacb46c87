"""First derivatives of traces of functions, from the Krylov spaces of the estimate itself.

    d tr f(A) = tr f'(A) dA = n E <f'(A) q, dA q>,    q random, of unit length

so that each probe costs one product with dA, and f'(A) q = V f'(T) e_1 comes from the Lanczos steps that were taken for
the estimate (Gardner, Pleiss, Bindel, Weinberger and Wilson 2018, for the logarithm). In reverse mode dA is the adjoint
of the matvec in the parameters of the operator.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.captured import CapturedFunction
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.deflation import DeflatedPairs
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree


@jax.custom_jvp
def slope(op: LinearOperator, vector: PyTree, weighted: PyTree) -> jax.Array:
    """Return zero, whose derivative is that of Re <w, A q> in A, for a vector q and a weighted one w held constant."""
    del op, weighted
    return jnp.zeros((), tree.real_dtype(tree.accumulation_dtype(vector)))


@slope.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    op, vector, weighted = primals
    _, change = jax.jvp(lambda op: matvec(op, vector), (op,), (tangents[0],))
    return slope(op, vector, weighted), tree.inner(weighted, change).real


def frozen(tree_of_arrays: Any) -> Any:
    """Return a pytree as a constant for the first derivative; a second derivative raises a NotImplementedError."""
    return jax.lax.stop_gradient(_once(tree_of_arrays))


@jax.custom_jvp
def _once(x: Any) -> Any:
    return x


@_once.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    return _never(primals[0]), tangents[0]


@jax.custom_jvp
def _never(x: Any) -> Any:
    return x


@_never.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    raise NotImplementedError(
        "trace_of_function and logdet have first derivatives only: their Krylov spaces are constants of the gradient. "
        "Differentiate a dense matrix, or give stop_gradient(op) to one of the two"
    )


def derivative_of(f: CapturedFunction, values: jax.Array) -> jax.Array:
    """Compute f' at each value, for f elementwise."""
    return jax.jvp(f, (values,), (jnp.ones_like(values),))[1]


def slope_of_probe(op: LinearOperator, state: LanczosState, coefficients: jax.Array) -> jax.Array:
    """Return the `slope` of a probe, with f'(A) q in coordinates of its basis."""
    q = tree.row(state.basis, 0)
    return slope(op, q, tree.combine(coefficients, state.basis))


def slope_of_pairs(op: LinearOperator, f: CapturedFunction, pairs: DeflatedPairs) -> jax.Array:
    """Return zero with the derivative of the sum of f over known eigenvalues, f'(lambda) <x, dA x> for each."""
    there = pairs.mass > 0
    derivatives = jnp.where(there, derivative_of(f, pairs.values), 0)
    one = lambda row: slope(op, row[1], tree.scale(row[0], row[1]))
    return jnp.sum(jax.lax.map(one, (derivatives, pairs.vectors)))
