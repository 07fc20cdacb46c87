"""Orthogonalisation against a basis: the one place where it is done.

Classical Gram-Schmidt as two matrix products, w <- w - V (V^H w), is repeated for as long as a pass takes away a
good part of the vector: what is left after such a pass is dominated by the rounding errors of what was taken (Daniel,
Gragg, Kaufman and Stewart 1976; "twice is enough": Giraud, Langou and Rozloznik 2005).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import storage, tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import PyTree

# A pass is repeated when it took more than this share of the vector: what is left is then below 0.717 of what it was,
# Daniel's factor, and (1 - 0.717^2)^(1/2) = 0.697.
_UNSAFE_SHARE = 0.697
# A vector within the span of the basis never settles; after four passes what is left is rounding.
_MAX_PASSES = 4

# What is left of an image below so many units of rounding of ||A|| is rounding: an invariant subspace is found.
_BREAKDOWN = 10.0


class Orthogonalized(NamedTuple):
    """A vector, what is left of it, and what was taken."""

    vector: PyTree  # orthogonal to the basis, not normalised
    norm: jax.Array  # () its norm
    coefficients: jax.Array  # (m,) of the part along the basis


def orthogonalize(basis: PyTree, vector: PyTree, *more: PyTree) -> Orthogonalized:
    """Takes out of a vector its components along an orthonormal basis (zero rows do no harm).

    Args:
        basis: orthonormal rows, with a leading axis m on every leaf.
        vector: any vector.
        *more: further rows, orthonormal with the first; their coefficients follow the others.

    Returns:
        The rest, its norm and the coefficients. Cost: each pass reads the basis twice; one pass is the rule, two are
        common.

    Example:
        >>> import jax.numpy as jnp
        >>> rest = orthogonalize(jnp.eye(3)[:1], jnp.array([5.0, 3.0, 4.0]))
        >>> print(rest.vector, rest.norm, rest.coefficients)
        [0. 3. 4.] 5.0 [5.]
    """

    # All passes within the loop, the first one too: beside it XLA would hold a second copy of the basis.
    def one_pass(carry):
        vector, _, taken, _, passes = carry
        cleaned, after, coefficients, again = _one_pass((basis, *more), vector)
        return cleaned, after, taken + coefficients, again, passes + 1

    start = (vector, *_nothing_taken(vector, (basis, *more)), jnp.asarray(True), jnp.int32(0))
    end = jax.lax.while_loop(lambda carry: carry[3] & (carry[4] < _MAX_PASSES), one_pass, start)
    return Orthogonalized(*end[:3])


def orthogonalize_or_replace(
    seed: jax.Array,
    basis: PyTree,
    vector: PyTree,
    *more: PyTree,
    is_nothing: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[Orthogonalized, jax.Array]:
    """The same, but where nothing is left of the vector an arbitrary one takes its place, in the same loop.

    An invariant subspace is found: to go on within it would divide by rounding, to stop would miss the other copies
    of a repeated eigenvalue.

    Args:
        seed: of the arbitrary vector.
        basis: as above.
        vector: as above.
        *more: as above.
        is_nothing: (coefficients, norm of the rest) -> () bool.

    Returns:
        What is left, its norm and the coefficients of the vector given; and () bool whether it was replaced: then the
        coefficients are still those of the vector given, and rest and norm of the one in its place.
    """
    structure = tree.structure_of(vector)

    def one_pass(carry):
        vector, _, taken, _, passes, replaced = carry
        cleaned, after, coefficients, again = _one_pass((basis, *more), vector)
        taken = jnp.where(replaced, taken, taken + coefficients)
        again, passes = again & (passes < _MAX_PASSES - 1), passes + 1
        collapsed = ~again & ~replaced & is_nothing(taken, after)
        cleaned = apply_when(collapsed, lambda _: arbitrary_vector(seed, structure), cleaned)
        return cleaned, after, taken, again | collapsed, jnp.where(collapsed, 0, passes), replaced | collapsed

    no = jnp.zeros((), bool)
    start = (vector, *_nothing_taken(vector, (basis, *more)), jnp.asarray(True), jnp.int32(0), no)
    end = jax.lax.while_loop(lambda carry: carry[3], one_pass, start)
    return Orthogonalized(*end[:3]), end[5]


def _nothing_taken(vector: PyTree, bases: tuple[PyTree, ...]) -> tuple[jax.Array, jax.Array]:
    dtype = tree.accumulation_dtype(vector)
    count = sum(jax.tree.leaves(rows)[0].shape[0] for rows in bases)
    return jnp.zeros((), tree.real_dtype(dtype)), jnp.zeros(count, dtype)


def _one_pass(bases: tuple[PyTree, ...], vector: PyTree) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
    """One pass: what is left, its norm, the coefficients, and () bool whether another one is needed.

    Over devices a pass is two small reductions: the largest component, by which the norm is scaled, and, as one sum,
    the coefficients and the norm before. That after it follows from ||w||^2 = ||w - V V^H w||^2 + ||V^H w||^2: it
    loses digits only where so much was taken that the pass is repeated. With <v, A v> before it a step of Lanczos has
    three. (The norm after, computed, makes a fourth, and bases that are no more orthonormal: 8e-7 at worst in float32,
    on seven spectra, either way.)
    """
    coefficients = [storage.project(rows, vector) for rows in bases]
    before = tree.norm(vector)
    for rows, along in zip(bases, coefficients, strict=True):
        vector = tree.add_scaled(vector, -1.0, storage.combine(along, rows))
    share = tree.norm(coefficients) / jnp.where(before == 0, 1, before)
    after = before * jnp.sqrt(jnp.maximum((1 - share) * (1 + share), 0))
    return vector, after, jnp.concatenate(coefficients), share > _UNSAFE_SHARE


def breakdown_length(operator_norm: jax.Array) -> jax.Array:
    """() the length up to which what is left of an image is nothing."""
    return jnp.maximum(_BREAKDOWN * jnp.finfo(operator_norm.dtype).eps * operator_norm, underflow(operator_norm))


def underflow(length: jax.Array) -> float:
    """A direction this short has lost digits to underflow, and would not be of unit norm when normalised."""
    limits = jnp.finfo(length.dtype)
    return float(limits.tiny) / float(limits.eps)


def normalize(vector: PyTree, length: jax.Array) -> PyTree:
    """The vector over its norm; a zero vector stays zero, NaN stays NaN."""
    safe = jnp.where(length == 0, 1, length)
    # Two factors, because the reciprocal of a tiny norm overflows.
    root = jnp.sqrt(safe)
    return tree.scale(1 / root, tree.scale(1 / root, vector))


def arbitrary_direction(key: jax.Array, structure: PyTree) -> PyTree:
    """An arbitrary unit vector; the key is a typed one, or a seed."""
    drawn = arbitrary_vector(key, structure)
    return normalize(drawn, tree.norm(drawn))


def random_direction(key: jax.Array, basis: PyTree, structure: PyTree, *more: PyTree) -> PyTree:
    """A random unit vector orthogonal to a basis; where the basis spans the space, numbers without meaning.

    The key is a typed one, or a seed.
    """
    rest = orthogonalize(basis, arbitrary_direction(key, structure), *more)
    return normalize(rest.vector, rest.norm)


def unless_broken_down(
    key: jax.Array, basis: PyTree, vector: PyTree, length: jax.Array, broken_down: jax.Array, *more: PyTree
) -> PyTree:
    """The normalised vector or, after a breakdown, a fresh random direction orthogonal to the basis.

    An invariant subspace is found: to go on within it would divide by rounding, to stop would miss the other copies
    of a repeated eigenvalue.
    """
    structure = tree.structure_of(vector)
    fresh = lambda _: random_direction(key, basis, structure, *more)
    return apply_when(broken_down, fresh, normalize(vector, length))
