"""What a solver returns, and what its status means.

A solver never raises from inside a compiled program and never returns a wrong pair quietly: the residuals are
true residuals, `converged` is judged by them, and `status` says in a number what `Status.advice` says in words.
"""

import enum
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from eigenjax import printing
from eigenjax.arguments import shown
from eigenjax.calls import explained


class Status(enum.IntEnum):
    """How a solve ended. Every code has an `advice`: what happened and what to do.

    >>> Status.CONVERGED.advice
    'all pairs converged'
    """

    CONVERGED = 0
    NOT_CONVERGED = 1
    STAGNATED = 2
    INCONSISTENT = 3
    NONFINITE = 4
    UNVERIFIED = 5

    @property
    def advice(self) -> str:
        """One sentence for a person: what happened, and the remedy."""
        return _ADVICE[self]

    @staticmethod
    def named(code: int) -> str:
        """The name of a code, or the number where it has none.

        >>> Status.named(2)
        'STAGNATED'
        """
        return Status(code).name if code in set(Status) else str(code)


_ADVICE = {
    Status.CONVERGED: "all pairs converged",
    Status.NOT_CONVERGED: (
        "some pairs did not reach tol within the products allowed: raise max_matvecs (max_iter of "
        "deflated_power_iteration), or krylov_dim where it is less than the operator's size; or loosen tol, or ask for "
        "fewer pairs"
    ),
    Status.STAGNATED: (
        "the residuals stand at the rounding of the working precision, above tol: loosen tol, or compute in a "
        "wider dtype; a tol that is zero, negative or NaN is never reached, so give a positive one"
    ),
    Status.INCONSISTENT: (
        "the operator is not symmetric (of svds: the adjoint is not that of the operator), or not the same at every "
        "call (dropout, a shuffled batch): the residuals are true, but the method does not apply; look at "
        "symmetry_error(op, key), and call eigs for an operator that is not symmetric"
    ),
    Status.UNVERIFIED: (
        "all pairs converged, but max_matvecs ended the search for missed ones: copies of repeated eigenvalues may be "
        "missing; raise max_matvecs or krylov_dim, or pass verify=False to do without the search; of eigs, far from "
        "normal, rounding may leave open which eigenvalues there are: compute in float64"
    ),
    Status.NONFINITE: ("the operator returned NaN or Inf: check the parameters, the data and the loss for overflow"),
}


class EigenResult(NamedTuple):
    """The k eigenpairs asked for, the most wanted first, and what is known of each.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import lanczos
        >>> result = lanczos(jnp.diag(jnp.array([3.0, 2.0, 1.0])), k=2)
        >>> print(result.eigenvalues.round(4), result.converged)
        [3. 2.] [ True  True]
    """

    eigenvalues: jax.Array
    """(k,) real, of `eigs` complex, ordered by `which`, the most wanted first."""
    eigenvectors: Any
    """A vector of the operator with a leading axis k on every leaf; orthonormal rows (`eigs`: unit), signs fixed."""
    residuals: jax.Array
    """(k,) ||A v - lambda v||, as one would recompute it."""
    converged: jax.Array
    """(k,) bool: the residual is at most tol * (largest |Ritz value| seen; of `eigs` largest ||A v||)."""
    status: jax.Array
    """() int32, a `Status`."""
    num_matvecs: jax.Array
    """() int32, all products spent, those that audit the residuals included."""
    error_bounds: jax.Array | None = None
    """(k,) certified bounds on the distance of each eigenvalue from one of the operator: the residual, or r^2 / gap
    where all eigenvalues are known (n <= krylov_dim), and what rounding may add. `eigsh` only."""
    gap: jax.Array | None = None
    """() from the eigenvalues to the first one known that was not wanted; inf where none is. `eigsh` only."""
    num_probes: jax.Array | None = None
    """() int32, how often a random direction was followed in search of pairs missed. `eigsh` only."""
    num_recovered: jax.Array | None = None
    """() int32, how many of the pairs only such a probe has found. `eigsh` only."""
    error_estimates: jax.Array | None = None
    """(k,) estimates of the error of each eigenvalue: r^2 / gap to the nearest Ritz value where the pair stands apart,
    else the residual r. No bounds: an eigenvalue nearer than the nearest Ritz value makes them too small. `eigsh`
    only."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("eigenvalues", Status.named)


class SingularResult(NamedTuple):
    """The k largest singular triplets, A v = s u and A^H u = s v, the largest first, and what is known of each."""

    left: Any
    """A vector that the operator gives with a leading axis k on every leaf: the u_i, orthonormal, not conjugated."""
    values: jax.Array
    """(k,) real, descending, not negative."""
    right: Any
    """A vector that the operator takes with a leading axis k on every leaf: the v_i, orthonormal, signs fixed."""
    residuals: jax.Array
    """(k,) (||A v - s u||^2 + ||A^H u - s v||^2)^(1/2), as one would recompute it."""
    converged: jax.Array
    """(k,) bool: the residual is at most tol * (largest singular value seen)."""
    status: jax.Array
    """() int32, a `Status`."""
    num_matvecs: jax.Array
    """() int32, all products with A and with A^H together, those that audit the residuals included."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("values", Status.named)


