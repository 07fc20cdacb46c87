"""Deflated power iteration: eigenpairs of a symmetric operator one after another, in the memory of k + 3 vectors.

    w_{t+1} = P B v_t - b v_{t-1} / ||w_t||,    v_{t+1} = w_{t+1} / ||w_{t+1}||,    P = I - V V^H

with V the vectors found so far and b the momentum (De Sa, He, Mitliagkas, Re and Xu 2017). B is A for "LM", A + c I for
"LA" and A - c I for "SA", with c the largest ||A v|| seen. Without momentum the error falls like |mu_2 / mu_1|^t in the
remaining eigenvalues mu of B; the best momentum, b = mu_2^2 / 4, takes about the square root of the steps.

For any B and b, convergence is tested with A: theta = <v, A v> and ||P (A v - theta v)||. The part of A v along V comes
from errors of V: a final Rayleigh-Ritz step with V^H A V removes it and recomputes the residuals.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.array([3.0, 2.0, 1.0])))
>>> state, _ = jax.lax.scan(lambda state, _: (step(op, state), None), init(op, k=2), length=200)
>>> print(finalize(op, state).eigenvalues.round(4), state.num_pairs, state.num_matvecs < 100)
[3. 2.] 2 True
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import TRACED, check_int
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.residuals import true_residuals
from eigenjax.solvers.convergence.status import CandidatePairs, tolerance, with_status
from eigenjax.solvers.start import given_start, start_vector
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.orthogonalize import normalize, orthogonalize, random_direction
from eigenjax.vectors.pseudorandom import fold_in, seed_of
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree

# A pair ends at this fraction of tol, a margin for the other vectors that the Rayleigh-Ritz step mixes into it.
_MARGIN = 0.5
# Momentum 1 would amplify all eigenvalues equally; at 0.98 the wanted one still gains a factor 1.2 per step.
_MOMENTUM_LIMIT = 0.98
# P B v below this times eps ||A|| is zero: the vector is an eigenvector of B with eigenvalue zero.
_VANISHED = 4.0
# Matvecs with a random vector that estimate ||A|| for the shift: a start vector may give less than half of it.
_PROBES = 5


class PowerState(NamedTuple):
    """Solver state: the pairs found so far and the iterate for the next one."""

    basis: PyTree  # (k, ...) rows 0 .. num_pairs - 1 are the vectors found
    projection: jax.Array  # (k, k) V^H A V, upper triangle; the diagonal holds the Rayleigh quotients
    residuals: jax.Array  # (k,) ||P (A v - theta v)|| of the vectors found
    num_pairs: jax.Array  # () int32, finished pairs; k ends the solve
    iteration: jax.Array  # () int32, matvecs spent on the current pair
    vector: PyTree  # v_t, unit norm, orthogonal to the rows found
    previous: PyTree  # v_{t-1} / ||w_t||
    eigenvalue: jax.Array  # () Rayleigh quotient of the previous step; Inf at first
    operator_norm: jax.Array  # () the largest ||A v|| seen, a lower bound of ||A||
    largest: jax.Array  # () the largest |Rayleigh quotient| seen
    num_matvecs: jax.Array  # () int32, matvecs so far
    seed: jax.Array  # seed of later start vectors


def init(op: LinearOperator, v0: PyTree | None = None, *, k: int, key: jax.Array | None = None) -> PowerState:
    """Initialize the state before the first matvec.

    Args:
        op: a symmetric operator.
        v0: start vector of the first pair; None, or a vector whose norm is zero or overflows, draws one.
        k: maximal number of pairs.
        key: typed key of the start vectors; None is `jax.random.key(0)`.
    """
    seed = seed_of(key)
    start = start_vector(op, v0, fold_in(seed, 0))
    basis, length = tree.zero_basis(start, k), tree.norm(start)
    structure = tree.structure_of(start)
    unusable = ~((length > 0) & jnp.isfinite(length))
    vector = apply_when(
        unusable, lambda _: random_direction(fold_in(seed, 1), basis, structure), normalize(start, length)
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
        seed=fold_in(seed, 2),
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
    """Test and advance the iterate, or start the next pair, with one matvec; do nothing when all pairs are finished."""
    advance = lambda state: _advance(op, state, which, max_iter, tol, momentum)
    return apply_when(state.num_pairs < state.residuals.shape[0], advance, state)


def finalize(
    op: LinearOperator, state: PowerState, *, which: str = "LM", tol: Any = 1e-4, v0: PyTree | None = None
) -> EigenResult:
    """Compute the finished pairs, after a Rayleigh-Ritz step, in the order of `which`.

    Args:
        op: the operator of the steps.
        state: after any number of steps; it is not changed.
        which: the value used in the steps.
        tol: relative tolerance, the value used in the steps.
        v0: the start vector, which the signs follow.

    Returns:
        The result. Cost: k matvecs, for the residuals.
    """
    upper = jnp.triu(state.projection, 1)
    diagonal = jnp.diag(jnp.diag(state.projection).real).astype(upper.dtype)
    values, coefficients, done = ritz.projected_eigh(upper + diagonal + jnp.conj(upper).T, state.num_pairs)
    order = ritz.wanted_order(values, which, done)
    eigenvalues = values[order]
    vectors, _ = fix_signs(tree.combine(coefficients[:, order], state.basis), given_start(op, v0))
    residuals = true_residuals(op, eigenvalues, vectors)
    num_matvecs = state.num_matvecs + eigenvalues.shape[0]
    return with_status(
        op,
        CandidatePairs(eigenvalues, vectors, residuals, done, num_matvecs),
        tol=tol,
        norm_estimate=jnp.maximum(state.largest, jnp.max(jnp.abs(eigenvalues))),
        discrepancy=jnp.zeros_like(state.largest),
        finite=jnp.isfinite(state.operator_norm),
    )


def deflated_power_iteration(
    op: Any,
    k: int = 10,
    *,
    max_iter: int = 100,
    tol: Annotated[Any, TRACED] = 1e-4,
    momentum: Annotated[Any, TRACED] = 0.0,
    which: str = "LM",
    v0: Annotated[PyTree | None, TRACED] = None,
    key: Annotated[jax.Array | None, TRACED] = None,
) -> EigenResult:
    """Compute k eigenpairs of a symmetric operator by power iteration, deflating each by projection before the next.

        v <- P B v / ||P B v||,    P = I - V V^H

    The simplest method, slow where eigenvalues are close. Use it as an independent check, or if memory holds little
    more than the k results. Under "LM" two eigenvalues of equal magnitude and opposite sign do not converge.

    Args:
        op: symmetric or Hermitian operator, anything that `as_operator` takes. A bare callable needs `v0` or `like`.
        k: number of pairs; static.
        max_iter: maximal number of matvecs for one pair; static.
        tol: a pair is converged when its residual is at most tol times the largest |Rayleigh quotient| seen. The
            iteration of a pair ends when half of that bounds its residual and the last change of its Rayleigh quotient.
        momentum: in [0, 1], dimensionless: an estimate of |mu_2 / mu_1| for the first two eigenvalues of B. The b of
            the recurrence is (momentum <v, B v> / 2)^2. 0 is plain power iteration; 0.9 shortens most runs; at most
            0.98 is used.
        which: "LM" largest magnitude (needs no shift: default), "LA" largest, "SA" smallest, "BE" both ends; static.
        v0: start vector of the first pair; the signs of the result follow it. An eigenvector is returned as it is.
        key: typed key of the start vectors; None is `jax.random.key(0)`.
        like: structure of the vectors of a bare callable if v0 is None: a pytree of arrays or `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad` to any order, "forward" also for `jax.jvp` and `jax.hessian`; static.
        adjoint_tol: relative residual of the derivative's linear systems; None derives it from the pairs' residuals.
        adjoint_max_iter: maximal number of matvecs per pair for these systems; static. None is min(10 n, 10,000).

    Returns:
        The pairs in the order of `which`, after a Rayleigh-Ritz step, with true residuals. num_matvecs counts the
        matvecs made; the rest of the k max_iter steps is skipped.

    Raises:
        ValueError: if k is out of range, max_iter is not positive, `which` is unknown, or v0 has the wrong shape.
        TypeError: if `as_operator` does not accept `op`, or k is not an int.

    Cost: at most k max_iter + k matvecs, 5 more unless `which` is "LM"; k + 6 vectors of memory besides a matvec's.

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
    check_int(name, "max_iter", max_iter, why=", the matvecs allowed for one pair")
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
    test_step = lambda state: _tested(state, image, which, max_iter, tol, momentum)
    if which == "LM":
        return test_step(state)
    probed = lambda state: _probed(state, image, state.num_matvecs == _num_probes(which))
    return apply_when(~probing, test_step, apply_when(probing, probed, state))


