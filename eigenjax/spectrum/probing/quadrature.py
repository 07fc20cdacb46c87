"""Gauss quadrature by Lanczos, for the spectral measure of a vector.

The measure of a unit vector q has the mass |<x_i, q>|^2 at each eigenvalue lambda_i. From q, m steps of Lanczos give
the tridiagonal T = S diag(theta) S^T, and with it the Gauss quadrature of that measure (Golub and Meurant 2010),

    q^H f(A) q  =  sum_i |<x_i, q>|^2 f(lambda_i)  ~  sum_i w_i f(theta_i),    w_i = S_1i^2

exact for polynomials of degree 2 m - 1. A breakdown means that q lies in an invariant subspace. The quadrature by the
steps before it is exact; the steps after it continue from a direction unrelated to q and are left out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.krylov.general.schur import complex_dtype
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.functions.captured import CapturedFunction
from eigenjax.solvers.symmetric import lanczos
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing import derivatives
from eigenjax.spectrum.probing.deflation import ComplementOperator, DeflatedPairs
from eigenjax.spectrum.probing.probes import each, random_sphere, random_vector
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.orthogonalize import project_out_of_vector
from eigenjax.vectors.pseudorandom import seed_of
from eigenjax.vectors.tree import PyTree

# The reference quadrature leaves out the last 1 + m / 5 of the m steps.
_HELD_BACK = 5


class Quadrature(NamedTuple):
    """Nodes and weights in ascending order; if there are fewer than m, the last node is repeated with the weight 0."""

    nodes: jax.Array  # (m,) Ritz values
    weights: jax.Array  # (m,) sum to 1
    residuals: jax.Array  # (m,) ||A v - theta v|| of the Ritz vectors: an eigenvalue lies within it of the node


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim", "probe_batch"))
def tridiagonals(
    op: LinearOperator,
    key: jax.Array,
    deflated: DeflatedPairs | None,
    *,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
) -> LanczosState:
    """Run m Lanczos steps from each of p random vectors in the complement of the known pairs; the basis is dropped.

    Cost: p m matvecs, and one more with known pairs; m + 4 vectors for each of the `probe_batch` probes.
    """
    keep = lambda state, _: without_vectors(state)
    return each_probe(keep, op, key, deflated, num_probes, krylov_dim, probe_batch)


def without_vectors(state: LanczosState) -> LanczosState:
    """Return the state without its basis and its direction."""
    return state._replace(basis=None, direction=None)


@functools.partial(jax.jit, static_argnames=("num_probes", "krylov_dim", "probe_batch"))
def tridiagonals_and_slopes(
    op: LinearOperator,
    constant: LinearOperator,
    f: CapturedFunction,
    key: jax.Array,
    deflated: DeflatedPairs | None,
    *,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
) -> tuple[LanczosState, tuple[jax.Array, jax.Array]]:
    """Run the steps of `tridiagonals`, held constant; return also zeros that have derivatives in A.

    They are (p,) zeros with the derivatives of q^H f(A) q, and one with that of the sum over the known pairs.
    `constant` is the operator without a derivative.

    Cost: p m matvecs, and one more with known pairs; m + 4 vectors for each of the `probe_batch` probes.
    A derivative takes six products with dA for each probe, and six vectors.
    """

    def use(state, _):
        values, vectors, valid = tridiagonal_ritz_pairs(state, steps_before_breakdown(state))
        coefficients, columns = derivatives.terms(values, vectors[0], valid, vectors, f)
        slope = derivatives.slopes(op, coefficients, tree.combine(columns, state.basis))
        return without_vectors(state), slope

    states, slopes = each_probe(use, constant, key, deflated, num_probes, krylov_dim, probe_batch)
    of_pairs = jnp.zeros((), slopes.dtype) if deflated is None else derivatives.slope_of_pairs(op, f, deflated)
    return states, (slopes, of_pairs)


def each_probe(
    use: Callable[[LanczosState, Callable[[LinearOperator], LinearOperator]], Any],
    op: LinearOperator,
    key: jax.Array,
    deflated: DeflatedPairs | None,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
    *,
    repeated: bool = False,
) -> Any:
    """Apply a function to the state after m steps from each random vector, and to the deflation of an operator.

    In reverse mode, the steps of a probe are repeated if `repeated`; otherwise what they need is stored.
    """
    deflate = lambda op: op
    if deflated is not None:
        vector = random_start(op, jax.random.fold_in(key, num_probes), deflated)
        inside = value_inside(vector, matvec(op, vector))
        deflate = lambda op: ComplementOperator(op, deflated.vectors, inside)

    def run(key):
        start = random_start(op, key, deflated)
        return use(follow(deflate(op), start, krylov_dim, seed_of(key)), deflate)

    return each(jax.checkpoint(run) if repeated else run, jax.random.split(key, num_probes), probe_batch)


def random_start(op: LinearOperator, key: jax.Array, deflated: DeflatedPairs | None) -> PyTree:
    """Draw a vector in the complement of the known pairs, uniformly on a sphere before its projection."""
    start = random_vector(random_sphere, key, op)
    return start if deflated is None else project_out_of_vector(deflated.vectors, start)


def value_inside(vector: PyTree, image: PyTree) -> jax.Array:
    """Return a value inside the remaining spectrum, the Rayleigh quotient of a vector in the complement."""
    # The length is zero, or rounding error, if the known pairs span the whole space.
    return safe_divide(tree.inner(vector, image).real, tree.inner(vector, vector).real)


def follow(op: LinearOperator, start: PyTree, krylov_dim: int, seed: jax.Array) -> LanczosState:
    """Run m Lanczos steps from a vector, and return the state."""
    state = lanczos.init(op, start, krylov_dim=krylov_dim, key=seed)
    state, _ = jax.lax.scan(lambda state, _: (lanczos.step(op, state), None), state, length=krylov_dim)
    return state


def steps_before_breakdown(state: LanczosState) -> jax.Array:
    """Count the steps in the Krylov space of the start vector, those before the first breakdown; () int32."""
    zero = state.offdiagonal == 0
    return jnp.where(jnp.any(zero), jnp.argmax(zero) + 1, zero.shape[0]).astype(jnp.int32)


def tridiagonal_ritz_pairs(state: LanczosState, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute values (m,), vectors in columns (m, m) and valid entries (m,) of T's first rows; NaN if a matvec was."""
    beside = jnp.diag(state.offdiagonal[:-1], 1)
    values, vectors, valid = ritz.projected_eigh(jnp.diag(state.diagonal) + beside + beside.T, count)
    values = jnp.where(valid, values, values[count - 1])
    return jnp.where(jnp.isfinite(state.operator_norm), values, jnp.nan), vectors, valid


