"""K vectors, a few of them at a time and in their own place: projections, and linear solves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Vectors at a time: what a projection takes away is as many vectors more, held beside them.
_GROUP = 4


def in_groups(projection: Callable[[PyTree], PyTree], block: PyTree) -> PyTree:
    """The projection of each vector of a block; it is applied twice to some, which must not matter to it.

    >>> print(in_groups(lambda rows: rows.at[:, 0].set(0), jnp.ones((6, 2))).sum())
    6.0
    """
    k = jax.tree.leaves(block)[0].shape[0]
    if k <= _GROUP:
        return projection(block)
    # The last group reaches back rather than over the end.
    firsts = jnp.minimum(jnp.arange(0, k, _GROUP, dtype=jnp.int32), k - _GROUP)

    def project(done, first):
        few = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, _GROUP), done)
        return tree.set_rows(done, first, projection(few)), None

    return jax.lax.scan(project, block, firsts)[0]


def in_turn(
    solve: Callable[[jax.Array, PyTree, Callable[[jax.Array], jax.Array]], LinearSolution],
    rhs: PyTree,
    *,
    targets: Callable[[jax.Array], jax.Array],
    size: int,
) -> LinearSolution:
    """K linear systems, `size` of them side by side, the last first; each solution is written over its right-hand side.

    What a solver holds is held for a few systems then. The products are the same, and those made for systems at rest
    are fewer: a group waits for its own slowest only. The last of the pairs has the largest share in the error that all
    are measured by, which the others then know of.

    Args:
        solve: (the index of the first system of a group, its right-hand sides, norms of its solutions -> residuals to
            stop at) -> its solutions. A right-hand side of zero must cost no product.
        rhs: b_i, with a leading axis k on every leaf.
        targets: the (k,) norms of the solutions, zero where not known yet -> the (k,) residuals to stop at.
        size: of a group, static.
    """
    k = jax.tree.leaves(rhs)[0].shape[0]
    if size >= k:
        return solve(jnp.zeros((), jnp.int32), rhs, targets)
    lasts = jnp.arange(k, 0, -size, dtype=jnp.int32)

    def one_group(carry, last):
        block, norms = carry
        # The last group reaches into what is done rather than over the end.
        first = jnp.maximum(last - size, 0)
        of_group = lambda x: jax.lax.dynamic_slice_in_dim(x, first, size)
        fresh = first + jnp.arange(size, dtype=jnp.int32) < last
        chosen = lambda x, y: jax.vmap(tree.where)(fresh, x, y)

        def stop_at(few):
            few = jnp.where(fresh, few, of_group(norms))
            return of_group(targets(jax.lax.dynamic_update_slice_in_dim(norms, few, first, 0)))

        before = jax.tree.map(of_group, block)
        found = solve(first, chosen(before, jax.tree.map(jnp.zeros_like, before)), stop_at)
        solution = chosen(found.solution, before)
        norms = jax.lax.dynamic_update_slice_in_dim(norms, tree.norms(solution), first, 0)
        return (tree.set_rows(block, first, solution), norms), found._replace(solution=None)

    (solutions, _), told = jax.lax.scan(one_group, (rhs, jnp.zeros_like(tree.norms(rhs))), lasts)
    # Of the systems that the last group solved for nothing it tells zero.
    in_order = lambda x: jnp.concatenate([x[-1, : k % size or size], x[:-1][::-1].reshape(-1)])
    return LinearSolution(solutions, *(in_order(x) for x in (told.residual, told.judged, told.num_matvecs)))
