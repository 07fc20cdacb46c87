"""Density of a whole spectrum by stochastic Lanczos quadrature.

    F(x) = #{lambda_i <= x} / n = tr 1(A <= x) / n  ~  mean over probes q of  sum_i w_i 1(theta_i <= x)

with q uniform on the unit sphere and (theta, w) its quadrature. Exact eigenpairs that are already known contribute a
mass of 1 / n each. The probes then stay in their complement, where outliers no longer use up steps.

`node_widths` defines the width of a node: a converged outlier is a line, and a node of the bulk reaches to the
midpoints between it and its neighbors.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.arguments import check_key, on_device
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.result import EigenResult
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.deflation import check_result, deflated_pairs
from eigenjax.spectrum.probing.derivatives import frozen, slope
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_on_host, operator_or_host
from eigenjax.spectrum.probing.krylov_stages import krylov_estimator
from eigenjax.spectrum.probing.node_widths import Bars, bars
from eigenjax.spectrum.probing.probes import checked_ints, mean_and_error
from eigenjax.spectrum.probing.quadrature import Quadrature, each_probe, gauss_quadrature, without_vectors
from eigenjax.spectrum.probing.quadrature_slopes import quadrature_slopes
from eigenjax.spectrum.probing.stages import Inputs

# On a grid, a line is as wide as the grid spacing, but at most this fraction of the gap to its neighbor.
_SHARE_OF_GAP = 0.25
# Nodes within c * eps * ||A|| of each other coincide; a node so close above x counts as at x.
_NODE_ROUNDING = 4.0
# Standard deviations at which the normal density is zero in every dtype.
_FAR = 50.0


class SpectralDensity(NamedTuple):
    """Distribution of the eigenvalues: a discrete measure for each probe, and their mean.

    NaN throughout if a matvec was not finite.

    Example:
        >>> found = spectral_density(jnp.diag(jnp.arange(4.0)), key=jax.random.key(0), num_probes=2)
        >>> found.nodes.shape, bool(jnp.allclose(found.weights.sum(axis=1), 1))
        ((2, 4), True)
    """

    nodes: jax.Array
    """(p, m) ascending for each of the p probes; with `deflate`, the k known eigenvalues follow."""
    weights: jax.Array
    """(p, m), each row sums to 1."""
    residuals: jax.Array
    """(p, m) distance from each node within which an eigenvalue lies; 0 for known eigenvalues."""
    num_matvecs: jax.Array
    """() int32, number of matvecs."""

    __repr__ = printing.short_repr

    def density(self, grid: Any, width: Any = None) -> jax.Array:
        """Evaluate the density, a sum of normal kernels at the nodes; `cdf` has a higher resolution.

        Args:
            grid: numbers of any shape.
            width: standard deviation of all kernels. None takes one for each node: half the distance to its nearest
                neighbor, less if the node has converged. Lines are then as wide as the grid spacing, so that they are
                visible and the density on a fine grid sums to 1.

        Returns:
            The density, in the shape of the grid.
        """
        if width is not None:
            _check_width(width)
        return _density_at(self, jnp.asarray(on_device(grid)), on_device(width))

    def cdf(self, x: Any) -> jax.Array:
        """Compute the fraction of eigenvalues at or below x; values above x by rounding (4 eps ||A||) count as at x.

        The mass of a node rises linearly over an interval that reaches at most to the midpoints between it and its
        neighbors, and is narrower for a node that has converged.

        Args:
            x: numbers of any shape.

        Returns:
            The fractions, in the shape of x, rising from 0 to 1. `cdf_standard_error` gives their error.
        """
        return _cdf(self, jnp.asarray(on_device(x)))[0]

    def cdf_standard_error(self, x: Any) -> jax.Array:
        """Compute the standard error of `cdf` from the spread over the probes; inf for a single probe.

        It covers the random error of the probes, not the resolution error of up to half the weight of one node.
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
    """Estimate the distribution of all eigenvalues of a symmetric operator by stochastic Lanczos quadrature.

        F(x) ~ mean over probes of sum_i w_i 1(theta_i <= x),    T = S diag(theta) S^T,    w_i = S_1i^2

    The error has two parts. The random error has the standard deviation sqrt(2 F (1 - F) / (p n)) (real, p probes),
    which `cdf_standard_error` measures. The resolution error is up to half the weight of a node: about pi / (2 m) in
    the middle of a spread-out spectrum, and less at its ends.

    Args:
        op: whatever `as_operator` takes, or a `stream`. Symmetric or Hermitian. The nodes, the weights and what follows
            from them are differentiable once, forward and in reverse, in the parameters of an operator in memory: the
            derivatives are those of the estimate, with a random error that is small for smooth functions only. For a
            fraction of eigenvalues, differentiate a smooth step with `trace_of_function`.
        key: typed key of the probes.
        num_probes: p, static. More probes reduce the random error.
        krylov_dim: m, steps from each probe, static; at most n are taken. More steps improve the resolution.
        deflate: known eigenpairs, as `eigsh` returns them. Those that have converged become exact nodes of mass 1 / n,
            and the probes sample the rest only. Use it for outliers, and for details of a bulk next to them.
        probe_batch: probes at once (by vmap), static; each holds a basis. For a stream, m passes over the data serve
            all probes of a batch.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        Nodes and weights of each probe, with the methods `density` and `cdf`.

    Raises:
        ValueError: if num_probes, krylov_dim or probe_batch is less than 1.
        TypeError: if they are not ints, `key` is not a typed key, or `deflate` is not an `EigenResult`.

    Cost: p m matvecs, and one more with `deflate`; m + 4 vectors of memory for each of the `probe_batch` probes. A
    derivative costs p m products with A and with dA (in reverse mode, with their adjoints and p m matvecs more), and
    2 m + 10 vectors for each of the `probe_batch` probes.

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
    op = operator_or_host(op, like, deflate)
    check_key(key)
    num_probes, krylov_dim, probe_batch = checked_ints(
        num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch
    )
    check_result(deflate)
    krylov_dim = min(krylov_dim, op.size)
    if isinstance(op, HostOperator):
        inputs = Inputs(key, deflated_pairs(operator_on_host(op, deflate), deflate))
        options = {"num_probes": num_probes, "krylov_dim": krylov_dim, "probe_batch": probe_batch}
        estimator = krylov_estimator(**options, finalize=_from_states, deflated=deflate is not None)
        return op.estimated(Plan("spectral_density", estimator, inputs, options))
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
    name = "spectral_density"
    constant, deflated = frozen(name, op), frozen(name, deflated_pairs(op, deflate))
    use = lambda state, deflated_op: (without_vectors(state), quadrature_slopes(deflated_op(op), state))
    states, slopes = each_probe(use, constant, key, deflated, num_probes, krylov_dim, probe_batch, repeated=True)
    if deflated is not None:
        of_value = lambda pair: slope(op, *pair)
        deflated = deflated._replace(values=deflated.values + jax.lax.map(of_value, (deflated.mass, deflated.vectors)))
    return _from_states(op, Inputs(key, deflated), states, slopes)


@jax.jit
def _from_states(
    op: LinearOperator, inputs: Inputs, states: LanczosState, slopes: Quadrature | None = None
) -> SpectralDensity:
    """Compute the density from the Lanczos states of all probes; the slopes are zeros with the derivatives."""
    (num_probes, krylov_dim), deflated = states.diagonal.shape, inputs.deflated
    quadrature = jax.vmap(gauss_quadrature)(states)
    if slopes is not None:
        quadrature = jax.tree.map(jnp.add, quadrature, slopes)
    nodes, weights, residuals = quadrature
    if deflated is not None:
        mass = deflated.mass / float(op.size)
        weights = weights * (1 - jnp.sum(mass))
        append = lambda x, extra: jnp.concatenate([x, jnp.broadcast_to(extra, (num_probes, *extra.shape))], axis=1)
        nodes, weights = append(nodes, deflated.values), append(weights, mass)
        residuals = append(residuals, jnp.zeros_like(mass))
    return SpectralDensity(nodes, weights, residuals, jnp.int32(num_probes * krylov_dim + (deflated is not None)))


@jax.jit
def _density_at(found: SpectralDensity, grid: jax.Array, width: Any) -> jax.Array:
    found, unit = _scaled(found)
    grid, width = grid.astype(unit.dtype) / unit, None if width is None else width / unit
    around = _bars(found)
    widths = (around.left + around.right) / 2
    if width is not None:
        widths = jnp.full_like(widths, width)
    elif grid.size > 1:
        points = jnp.sort(grid.reshape(-1))
        spacing = jnp.interp(found.nodes, points, jnp.asarray(jnp.gradient(points)))
        widths = jnp.maximum(widths, jnp.minimum(spacing, _SHARE_OF_GAP * around.gap))
    kernel = lambda x: _normal(x, found.nodes, widths)
    at = lambda x: jnp.mean(jnp.sum(found.weights * kernel(x), axis=1))
    return jax.lax.map(at, grid.reshape(-1)).reshape(grid.shape) / unit


def _normal(x: jax.Array, mean: jax.Array, width: jax.Array) -> jax.Array:
    """Compute the density of normal distributions; in the far tails its derivatives are zero, and not NaN."""
    z = jnp.clip(x - mean, -_FAR * width, _FAR * width) / width
    return jnp.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * width)


@jax.jit
def _cdf(found: SpectralDensity, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the mean over the probes, and its standard error."""
    found, unit = _scaled(found)
    points = x.astype(unit.dtype).reshape(-1) / unit + _rounding(found)

    def one(probe):
        nodes, weights, around = jax.tree.map(lambda x: x[None, :], probe)
        past = points[:, None] - nodes
        # Clipped before the division: the ratio of a distance to the width of a line may overflow.
        left = around.share * (1 + jnp.clip(past, -around.left, 0) / around.left)
        right = (1 - around.share) * (jnp.clip(past, 0, around.right) / around.right)
        # Weights add up to 1 only to rounding.
        return jnp.clip(jnp.sum(weights * (left + right), axis=1), 0, 1)

    of_probes = jax.lax.map(one, (found.nodes, found.weights, _bars(found))).reshape(-1, *x.shape)
    return mean_and_error(of_probes, jnp.zeros((), found.nodes.dtype), few=0.0)


