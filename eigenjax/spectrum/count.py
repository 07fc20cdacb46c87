"""Number of eigenvalues in an interval, by stochastic Lanczos quadrature.

    count of [a, b]  ~  n mean over probes of F(b) - F(a)

with F the distribution function of a probe's spectral measure. The Gauss quadrature (theta, w) of Lanczos determines it
at each node to within the node's weight (inequalities of Chebyshev, Markov and Stieltjes): for x between theta_i and
theta_i+1,

    w_1 + .. + w_i-1  <=  F(x)  <=  w_1 + .. + w_i + w_i+1.

The estimate lies in the middle at each node, and is linear between them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_interval, check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.inspection import to_dense
from eigenjax.operators.packed import packed_operator
from eigenjax.spectrum.function_estimates import MOST_DENSE
from eigenjax.spectrum.probing.probes import checked_ints, mean_and_error
from eigenjax.spectrum.probing.quadrature import Quadrature, gauss_quadrature, tridiagonals
from eigenjax.spectrum.status import status_of
from eigenjax.spectrum.trace import TraceResult
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree


@explained
def eigenvalue_count(
    op: Any,
    interval: tuple[Any, Any],
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """Estimate the number of eigenvalues of a symmetric operator in an interval [low, high].

        count = tr h(A),    h = 1 in the interval, 0 elsewhere

    Args:
        op: whatever `as_operator` takes. Symmetric or Hermitian.
        interval: low and high; they may be traced, and infinite.
        key: typed key of the probes.
        num_probes: p, static. More probes reduce the random error.
        krylov_dim: m, steps from each probe, static; at most n are taken. More steps resolve the ends of the interval.
        probe_batch: probes at once (by vmap), static; each holds a basis.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate, a real number, zero if low exceeds high. Its standard error includes the spread over the probes
        and half the mean width of the bounds at the ends of the interval; twice the error covers the truth in nine of
        ten cases. If num_probes times krylov_dim is n or more (and n 2,048 or less), all eigenvalues are computed: the
        count is exact, its error zero.

    Raises:
        ValueError: if the interval is no pair of numbers in order, or num_probes, krylov_dim or probe_batch is less
            than 1.
        TypeError: if they are not ints, or `key` is not a typed key.

    Cost: p m matvecs; m + 4 vectors of memory for each of the `probe_batch` probes. The count is piecewise constant:
    its derivative is zero where it exists.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eigenjax import eigenvalue_count
        >>> values = jnp.linspace(0.0, 1.0, 3000)
        >>> count = eigenvalue_count(lambda v: values * v, (0.25, 0.75), key=jax.random.key(0), like=values)
        >>> print(jnp.abs(count.estimate - 1500) < 2 * count.standard_error, count.standard_error < 100)
        True True

    Source: Di Napoli, Polizzi and Saad (2016), Efficient estimation of eigenvalue counts in an interval.
    """
    op = packed_operator(as_operator(op, like=like))
    check_key(key)
    num_probes, krylov_dim, probe_batch = checked_ints(
        num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch
    )
    low, high = check_interval("eigenvalue_count", interval)
    # The count is piecewise constant.
    op, low, high = jax.lax.stop_gradient((op, low, high))
    krylov_dim = min(krylov_dim, op.size)
    if op.size <= min(num_probes * krylov_dim, MOST_DENSE):
        return _exact(op, low, high)
    states = tridiagonals(op, key, None, num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    return _estimated(jax.vmap(gauss_quadrature)(states), low, high, op.size, num_probes * krylov_dim)


def _exact(op: LinearOperator, low: Any, high: Any) -> TraceResult:
    dense = to_dense(op)
    values = jnp.linalg.eigvalsh((dense + jnp.conj(dense).T) / 2, symmetrize_input=False)
    inside = (values >= low) & (values <= high)
    estimate = jnp.where(jnp.all(jnp.isfinite(values)), jnp.sum(inside.astype(values.dtype)), jnp.nan)
    error = jnp.where(jnp.isfinite(estimate), jnp.zeros_like(estimate), jnp.nan)
    return TraceResult(estimate, error, jnp.int32(op.size), status_of(estimate, jnp.zeros((), bool)))


def _estimated(quadratures: Quadrature, low: Any, high: Any, size: int, num_matvecs: int) -> TraceResult:
    """Compute the mean over quadratures with a leading axis, and its error."""
    dtype = quadratures.nodes.dtype
    ends = jnp.asarray(low).astype(dtype), jnp.asarray(high).astype(dtype)
    (below, width), (above, other_width) = (jax.vmap(lambda q, x=x: _distribution(q, x))(quadratures) for x in ends)
    mean, error = mean_and_error(above - below, jnp.asarray(jnp.finfo(dtype).eps, dtype))
    uncertain = jnp.mean(width + other_width) / 2
    # A traced interval may be empty.
    is_empty = ends[0] > ends[1]
    estimate = jnp.where(is_empty, 0, jnp.asarray(size, dtype) * mean)
    error = jnp.where(is_empty, 0, jnp.asarray(size, dtype) * jnp.hypot(error, uncertain))
    return TraceResult(estimate, error, jnp.int32(num_matvecs), status_of(estimate, jnp.zeros((), bool)))


def _distribution(quadrature: Quadrature, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Estimate the distribution function at x, and half the width of its bounds.

    A node whose residual is below its distance from x has its weight on one side of x.
    """
    nodes, weights, radii = quadrature
    middles = jnp.cumsum(weights) - weights / 2
    last = jnp.sum(weights > 0, dtype=jnp.int32) - 1
    below = jnp.sum((nodes <= x) & (weights > 0), dtype=jnp.int32) - 1
    left, right = jnp.maximum(below, 0), jnp.minimum(below + 1, last)
    open_left = jnp.where((below >= 0) & (radii[left] >= x - nodes[left]), weights[left] / 2, 0)
    open_right = jnp.where((below < last) & (radii[right] >= nodes[right] - x), weights[right] / 2, 0)
    # The bounds, moved to the node itself where it is not settled on which side its weight is.
    before = middles[left] + weights[left] / 2 - open_left
    after = middles[right] - weights[right] / 2 + open_right
    share = jnp.clip(safe_divide(x - nodes[left], nodes[right] - nodes[left], otherwise=0), 0, 1)
    value = jnp.where(below < 0, 0, jnp.where(below >= last, 1, before + share * (after - before)))
    return value, open_left + open_right