def first_column(state: LanczosState, count: jax.Array, f: Callable) -> tuple[jax.Array, jax.Array]:
    """Compute f(T) e_1 (m,) from the first rows of T, and the largest |f|; values without weight do not contribute."""
    values, vectors, valid = tridiagonal_ritz_pairs(state, count)
    images = checked_values(f, values)
    weights = jnp.where(valid, images * vectors[0].astype(images.dtype), 0)
    column = jnp.matmul(vectors.astype(images.dtype), weights, precision=jax.lax.Precision.HIGHEST)
    return column, jnp.max(jnp.abs(images))


def checked_values(f: Callable, nodes: jax.Array) -> jax.Array:
    """Evaluate f at the nodes, in their dtype or its complex counterpart; raise an error if the shape differs."""
    images = jnp.asarray(f(nodes))
    if images.shape != nodes.shape:
        raise ValueError(f"f gave the shape {images.shape} for eigenvalues of the shape {nodes.shape}: act elementwise")
    return images.astype(complex_dtype(nodes.dtype) if jnp.iscomplexobj(images) else nodes.dtype)


def gauss_quadrature(state: LanczosState, count: jax.Array | None = None) -> Quadrature:
    """Compute the quadrature by the first rows of T; None takes all that belong to the start vector."""
    count = steps_before_breakdown(state) if count is None else count
    values, vectors, valid = tridiagonal_ritz_pairs(state, count)
    weights = jnp.where(valid, jnp.square(vectors[0]), 0)
    residuals = jnp.where(valid, jnp.abs(state.offdiagonal[count - 1] * vectors[count - 1]), 0)
    return Quadrature(values, weights, residuals)


def held_back(count: jax.Array, steps: int) -> jax.Array:
    """Return a smaller number of rows of T, to measure the change over the last steps; all rows after a breakdown."""
    return jnp.where(count < steps, count, steps_held_back(steps)).astype(jnp.int32)


def steps_held_back(steps: int) -> int:
    """Return the number of steps without the last fifth."""
    return max(steps - 1 - steps // _HELD_BACK, 1)