def _tested(state: PowerState, image: PyTree, which: str, max_iter: int, tol: Any, momentum: Any) -> PowerState:
    """Test the iterate with its matvec; advance it or start the next pair."""
    theta = tree.inner(state.vector, image).real
    coupling = tree.project(state.basis, image)
    state = state._replace(largest=jnp.maximum(state.largest, jnp.abs(theta)), iteration=state.iteration + 1)
    image = tree.add_scaled(image, -1.0, tree.combine(coupling, state.basis))
    residual = tree.norm(tree.add_scaled(image, -theta, state.vector))
    bound = _MARGIN * tolerance(tol, theta.dtype) * state.largest
    converged = (residual <= bound) & (jnp.abs(theta - state.eigenvalue) <= bound)
    moved = _move(state, image, theta, which, momentum)
    done = converged | (state.iteration >= max_iter)
    moved = apply_when(done, lambda _: _next_pair(state, theta, residual, coupling), moved)
    # NaN ends the solve: further matvecs would be wasted.
    last = jnp.full_like(moved.num_pairs, state.residuals.shape[0])
    return moved._replace(num_pairs=jnp.where(jnp.isfinite(theta), moved.num_pairs, last))


def _num_probes(which: str) -> int:
    """Return the number of matvecs before the first pair: 0 where no shift is used."""
    return 0 if which == "LM" else _PROBES


