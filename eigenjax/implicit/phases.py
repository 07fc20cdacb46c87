"""Derivative of the phase convention of complex eigenvectors.

A solver multiplies each vector by the phase that makes c = <f, x> real and positive. Here f is the unit vector of the
component of largest magnitude, or the start vector that x is aligned with. The implicit systems give dx up to a
multiple of i x; the map

    x -> x conj(c) / |c|,    which has the value x, and the derivative  dx - i x Im(<f, dx>) / c

removes it. The map does not depend on the phase of x. Its derivatives, to any order, are therefore those of the vector
at the phase returned, whichever multiples of i x the systems give. The sign of a real vector has no derivative.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.start import given_start
from eigenjax.solvers.symmetric.lobpcg import given_block
from eigenjax.solvers.warm_start import example_vector, start_rows
from eigenjax.vectors import tree
from eigenjax.vectors.signs import holding
from eigenjax.vectors.tree import PyTree


def at_fixed_phase(
    vectors: PyTree, reference: PyTree | None = None, references: PyTree | None = None, *, along: PyTree | None = None
) -> PyTree:
    """Return the given vectors unchanged, with the derivative of their phase.

    Args:
        vectors: k vectors whose phase `fix_signs` has fixed; real ones are returned as they are.
        reference: the `reference` given to `fix_signs`.
        references: the `references` given to `fix_signs`.
        along: k or more vectors to multiply by the same phases; with them a pair is returned.

    Example:
        >>> turned = lambda t: at_fixed_phase(jnp.exp(1j * t) * jnp.array([[0.8, 0.6j]]))
        >>> print(jax.jvp(turned, (0.0,), (1.0,))[1])
        [[0.+0.j 0.+0.j]]
    """
    both = vectors if along is None else (vectors, along)
    if not are_complex(vectors):
        return both
    functionals = jax.lax.stop_gradient(holding(jax.lax.stop_gradient(vectors), reference, references))
    numbers = jax.vmap(tree.inner)(functionals, vectors)
    numbers = jnp.where(numbers != 0, numbers, 1)
    phases = jnp.conj(numbers) / jnp.abs(numbers).astype(numbers.dtype)
    return jax.vmap(tree.scale)(phases, both)


def are_complex(vectors: PyTree) -> bool:
    """Return True if vectors have a phase, and not only a sign."""
    return jnp.issubdtype(tree.accumulation_dtype(vectors), jnp.complexfloating)


def references_of(op: LinearOperator, options: dict[str, Any]) -> dict[str, PyTree | None]:
    """Return the vectors that a symmetric solver aligns its result with, as arguments of `at_fixed_phase`.

    Args:
        op: the operator.
        options: all options of the solver, with their defaults.
    """
    v0 = options.get("v0")
    if v0 is None:
        return {}
    if options.get("preconditioner") is not None:
        start = v0.eigenvectors if isinstance(v0, EigenResult) else v0
        return {"reference": jax.tree.map(lambda x: jnp.sum(x, axis=0), given_block(op, start, options["k"]))}
    if "basis" not in options or options["basis"] == "recompute":
        return {"reference": given_start(op, example_vector(v0))}
    return {"references": start_rows(op, v0)}
