"""Results of the solvers, and the status codes that they carry.

Solvers do not raise errors from inside a compiled program. They report failures as data: true residuals, a `converged`
flag for each pair, and a `status` code, which `Status.advice` explains in words.
"""

import enum
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from eigenjax import printing
from eigenjax.arguments import brief
from eigenjax.calls import explained


class Status(enum.IntEnum):
    """Outcome of a solve. Every code has an `advice`: the cause and the remedy.

    >>> Status.CONVERGED.advice
    'all pairs converged'
    """

    CONVERGED = 0
    NOT_CONVERGED = 1
    STAGNATED = 2
    INCONSISTENT = 3
    NONFINITE = 4
    UNVERIFIED = 5
    MORE_INSIDE = 6

    @property
    def advice(self) -> str:
        """Cause and remedy, in one sentence."""
        return _ADVICE[self]

    @staticmethod
    def named(code: int) -> str:
        """Return the name of a status code, or the number if it has no name.

        >>> Status.named(2)
        'STAGNATED'
        """
        return Status(code).name if code in set(Status) else str(code)


_ADVICE = {
    Status.CONVERGED: "all pairs converged",
    Status.NOT_CONVERGED: (
        "some pairs did not reach tol within the matvecs allowed: raise max_matvecs (max_iter of "
        "deflated_power_iteration), or krylov_dim where it is less than the operator's size; or loosen tol, or ask for "
        "fewer pairs"
    ),
    Status.STAGNATED: (
        "the residuals stand at the rounding of the matvecs, above tol: loosen tol (to 0.03 if products are in "
        "bfloat16), or compute in a wider dtype; a tol that is zero, negative or NaN is never reached, so give a "
        "positive one, or atol; with an inverse, sigma may be an eigenvalue to rounding: shift it a little"
    ),
    Status.INCONSISTENT: (
        "the operator is not symmetric (of svds: the adjoint is not that of the operator), or not the same at every "
        "call (dropout, a shuffled batch), or it computes with less precision than its dtype has, or b is not positive "
        "definite, or inverse is not that of A - sigma B with this sigma: the residuals are true, but the method does "
        "not apply; look at check_operator(op, key), loosen tol to the precision of the operator, and call eigs for an "
        "operator that is not symmetric"
    ),
    Status.UNVERIFIED: (
        "all pairs converged, but max_matvecs ended the search for missed ones: copies of repeated eigenvalues may be "
        "missing; raise max_matvecs or krylov_dim, or pass verify=False to do without the search; of eigs, far from "
        "normal, rounding may leave open which eigenvalues there are: compute in float64"
    ),
    Status.MORE_INSIDE: (
        "the interval holds more eigenvalues than the k asked for: those nearest to its middle are returned; raise k, "
        "or take a narrower interval"
    ),
    Status.NONFINITE: (
        "the operator returned NaN or Inf: check the parameters, the data and the loss for overflow; or the inverse "
        "did, because sigma is an eigenvalue: shift it a little"
    ),
}


