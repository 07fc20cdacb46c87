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
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.functions import checked_values
from eigenjax.spectrum.probing.deflation import check_result, deflated_pairs
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_on_host
from eigenjax.spectrum.probing.krylov_stages import krylov_estimator
from eigenjax.spectrum.probing.probes import checked_ints, mean_and_error
from eigenjax.spectrum.probing.quadrature import gauss_quadrature, held_back, steps_before_breakdown, tridiagonals
from eigenjax.spectrum.probing.stages import Estimator, Inputs, unit_stage, whole_image
from eigenjax.spectrum.status import status_of
from eigenjax.spectrum.trace import TraceResult
from eigenjax.vectors import tree
from eigenjax.vectors.packing import ravel
from eigenjax.vectors.tree import PyTree

# A component of the start vector along a Ritz vector below c * eps is rounding error.
_WEIGHTLESS = 64.0
# An eigenvalue below c * eps times the largest may be zero.
_POSITIVE_ROUNDING = 16.0
# Largest matrix that is computed densely if the budget allows.
MOST_DENSE = 2048


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
        op: whatever `as_operator` takes, or a `stream`. Symmetric or Hermitian.
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

    Cost: p m matvecs, and one more with `deflate`; m + 4 vectors of memory for each of the `probe_batch` probes. Not
    differentiable in reverse mode.

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
    deflated = deflated_pairs(op, deflate)
    krylov_dim = min(krylov_dim, op.size)
    if op.size <= min(num_probes * krylov_dim, MOST_DENSE):
        return _exact(op, f, positive)
    states = tridiagonals(op, key, deflated, num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    return from_states(op, Inputs(key, deflated), states, f=f, positive=positive)


def from_states(
    op: LinearOperator, inputs: Inputs, states: LanczosState, *, f: Callable[[jax.Array], jax.Array], positive: bool
) -> TraceResult:
    """Compute the trace of f(A) from the Lanczos states of all probes."""
    (num_probes, krylov_dim), deflated = states.diagonal.shape, inputs.deflated
    quadrature = jax.vmap(lambda state, count: _quadratic_form(state, count, f))
    counts = jax.vmap(steps_before_breakdown)(states)
    forms, poor = quadrature(states, counts)
    num_remaining, deflated_trace = jnp.asarray(op.size, forms.dtype), jnp.zeros((), forms.dtype)
    not_positive = jnp.any(poor)
    if deflated is not None:
        num_remaining = num_remaining - jnp.sum(deflated.mass)
        deflated_trace = jnp.sum(jnp.where(deflated.mass > 0, f(deflated.values), 0))
        not_positive |= jnp.any((deflated.mass > 0) & (deflated.values <= 0))
    mean, error = mean_and_error(forms, jnp.finfo(forms.dtype).eps * jnp.abs(jnp.mean(forms)))
    change = jnp.abs(mean - jnp.mean(quadrature(states, jax.vmap(held_back, (0, None))(counts, krylov_dim))[0]))
    num_matvecs = num_probes * krylov_dim + (deflated is not None)
    return _trace_result(
        deflated_trace + num_remaining * mean,
        num_remaining * jnp.hypot(error, change),
        num_matvecs,
        not_positive & positive,
    )


_compiled_from_states = jax.jit(from_states, static_argnames=("f", "positive"))


def _exact(op: LinearOperator, f: Callable, positive: bool) -> TraceResult:
    return from_dense(to_dense(op), f, positive)


def from_dense(dense: jax.Array, f: Callable, positive: bool) -> TraceResult:
    """Compute the sum over all eigenvalues of a dense matrix."""
    values = jnp.linalg.eigvalsh((dense + jnp.conj(dense).T) / 2, symmetrize_input=False)
    estimate = jnp.sum(_real_values(f, values))
    not_positive = _is_poor(values, jnp.ones_like(values)) & positive
    return _trace_result(estimate, jnp.zeros_like(estimate), dense.shape[0], not_positive)


def _trace_result(estimate: jax.Array, error: jax.Array, num_matvecs: int, not_positive: jax.Array) -> TraceResult:
    or_nan = lambda x: jnp.where(not_positive, jnp.nan, x)
    return TraceResult(or_nan(estimate), or_nan(error), jnp.int32(num_matvecs), status_of(estimate, not_positive))


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
        op: whatever `as_operator` takes, or a `stream`; positive definite.
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

    Cost: p m matvecs, and one more with `deflate`; m + 4 vectors of memory for each of the `probe_batch` probes. Not
    differentiable in reverse mode.

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


def trace_on_host(
    name: str,
    op: HostOperator,
    f: Callable,
    key: jax.Array,
    deflate: EigenResult | None,
    num_probes: int,
    krylov_dim: int,
    probe_batch: int,
) -> TraceResult:
    """Estimate tr f(A) with matvecs on the host, for the public function of this name."""
    check_key(key)
    counts = checked_ints(num_probes=num_probes, krylov_dim=krylov_dim, probe_batch=probe_batch)
    options: dict[str, Any] = dict(zip(("num_probes", "krylov_dim", "probe_batch"), counts, strict=True))
    options["krylov_dim"] = min(options["krylov_dim"], op.size)
    inputs = Inputs(key, deflated_pairs(operator_on_host(op, deflate), deflate))
    positive = name == "logdet"
    if op.size <= min(options["num_probes"] * options["krylov_dim"], MOST_DENSE):
        dense = lambda state: jax.vmap(lambda row: ravel(row, tree.accumulation_dtype(row)))(state.outputs[0]).T
        stages = (unit_stage(op.size, whole_image),)
        estimator = Estimator(stages, lambda _op, _inputs, state: from_dense(dense(state), f, positive))
    else:
        finalize = functools.partial(_compiled_from_states if positive else from_states, f=f, positive=positive)
        estimator = krylov_estimator(**options, finalize=finalize, deflated=deflate is not None)
    return op.estimated(Plan(name, estimator, inputs, options, None if positive else f))


def _quadratic_form(state: LanczosState, count: jax.Array, f: Callable) -> tuple[jax.Array, jax.Array]:
    """Compute sum_i w_i f(theta_i), and whether a node is not positive; nodes without weight are left out."""
    nodes, weights, _ = gauss_quadrature(state, count)
    significant = jnp.sqrt(weights) > _WEIGHTLESS * jnp.finfo(weights.dtype).eps
    # An infinite or NaN value of f without weight must not spoil a derivative either.
    images = _real_values(f, jnp.where(significant, nodes, nodes[jnp.argmax(weights)]))
    return jnp.sum(jnp.where(significant, weights * images, 0)), _is_poor(nodes, jnp.where(significant, weights, 0))


def _is_poor(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Test if a value with weight is negative, or zero to rounding."""
    floor = _POSITIVE_ROUNDING * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    return jnp.any((weights > 0) & (values <= floor))


def _real_values(f: Callable, values: jax.Array) -> jax.Array:
    images = checked_values(f, values)
    if jnp.iscomplexobj(images):
        raise TypeError("f has complex values: take the traces of its real and imaginary parts, one by one")
    return images
