"""Traces of functions of a symmetric operator, by stochastic Lanczos quadrature.

    tr f(A) ~ n mean over probes q of sum_i w_i f(theta_i)

with the Gauss quadrature (theta, w) of m steps of Lanczos from q (Golub and Meurant 2010). The truncation error is
estimated by the change over the last fifth of the steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.inspection import to_dense
from eigenjax.operators.packed import packed_operator
from eigenjax.result import EigenResult
from eigenjax.spectrum.function_estimates import MOST_DENSE, captured_function, from_dense, from_states, trace_on_host
from eigenjax.spectrum.probing.deflation import check_result, deflated_pairs
from eigenjax.spectrum.probing.derivatives import differentiable_once, frozen
from eigenjax.spectrum.probing.host import HostOperator
from eigenjax.spectrum.probing.probes import checked_ints
from eigenjax.spectrum.probing.quadrature import tridiagonals_and_slopes
from eigenjax.spectrum.probing.stages import Inputs
from eigenjax.spectrum.trace import TraceResult
from eigenjax.vectors.tree import PyTree


@explained
def trace_of_function(
    op: Any,
    f: Callable[[jax.Array], jax.Array],
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    deflate: EigenResult | None = None,
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """Estimate the trace of a function of a symmetric operator, tr f(A) = sum_i f(lambda_i), by Lanczos quadrature.

        tr f(A) ~ sum over known pairs of f(lambda_i)  +  (n - k) mean over probes of sum_i w_i f(theta_i)

    Args:
        op: whatever `as_operator` takes, or a `stream`. Symmetric or Hermitian. The estimate is differentiable once,
            forward and in reverse, in the parameters of an operator in memory and in those of f: the derivative is that
            of the estimate up to its truncation error, from the same Krylov spaces; the standard error is a constant.
        f: function of an array of eigenvalues, real, elementwise.
        key: typed key of the probes.
        num_probes: p, static. More probes reduce the random error.
        krylov_dim: m, steps from each probe, static; at most n are taken. Raise it if f is not smooth on the spectrum.
        deflate: known eigenpairs, as `eigsh` returns them; those that have converged contribute exactly.
        probe_batch: probes at once (by vmap), static; each holds a basis. For a stream, m passes over the data serve
            all probes of a batch.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate. Its standard error includes the spread over the probes and an estimate of the truncation error:
        the change over the last fifth of the m steps. Twice the error covers the truth in nine of ten cases, so
        for few probes it is larger than the spread. With a budget p m of n or more (and n of 2,048 or less), n unit
        vectors are used instead; the trace is then exact, and its error zero.

    Raises:
        ValueError: if num_probes, krylov_dim or probe_batch is less than 1.
        TypeError: if they are not ints, `key` is not a typed key, or `deflate` is not an `EigenResult`.

    Cost: p m matvecs, and one more with `deflate`; m + 4 vectors of memory for each of the `probe_batch` probes. A
    gradient costs six products with dA (in reverse mode, with its adjoint) for each probe and one for each known pair,
    and 6 p vectors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> values = jnp.linspace(1.0, 2.0, 200)
        >>> found = trace_of_function(jnp.diag(values), jnp.exp, key=jax.random.key(0), krylov_dim=10)
        >>> print(jnp.abs(found.estimate - jnp.exp(values).sum()) < 4 * found.standard_error, found.num_matvecs)
        True 100

    Source: Ubaru, Chen and Saad (2017), Fast estimation of tr(f(A)) via stochastic Lanczos quadrature.
    """
    options = {"num_probes": num_probes, "krylov_dim": krylov_dim, "deflate": deflate, "probe_batch": probe_batch}
    if isinstance(op, HostOperator):
        return trace_on_host("trace_of_function", op, f, key, deflate, num_probes, krylov_dim, probe_batch)
    return _trace_of_function(packed_operator(as_operator(op, like=like), deflate), f, key, positive=False, **options)


def _trace_of_function(
    op: LinearOperator,
    f: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    *,
    num_probes: int,
    krylov_dim: int,
    deflate: EigenResult | None,
    probe_batch: int,
    positive: bool,
) -> TraceResult:
    check_key(key)
    num_probes, krylov_dim, probe_batch = checked_ints(
        num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch
    )
    name = "logdet" if positive else "trace_of_function"
    deflated = frozen(name, deflated_pairs(op, deflate))
    krylov_dim = min(krylov_dim, op.size)
    if op.size <= min(num_probes * krylov_dim, MOST_DENSE):
        return from_dense(differentiable_once(name, to_dense(op)), f, positive)
    work = {"num_probes": num_probes, "krylov_dim": krylov_dim, "probe_batch": probe_batch}
    captured = captured_function(f, op, krylov_dim, 0 if deflated is None else len(deflated.values))
    states, slopes = tridiagonals_and_slopes(op, frozen(name, op), captured, key, deflated, **work)
    return from_states(op, Inputs(key, deflated), states, f=f, positive=positive, slopes=slopes)


@explained
def logdet(
    op: Any,
    *,
    key: jax.Array,
    num_probes: int = 10,
    krylov_dim: int = 80,
    deflate: EigenResult | None = None,
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """Estimate the logarithm of the determinant of a positive definite operator, log det A = tr log A.

    The logarithm is steep at zero: the number of steps grows like the root of the condition number. Deflation of the
    smallest eigenvalues (`deflate`) reduces it.

    Args:
        op: whatever `as_operator` takes, or a `stream`; positive definite. The estimate is differentiable once, forward
            and in reverse, in the parameters of an operator in memory: the derivative is that of the estimate up to its
            truncation error, from the same Krylov spaces; the standard error is a constant.
        key: typed key of the probes.
        num_probes: p, static. More probes reduce the random error.
        krylov_dim: m, steps from each probe, static; at most n are taken.
        deflate: known eigenpairs, as `eigsh` returns them; those that have converged contribute exactly.
        probe_batch: probes at once (by vmap), static; each holds a basis. For a stream, m passes over the data serve
            all probes of a batch.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate, with a standard error; twice the error covers the truth in nine of ten cases. A Ritz value that is
        negative, or zero to rounding, shows that the operator is not positive definite. The estimate is then NaN, and
        `status` is `EstimateStatus.NOT_POSITIVE_DEFINITE`. With a budget p m of n or more (and n of 2,048 or less), n
        unit vectors are used instead; the result is then exact, and its error zero.

    Raises:
        ValueError: if num_probes, krylov_dim or probe_batch is less than 1.
        TypeError: if they are not ints, `key` is not a typed key, or `deflate` is not an `EigenResult`.

    Cost: p m matvecs, and one more with `deflate`; m + 4 vectors of memory for each of the `probe_batch` probes. A
    gradient costs six products with dA (in reverse mode, with its adjoint) for each probe and one for each known pair,
    and 6 p vectors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> values = jnp.linspace(1.0, 5.0, 200)
        >>> found = logdet(jnp.diag(values), key=jax.random.key(0), krylov_dim=15)
        >>> print(jnp.abs(found.estimate - jnp.log(values).sum()) < 4 * found.standard_error)
        True

    Source: Ubaru, Chen and Saad (2017).
    """
    if isinstance(op, HostOperator):
        return trace_on_host("logdet", op, jnp.log, key, deflate, num_probes, krylov_dim, probe_batch)
    op = packed_operator(as_operator(op, like=like), deflate)
    check_key(key)
    check_result(deflate)
    counts = checked_ints(num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    return _logdet(op, key, deflate, *counts)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _logdet(
    op: LinearOperator, key: jax.Array, deflate: EigenResult | None, probes: int, krylov_dim: int, batch: int
) -> TraceResult:
    options = {"num_probes": probes, "krylov_dim": krylov_dim, "deflate": deflate, "probe_batch": batch}
    return _trace_of_function(op, jnp.log, key, positive=True, **options)
