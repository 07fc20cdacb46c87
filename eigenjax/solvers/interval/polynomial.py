"""Polynomial filter of an interval: p(A) has the eigenvectors of A, and its largest eigenvalues are those inside.

With t = cos(phi) the spectrum mapped to [-1, 1], p is the Chebyshev series of a delta function at the angle gamma in
the interval, damped by Lanczos's sigma factors,

    p(t) = sum_j c_j T_j(t) / sum_j c_j T_j(cos gamma),    c_j = cos(j gamma) sin(x_j) / x_j,    x_j = j pi / (d + 1)

(c_0 is halved). So p = 1 at gamma, about 0.66 at the ends of the interval by choice of the degree d, and small
elsewhere (Li, Xi, Erlandson and Saad 2019, with their degree rule and damping). On a random matrix, 50 of 2,000
eigenvalues take the same number of matvecs, within a tenth, for half and for 1.5 times this degree: a higher degree
takes fewer steps of Lanczos, each of which orthogonalizes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.solvers.interval.bounds import SpectrumEstimate
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.tree import PyTree

# The degree times the half width of the interval, as an angle.
_RESOLUTION = 2.0
# The spectrum is mapped with this share of its width more on both sides, because its ends are estimates.
_PADDING = 0.01
# The width of a spectrum is at least this times eps ||A||.
_LEAST_WIDTH = 64.0
# Gamma lies off the middle by this share of the half width. In a symmetric spectrum p would otherwise have double
# eigenvalues.
_OFFSET = 0.06
# A narrow interval is filtered as if it held this number of eigenvalues, by the mean density within an angle of
# _WINDOW, and as if its half width were at most _WIDEST: a higher degree gains nothing.
_LEAST_INSIDE, _WINDOW, _WIDEST = 8.0, 0.2, 0.1
# Rounding errors of p are about d eps; the degree is limited to this over eps.
_ROUNDING = 1e-3
# The floor lies below the values at the ends of the interval by this share of their distance from one.
_MARGIN = 0.02
# Angles at which the least value in the interval is computed.
_GRID = 65


class PolynomialFilter(NamedTuple):
    """Filter p of an interval."""

    middle: jax.Array  # () the number mapped to 0
    radius: jax.Array  # () half the width of the interval mapped to [-1, 1]
    angle: jax.Array  # () gamma
    degree: jax.Array  # () int32, d
    scale: jax.Array  # () factor for which p = 1 at gamma
    least: jax.Array  # () least value of p in the interval

    @property
    def peak(self) -> jax.Array:
        """The number at which p = 1."""
        return self.middle + self.radius * jnp.cos(self.angle)

    def floor(self, resolution: jax.Array) -> jax.Array:
        """Return () a number below all values of p in the interval, by at least the given distance."""
        rounding = self.degree.astype(resolution.dtype) * float(jnp.finfo(resolution.dtype).eps)
        return self.least - jnp.maximum(jnp.maximum(_MARGIN * (1 - self.least), resolution), rounding)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FilteredOperator(LinearOperator):
    """Operator p(A); a product takes d matvecs with A."""

    op: LinearOperator
    polynomial: PolynomialFilter

    @property
    def structure(self) -> PyTree:
        """Structure of the vectors, in working dtypes."""
        return tree.working_structure(self.op.structure)

    def mv(self, vector: PyTree) -> PyTree:
        """Compute p(A) v."""
        return _evaluate(self.polynomial, lambda v: matvec(self.op, v), vector)


def filter_of(spectrum: SpectrumEstimate, interval: tuple[jax.Array, jax.Array], size: int) -> PolynomialFilter:
    """Choose the filter of an interval.

    Args:
        spectrum: ends and density of the spectrum.
        interval: its ends.
        size: n.
    """
    low, high = interval
    eps = float(jnp.finfo(spectrum.norm.dtype).eps)
    width = jnp.maximum(spectrum.high - spectrum.low, _LEAST_WIDTH * eps * spectrum.norm)
    width = jnp.where(width > 0, width, 1)
    middle, radius = (spectrum.high + spectrum.low) / 2, (0.5 + _PADDING) * width
    to_angle = lambda x: jnp.arccos(jnp.clip((x - middle) / radius, -1, 1))
    first, last = to_angle(high), to_angle(low)
    at_high, at_low = high >= spectrum.high, low <= spectrum.low
    half = jnp.maximum(last - first, 0) / 2
    angle = (first + last) / 2 + _OFFSET * half
    # At an end of the spectrum the peak is at that end, and the interval is half of a symmetric one.
    angle = jnp.where(at_high & ~at_low, 0, jnp.where(at_low & ~at_high, jnp.pi, angle))
    half = jnp.where(at_high & ~at_low, last, jnp.where(at_low & ~at_high, jnp.pi - first, half))
    near = jnp.abs(to_angle(spectrum.nodes) - angle) <= _WINDOW
    density = size * jnp.maximum(jnp.sum(jnp.where(near, spectrum.weights, 0)), 1 / size) / (2 * _WINDOW)
    half = jnp.maximum(half, jnp.minimum(_LEAST_INSIDE / 2 / density, _WIDEST))
    degree = jnp.clip(jnp.ceil(_RESOLUTION / half), 2, _ROUNDING / eps).astype(jnp.int32)
    unscaled = PolynomialFilter(middle, radius, angle, degree, jnp.ones_like(middle), jnp.ones_like(middle))
    at = lambda angles: _evaluate(unscaled, lambda x: (middle + radius * jnp.cos(angles)) * x, jnp.ones_like(angles))
    scale = 1 / at(angle)
    inside = first + jnp.linspace(0.0, 1.0, _GRID, dtype=first.dtype) * (last - first)
    return unscaled._replace(scale=scale, least=scale * jnp.min(at(inside)))


def _evaluate(polynomial: PolynomialFilter, times: Callable[[PyTree], PyTree], vector: PyTree) -> PyTree:
    """Compute p(A) v by the recurrence T_j+1 = 2 t T_j - T_j-1; times: v -> A v."""
    middle, radius, angle, degree, scale, _ = polynomial

    def coefficient(j: Any) -> jax.Array:
        order = j.astype(angle.dtype)
        x = order * jnp.pi / (degree + 1).astype(angle.dtype)
        return scale * jnp.cos(order * angle) * safe_divide(jnp.sin(x), x, otherwise=0.5)

    def add(j: Any, carry: tuple) -> tuple:
        before, current, total = carry
        image = tree.add_scaled(times(current), -middle, current)
        # The first step is T_1 = t T_0.
        factor = jnp.where(j == 1, 1.0, 2.0) / radius
        following = tree.add_scaled(tree.scale(factor, image), jnp.where(j == 1, 0.0, -1.0), before)
        return current, following, tree.add_scaled(total, coefficient(j), following)

    start = (vector, vector, tree.scale(coefficient(jnp.int32(0)), vector))
    return jax.lax.fori_loop(jnp.int32(1), degree + 1, add, start)[2]
