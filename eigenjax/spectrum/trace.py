"""Trace of an operator from matvecs with random vectors.

    Hutchinson:  tr A ~ mean of <z, A z>                                                  error ~ 1 / sqrt(matvecs)
    Hutch++:     tr A = tr Q^H A Q + tr P A P,  P = I - Q Q^H, the second by Hutchinson          ~ 1 / matvecs
    XTrace:      mean of k estimates by Hutch++, each with one probe for the second part
                 and the k - 1 others for Q                                                      ~ smaller still

Q is a basis of the range of A times random vectors; if the spectrum decays, its complement has a small trace.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.arguments import check_int, check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_or_host
from eigenjax.spectrum.probing.leave_one_out import Range, rank_of, sketch_stages, sketched
from eigenjax.spectrum.probing.probes import (
    DEPENDENT,
    FEW_DEPENDENT,
    draw,
    mean_and_error,
    of_length,
    orthonormal_rows,
    random_signs,
    random_sphere,
    random_vector,
)
from eigenjax.spectrum.probing.stages import (
    CACHED,
    Estimator,
    Form,
    Inputs,
    Part,
    Stage,
    StageState,
    jitted,
    unit_stage,
    whole_image,
)
from eigenjax.spectrum.status import EstimateStatus, status_of
from eigenjax.vectors import random_vectors, tree
from eigenjax.vectors.orthogonalize import project_out_of_vector
from eigenjax.vectors.tree import PyTree

# (op, last state) -> estimate and standard error.
_Estimate = Callable[[LinearOperator, StageState], tuple[jax.Array, jax.Array]]
# Fewest matvecs that each method needs.
_LEAST = {"xtrace": 2, "hutch++": 3, "hutchinson": 1}


class TraceResult(NamedTuple):
    """Estimate with its standard error and its cost.

    Example:
        >>> found = trace(jnp.diag(jnp.array([1.0, 4.0])), key=jax.random.key(0))
        >>> print(found.estimate, found.standard_error, EstimateStatus(int(found.status)).name)
        5.0 0.0 ESTIMATED
    """

    estimate: jax.Array
    """() real."""
    standard_error: jax.Array
    """() estimated from the spread of the samples; inf for a single sample."""
    num_matvecs: jax.Array
    """() int32, number of matvecs."""
    status: jax.Array | int = int(EstimateStatus.ESTIMATED)
    """() int32, an `EstimateStatus`."""

    __repr__ = printing.short_repr


class Forms(NamedTuple):
    """Quadratic form within a subspace, and samples of it in the complement."""

    inside: jax.Array  # (q,) values for the basis vectors, 0 for basis vectors of zeros
    outside: jax.Array  # (p,) values for random vectors in the complement
    squares: jax.Array  # (p,) squared lengths of these vectors
    dimension: jax.Array  # () dimension of the complement


@explained
def trace(
    op: Any,
    *,
    key: jax.Array,
    num_matvecs: int = 100,
    method: str = "xtrace",
    probe_batch: int = 1,
    like: PyTree = None,
) -> TraceResult:
    """Estimate the trace of an operator, symmetric or not, from matvecs with random vectors.

        tr A ~ mean over i of  tr P_i A P_i + <u_i, A u_i>,    u_i = (I - P_i) omega_i

    with P_i the projector on the range of A times all probes but omega_i (XTrace). All methods are unbiased. With a
    budget of n or more, n unit vectors are used and the trace is exact. It is also exact if the rank is less than half
    of the budget ("hutch++": a third).

    Args:
        op: whatever `as_operator` takes, or a `stream`. For a complex operator that is not Hermitian, the real part of
            the trace is estimated.
        key: typed key of the probes.
        num_matvecs: number of matvecs, static; exactly these are spent, or n if that is less.
        method: "xtrace"; "hutch++", less accurate, in a third of the memory; or "hutchinson" with random signs, in the
            memory of three vectors. Hutchinson is as accurate for flat spectra, and exact for diagonal operators.
            Static.
        probe_batch: matvecs at once (by vmap), static; for a stream, the vectors in one pass over the data.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate, with a standard error from its samples: k for "xtrace" (k = num_matvecs / 2), a third of the
        budget for "hutch++". Twice the error covers the truth in nine of ten cases. For few or correlated samples
        ("xtrace") the error is therefore larger than the spread of the samples.

    Raises:
        ValueError: if num_matvecs is below what the method needs (2, 3, 1), or `method` is unknown.
        TypeError: if num_matvecs is not an int, or `key` is not a typed key.

    Cost: num_matvecs matvecs. Memory in vectors for m matvecs, by method: 2 m, 2 m / 3, 3. Differentiable in the
    operator, in both modes: the derivative is an unbiased estimate of the derivative of the trace.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matrix = jnp.diag(1 / jnp.arange(1.0, 301.0) ** 2)
        >>> found = trace(matrix, key=jax.random.key(0), num_matvecs=60)
        >>> print(jnp.abs(found.estimate - jnp.trace(matrix)) < 1e-2, found.standard_error < 1e-2, found.num_matvecs)
        True True 60

    Source: Epperly, Tropp and Webber (2024), XTrace; Meyer, Musco, Musco and Woodruff (2021), Hutch++; Girard (1989),
    Hutchinson (1990).
    """
    op = operator_or_host(op, like)
    check_key(key)
    if method not in _LEAST:
        raise ValueError(f"method={method!r}: choose one of {', '.join(map(repr, _LEAST))}")
    why = f", the least that method={method!r} needs"
    num_matvecs = check_int(None, "num_matvecs", num_matvecs, least=_LEAST[method], why=why)
    probe_batch = check_int(None, "probe_batch", probe_batch)
    if isinstance(op, HostOperator):
        options = {"num_matvecs": num_matvecs, "method": method, "probe_batch": probe_batch}
        return op.estimated(Plan("trace", jitted(_estimator(op.size, num_matvecs, method)), Inputs(key), options))
    return _trace(op, key, num_matvecs=num_matvecs, method=method, probe_batch=probe_batch)


@functools.partial(jax.jit, static_argnames=("num_matvecs", "method", "probe_batch"))
def _trace(op: LinearOperator, key: jax.Array, *, num_matvecs: int, method: str, probe_batch: int) -> TraceResult:
    return _estimator(op.size, num_matvecs, method).compute(op, Inputs(key), probe_batch)


@functools.lru_cache(maxsize=CACHED)
def _estimator(size: int, num_matvecs: int, method: str) -> Estimator:
    """Return the stages of a trace, and its result."""
    build = {"xtrace": _xtrace, "hutch++": _hutch, "hutchinson": _hutchinson}[method]
    stages, estimate = _exact(size) if num_matvecs >= size else build(num_matvecs)

    def finalize(op: LinearOperator, _inputs: Inputs, state: StageState) -> TraceResult:
        value, error = estimate(op, state)
        return TraceResult(value, error, jnp.int32(min(num_matvecs, size)), status_of(value))

    return Estimator(stages, finalize)


def quadratic_form(vector: PyTree, image: PyTree) -> jax.Array:
    """Return Re <v, A v>."""
    return tree.inner(vector, image).real


def _exact(size: int) -> tuple[tuple[Stage, ...], _Estimate]:
    def estimate(_: LinearOperator, state: StageState) -> tuple[jax.Array, jax.Array]:
        total = jnp.sum(state.outputs[0])
        return total, jnp.zeros_like(total)

    return (unit_stage(size, quadratic_form),), estimate


def form_stages(budget: int, form: Form) -> tuple[Stage, Stage]:
    """Return the stages that evaluate a form on the range of A exactly, and sample it in the complement (Hutch++).

    A third of the matvecs computes the range and a third the form within it; the rest are samples in the complement.
    These are projected random signs, whose forms have no variance from the diagonal.
    """
    sketched = budget // 3
    row = lambda _op, _carry, row: row
    probes = lambda op, inputs, _previous: draw(random_sphere, jax.random.split(inputs.key)[0], op, sketched)
    first = Stage(probes, (Part(sketched, lambda _op, _inputs, carry: carry, row, whole_image),))
    inside = Part(sketched, lambda _op, _inputs, basis: basis, row, form)
    samples = budget - 2 * sketched
    keys = lambda _op, inputs, _basis: jax.random.split(jax.random.split(inputs.key)[1], samples)
    signs = lambda op, basis, key: project_out_of_vector(basis, random_vector(random_signs, key, op))
    outside = Part(samples, keys, signs, lambda vector, image: (form(vector, image), tree.inner(vector, vector).real))
    basis = lambda _op, _inputs, previous: orthonormal_rows(jax.lax.stop_gradient(previous.outputs[0]))[0]
    return first, Stage(basis, (inside, outside))


def forms_of(op: LinearOperator, state: StageState) -> Forms:
    """Return the forms after both stages."""
    inside, (outside, squares) = state.outputs
    dimension = float(op.size) - jnp.sum(jnp.round(jax.vmap(tree.norm)(state.carry)))
    return Forms(inside, outside, squares, dimension)


def combined(forms: Forms) -> tuple[jax.Array, jax.Array]:
    """Compute the estimate of the form's trace, and its standard error.

    For random signs s_i and u_i = P s_i, E <u_i, A u_i> = tr P A P and E ||u_i||^2 = tr P = d. The mean of the length
    is known, so its share of the variance can be removed; for a flat spectrum that is the whole variance,

        x_i = <u_i, A u_i> - c_i (||u_i||^2 - d),    c_i = mean over j != i of <u_j, A u_j> / d

    The estimate stays unbiased, because c_i is independent of u_i.
    """
    values = forms.outside
    others = (jnp.sum(values) - values) / max(values.shape[0] - 1, 1)
    samples = values - others * (forms.squares / forms.dimension - 1)
    mean, error = mean_and_error(samples, _rounding(forms.inside))
    return jnp.sum(forms.inside) + mean, error


def _hutch(budget: int) -> tuple[tuple[Stage, ...], _Estimate]:
    return form_stages(budget, quadratic_form), lambda op, state: combined(forms_of(op, state))


def _hutchinson(budget: int) -> tuple[tuple[Stage, ...], _Estimate]:
    keys = lambda _op, inputs, _carry: jax.random.split(inputs.key, budget)
    signs = lambda op, _carry, key: random_vector(random_signs, key, op)
    stage = Stage(lambda _op, _inputs, _previous: None, (Part(budget, keys, signs, quadratic_form),))

    def estimate(_: LinearOperator, state: StageState) -> tuple[jax.Array, jax.Array]:
        return mean_and_error(state.outputs[0], _rounding(state.outputs[0]) / budget)

    return (stage,), estimate


def _xtrace(budget: int) -> tuple[tuple[Stage, ...], _Estimate]:
    """Return the stages of XTrace; an odd matvec adds one sample in the complement of the whole range."""
    count, odd = divmod(budget, 2)
    keys = lambda _op, inputs, _found: jax.random.split(inputs.key)[1:]
    more = (Part(1, keys, _vector_outside, quadratic_form),) if odd else ()
    return sketch_stages(random_sphere, count, *more), _xtrace_estimate


def _vector_outside(op: LinearOperator, found: Range, key: jax.Array) -> PyTree:
    """Draw a direction uniform on the sphere in the complement of the range, of the length without variance."""
    start = project_out_of_vector(found.basis, random_vector(random_vectors.normal, key, op))
    return of_length(start, float(op.size) - rank_of(found.basis))


def _xtrace_estimate(op: LinearOperator, state: StageState) -> tuple[jax.Array, jax.Array]:
    """Compute the XTrace estimate and its error."""
    drawn = sketched(state)
    basis, left_out, inside = drawn.basis, drawn.left_out, drawn.inside
    projected = tree.gram(basis, drawn.basis_images)
    form_of = lambda x, matrix, y: jnp.sum(jnp.conj(x) * jnp.matmul(matrix, y, precision=_HIGHEST), axis=0)
    # tr P_i A P_i = tr H - s^H H s,  and <u, A u> = <omega, y> - <omega, Z x> - <Q x, y> + x^H H x.
    within = jnp.trace(projected) - form_of(left_out, projected, left_out)
    outside = jax.vmap(tree.inner)(drawn.probes, drawn.images) + form_of(inside, projected, inside)
    outside -= jnp.sum(tree.gram(drawn.probes, drawn.basis_images).T * inside, axis=0)
    outside -= jnp.sum(jnp.conj(inside) * tree.gram(basis, drawn.images), axis=0)
    squares = lambda x: jnp.sum(jnp.square(jnp.abs(x)), axis=0)
    # The direction of u_i is uniform in the complement of P_i; the sample is scaled to the length without variance.
    ranks = drawn.rank - squares(left_out * drawn.is_there[:, None].astype(left_out.dtype))
    size = float(op.size)  # which an int32 may not hold
    samples = within.real + outside.real * (size - ranks) / (size - squares(inside))
    for outside in state.outputs[1:]:
        samples = jnp.append(samples, jnp.trace(projected).real + outside)
    mean, error = mean_and_error(samples, _rounding(jnp.diagonal(projected).real), few=FEW_DEPENDENT)
    return mean, DEPENDENT * error


_HIGHEST = jax.lax.Precision.HIGHEST


def _rounding(terms: jax.Array) -> jax.Array:
    """Return the rounding error of a sum of these terms, ()."""
    return jnp.finfo(terms.dtype).eps * jnp.sum(jnp.abs(terms))