def _begin_probing(state: PowerState) -> PowerState:
    """Replace the start vector by a random one and save it."""
    probe = random_direction(fold_in(state.seed, _PROBES), state.basis, tree.structure_of(state.vector))
    return state._replace(vector=probe, previous=state.vector)


def _probed(state: PowerState, image: PyTree, is_last: jax.Array) -> PowerState:
    """Advance the random vector; after its last matvec restore the start vector."""
    length = tree.norm(image)
    following = tree.where(length > 0, normalize(image, length), state.vector)
    return state._replace(
        vector=tree.where(is_last, state.previous, following),
        previous=tree.where(is_last, jax.tree.map(jnp.zeros_like, state.previous), state.previous),
    )


def _move(state: PowerState, image: PyTree, theta: jax.Array, which: str, momentum: Any) -> PowerState:
    shift = _shift(state, which)
    rate = jnp.minimum(jnp.asarray(momentum).astype(theta.dtype), _MOMENTUM_LIMIT) * (theta + shift) / 2
    image = tree.add_scaled(image, shift, state.vector)
    # Multiply by the rate twice, because its square may overflow where the eigenvalue does not.
    momentum_term = tree.scale(rate, tree.scale(rate, state.previous))
    direction, length, _ = orthogonalize(state.basis, tree.add_scaled(image, -1.0, momentum_term))
    vanished = length <= _VANISHED * jnp.finfo(length.dtype).eps * state.operator_norm
    length = jnp.where(vanished, 1, length)
    return state._replace(
        vector=tree.where(vanished, state.vector, normalize(direction, length)),
        previous=normalize(state.vector, length),
        eigenvalue=theta,
    )


def _next_pair(state: PowerState, theta: jax.Array, residual: jax.Array, coupling: jax.Array) -> PowerState:
    column = coupling.at[state.num_pairs].set(theta.astype(coupling.dtype))
    basis = tree.set_row(state.basis, state.num_pairs, state.vector)
    return state._replace(
        basis=basis,
        projection=state.projection.at[:, state.num_pairs].set(column),
        residuals=state.residuals.at[state.num_pairs].set(residual),
        num_pairs=state.num_pairs + 1,
        iteration=jnp.zeros_like(state.iteration),
        vector=random_direction(fold_in(state.seed, state.num_matvecs), basis, tree.structure_of(state.vector)),
        previous=jax.tree.map(jnp.zeros_like, state.previous),
        eigenvalue=jnp.full_like(theta, jnp.inf),
    )


def _shift(state: PowerState, which: str) -> jax.Array:
    # "BE" alternates between the high end and the low end, in the order of `ritz.wanted_order`.
    above = jnp.where(state.num_pairs % 2 == 0, 1, -1).astype(state.operator_norm.dtype)
    sign = {"LM": 0, "LA": 1, "SA": -1, "BE": above}[which]
    return sign * state.operator_norm
