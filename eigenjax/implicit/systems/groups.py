"""Projections and linear solves of k vectors, a few vectors at a time and in place."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from eigenjax.solvers.linear.minres import LinearSolution
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# Vectors at a time: a projection stores as many vectors more.
_GROUP = 4


def in_groups(projection: Callable[[PyTree], PyTree], block: PyTree) -> PyTree:
    """Project each vector of a block, a few at a time; the projection must be idempotent, as some are projected twice.

    >>> print(in_groups(lambda rows: rows.at[:, 0].set(0), jnp.ones((6, 2))).sum())
    6.0
    """
    k = jax.tree.leaves(block)[0].shape[0]
    if k <= _GROUP:
        return projection(block)
    # The last group overlaps the one before it rather than the end.
    firsts = jnp.minimum(jnp.arange(0, k, _GROUP, dtype=jnp.int32), k - _GROUP)

    def project(done, first):
        group = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, _GROUP), done)
        return tree.set_rows(done, first, projection(group)), None

    return jax.lax.scan(project, block, firsts)[0]


def in_turn(
    solve: Callable[[jax.Array, PyTree, Callable[[jax.Array], jax.Array]], LinearSolution],
    rhs: PyTree,
    *,
    targets: Callable[[jax.Array], jax.Array],
    size: int,
) -> LinearSolution:
    """Solve k linear systems, `size` of them simultaneously, the last first, overwriting the right-hand sides.

    The solver then stores vectors of a few systems only. The number of matvecs is the same, and fewer are made for
    converged systems: a group waits only for its own slowest. The last of the pairs has the largest share in the common
    error bound, so that later groups can use its solution norm.

    Args:
        solve: (index of the first system of a group, its right-hand sides, norms of its solutions -> residuals to stop
            at) -> its solutions. A right-hand side of zero must take no matvec.
        rhs: b_i, with a leading axis k on every leaf.
        targets: the (k,) norms of the solutions, zero while unknown -> the (k,) residuals to stop at.
        size: number of systems in a group, less than k; static.
    """
    k = jax.tree.leaves(rhs)[0].shape[0]
    lasts = jnp.arange(k, 0, -size, dtype=jnp.int32)

    def one_group(carry, last):
        block, norms = carry
        # The last group overlaps solved systems rather than the end.
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

    (solutions, _), info = jax.lax.scan(one_group, (rhs, jnp.zeros_like(tree.norms(rhs))), lasts)
    # Systems that the last group solved with a zero right-hand side have zeros here: take the others.
    in_order = lambda x: jnp.concatenate([x[-1, : k % size or size], x[:-1][::-1].reshape(-1)])
    return LinearSolution(solutions, *(in_order(x) for x in (info.residual, info.tested, info.num_matvecs)))
