"""Orthogonalization against a basis; all solvers use these functions.

Classical Gram-Schmidt as two matrix products, w <- w - V (V^H w). The pass is repeated while it removes a large part
of the vector. The remainder of such a pass is dominated by the rounding errors of the removed part (Daniel, Gragg,
Kaufman and Stewart 1976; "twice is enough": Giraud, Langou and Rozloznik 2005).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors import storage, tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.pseudorandom import arbitrary_vector
from eigenjax.vectors.tree import PyTree

# A pass is repeated if it removed more than this share of the vector: the remainder is then below 0.717 of the vector,
# Daniel's factor, and (1 - 0.717^2)^(1/2) = 0.697.
_UNSAFE_SHARE = 0.697
# A vector in the span of the basis never passes this test; after four passes its remainder is rounding.
_MAX_PASSES = 4

# A remainder below this times eps * ||A|| is rounding: the basis spans an invariant subspace.
_BREAKDOWN = 10.0


class Orthogonalized(NamedTuple):
    """Orthogonalized vector, its norm, and the removed coefficients."""

    vector: PyTree  # orthogonal to the basis, not normalized
    norm: jax.Array  # () its norm
    coefficients: jax.Array  # (m,) coefficients of the removed part in the basis


def orthogonalize(basis: PyTree, vector: PyTree, *more: PyTree, valid: jax.Array | None = None) -> Orthogonalized:
    """Remove from a vector its components along an orthonormal basis; zero rows are allowed.

    Args:
        basis: orthonormal rows, with a leading axis m on every leaf.
        vector: any vector.
        *more: further bases, orthonormal with the first; their coefficients follow those of the first.
        valid: (m,) bool, the rows of the first basis that are not zero; None: any.

    Returns:
        The remainder, its norm and the coefficients. Cost: each pass reads the basis twice. One pass is typical, two
        are common.

    Example:
        >>> import jax.numpy as jnp
        >>> residual = orthogonalize(jnp.eye(3)[:1], jnp.array([5.0, 3.0, 4.0]))
        >>> print(residual.vector, residual.norm, residual.coefficients)
        [0. 3. 4.] 5.0 [5.]
    """

    # The loop contains the first pass too: outside of the loop XLA would hold a second copy of the basis.
    def one_pass(carry):
        vector, _, taken, passes_left = carry
        done = _one_pass((basis, *more), vector, valid)
        passes_left = jnp.where(done.is_unsafe, passes_left - 1, 0)
        return done.vector, done.after, taken + done.coefficients, passes_left

    start = (vector, *_nothing_taken(vector, (basis, *more)), jnp.int32(_MAX_PASSES))
    end = jax.lax.while_loop(lambda carry: carry[3] > 0, one_pass, start)
    return Orthogonalized(*end[:3])


def orthogonalize_or_replace(
    seed: jax.Array,
    basis: PyTree,
    vector: PyTree,
    *more: PyTree,
    is_nothing: Callable[[jax.Array, jax.Array], jax.Array],
    valid: jax.Array,
    draw: Callable[[jax.Array], PyTree] | None = None,
    refresh: Callable[[PyTree], PyTree] | None = None,
) -> tuple[Orthogonalized, jax.Array, jax.Array]:
    """Orthogonalize a vector against a basis, or replace it by an arbitrary one if the remainder is negligible.

    A negligible remainder means that the basis spans an invariant subspace. To divide by it would amplify rounding; to
    stop would miss the other copies of a repeated eigenvalue. Both cases share one loop.

    Args:
        seed: seed of the arbitrary vector.
        basis: orthonormal rows, with a leading axis m on every leaf; zero rows are allowed.
        vector: any vector.
        *more: further bases, orthonormal with the first; their coefficients follow those of the first.
        is_nothing: (norm of the vector, norm of the remainder) -> () bool, whether the remainder is negligible.
        valid: (m,) bool, the rows of the first basis that are not zero.
        draw: seed -> the arbitrary vector; None: `arbitrary_vector`.
        refresh: of a `MetricVector`, which computes B v anew before each pass; None: of other vectors. Without it the
            difference from B v would be divided by the norm of the remainder at each step, and grow.

    Returns:
        `orthogonalized, replaced, norm`: the remainder, its norm and the coefficients; () bool, whether the vector is
        replaced; and () the norm of the given vector. If it is replaced, the remainder and its norm belong to the
        replacement, the coefficients to the given vector.
    """
    structure = tree.structure_of(vector)
    replace = lambda _: arbitrary_vector(seed, structure) if draw is None else draw(seed)

    def one_pass(carry):
        vector, _, taken, passes_left, replaced, norm = carry
        done = _one_pass((basis, *more), vector if refresh is None else refresh(vector), valid)
        taken = jnp.where(replaced, taken, taken + done.coefficients)
        norm = jnp.where(norm < 0, done.before, norm)
        passes_left = jnp.where(done.is_unsafe, passes_left - 1, 0)
        collapsed = (passes_left == 0) & ~replaced & is_nothing(norm, done.after)
        vector = apply_when(collapsed, replace, done.vector)
        passes_left = jnp.where(collapsed, _MAX_PASSES, passes_left)
        return vector, done.after, taken, passes_left, replaced | collapsed, norm

    no_norm, nothing_taken = _nothing_taken(vector, (basis, *more))
    start = (vector, no_norm, nothing_taken, jnp.int32(_MAX_PASSES), jnp.zeros((), bool), no_norm - 1)
    end = jax.lax.while_loop(lambda carry: carry[3] > 0, one_pass, start)
    return Orthogonalized(*end[:3]), end[4], end[5]


def _nothing_taken(vector: PyTree, bases: tuple[PyTree, ...]) -> tuple[jax.Array, jax.Array]:
    dtype = tree.accumulation_dtype(vector)
    count = sum(jax.tree.leaves(rows)[0].shape[0] for rows in bases)
    return jnp.zeros((), tree.real_dtype(dtype)), jnp.zeros(count, dtype)


class _Pass(NamedTuple):
    vector: PyTree  # the remainder
    before: jax.Array  # () norm of the vector
    after: jax.Array  # () norm of the remainder
    coefficients: jax.Array  # (m,) coefficients of the removed part
    is_unsafe: jax.Array  # () bool, the pass has to be repeated


def _one_pass(bases: tuple[PyTree, ...], vector: PyTree, valid: jax.Array | None) -> _Pass:
    """Run one Gram-Schmidt pass.

    On several devices a pass needs two small reductions: the maximum that scales the norm, and one sum for the
    coefficients and the norm before the pass. The norm after it follows from ||w||^2 = ||w - V V^H w||^2 + ||V^H w||^2.
    This loses digits only if the removed part is so large that the pass is repeated. Together with <v, A v> a Lanczos
    step has three reductions. To compute the norm after the pass would be a fourth, and does not improve the
    orthogonality: the error is at most 8e-7 in float32 on seven spectra, either way.
    """
    first, *others = bases
    coefficients = [storage.project(first, vector, valid), *(storage.project(rows, vector) for rows in others)]
    before = tree.norm(vector)
    for rows, along in zip(bases, coefficients, strict=True):
        vector = tree.add_scaled(vector, -1.0, storage.combine(along, rows))
    share = safe_divide(tree.norm(coefficients), before, where=before != 0)
    after = before * jnp.sqrt(jnp.maximum((1 - share) * (1 + share), 0))
    return _Pass(vector, before, after, jnp.concatenate(coefficients), share > _UNSAFE_SHARE)


def project_out(basis: PyTree, block: PyTree) -> PyTree:
    """Apply I - X X^H to several vectors, once, with orthonormal rows X.

    >>> print(project_out(jnp.eye(3)[:1], jnp.ones((2, 3))))
    [[0. 1. 1.]
     [0. 1. 1.]]
    """
    return jax.tree.map(jnp.subtract, block, tree.combine(tree.gram(basis, block), basis))


def project_out_of_vector(basis: PyTree, vector: PyTree) -> PyTree:
    """Apply I - X X^H to one vector, once, with orthonormal rows X.

    >>> print(project_out_of_vector(jnp.eye(3)[:1], jnp.ones(3)))
    [0. 1. 1.]
    """
    return tree.add_scaled(vector, -1.0, storage.combine(storage.project(basis, vector), basis))


def breakdown_length(operator_norm: jax.Array) -> jax.Array:
    """Return the norm, (), up to which the remainder of an orthogonalized matvec counts as zero."""
    return jnp.maximum(_BREAKDOWN * jnp.finfo(operator_norm.dtype).eps * operator_norm, underflow(operator_norm))


def dependent_length(norm: jax.Array) -> jax.Array:
    """Return the norm, (), up to which the remainder of a vector of this norm counts as zero."""
    return _BREAKDOWN * jnp.finfo(norm.dtype).eps * norm


def underflow(length: jax.Array) -> float:
    """Return the norm below which a vector has lost digits to underflow, and normalizing it is inaccurate."""
    limits = jnp.finfo(length.dtype)
    return float(limits.tiny) / float(limits.eps)


def normalize(vector: PyTree, length: jax.Array) -> PyTree:
    """Divide a vector by its norm; a zero vector stays zero, NaN stays NaN."""
    safe = jnp.where(length == 0, 1, length)
    # Two factors, because the reciprocal of a tiny norm overflows.
    root = jnp.sqrt(safe)
    return tree.scale(1 / root, tree.scale(1 / root, vector))


def arbitrary_direction(key: jax.Array, structure: PyTree) -> PyTree:
    """Draw an arbitrary unit vector from a typed key or a seed."""
    drawn = arbitrary_vector(key, structure)
    return normalize(drawn, tree.norm(drawn))


def random_direction(key: jax.Array, basis: PyTree, structure: PyTree, *more: PyTree) -> PyTree:
    """Draw a random unit vector orthogonal to a basis, from a typed key or a seed.

    If the basis spans the whole space, the result is meaningless.
    """
    residual = orthogonalize(basis, arbitrary_direction(key, structure), *more)
    return normalize(residual.vector, residual.norm)


def unless_broken_down(
    key: jax.Array, basis: PyTree, vector: PyTree, length: jax.Array, broken_down: jax.Array, *more: PyTree
) -> PyTree:
    """Return the normalized vector or, after a breakdown, a random direction orthogonal to the basis.

    After a breakdown the basis spans an invariant subspace. To divide by the remainder would amplify rounding; to stop
    would miss the other copies of a repeated eigenvalue.
    """
    structure = tree.structure_of(vector)
    fresh = lambda _: random_direction(key, basis, structure, *more)
    return apply_when(broken_down, fresh, normalize(vector, length))
