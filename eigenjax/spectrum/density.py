"""The density of a whole spectrum by stochastic Lanczos quadrature.

    F(x) = #{lambda_i <= x} / n = tr 1(A <= x) / n  ~  mean over probes q of  sum_i w_i 1(theta_i <= x)

with q uniform on the unit sphere and (theta, w) its quadrature. Exact eigenpairs already known take part with a mass
of 1 / n each, and the probes keep to their complement, where outliers no longer take up steps.

How wide a node is, is said in `node_widths`: a converged outlier is a line, a node of the bulk reaches to its
neighbours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.arguments import check_key, on_device
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.spectrum.probing.deflation import check_result, known_pairs
from eigenjax.spectrum.probing.node_widths import Bars, bars
from eigenjax.spectrum.probing.probes import checked_ints, mean_and_error
from eigenjax.spectrum.probing.quadrature import gauss_quadrature, tridiagonals

# On a grid a line is as wide as the grid's spacing, or this part of the gap to its neighbour where that is less.
_SHARE_OF_GAP = 0.25
# Nodes within so many units of rounding of ||A|| of each other are one; a node so near above x counts as at x.
_ROUNDING = 4.0


class SpectralDensity(NamedTuple):
    """The spectrum's distribution: a discrete measure for each probe, and their mean.

    NaN throughout where a product was not finite.
    """

    nodes: jax.Array
    """(p, m) ascending for each of the p probes; with `deflate` the k known eigenvalues follow them."""
    weights: jax.Array
    """(p, m), each row sums to 1."""
    residuals: jax.Array
    """(p, m) an eigenvalue is no farther from the node than this; 0 of known ones."""
    num_matvecs: jax.Array
    """() int32, products spent."""

    __repr__ = printing.short_repr

    def density(self, grid: Any, width: Any = None) -> jax.Array:
        """The density, a sum of normal kernels around the nodes; `cdf` resolves more.

        Args:
            grid: numbers of any shape.
            width: the standard deviation of all kernels; None takes one for each node: half the distance to its
                nearest neighbour, less where the node has converged. Lines are then as wide as the grid's spacing, so
                that they show and the sum over a fine grid is 1.

        Returns:
            Of the grid's shape.
        """
        if width is not None:
            _check_width(width)
        return _density_at(self, jnp.asarray(on_device(grid)), on_device(width))

    def cdf(self, x: Any) -> jax.Array:
        """The share of eigenvalues at or below x; what is above it by rounding (4 eps ||A||) is at x.

        Args:
            x: numbers of any shape.

        Returns:
            Of the shape of x, rising from 0 to 1. `cdf_standard_error` says how far to trust it.
        """
        return _cdf(self, jnp.asarray(on_device(x)))[0]

    def cdf_standard_error(self, x: Any) -> jax.Array:
        """The standard error of `cdf`, from the spread over the probes; inf if there is one only.

        It is of the chance in the probes. What the nodes cannot resolve, up to half the weight of one, is not in it.
        """
        return _cdf(self, jnp.asarray(on_device(x)))[1]


@explained
def spectral_density(
    op: Any,
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    deflate: EigenResult | None = None,
    probe_batch: int = 1,
    like: Any = None,
) -> SpectralDensity:
    """The distribution of all eigenvalues of a symmetric operator, by stochastic Lanczos quadrature.

        F(x) ~ mean over probes of sum_i w_i 1(theta_i <= x),    T = S diag(theta) S^T,    w_i = S_1i^2

    Two errors: chance, of standard deviation sqrt(2 F (1 - F) / (p n)) (real, p probes), which `cdf_standard_error`
    measures; and resolution, up to half the weight of a node, about pi / (2 m) in the middle of a spread-out spectrum
    and less at its ends.

    Args:
        op: whatever `as_operator` takes. Symmetric or Hermitian.
        key: typed key of the probes.
        num_probes: p, static. More of them against chance.
        krylov_dim: m, steps from each, static; more than n is n. More of them against a lack of resolution.
        deflate: eigenpairs known, as `eigsh` returns them. Those that have converged become exact nodes of mass 1 / n,
            and the probes look at the rest only: for outliers, and for details of a bulk beside them.
        probe_batch: probes at once (by vmap), static: each holds a basis.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        Nodes and weights of each probe, `density` and `cdf`.

    Raises:
        ValueError: if num_probes, krylov_dim or probe_batch is less than 1.
        TypeError: if they are no ints, `key` is no typed key, or `deflate` no `EigenResult`.

    Cost: p m products, and one more with `deflate`; m + 4 vectors of memory for each of the probes at once. Not
    differentiable in reverse mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.diag(jnp.r_[jnp.linspace(0.0, 1.0, 197), jnp.array([300.0, 500.0, 1000.0])])
        >>> found = spectral_density(matrix, key=jax.random.key(0), krylov_dim=40)
        >>> print(jnp.abs(found.cdf(jnp.array([0.25, 0.5, 0.75])) - jnp.array([0.25, 0.5, 0.75])).max() < 0.05)
        True
        >>> grid = jnp.linspace(-0.5, 1.5, 201)
        >>> density = found.density(grid)
        >>> print(density[:40].max() < 0.05, density[60:140].mean() > 0.9)  # below -0.1, and from 0.1 to 0.9
        True True

    Source: Ubaru, Chen and Saad (2017); Ghorbani, Krishnan and Xiao (2019); Chen, Trogdon and Ubaru (2021).
    """
    op = as_operator(op, like=like)
    check_key(key)
    num_probes, krylov_dim, probe_batch = checked_ints(
        num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch
    )
    check_result(deflate)
    krylov_dim = min(krylov_dim, op.size)
    return _density(op, key, deflate, num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim", "probe_batch"))
def _density(
    op: LinearOperator,
    key: jax.Array,
    deflate: EigenResult | None,
    *,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
) -> SpectralDensity:
    known = known_pairs(op, deflate)
    states = tridiagonals(op, key, known, num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    nodes, weights, residuals = jax.vmap(gauss_quadrature)(states)
    if known is not None:
        mass = known.mass / op.size
        weights = weights * (1 - jnp.sum(mass))
        beside = lambda x, known: jnp.concatenate([x, jnp.broadcast_to(known, (num_probes, *known.shape))], axis=1)
        nodes, weights = beside(nodes, known.values), beside(weights, mass)
        residuals = beside(residuals, jnp.zeros_like(mass))
    return SpectralDensity(nodes, weights, residuals, jnp.int32(num_probes * krylov_dim + (known is not None)))


@jax.jit
def _density_at(found: SpectralDensity, grid: jax.Array, width: Any) -> jax.Array:
    grid = grid.astype(found.nodes.dtype)
    around = _bars(found)
    widths = (around.left + around.right) / 2
    if width is not None:
        widths = jnp.full_like(widths, width)
    elif grid.size > 1:
        points = jnp.sort(grid.reshape(-1))
        spacing = jnp.interp(found.nodes, points, jnp.asarray(jnp.gradient(points)))
        widths = jnp.maximum(widths, jnp.minimum(spacing, _SHARE_OF_GAP * around.gap))
    kernel = lambda x: jax.scipy.stats.norm.pdf(x, found.nodes, widths)
    at = lambda x: jnp.mean(jnp.sum(found.weights * kernel(x), axis=1))
    return jax.lax.map(at, grid.reshape(-1)).reshape(grid.shape)


@jax.jit
def _cdf(found: SpectralDensity, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean over the probes, and its standard error."""
    x = x.astype(found.nodes.dtype)
    points = x.reshape(-1) + _rounding(found)

    def one(probe):
        nodes, weights, around = jax.tree.map(lambda x: x[None, :], probe)
        past = points[:, None] - nodes
        left = around.share * jnp.clip(1 + past / around.left, 0, 1)
        right = (1 - around.share) * jnp.clip(past / around.right, 0, 1)
        # Weights add up to 1 to rounding only.
        return jnp.clip(jnp.sum(weights * (left + right), axis=1), 0, 1)

    of_probes = jax.lax.map(one, (found.nodes, found.weights, _bars(found))).reshape(-1, *x.shape)
    return mean_and_error(of_probes, jnp.zeros((), found.nodes.dtype), few=0.0)


def _bars(found: SpectralDensity) -> Bars:
    """Of each probe, (p, m)."""
    rounding = _rounding(found)
    return jax.lax.map(
        lambda probe: bars(probe[0], probe[1], probe[2], rounding), (found.nodes, found.weights, found.residuals)
    )


def _rounding(found: SpectralDensity) -> jax.Array:
    """() the distance below which two nodes are one."""
    limits = jnp.finfo(found.nodes.dtype)
    return jnp.maximum(_ROUNDING * limits.eps * jnp.max(jnp.abs(found.nodes)), limits.tiny / limits.eps)


def _check_width(width: Any) -> None:
    if isinstance(width, int | float) and not width > 0:
        raise ValueError(f"width={width}: give a positive standard deviation, or None for one of each node's own")
