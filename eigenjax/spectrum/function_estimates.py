"""Trace of a function of an operator from Lanczos states, or from the dense matrix, in memory and on the host."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_key
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.functions.captured import CapturedFunction, capture
from eigenjax.result import EigenResult
from eigenjax.solvers.symmetric.lanczos import LanczosState
from eigenjax.spectrum.probing.deflation import deflated_pairs
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_on_host
from eigenjax.spectrum.probing.krylov_stages import krylov_estimator
from eigenjax.spectrum.probing.probes import checked_ints, mean_and_error
from eigenjax.spectrum.probing.quadrature import checked_values, gauss_quadrature, held_back, steps_before_breakdown
from eigenjax.spectrum.probing.stages import Estimator, Inputs, unit_stage, whole_image
from eigenjax.spectrum.status import status_of
from eigenjax.spectrum.trace import TraceResult
from eigenjax.vectors import tree
from eigenjax.vectors.packing import ravel

# A component of the start vector along a Ritz vector below c * eps is rounding error.
_WEIGHTLESS = 64.0
# An eigenvalue below c * eps times the largest may be zero.
_POSITIVE_ROUNDING = 16.0
# Largest matrix that is computed densely if the budget allows.
MOST_DENSE = 2048


def from_states(
    op: LinearOperator,
    inputs: Inputs,
    states: LanczosState,
    *,
    f: Callable[[jax.Array], jax.Array],
    positive: bool,
    slopes: tuple[jax.Array, jax.Array] | None = None,
) -> TraceResult:
    """Compute the trace of f(A) from the Lanczos states of all probes.

    `slopes` are zeros with the derivatives of the forms of the probes and of the sum over known pairs.
    """
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
    if slopes is not None:
        mean, deflated_trace = mean + jnp.mean(slopes[0]), deflated_trace + slopes[1]
    return _trace_result(
        deflated_trace + num_remaining * mean,
        num_remaining * jnp.hypot(error, change),
        num_matvecs,
        not_positive & positive,
    )


_compiled_from_states = jax.jit(from_states, static_argnames=("f", "positive"))


def captured_function(f: Callable, op: LinearOperator, krylov_dim: int, num_pairs: int) -> CapturedFunction:
    """Trace f for the nodes of a quadrature and for known eigenvalues."""
    dtype = tree.real_dtype(tree.accumulation_dtype(op.structure))
    shapes = [jax.ShapeDtypeStruct((length,), dtype) for length in dict.fromkeys((krylov_dim, num_pairs)) if length]
    jax.eval_shape(lambda x: _real_values(f, x), shapes[0])
    return capture(lambda values: _real_values(f, values), [(shape,) for shape in shapes], "f")


def from_dense(dense: jax.Array, f: Callable, positive: bool) -> TraceResult:
    """Compute the sum over all eigenvalues of a dense matrix."""
    values = jnp.linalg.eigvalsh((dense + jnp.conj(dense).T) / 2, symmetrize_input=False)
    estimate = jnp.sum(_real_values(f, values))
    not_positive = _is_poor(values, jnp.ones_like(values)) & positive
    return _trace_result(estimate, jnp.zeros_like(estimate), dense.shape[0], not_positive)


def _trace_result(estimate: jax.Array, error: jax.Array, num_matvecs: int, not_positive: jax.Array) -> TraceResult:
    # A product, so that the derivative is NaN too.
    or_nan = lambda x: x * jnp.where(not_positive, jnp.nan, jnp.ones_like(x))
    return TraceResult(or_nan(estimate), or_nan(error), jnp.int32(num_matvecs), status_of(estimate, not_positive))


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
