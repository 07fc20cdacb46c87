"""Diagonal of an operator from matvecs with random signs (XDiag).

For signs omega, conj(omega) * (B omega) has the mean diag B, elementwise. With P_i the projector on the range of A
times all probes but omega_i,

    diag A  =  diag(A P_i) + diag(A (I - P_i))  ~  diag(A P_i) + conj(omega_i) * A (I - P_i) omega_i

and the mean over i. The operator can be of any kind; if A is Hermitian, P_i also captures its dominant row space.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eigenjax import printing
from eigenjax.arguments import check_int, check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.packed import packing_used, unpacked
from eigenjax.spectrum.probing.host import HostOperator, Plan, operator_or_host
from eigenjax.spectrum.probing.leave_one_out import Sketch, sketch_stages, sketched
from eigenjax.spectrum.probing.probes import (
    DEPENDENT,
    FEW_DEPENDENT,
    random_signs,
    random_vector,
    unit_vector,
    widened,
)
from eigenjax.spectrum.probing.stages import CACHED, Estimator, Inputs, Part, StageState, unit_stage, whole_image
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import positive_or_one
from eigenjax.vectors.orthogonalize import project_out_of_vector
from eigenjax.vectors.packing import unravel
from eigenjax.vectors.tree import PyTree


class DiagonalResult(NamedTuple):
    """Estimate with its standard errors and its cost.

    Example:
        >>> found = diagonal(jnp.array([[1.0, 2.0], [2.0, 4.0]]), key=jax.random.key(0))
        >>> print(found.estimate.round(4), found.num_matvecs)
        [1. 4.] 2
    """

    estimate: PyTree
    """A vector of the operator, real, with a_jj in entry j."""
    standard_error: PyTree
    """A vector of the operator, real: the error of each entry, from the spread of the samples; inf for one sample."""
    num_matvecs: jax.Array
    """() int32, number of matvecs."""

    __repr__ = printing.short_repr


@explained
def diagonal(
    op: Any, *, key: jax.Array, num_matvecs: int = 100, probe_batch: int = 1, like: PyTree = None
) -> DiagonalResult:
    """Estimate the diagonal of an operator from matvecs with random signs.

        diag A ~ mean over i of  diag(A P_i) + conj(omega_i) * A (I - P_i) omega_i

    Unbiased. With a budget of n or more, n unit vectors are used and the diagonal is exact. It is also exact for
    Hermitian operators of a rank less than half of the budget.

    Args:
        op: whatever `as_operator` takes, or a `stream`. For a complex operator that is not Hermitian, the real part of
            the diagonal is estimated.
        key: typed key of the probes.
        num_matvecs: number of matvecs, static; exactly these are spent, or n if that is less.
        probe_batch: matvecs at once (by vmap), static; for a stream, the vectors in one pass over the data.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The estimate, shaped like a vector of the operator, and the standard error of each entry: twice the error covers
        the truth in nine of ten cases.

    Raises:
        ValueError: if num_matvecs is less than 2.
        TypeError: if num_matvecs is not an int, or `key` is not a typed key.

    Cost: num_matvecs matvecs; twice as many vectors of memory. Differentiable in the operator, in both modes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.linspace(0.0, 1.0, 200)
        >>> matrix = jnp.exp(-10 * (x[:, None] - x[None, :]) ** 2)
        >>> found = diagonal(matrix, key=jax.random.key(0), num_matvecs=60)
        >>> print(jnp.abs(found.estimate - 1).max() < 1e-4)
        True

    Source: Epperly, Tropp and Webber (2024), XTrace, section 4; Bekas, Kokiopoulou and Saad (2007).
    """
    op = operator_or_host(op, like)
    check_key(key)
    num_matvecs = check_int(None, "num_matvecs", num_matvecs, least=2, why=", the least that XDiag needs")
    probe_batch = check_int(None, "probe_batch", probe_batch)
    if isinstance(op, HostOperator):
        estimator = _on_host(op.size, num_matvecs)
        options = {"num_matvecs": num_matvecs, "probe_batch": probe_batch}
        return op.estimated(Plan("diagonal", estimator, Inputs(key), options))
    return _of_vectors(op, _diagonal(op, key, num_matvecs=num_matvecs, probe_batch=probe_batch))


@functools.partial(jax.jit, static_argnames=("num_matvecs", "probe_batch"))
def _diagonal(op: LinearOperator, key: jax.Array, *, num_matvecs: int, probe_batch: int) -> DiagonalResult:
    if num_matvecs >= op.size:
        return _exact(op)
    return _estimator(num_matvecs).compute(op, Inputs(key), probe_batch)


def _of_vectors(op: LinearOperator, found: DiagonalResult) -> DiagonalResult:
    """Return a result with unpacked vectors."""
    unpack = lambda vector: unpacked(vector, packing_used(op))
    return found._replace(estimate=unpack(found.estimate), standard_error=unpack(found.standard_error))


@functools.lru_cache(maxsize=CACHED)
def _estimator(num_matvecs: int) -> Estimator:
    """Return the stages of XDiag; an odd matvec adds one sample in the complement of the whole range."""
    keys = lambda _op, inputs, _found: _odd_key(inputs.key)[None]
    outside = lambda op, found, key: project_out_of_vector(found.basis, random_vector(random_signs, key, op))
    odd = (Part(1, keys, outside, whole_image),) if num_matvecs % 2 else ()
    return Estimator(sketch_stages(random_signs, num_matvecs // 2, *odd), _xdiag)


def _odd_key(key: jax.Array) -> jax.Array:
    return jax.random.split(key)[1]


def _xdiag(op: LinearOperator, inputs: Inputs, state: StageState) -> DiagonalResult:
    drawn = sketched(state)
    count = drawn.left_out.shape[0]
    # diag(A P) = sum_j z_j * conj(q_j) is common to all samples.
    base = jax.tree.map(
        lambda z, q: jnp.sum((z * jnp.conj(q.astype(z.dtype))).real, axis=0), drawn.basis_images, drawn.basis
    )
    zeros = jax.tree.map(jnp.zeros_like, base)
    samples = jnp.arange(count, dtype=jnp.int32)
    unit = _largest((drawn.images, drawn.basis_images))
    add = lambda sums, i: (_counted(sums, _sample(drawn, i), unit), None)
    sums = jax.lax.scan(add, (zeros, zeros), samples)[0]
    for images in state.outputs[1:]:
        signs = random_vector(random_signs, _odd_key(inputs.key), op)
        sums = _counted(sums, jax.tree.map(_times_conjugate, tree.row(images, 0), signs), unit)
    odd = len(state.outputs) - 1
    return _mean(base, sums, unit, count + odd, 2 * count + odd)


def _sample(drawn: Sketch, i: jax.Array) -> PyTree:
    """Compute conj(omega_i) * A (I - P_i) omega_i - diag(A (P - P_i)), with P the projector on the whole range."""
    left_out, inside = drawn.left_out[:, i], drawn.inside[:, i]
    outside = tree.add_scaled(tree.row(drawn.images, i), -1.0, tree.combine(inside, drawn.basis_images))
    sample = jax.tree.map(_times_conjugate, outside, tree.row(drawn.probes, i))
    lacking = jax.tree.map(
        _times_conjugate, tree.combine(left_out, drawn.basis_images), tree.combine(left_out, drawn.basis)
    )
    return jax.tree.map(jnp.subtract, sample, lacking)


def _times_conjugate(x: jax.Array, y: jax.Array) -> jax.Array:
    return (x * jnp.conj(y)).real


def _largest(images: PyTree) -> jax.Array:
    """Return the largest entry, or one if it is zero; squares divided by it neither overflow nor underflow."""
    entries = [jnp.max(jnp.abs(x)).astype(jnp.float32) for x in jax.tree.leaves(images)]
    return positive_or_one(jax.lax.stop_gradient(jnp.max(jnp.stack(entries))))


def _counted(sums: tuple[PyTree, PyTree], sample: PyTree, unit: jax.Array) -> tuple[PyTree, PyTree]:
    """Add a sample to the sum, and its square, divided by the square of `unit`, to the sum of squares."""
    return (
        jax.tree.map(jnp.add, sums[0], sample),
        jax.tree.map(lambda squares, x: squares + jnp.square(x / unit.astype(x.dtype)), sums[1], sample),
    )


def _mean(base: PyTree, sums: tuple[PyTree, PyTree], unit: jax.Array, count: int, num_matvecs: int) -> DiagonalResult:
    estimate = jax.tree.map(lambda base, total: base + total / count, base, sums[0])

    def error(base, total, squares):
        if count == 1:
            return jnp.full_like(total, jnp.inf)
        scale = unit.astype(total.dtype)
        variance = jnp.maximum(squares - jnp.square(total / scale) / count, 0) / (count * (count - 1))
        spread = DEPENDENT * widened(count, FEW_DEPENDENT) * scale * jnp.sqrt(variance)
        # The root has no derivative at zero, and no derivative of the error is needed.
        return jax.lax.stop_gradient(jnp.hypot(spread, jnp.finfo(base.dtype).eps * jnp.abs(base)))

    return DiagonalResult(estimate, jax.tree.map(error, base, *sums), jnp.int32(num_matvecs))


def _exact(op: LinearOperator) -> DiagonalResult:
    structure = tree.working_structure(op.structure)

    def add(total, index):
        unit = unit_vector(structure, index)
        picked = jax.tree.map(_times_conjugate, matvec(op, unit), unit)
        return jax.tree.map(jnp.add, total, picked), None

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x.real), unit_vector(structure, jnp.int32(0)))
    entries, _ = jax.lax.scan(add, zeros, jnp.arange(op.size, dtype=jnp.int32))
    return DiagonalResult(entries, jax.tree.map(jnp.zeros_like, entries), jnp.int32(op.size))


@functools.lru_cache(maxsize=CACHED)
def _on_host(size: int, num_matvecs: int) -> Estimator:
    """Return the stages for matvecs on the host, with a result of unpacked vectors."""
    entry = lambda vector, image: tree.inner(vector, image).real
    estimator = Estimator((unit_stage(size, entry),), _of_entries) if num_matvecs >= size else _estimator(num_matvecs)
    finalize = jax.jit(estimator.finalize)
    return Estimator(estimator.stages, lambda op, inputs, state: _of_vectors(op, finalize(op, inputs, state)))


def _of_entries(op: LinearOperator, _inputs: Inputs, state: StageState) -> DiagonalResult:
    structure = jax.eval_shape(lambda x: jax.tree.map(jnp.real, x), tree.working_structure(op.structure))
    entries = unravel(state.outputs[0], structure)
    return DiagonalResult(entries, jax.tree.map(jnp.zeros_like, entries), jnp.int32(op.size))
