"""Inspection of an operator: its dense matrix, its symmetry, and checks for the usual mistakes."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import check_key
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator, check_vector, matvec
from eigenjax.operators.convert import as_operator, describe_all, refuse_stream
from eigenjax.operators.functions.captured import with_sources
from eigenjax.operators.functions.precision import rounding_unit, unit_of_leaves
from eigenjax.operators.host import is_scipy_operator
from eigenjax.operators.matrices import is_matrix
from eigenjax.vectors import random_vectors, tree
from eigenjax.vectors.arithmetic import positive_or_one, safe_divide
from eigenjax.vectors.packing import ravel, unravel
from eigenjax.vectors.tree import PyTree

# Columns that `to_dense` computes at once.
_DENSE_BATCH = 64


@explained
def to_dense(op: Any, *, like: PyTree = None) -> jax.Array:
    """Compute the dense (n, n) matrix of an operator, in the order of its raveled leaves.

    Args:
        op: operator, matrix or callable, anything that `as_operator` accepts.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        (n, n) in the dtype in which scalars are accumulated. Cost: n matvecs, n^2 numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from eigenjax import hessian
        >>> print(to_dense(hessian(lambda p: p["a"] * p["b"], {"a": 1.0, "b": 2.0})))
        [[0. 1.]
         [1. 0.]]
    """
    op = as_operator(op, like=like)
    return columns_of(functools.partial(matvec, op), op.structure, tree.accumulation_dtype(op.structure)).T


def columns_of(apply: Callable[[PyTree], PyTree], domain: PyTree, dtype: Any) -> jax.Array:
    """Compute the columns of the matrix of a linear map, (n, p), by multiplying the n unit vectors.

    Args:
        apply: linear map; it takes vectors in working dtypes.
        domain: structure of its argument.
        dtype: dtype of the columns.
    """
    size, working = tree.size(domain), tree.working_structure(domain)
    units = jnp.arange(size, dtype=jnp.int32)
    column = lambda index: ravel(apply(unravel((units == index).astype(dtype), working)), dtype)
    return jax.lax.map(column, units, batch_size=min(_DENSE_BATCH, size))


@explained
def symmetry_error(op: Any, key: jax.Array, *, like: PyTree = None) -> jax.Array:
    """Estimate how far an operator is from symmetric (Hermitian), with two random vectors.

        |<u, A v> - <A u, v>| / (||A u|| + ||A v||),    u, v standard normal

    Args:
        op: operator, matrix or callable, anything that `as_operator` accepts.
        key: random key for the two vectors.
        like: for a bare callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        () about the machine epsilon for a deterministic symmetric operator, otherwise about ||A - A^H||_F / ||A||_F.
        Cost: two matvecs.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from eigenjax import as_operator
        >>> bool(symmetry_error(as_operator(jnp.array([[0.0, 1.0], [-1.0, 0.0]])), jax.random.key(0)) > 0.1)
        True
    """
    op = as_operator(op, like=like)
    check_key(key)
    return _symmetry_error(op, key)


@jax.jit
def _symmetry_error(op: LinearOperator, key: jax.Array) -> jax.Array:
    first, second = jax.random.split(key)
    structure = tree.working_structure(op.structure)
    u, v = random_vectors.normal(first, structure), random_vectors.normal(second, structure)
    image_u, image_v = matvec(op, u), matvec(op, v)
    size = tree.norm(image_u) + tree.norm(image_v)
    difference = jnp.abs(tree.inner(u, image_v) - tree.inner(image_u, v))
    return safe_divide(difference, size)


class OperatorReport(NamedTuple):
    """Deviations of an operator from a deterministic symmetric linear map, all of rounding size for a correct one."""

    change: float
    """||A u - (A u)'|| / (||A u|| + ||A v||), with two matvecs of the same u."""
    nonlinearity: float
    """The larger of ||A(u + c v) - A u - c A v|| and ||A 0||, over ||A u|| + ||A v||."""
    asymmetry: float
    """|<u, A v> - <A u, v>| / (||A u|| + ||A v||)."""
    tolerance: float
    """Largest deviation accepted as rounding: sqrt(eps) of the working dtype, or 16 eps of the narrowest dtype of a
    leaf or of a matrix product in the loss if larger."""


# A matvec in 16 bits rounds at every step, hence a multiple of eps. In a wide dtype the rounding error stays below
# sqrt(eps), the default tol of the solvers.
_ROUNDINGS = 16.0


