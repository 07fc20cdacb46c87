"""Widths of the nodes of a quadrature: the interval whose mass each node represents.

For a measure with the nodes theta_1 < .. < theta_m and the weights w, the mass below theta_i is between
w_1 + .. + w_{i-1} and that plus w_i (Chebyshev, Markov, Stieltjes): a node represents mass on both of its sides. Here
it is a bar that reaches to the midpoints between it and its neighbors, but no farther than the error of its eigenvalue,

    h = min(gap / 2, r^2 / nearest gap),    r = ||A v - theta v||

A converged node is therefore a line, and distant outliers do not widen the nodes of the bulk. The mass is split between
the two sides in proportion to the density there, estimated by w / (width) of the neighbors. Beyond the first and the
last node the bar reaches a quarter of the gap: 0.23 is the limit for a flat density (zeros of J_0).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.vectors.arithmetic import safe_divide

# Length of a bar beyond the first or last node, as a fraction of the gap on the other side.
_SHARE_BEYOND = 0.25
# Width of a line, as a fraction of the distance below which two nodes coincide.
_LINE = 0.125


class Bars(NamedTuple):
    """Extent of each node, and the fraction of its mass on the left."""

    left: jax.Array  # (m,) extent to the left
    right: jax.Array  # (m,) extent to the right
    share: jax.Array  # (m,) fraction of the mass on the left
    gap: jax.Array  # (m,) distance to the nearest neighbor; inf if there is none


def bars(nodes: jax.Array, weights: jax.Array, residuals: jax.Array, rounding: jax.Array) -> Bars:
    """Compute the bars of one quadrature.

    Args:
        nodes: (m,) in any order.
        weights: (m,) nonnegative; nodes of weight zero do not count as neighbors.
        residuals: (m,) residuals of the Ritz vectors.
        rounding: () distance up to which two nodes coincide.

    >>> print(bars(jnp.array([0.0, 1.0, 2.0]), jnp.ones(3), jnp.ones(3), jnp.asarray(1e-6)).left)
    [0.25 0.5  0.5 ]
    """
    distances = nodes[None, :] - nodes[:, None]
    has_weight = (weights > 0)[None, :]
    gap_left, on_left = _nearest(jnp.where(has_weight & (distances < -rounding), -distances, jnp.inf))
    gap_right, on_right = _nearest(jnp.where(has_weight & (distances > rounding), distances, jnp.inf))
    is_first, is_last, gap = jnp.isinf(gap_left), jnp.isinf(gap_right), jnp.minimum(gap_left, gap_right)
    reach = lambda this_gap, other_gap, is_end: jnp.where(is_end, _SHARE_BEYOND * other_gap, this_gap / 2)
    left, right = reach(gap_left, gap_right, is_first), reach(gap_right, gap_left, is_last)
    # A single node has no gaps, and its residual is the standard deviation of the measure.
    most = jnp.where(is_first & is_last, residuals, residuals * (residuals / gap))
    around = safe_divide(weights, left + right, where=~(is_first & is_last))
    left, right = (jnp.maximum(jnp.minimum(x, most), _LINE * rounding) for x in (left, right))
    density = weights / (left + right)
    beside = lambda neighbor, is_end: jnp.where(is_end, density, jnp.minimum(around[neighbor], density))
    mass_left, mass_right = beside(on_left, is_first) * left, beside(on_right, is_last) * right
    return Bars(left, right, safe_divide(mass_left, mass_left + mass_right, otherwise=0.5), gap)


def _nearest(distances: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.min(distances, axis=1), jnp.argmin(distances, axis=1)