def _bars(found: SpectralDensity) -> Bars:
    """Compute the bars of each probe, (p, m)."""
    rounding = _rounding(found)
    return jax.lax.map(
        lambda probe: bars(probe[0], probe[1], probe[2], rounding), (found.nodes, found.weights, found.residuals)
    )


def _scaled(found: SpectralDensity) -> tuple[SpectralDensity, jax.Array]:
    """Divide nodes and residuals by a power of two, (), so that squares of widths neither overflow nor underflow."""
    limits = jnp.finfo(found.nodes.dtype)
    largest = jnp.maximum(jax.lax.stop_gradient(jnp.max(jnp.abs(found.nodes))), limits.tiny / limits.eps**2)
    unit = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    return found._replace(nodes=found.nodes / unit, residuals=found.residuals / unit), unit


def _rounding(found: SpectralDensity) -> jax.Array:
    """Return the distance below which two nodes coincide, (); of a zero matrix, in the unit of scaled nodes."""
    eps = jnp.finfo(found.nodes.dtype).eps
    largest = jnp.max(jnp.abs(found.nodes))
    return _NODE_ROUNDING * eps * jnp.where(largest > eps, largest, 1)


def _check_width(width: Any) -> None:
    if isinstance(width, int | float) and not width > 0:
        raise ValueError(f"width={width}: give a positive standard deviation, or None for one of each node's own")