@explained
def check_operator(op: Any, key: jax.Array, *, like: PyTree = None) -> OperatorReport:
    """Check an operator for the usual mistakes and raise an error that names the first. Outside jit only.

    The check multiplies random vectors u and v without compiling. State on the host (a stateful random generator, a
    data loader) then shows as a change between two calls. Under jit it cannot be detected: a compiled program repeats
    the values of its trace. An operator that `as_operator` made of a callable repeats them too: check the callable
    itself, with `like`. The losses and models of `hessian`, `gauss_newton` and `fisher` are called again in Python.

    Args:
        op: operator, matrix or callable, anything that `as_operator` accepts; a callable v -> A v is called directly.
        key: random key for the two vectors.
        like: for a callable, the structure of its input: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The measured deviations, all of them at most the tolerance.

    Raises:
        ValueError: if a matvec has another structure or shape than the vector, is not finite, changes between calls,
            or is not linear or symmetric. Also if a loss that must be a mean over examples is a sum or mixes them.
            The message names the usual cause and the remedy of the first mistake found, because later ones follow
            from it.
        TypeError: if a matvec has another dtype than its vector, if a callable comes without `like`, or under jit.

    Cost: six matvecs, not compiled.

    Example:
        >>> import eigenjax
        >>> report = check_operator(eigenjax.hessian(lambda p: jnp.sum(p**3), jnp.ones(4)), jax.random.key(0))
        >>> print(report.change, report.nonlinearity < 1e-6, report.asymmetry < 1e-6)
        0.0 True True
        >>> check_operator(lambda v: v + 1, jax.random.key(0), like=jnp.ones(4))
        Traceback (most recent call last):
        ...
        ValueError: check_operator: the matvec is not linear, ...
    """
    refuse_stream(op)
    check_key(key)
    apply, structure = _product(op, like)
    u, v = (tree.cast_like(random_vectors.normal(one, structure), structure) for one in jax.random.split(key))
    image_u = apply(u)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(image_u)):
        raise TypeError("check_operator compares calls of a matvec, and under jit there is one only: call it outside")
    _check_result(image_u, structure)
    _check_losses(op)
    report = _report(apply, structure, (u, v), image_u, _tolerance(op, structure))
    for is_wrong, message in (
        (not _is_finite(report), _NOT_FINITE),
        (not report.change <= report.tolerance, _CHANGING),
        (not report.nonlinearity <= report.tolerance, _NOT_LINEAR),
        (not report.asymmetry <= report.tolerance, _NOT_SYMMETRIC),
    ):
        if is_wrong:
            raise ValueError(f"{message} ({report})")
    return report


_NOT_FINITE = (
    "the matvec is not finite: the loss or its derivatives overflow, or have none at this point, as sqrt, norms and "
    "logarithms at zero; add an epsilon inside them, look at the parameters and the data for NaN, or use a wider dtype"
)
_CHANGING = (
    "the matvec changes between two calls with the same vector: dropout draws from a stateful generator, or the batch "
    "is shuffled or drawn anew; pass one fixed key and fixed data to the loss (as its data=), or evaluate it without "
    "dropout. Compiled, one draw would be frozen into the program"
)
_NOT_LINEAR = (
    "the matvec is not linear, A(u + c v) differs from A u + c A v or A 0 from 0: the callable returns a gradient "
    "rather than a derivative along v, adds a constant, or clips or normalizes what it returns; give jax.jvp of the "
    "gradient along v, as eigenjax.hessian does. A callable that computes in 16 bits is not linear to its rounding: "
    "compute in float32 to check it"
)
_NOT_SYMMETRIC = (
    "the matvec is linear but not symmetric: no second derivative of one scalar is like that, so a custom derivative "
    "(custom_vjp, custom_jvp, stop_gradient, a straight-through estimate) is not that of its function, microbatches "
    "differ within a matvec, or the operator is a Jacobian: correct the derivative, or use eigs or svds"
)


def _product(op: Any, like: PyTree) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    if isinstance(op, LinearOperator):
        # Run the user's Python functions again: their traces give the same values at every call.
        return with_sources(op).mv, op.structure
    if is_matrix(op) or is_scipy_operator(op) or not callable(op):
        op = as_operator(op, like=like)
        return op.mv, op.structure
    if like is None:
        raise TypeError("give a callable v -> A v together with like=, a pytree of arrays or shapes like its vectors")
    return op, describe_all(like)


def _check_losses(op: Any) -> None:
    """Raise a ValueError if a loss in the operator is not a mean over examples."""
    has_loss = lambda x: hasattr(x, "mistake_of_loss")
    for part in filter(has_loss, jax.tree.leaves(op, is_leaf=has_loss)):
        mistake = part.mistake_of_loss()
        if mistake:
            raise ValueError(mistake)


def _check_result(image: PyTree, structure: PyTree) -> None:
    try:
        check_vector(image, structure, name="the matvec")
    except TypeError as error:
        raise TypeError(
            f"{error}. A matvec keeps the dtypes of its vector: the loss computes in others (a float64 constant, or "
            "parameters cast on the way); cast back at the end of the matvec"
        ) from error


def _report(
    apply: Callable[[PyTree], PyTree], structure: PyTree, pair: Any, image_u: PyTree, tolerance: float
) -> OperatorReport:
    u, v = pair
    # A factor of 1 would not detect a conjugation or an absolute value.
    is_complex = all(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in jax.tree.leaves(structure))
    factor = -0.5 + 0.5j if is_complex else -0.5
    wide = lambda x: tree.cast_like(x, tree.working_structure(structure))
    again, image_v = apply(u), apply(v)
    of_sum, of_zero = apply(tree.add_scaled(u, factor, v)), apply(tree.scale(0, u))
    u, v, image_u, again, image_v, of_sum, of_zero = map(wide, (u, v, image_u, again, image_v, of_sum, of_zero))
    size = positive_or_one(tree.norm(image_u) + tree.norm(image_v))
    expected = tree.add_scaled(image_u, factor, image_v)
    nonlinear = jnp.maximum(tree.norm(tree.add_scaled(of_sum, -1, expected)), tree.norm(of_zero))
    asymmetric = jnp.abs(tree.inner(u, image_v) - tree.inner(image_u, v))
    figures = (tree.norm(tree.add_scaled(again, -1, image_u)), nonlinear, asymmetric)
    return OperatorReport(*(float(figure / size) for figure in figures), tolerance=tolerance)


def _tolerance(op: Any, structure: PyTree) -> float:
    narrowest = rounding_unit(op) if isinstance(op, LinearOperator) else unit_of_leaves(structure)
    return max(float(jnp.finfo(tree.accumulation_dtype(structure)).eps) ** 0.5, _ROUNDINGS * narrowest)


def _is_finite(report: OperatorReport) -> bool:
    return all(math.isfinite(figure) for figure in report)
