"""Lanczos: eigenpairs of a symmetric operator from one Krylov space.

    beta_j v_{j+1} = A v_j - alpha_j v_j - beta_{j-1} v_{j-1},    alpha_j = <v_j, A v_j>

makes A V = V T + beta_m v_{m+1} e_m^T with T tridiagonal (Lanczos 1950); the eigenpairs (theta, s) of T give the Ritz
pairs (theta, V s), with residual beta_m |s_m|. After the recurrence each vector is orthogonalised against all before
it. A breakdown, beta_j of the order of rounding, is answered with a fresh random direction: this is how the copies
of a repeated eigenvalue are found.

`init`, `step` and `finalize` over one `LanczosState` are the solver: a scan over `step` is `lanczos`, a host loop over
chunks of it is a long run.

>>> import jax, jax.numpy as jnp
>>> from eigenjax import as_operator
>>> op = as_operator(jnp.diag(jnp.array([10.0, 10.0, 3.0, 2.0, 1.0])))
>>> state = init(op, krylov_dim=5)
>>> state, _ = jax.lax.scan(lambda state, _: (step(op, state), None), state, length=5)
>>> print(finalize(op, state, k=3).eigenvalues.round(4))
[10. 10.  3.]
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.convert import as_operator
from eigenjax.result import EigenResult
from eigenjax.solvers.convergence.judgement import default_tolerance, judge
from eigenjax.solvers.convergence.residuals import vouched_residuals
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
from eigenjax.vectors.pseudorandom import seed_of, successor
from eigenjax.vectors.signs import fix_signs
from eigenjax.vectors.tree import PyTree


class LanczosState(NamedTuple):
    """The factorisation after `step` products: A V = V T + direction e^T."""

    basis: PyTree  # (m, ...) rows 0 .. step - 1 are the Lanczos vectors v_1 .. v_step, the others zero
    direction: PyTree  # beta v_{step + 1}, not normalised
    length: jax.Array  # () beta_step, the norm of the direction; 0 after a breakdown
    diagonal: jax.Array  # (m,) alpha
    offdiagonal: jax.Array  # (m,) beta
    operator_norm: jax.Array  # () the largest ||A v_j|| so far: ||A|| from below
    broken_down: jax.Array  # () bool, the next vector will be a fresh random direction
    step: jax.Array  # () int32, products so far
    seed: jax.Array  # of the random directions to come


def init(
    op: LinearOperator, v0: PyTree | None = None, *, krylov_dim: int, key: jax.Array | None = None
) -> LanczosState:
    """The state before the first product.

    Args:
        op: a symmetric operator.
        v0: start vector; None draws one. A vector whose norm is zero or overflows is answered like a breakdown.
        krylov_dim: m, how many steps there is room for.
        key: typed key of all random directions; None is `jax.random.key(0)`.
    """
    seed = seed_of(key)
    start = start_vector(op, v0, successor(seed, 0))
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
        seed=successor(seed, 1),
    )


def step(op: LinearOperator, state: LanczosState, *, reorthogonalize: bool = True) -> LanczosState:
    """One product: v_{j+1}, alpha_{j+1} and the direction after it. At most m steps."""
    j = state.step
    fresh = successor(state.seed, j)
    vector = unless_broken_down(fresh, state.basis, state.direction, state.length, state.broken_down)
    coupling = jnp.where((j == 0) | state.broken_down, 0, state.length)
    basis = tree.set_row(state.basis, j, vector)
    # Read from the new basis: a row of the old one, wanted after the new is written, would cost a copy of it.
    previous = tree.row(basis, jnp.maximum(j - 1, 0))

    image = matvec(op, vector)
    alpha = tree.inner(vector, image).real
    direction = tree.add_scaled(tree.add_scaled(image, -alpha, vector), -coupling, previous)
    if reorthogonalize:
        direction, length, _ = orthogonalize(basis, direction)
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
    """The k most wanted Ritz pairs of a state, with residuals vouched for; the state is left as it is.

    Args:
        op: the operator of the steps.
        state: after at least k steps.
        k: pairs.
        which: of "LM", "LA", "SA", "BE".
        tol: as of `lanczos`.
        v0: the warm start, for the signs.
        reorthogonalize: as of the steps.

    Returns:
        The result. Cost: one product where the residuals are as the recurrence says, else k + 1.
    """
    values, coefficients, filled = ritz.projected_eigh(_projected_matrix(state), state.step)
    last = coefficients[state.step - 1] * state.length
    distinct, lengths = filled, jnp.ones_like(values)
    if not reorthogonalize:
        distinct, lengths = distinct_ritz_vectors(state.basis, coefficients, jnp.abs(last), filled)
    chosen = ritz.wanted_order(values, which, distinct)[:k]
    vectors, phases = fix_signs(
        tree.combine(coefficients[:, chosen] / lengths[None, chosen], state.basis), given_start(op, v0)
    )
    residuals, discrepancy, audits = vouched_residuals(
        op,
        values[chosen],
        vectors,
        phases * (last / lengths)[chosen].astype(phases.dtype),
        normalize(state.direction, state.length),
        state.operator_norm,
        state.seed,
    )
    return judge(
        op,
        EigenResult(values[chosen], vectors, residuals, distinct[chosen], jnp.int32(0), state.step + audits),
        tol=tol,
        scale=jnp.max(jnp.where(filled, jnp.abs(values), 0)),
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
    tol: Any = None,
    v0: PyTree | None = None,
    key: jax.Array | None = None,
) -> EigenResult:
    """The k most wanted eigenpairs of a symmetric operator from one Krylov space of fixed size.

        A V = V T + beta_m v_{m+1} e_m^T,    T s = theta s,    v = V s,    ||A v - theta v|| = beta_m |s_m|

    One scan of m products and nothing adaptive: the cost is known beforehand, and what has not converged by then is
    reported as it stands. Of a repeated eigenvalue, a Krylov space shows one vector until it is exhausted: further
    copies appear only if krylov_dim goes beyond that.

    Args:
        op: whatever `as_operator` takes; a bare callable takes its structure from v0. Symmetric or Hermitian.
        k: number of pairs, static.
        krylov_dim: m, the number of products and of vectors held, static; None is min(n, max(2 k + 1, 20)), more
            than n is n.
        which: "LM" largest magnitude, "LA" largest, "SA" smallest, "BE" from both ends in turn; static.
        reorthogonalize: False keeps the bare recurrence: it saves reading the basis twice a step, loses orthogonality
            as soon as a pair converges, and vectors of close eigenvalues are then only as orthogonal as their
            residuals make them. The copies that arise ("ghosts") are left out. For those who count bytes.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; None is
            sqrt(eps) of the accumulation dtype, or 4 eps of 16-bit leaves. It decides flags only, not the work.
        v0: start vector, shaped like the operator's vectors; the signs of the result follow it.
        key: typed key of the start vector and of fresh directions; None is `jax.random.key(0)`.
        like: what a bare callable acts on where there is no v0: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The pairs in the order of `which`. Eigenvectors are held in float32 at least.

    Raises:
        ValueError: if k or krylov_dim does not fit the operator, `which` is unknown, or v0 does not fit.
        TypeError: if `op` is nothing that `as_operator` takes, or k is not an int.

    Cost: m + 1 products (m + k + 1 where an audit finds the recurrence at odds with the operator), 2 m vector
    reads a step, m + k + 6 vectors of memory beside one product's.

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
    """T."""
    beside = jnp.diag(state.offdiagonal[:-1], 1)
    return jnp.diag(state.diagonal) + beside + beside.T


def _checked_krylov_dim(krylov_dim: int | None, k: int, size: int) -> int:
    if krylov_dim is None:
        return min(size, max(2 * k + 1, 20))
    if not isinstance(krylov_dim, int) or isinstance(krylov_dim, bool):
        raise TypeError(f"krylov_dim={krylov_dim!r}: give an int, the number of vectors held; it is static under jit")
    if krylov_dim < k:
        raise ValueError(f"krylov_dim={krylov_dim} is less than k={k}: m vectors hold m pairs at most; give k or more")
    return min(krylov_dim, size)
