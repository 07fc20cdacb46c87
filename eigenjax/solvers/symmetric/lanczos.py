"""Lanczos: eigenpairs of a symmetric operator from one Krylov space.

    beta_j v_{j+1} = A v_j - alpha_j v_j - beta_{j-1} v_{j-1},    alpha_j = <v_j, A v_j>

gives A V = V T + beta_m v_{m+1} e_m^T with T tridiagonal (Lanczos 1950). The eigenpairs (theta, s) of T give the Ritz
pairs (theta, V s), with residual beta_m |s_m|. Each new vector is reorthogonalized against all previous ones. After a
breakdown, beta_j of the order of rounding, a random direction continues the basis; so the copies of a repeated
eigenvalue are found.

The solver is `init`, `step` and `finalize` over one `LanczosState`. `lanczos` is a scan over `step`; a host loop over
chunks of steps is a long run.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.array([10.0, 10.0, 3.0, 2.0, 1.0])))
>>> state = init(op, krylov_dim=5)
>>> state, _ = jax.lax.scan(lambda state, _: (step(op, state), None), state, length=5)
>>> print(finalize(op, state, k=3).eigenvalues.round(4))
[10. 10.  3.]
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.arguments import TRACED, check_int
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.residuals import recurrence_residuals
from eigenjax.solvers.convergence.status import CandidatePairs, default_tolerance, with_status
from eigenjax.solvers.start import given_start, start_vector
from eigenjax.solvers.symmetric.ghosts import distinct_ritz_vectors
from eigenjax.vectors import tree
from eigenjax.vectors.orthogonalize import (
    breakdown_length,
    normalize,
    orthogonalize,
    underflow,
    unless_broken_down,
)
from eigenjax.vectors.pseudorandom import fold_in, seed_of
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


class LanczosState(NamedTuple):
    """Lanczos decomposition after `step` matvecs: A V = V T + direction e^T."""

    basis: PyTree  # (m, ...) rows 0 .. step - 1 are the Lanczos vectors v_1 .. v_step, the others zero
    direction: PyTree  # beta v_{step + 1}, not normalized
    length: jax.Array  # () beta_step, the norm of the direction; 0 after a breakdown
    diagonal: jax.Array  # (m,) alpha
    offdiagonal: jax.Array  # (m,) beta
    operator_norm: jax.Array  # () the largest ||A v_j|| so far, a lower bound of ||A||
    broken_down: jax.Array  # () bool, the next vector is a random direction
    step: jax.Array  # () int32, number of matvecs so far
    seed: jax.Array  # seed of the random directions of later steps


def init(
    op: LinearOperator, v0: PyTree | None = None, *, krylov_dim: int, key: jax.Array | None = None
) -> LanczosState:
    """Initialize the state before the first matvec.

    Args:
        op: a symmetric operator.
        v0: start vector; None draws one. A vector whose norm is zero or overflows is treated as a breakdown.
        krylov_dim: m, the maximal number of steps.
        key: typed key of all random directions; None is `jax.random.key(0)`.
    """
    seed = seed_of(key)
    start = start_vector(op, v0, fold_in(seed, 0))
    length = tree.norm(start)
    zeros = jnp.zeros(krylov_dim, length.dtype)
    return LanczosState(
        basis=tree.zero_basis(start, krylov_dim),
        direction=start,
        length=length,
        diagonal=zeros,
        offdiagonal=zeros,
        operator_norm=jnp.zeros_like(length),
        broken_down=~((length > underflow(length)) & jnp.isfinite(length)),
        step=jnp.zeros((), jnp.int32),
        seed=fold_in(seed, 1),
    )


def step(op: LinearOperator, state: LanczosState, *, reorthogonalize: bool = True) -> LanczosState:
    """Take one step with one matvec: v_{j+1}, alpha_{j+1} and the direction after it; at most m steps."""
    vector = next_vector(state)
    return absorb(state, vector, matvec(op, vector), reorthogonalize=reorthogonalize)


def next_vector(state: LanczosState) -> PyTree:
    """Return the vector that the next step multiplies, v_{j+1}."""
    seed = fold_in(state.seed, state.step)
    return unless_broken_down(seed, state.basis, state.direction, state.length, state.broken_down)


def absorb(state: LanczosState, vector: PyTree, image: PyTree, *, reorthogonalize: bool = True) -> LanczosState:
    """Return the state after the step from its next vector v_{j+1} and the image A v_{j+1}."""
    j = state.step
    coupling = jnp.where((j == 0) | state.broken_down, 0, state.length)
    basis = tree.set_row(state.basis, j, vector)
    # Read from the new basis: reading the old basis after the new one is written would copy it.
    previous = tree.row(basis, jnp.maximum(j - 1, 0))

    alpha = tree.inner(vector, image).real
    direction = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -coupling, previous)
    if reorthogonalize:
        valid = jnp.arange(state.diagonal.shape[0], dtype=jnp.int32) <= j
        direction, length, _ = orthogonalize(basis, direction, valid=valid)
    else:
        length = tree.norm(direction)

    # ||A v_j||^2 = alpha^2 + beta_{j-1}^2 + beta_j^2
    operator_norm = jnp.maximum(state.operator_norm, tree.norm(jnp.stack([alpha, coupling, length])))
    broken_down = length <= breakdown_length(operator_norm)
    length = jnp.where(broken_down, 0, length)
    return LanczosState(
        basis=basis,
        direction=direction,
        length=length,
        diagonal=state.diagonal.at[j].set(alpha),
        offdiagonal=state.offdiagonal.at[j].set(length),
        operator_norm=operator_norm,
        broken_down=broken_down,
        step=j + 1,
        seed=state.seed,
    )


def finalize(
    op: LinearOperator,
    state: LanczosState,
    k: int,
    *,
    which: str = "LM",
    tol: Any = None,
    v0: PyTree | None = None,
    reorthogonalize: bool = True,
) -> EigenResult:
    """Compute the k most wanted Ritz pairs of a state with verified residuals; the state is not changed.

    Args:
        op: the operator of the steps.
        state: after at least k steps.
        k: number of pairs.
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" alternately from both ends.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; None is sqrt(eps).
        v0: the start vector, which the signs follow.
        reorthogonalize: the value used in the steps.

    Returns:
        The result. Cost: one matvec if it confirms the residuals of the recurrence, else k + 1.
    """
    values, coefficients, valid = ritz.projected_eigh(_projected_matrix(state), state.step)
    last = coefficients[state.step - 1] * state.length
    distinct, lengths = valid, jnp.ones_like(values)
    if not reorthogonalize:
        distinct, lengths = distinct_ritz_vectors(state.basis, coefficients, jnp.abs(last), valid)
    chosen = ritz.wanted_order(values, which, distinct)[:k]
    vectors, phases = fix_signs(
        tree.combine(coefficients[:, chosen] / lengths[None, chosen], state.basis), given_start(op, v0)
    )
    residuals, discrepancy, num_verifications = recurrence_residuals(
        op,
        values[chosen],
        vectors,
        phases * (last / lengths)[chosen].astype(phases.dtype),
        normalize(state.direction, state.length),
        state.operator_norm,
        state.seed,
    )
    return with_status(
        op,
        CandidatePairs(values[chosen], vectors, residuals, distinct[chosen], state.step + num_verifications),
        tol=tol,
        norm_estimate=jnp.max(jnp.where(valid, jnp.abs(values), 0)),
        discrepancy=discrepancy,
        finite=jnp.isfinite(state.operator_norm),
    )


def lanczos(
    op: Any,
    k: int = 10,
    *,
    krylov_dim: int | None = None,
    which: str = "LM",
    reorthogonalize: bool = True,
    tol: Annotated[Any, TRACED] = None,
    v0: Annotated[PyTree | None, TRACED] = None,
    key: Annotated[jax.Array | None, TRACED] = None,
) -> EigenResult:
    """Compute the k most wanted eigenpairs of a symmetric operator from one Krylov space of fixed size.

        A V = V T + beta_m v_{m+1} e_m^T,    T s = theta s,    v = V s,    ||A v - theta v|| = beta_m |s_m|

    One scan of m matvecs without restarts: the cost is known in advance, and pairs that have not converged are flagged.
    A Krylov space contains only one eigenvector of a repeated eigenvalue. Further copies appear only if krylov_dim
    exceeds the dimension at which the space becomes invariant.

    Args:
        op: symmetric or Hermitian operator, anything that `as_operator` takes. A bare callable needs `v0` or `like`.
        k: number of pairs; static. The default is more than that of `eigsh`, because one Krylov space yields them all.
        krylov_dim: m, the number of matvecs and of basis vectors, at most n; static. None is min(n, max(2 k + 1, 20)).
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" alternately from both ends; static. The default
            is "LM", because both ends of a Krylov space converge first.
        reorthogonalize: False uses the bare recurrence; static. It saves two reads of the basis per step, and loses
            orthogonality as soon as a pair converges. Vectors of close eigenvalues are then orthogonal only up to their
            residuals. Copies ("ghosts") are removed. Set it to False if reading memory dominates the cost.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; None is sqrt(eps) of
            the accumulation dtype, or 4 eps for 16-bit leaves. It sets flags only, not the number of matvecs.
        v0: start vector, shaped like the operator's vectors; the signs of the result follow it.
        key: typed key of the start vector and of random directions; None is `jax.random.key(0)`.
        like: structure of the vectors of a bare callable if v0 is None: a pytree of arrays or `jax.ShapeDtypeStruct`.
        derivative: "reverse" for `jax.grad` to any order, "forward" for `jax.jvp`, `jax.jacfwd`, `jax.hessian` and
            `jax.grad`; static.
        adjoint_tol: tolerance on the residuals of the derivative's linear systems, relative to their right-hand sides.
            None chooses it from the residuals of the pairs.
        adjoint_max_iter: maximal number of matvecs per pair for these systems; static. None is min(10 n, 10,000).

    Returns:
        The pairs in the order of `which`. Eigenvectors are stored in float32 or wider.

    Raises:
        ValueError: if k or krylov_dim is out of range, `which` is unknown, or v0 has the wrong shape.
        TypeError: if `as_operator` does not accept `op`, or k is not an int.

    Cost: m + 1 matvecs (m + k + 1 if the verification contradicts the recurrence), 2 m vector reads per step, and
    m + k + 6 vectors of memory besides that of a matvec.

    Example:
        >>> import jax.numpy as jnp
        >>> result = lanczos(jnp.diag(jnp.arange(1.0, 51.0)), k=2, krylov_dim=40)
        >>> print(jnp.abs(result.eigenvalues - jnp.array([50.0, 49.0])) < 1e-4, result.converged, result.num_matvecs)
        [ True  True] [ True  True] 41

    Source: Lanczos (1950); Parlett (1998), The symmetric eigenvalue problem, chapter 13.
    """
    op = as_operator(op, like=v0)
    tol = default_tolerance(op) if tol is None else tol
    ritz.check_count(k, op.size, "lanczos")
    ritz.check_which(which, "lanczos")
    krylov_dim = _checked_krylov_dim(krylov_dim, k, op.size)
    state = init(op, v0, krylov_dim=krylov_dim, key=key)
    advance = lambda state, _: (step(op, state, reorthogonalize=reorthogonalize), None)
    state, _ = jax.lax.scan(advance, state, length=krylov_dim)
    return finalize(op, state, k, which=which, tol=tol, v0=v0, reorthogonalize=reorthogonalize)


def _projected_matrix(state: LanczosState) -> jax.Array:
    """Build T."""
    offdiagonal = jnp.diag(state.offdiagonal[:-1], 1)
    return jnp.diag(state.diagonal) + offdiagonal + offdiagonal.T


def _checked_krylov_dim(krylov_dim: int | None, k: int, size: int) -> int:
    if krylov_dim is None:
        return min(size, max(2 * k + 1, 20))
    wanted = "an int, the number of vectors held; it is static under jit"
    krylov_dim = check_int(None, "krylov_dim", krylov_dim, least=None, wanted=wanted)
    if krylov_dim < k:
        raise ValueError(f"krylov_dim={krylov_dim} is less than k={k}: m vectors hold m pairs at most; give k or more")
    return min(krylov_dim, size)