class EigenResult(NamedTuple):
    """The k requested eigenpairs, the most wanted first, with their residuals and the cost of the solve.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import lanczos
        >>> result = lanczos(jnp.diag(jnp.array([3.0, 2.0, 1.0])), k=2)
        >>> print(result.eigenvalues.round(4), result.converged)
        [3. 2.] [ True  True]
    """

    eigenvalues: jax.Array
    """(k,) real (complex for `eigs`), ordered by `which`, the most wanted first."""
    eigenvectors: Any
    """A vector of the operator with a leading axis k on every leaf. Rows are orthonormal (`eigs`: of unit norm), with
    fixed signs."""
    residuals: jax.Array
    """(k,) ||A v - lambda v||; equal to the recomputed residual up to rounding."""
    converged: jax.Array
    """(k,) bool: the residual is at most tol times the largest |Ritz value| found (`eigs`: the largest ||A v||)."""
    status: jax.Array
    """() int32, a `Status`."""
    num_matvecs: jax.Array
    """() int32, number of matvecs, including those that verify the residuals."""
    error_bounds: jax.Array | None = None
    """(k,) certified bounds on the distance from each value to an eigenvalue of the operator, rounding included. The
    bound is the residual r, or r^2 / gap if all eigenvalues are known (n <= krylov_dim). `eigsh` only."""
    gap: jax.Array | None = None
    """() distance from the returned eigenvalues to the first unwanted Ritz value, or inf. `eigsh` only."""
    num_probes: jax.Array | None = None
    """() int32, number of missed-pair searches, each from a random vector. `eigsh` and `eigs` only."""
    num_recovered: jax.Array | None = None
    """() int32, number of pairs that only a missed-pair search found. `eigsh` and `eigs` only."""
    error_estimates: jax.Array | None = None
    """(k,) estimates of the error of each eigenvalue: r^2 / gap to the nearest Ritz value for a well-separated pair,
    else the residual r, as also if matvecs are in 16 bits; at least 16 eps ||A|| (dense: 4). These are no bounds: an
    eigenvalue nearer than the nearest Ritz value makes them too small. `eigsh` only."""
    num_solves: jax.Array | None = None
    """() int32, number of products with `inverse`; None without one."""
    num_found: jax.Array | None = None
    """() int32, number of eigenvalues found inside `interval`, at least k + 1 if there is no room for all; None without
    an interval."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("eigenvalues", Status.named)


class SingularResult(NamedTuple):
    """The k requested singular triplets, A v = s u and A^H u = s v, the most wanted first, with their residuals.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import svds
        >>> result = svds(jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), 2)
        >>> print(result.values.round(4), result.left.shape, result.right.shape)
        [3. 2.] (2, 2) (2, 3)
    """

    left: Any
    """The u_i: an output vector of the operator with a leading axis k on every leaf; orthonormal, not conjugated."""
    values: jax.Array
    """(k,) real, nonnegative, descending (ascending for which="SM")."""
    right: Any
    """The v_i: an input vector of the operator with a leading axis k on every leaf; orthonormal, signs fixed."""
    residuals: jax.Array
    """(k,) (||A v - s u||^2 + ||A^H u - s v||^2)^(1/2); equal to the recomputed residual up to rounding."""
    converged: jax.Array
    """(k,) bool: the residual is at most tol times the largest singular value found."""
    status: jax.Array
    """() int32, a `Status`."""
    num_matvecs: jax.Array
    """() int32, number of matvecs with A and with A^H together, including those that verify the residuals."""

    __repr__ = printing.short_repr
    __str__ = printing.table_by("values", Status.named)


_Result = TypeVar("_Result", EigenResult, SingularResult)


class EigenError(RuntimeError):
    """Error for a solve that failed, raised on the host by `raise_if_failed`.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import eigsh
        >>> try:
        ...     raise_if_failed(eigsh(jnp.full((3, 3), jnp.nan), 1))
        ... except EigenError as error:
        ...     print(str(error)[:9])
        NONFINITE
    """


@explained
def raise_if_failed(result: _Result) -> _Result:
    """Raise an exception if a solve failed; to be called on the host, outside jit.

    Args:
        result: result of any solver, or a batch of results from `jax.vmap`.

    Returns:
        The same result, so that calls can be chained.

    Raises:
        EigenError: if any status is not `CONVERGED`; the message lists the pairs, their residuals and the remedy.
        TypeError: if called under a transformation, where values are not available, or if `result` is not the result
            of a solver.

    Cost: no matvecs; one transfer of k numbers to the host.

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
            f"raise_if_failed got result={brief(result)}: give what a solver returns, an EigenResult or a "
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
    """Error for a run that was refused, or that could not save its result; the message gives the reason and the remedy.

    `result` is the result of a completed run that could not write any checkpoint, else None.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> from eigenjax import run
        >>> folder = tempfile.mkdtemp()
        >>> _ = pathlib.Path(folder, "notes.txt").write_text("not a checkpoint")
        >>> try:
        ...     _ = run(jnp.eye(30), 1, checkpoint_dir=folder, progress=False)
        ... except RunError as error:
        ...     print(error.result)
        None
    """

    def __init__(self, message: str, result: EigenResult | None = None):
        super().__init__(message)
        self.result = result
