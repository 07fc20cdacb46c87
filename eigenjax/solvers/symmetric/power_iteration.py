"""Deflated power iteration: eigenpairs of a symmetric operator one after another, in the memory of k + 3 vectors.

    w_{t+1} = P B v_t - b v_{t-1} / ||w_t||,    v_{t+1} = w_{t+1} / ||w_{t+1}||,    P = I - V V^H

with V the vectors found so far, b the momentum (De Sa, He, Mitliagkas, Re and Xu 2017) and B = A for the largest
magnitudes, A + c I for the largest and A - c I for the smallest eigenvalues, c the largest ||A v|| seen. Without
momentum it converges like |mu_2 / mu_1|^t in the eigenvalues mu of B that are left; with the best momentum,
b = mu_2^2 / 4, like that of a method that takes the square root of the number of steps.

For any B and b, convergence is tested with A: theta = <v, A v> and ||P (A v - theta v)||. The part of A v along V
comes from errors of V: a final Rayleigh-Ritz step with V^H A V removes it, and residuals are recomputed.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.array([3.0, 2.0, 1.0])))
>>> state, _ = jax.lax.scan(lambda state, _: (step(op, state), None), init(op, k=2), length=200)
>>> print(finalize(op, state).eigenvalues.round(4), state.num_pairs, state.num_matvecs < 100)
[3. 2.] 2 True
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import arguments
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.judgement import judge, tolerance
from eigenjax.solvers.convergence.residuals import true_residuals
from eigenjax.solvers.start import given_start, start_vector
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import normalize, orthogonalize, random_direction
from eigenjax.vectors.pseudorandom import seed_of, successor
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# A pair ends at this part of tol, a margin for what the Rayleigh-Ritz step mixes into it from the others.
_MARGIN = 0.5
# Momentum 1 would amplify all eigenvalues alike; at 0.98 the wanted one still gains a factor 1.2 a step.
_MOMENTUM_LIMIT = 0.98
# An image below so many units of rounding of ||A|| is zero: the vector is an eigenvector, there is nowhere to move.
_VANISHED = 4.0
# Products with a random vector that estimate ||A||, for the shift: a start vector may see less than half of it.
_PROBES = 5


class PowerState(NamedTuple):
    """The pairs found so far and the iterate on its way to the next one."""

    basis: PyTree  # (k, ...) rows 0 .. num_pairs - 1 are the vectors found
    projection: jax.Array  # (k, k) V^H A V, its upper triangle; the diagonal holds the Rayleigh quotients
    residuals: jax.Array  # (k,) ||P (A v - theta v)|| of the vectors found
    num_pairs: jax.Array  # () int32, pairs done; k is the end
    iteration: jax.Array  # () int32, products spent on the current pair
    vector: PyTree  # v_t, unit norm, orthogonal to the rows found
    previous: PyTree  # v_{t-1} / ||w_t||
    eigenvalue: jax.Array  # () the Rayleigh quotient one product ago; Inf at first
    operator_norm: jax.Array  # () the largest ||A v|| seen: ||A|| from below
    largest: jax.Array  # () the largest |Rayleigh quotient| seen
    num_matvecs: jax.Array  # () int32
    seed: jax.Array  # of the start vectors to come


def init(op: LinearOperator, v0: PyTree | None = None, *, k: int, key: jax.Array | None = None) -> PowerState:
    """The state before the first product.

    Args:
        op: a symmetric operator.
        v0: start vector of the first pair; None draws one, and so does one whose norm is zero or overflows.
        k: pairs there is room for.
        key: typed key of the start vectors; None is `jax.random.key(0)`.
    """
    seed = seed_of(key)
    start = start_vector(op, v0, successor(seed, 0))
    basis, length = tree.zero_basis(start, k), tree.norm(start)
    structure = tree.structure_of(start)
    unusable = ~((length > 0) & jnp.isfinite(length))
    vector = apply_when(
        unusable, lambda _: random_direction(successor(seed, 1), basis, structure), normalize(start, length)
    )
    zero = jnp.zeros_like(length)
    return PowerState(
        basis=basis,
        projection=jnp.zeros((k, k), tree.accumulation_dtype(vector)),
        residuals=jnp.zeros(k, length.dtype),
        num_pairs=jnp.zeros((), jnp.int32),
        iteration=jnp.zeros((), jnp.int32),
        vector=vector,
        previous=jax.tree.map(jnp.zeros_like, vector),
        eigenvalue=jnp.full_like(zero, jnp.inf),
        operator_norm=zero,
        largest=zero,
        num_matvecs=jnp.zeros((), jnp.int32),
        seed=successor(seed, 2),
    )


def step(
    op: LinearOperator,
    state: PowerState,
    *,
    which: str = "LM",
    max_iter: int = 100,
    tol: Any = 1e-4,
    momentum: Any = 0.0,
) -> PowerState:
    """One product, or none once all pairs are done: judges the iterate, then moves on or starts the next pair."""
    advance = lambda state: _advance(op, state, which, max_iter, tol, momentum)
    return apply_when(state.num_pairs < state.residuals.shape[0], advance, state)


def finalize(
    op: LinearOperator, state: PowerState, *, which: str = "LM", tol: Any = 1e-4, v0: PyTree | None = None
) -> EigenResult:
    """The pairs done, after a Rayleigh-Ritz step, in the order of `which`.

    Args:
        op: the operator of the steps.
        state: after any number of steps; it is left as it is.
        which: as of the steps.
        tol: as of the steps.
        v0: the warm start, for the signs.

    Returns:
        The result. Cost: k products, for the residuals.
    """
    upper = jnp.triu(state.projection, 1)
    diagonal = jnp.diag(jnp.diag(state.projection).real).astype(upper.dtype)
    values, coefficients, done = ritz.projected_eigh(upper + diagonal + jnp.conj(upper).T, state.num_pairs)
    order = ritz.wanted_order(values, which, done)
    eigenvalues = values[order]
    vectors, _ = fix_signs(tree.combine(coefficients[:, order], state.basis), given_start(op, v0))
    residuals = true_residuals(op, eigenvalues, vectors)
    num_matvecs = state.num_matvecs + eigenvalues.shape[0]
    return judge(
        op,
        EigenResult(eigenvalues, vectors, residuals, done, jnp.int32(0), num_matvecs),
        tol=tol,
        scale=jnp.maximum(state.largest, jnp.max(jnp.abs(eigenvalues))),
        discrepancy=jnp.zeros_like(state.largest),
        finite=jnp.isfinite(state.operator_norm),
    )


def deflated_power_iteration(
    op: Any,
    k: int = 10,
    *,
    max_iter: int = 100,
    tol: Any = 1e-4,
    momentum: Any = 0.0,
    which: str = "LM",
    v0: PyTree | None = None,
    key: jax.Array | None = None,
) -> EigenResult:
    """Some k eigenpairs of a symmetric operator by power iteration, each deflated by projection before the next.

        v <- P B v / ||P B v||,    P = I - V V^H

    The plainest method there is, slow where eigenvalues are close: a check on the others, and the one to take where
    memory has room for little more than the k results. Two eigenvalues of opposite sign and equal magnitude stand in
    each other's way under "LM" and are reported as not converged.

    Args:
        op: whatever `as_operator` takes; a bare callable takes its structure from v0. Symmetric or Hermitian.
        k: number of pairs, static.
        max_iter: products spent on one pair at most, static.
        tol: a pair is converged when its residual is at most tol times the largest |Rayleigh quotient| seen. It is
            left for the next one when half of that bounds its residual and the change of its Rayleigh quotient.
        momentum: in [0, 1], free of units: an estimate of |mu_2 / mu_1|, the ratio of the first two eigenvalues of B.
            The b of the recurrence is (momentum theta_B / 2)^2 with the current theta_B = <v, B v>. 0 is plain power
            iteration; 0.9 shortens most runs; held at 0.98, because at 1 nothing is told apart.
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" from both ends in turn; static.
        v0: start vector of the first pair; the signs of the result follow it. An eigenvector stays what it is.
        key: typed key of the start vectors; None is `jax.random.key(0)`.
        like: what a bare callable acts on where there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The pairs in the order of `which`, rotated by a Rayleigh-Ritz step, with true residuals. num_matvecs says how
        many products were needed; what remains of the k max_iter steps is skipped.

    Raises:
        ValueError: if k does not fit the operator, max_iter is not positive, `which` is unknown, or v0 does not fit.
        TypeError: if `op` is nothing that `as_operator` takes, or k is not an int.

    Cost: at most k max_iter products and k for the residuals, 5 more where `which` is not "LM"; k + 6 vectors of memory
    beside one product's.

    Example:
        >>> import jax.numpy as jnp
        >>> result = deflated_power_iteration(jnp.diag(jnp.array([8.0, 4.0, 2.0, 1.0])), k=2)
        >>> print(result.eigenvalues.round(3), result.converged, result.num_matvecs < 40)
        [8. 4.] [ True  True] True

    Source: Golub and Van Loan (2013), section 8.2; De Sa et al. (2017), Accelerated stochastic power iteration.
    """
    op = as_operator(op, like=v0)
    name = deflated_power_iteration.__name__
    ritz.check_count(k, op.size, name)
    ritz.check_which(which, name)
    arguments.check_int(name, "max_iter", max_iter, why=", the matvecs allowed for one pair")
    options = {"which": which, "max_iter": max_iter, "tol": tol, "momentum": momentum}
    advance = lambda state, _: (step(op, state, **options), None)
    state, _ = jax.lax.scan(advance, init(op, v0, k=k, key=key), length=k * max_iter + _num_probes(which))
    return finalize(op, state, which=which, tol=tol, v0=v0)


def _advance(op: LinearOperator, state: PowerState, which: str, max_iter: int, tol: Any, momentum: Any) -> PowerState:
    probing = state.num_matvecs < _num_probes(which)
    if which != "LM":
        state = apply_when(state.num_matvecs == 0, _begin_probing, state)
    image = matvec(op, state.vector)
    state = state._replace(
        operator_norm=jnp.maximum(state.operator_norm, tree.norm(image)), num_matvecs=state.num_matvecs + 1
    )
    on_the_way = lambda state: _judged(state, image, which, max_iter, tol, momentum)
    if which == "LM":
        return on_the_way(state)
    probed = lambda state: _probed(state, image, state.num_matvecs == _num_probes(which))
    return apply_when(~probing, on_the_way, apply_when(probing, probed, state))


def _judged(state: PowerState, image: PyTree, which: str, max_iter: int, tol: Any, momentum: Any) -> PowerState:
    """Judges the iterate by its image, and moves on or starts the next pair."""
    theta = tree.inner(state.vector, image).real
    couplings = tree.project(state.basis, image)
    state = state._replace(largest=jnp.maximum(state.largest, jnp.abs(theta)), iteration=state.iteration + 1)
    image = tree.add_scaled(image, -1.0, tree.combine(couplings, state.basis))
    residual = tree.norm(tree.add_scaled(image, -theta, state.vector))
    bound = _MARGIN * tolerance(tol, theta.dtype) * state.largest
    converged = (residual <= bound) & (jnp.abs(theta - state.eigenvalue) <= bound)
    moved = _move(state, image, theta, which, momentum)
    done = converged | (state.iteration >= max_iter)
    moved = apply_when(done, lambda _: _next_pair(state, theta, residual, couplings), moved)
    # NaN stays NaN: the products that are left would be wasted.
    last = jnp.full_like(moved.num_pairs, state.residuals.shape[0])
    return moved._replace(num_pairs=jnp.where(jnp.isfinite(theta), moved.num_pairs, last))


def _num_probes(which: str) -> int:
    """Products before the first pair: none where nothing is shifted."""
    return 0 if which == "LM" else _PROBES


def _begin_probing(state: PowerState) -> PowerState:
    """Puts the start vector aside, for a random one."""
    probe = random_direction(successor(state.seed, _PROBES), state.basis, tree.structure_of(state.vector))
    return state._replace(vector=probe, previous=state.vector)


def _probed(state: PowerState, image: PyTree, is_last: jax.Array) -> PowerState:
    """Moves the random vector on; after the last product the start vector takes its place."""
    length = tree.norm(image)
    onward = tree.where(length > 0, normalize(image, length), state.vector)
    return state._replace(
        vector=tree.where(is_last, state.previous, onward),
        previous=tree.where(is_last, jax.tree.map(jnp.zeros_like, state.previous), state.previous),
    )


def _move(state: PowerState, image: PyTree, theta: jax.Array, which: str, momentum: Any) -> PowerState:
    shift = _shift(state, which)
    rate = jnp.minimum(jnp.asarray(momentum).astype(theta.dtype), _MOMENTUM_LIMIT) * (theta + shift) / 2
    image = tree.add_scaled(image, shift, state.vector)
    # Twice the rate, because its square may overflow where the eigenvalue does not.
    brake = tree.scale(rate, tree.scale(rate, state.previous))
    direction, length, _ = orthogonalize(state.basis, tree.add_scaled(image, -1.0, brake))
    vanished = length <= _VANISHED * jnp.finfo(length.dtype).eps * state.operator_norm
    length = jnp.where(vanished, 1, length)
    return state._replace(
        vector=tree.where(vanished, state.vector, normalize(direction, length)),
        previous=normalize(state.vector, length),
        eigenvalue=theta,
    )


def _next_pair(state: PowerState, theta: jax.Array, residual: jax.Array, couplings: jax.Array) -> PowerState:
    column = couplings.at[state.num_pairs].set(theta.astype(couplings.dtype))
    basis = tree.set_row(state.basis, state.num_pairs, state.vector)
    return state._replace(
        basis=basis,
        projection=state.projection.at[:, state.num_pairs].set(column),
        residuals=state.residuals.at[state.num_pairs].set(residual),
        num_pairs=state.num_pairs + 1,
        iteration=jnp.zeros_like(state.iteration),
        vector=random_direction(successor(state.seed, state.num_matvecs), basis, tree.structure_of(state.vector)),
        previous=jax.tree.map(jnp.zeros_like, state.previous),
        eigenvalue=jnp.full_like(theta, jnp.inf),
    )


def _shift(state: PowerState, which: str) -> jax.Array:
    # "BE" serves the high end and the low end in turn, as `ritz.wanted_order` does.
    above = jnp.where(state.num_pairs % 2 == 0, 1, -1).astype(state.operator_norm.dtype)
    sign = {"LM": 0, "LA": 1, "SA": -1, "BE": above}[which]
    return sign * state.operator_norm