_Result = TypeVar("_Result", EigenResult, SingularResult)


class EigenError(RuntimeError):
    """A solve that did not end well, told on the host by `raise_if_failed`."""


@explained
def raise_if_failed(result: _Result) -> _Result:
    """Turns a failure that is data into an exception; to be called on the host, outside jit.

    Args:
        result: of any solver, or a batch of them as `jax.vmap` gives it.

    Returns:
        The same result, so that the call can be chained.

    Raises:
        EigenError: if any status is not `CONVERGED`; says which pairs, their residuals and the remedy.
        TypeError: if called under a transformation, where there are no values to look at; or of anything else than
            what a solver returns.

    Cost: no products; one transfer of k numbers to the host.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import lanczos
        >>> _ = raise_if_failed(lanczos(jnp.eye(3), k=1))
        >>> raise_if_failed(lanczos(jnp.eye(3) * jnp.nan, k=1))
        Traceback (most recent call last):
        ...
        eigenjax.result.EigenError: NONFINITE: the operator returned NaN or Inf: ...
    """
    if not isinstance(result, EigenResult | SingularResult):
        raise TypeError(
            f"raise_if_failed got result={shown(result)}: give what a solver returns, an EigenResult or a "
            "SingularResult; of anything else look at its `converged` or `status`"
        )
    if isinstance(result.status, Tracer):
        raise TypeError(
            "raise_if_failed needs values, and got a traced result: call it on the host, outside jit and vmap, "
            "or branch on result.status inside"
        )
    status = np.atleast_1d(np.asarray(result.status))
    failed = np.flatnonzero(status != Status.CONVERGED)
    if failed.size:
        raise EigenError(_describe(result, status, int(failed[0]), failed.size))
    return result


def _describe(result: EigenResult | SingularResult, status: np.ndarray, lane: int, num_failed: int) -> str:
    converged = np.asarray(result.converged).reshape(status.size, -1)[lane]
    residuals = np.asarray(result.residuals).reshape(status.size, -1)[lane]
    code = Status(int(status[lane]))
    message = f"{code.name}: {code.advice}"
    if not converged.all():
        pairs = ", ".join(f"{i} (residual {residuals[i]:.2e})" for i in np.flatnonzero(~converged)[:5])
        message += f"; {np.sum(~converged)} of {converged.size} pairs not converged: {pairs}"
    if status.size > 1:
        message += f"; batch member {lane}, the first of {num_failed} of {status.size} that failed"
    return message


class RunError(RuntimeError):
    """A run that was refused, or whose result could not be kept: the message names the reason and the remedy.

    `result` is the result of a run that came to its end and could save nothing, else None.
    """

    def __init__(self, message: str, result: EigenResult | None = None):
        super().__init__(message)
        self.result = result
