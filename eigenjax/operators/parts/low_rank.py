"""Low rank plus diagonal from the eigenpairs of a curvature, by Cholesky QR.

    A = D + V diag(l) V^H = D^(1/2) (I - U U^H + U M U^H) D^(1/2),    U R = D^(-1/2) V,    M = I + R diag(l) R^H

`low_rank_plus_diagonal` defines the operator of this form.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import brief, check_choice, check_number
from eigenjax.calls import explained, prefixed
from eigenjax.operators.base import check_vector
from eigenjax.operators.complexified import is_real
from eigenjax.operators.convert import describe_all
from eigenjax.operators.parts.low_rank_plus_diagonal import LowRankPlusDiagonal, scaled, square_root
from eigenjax.operators.parts.precondition import part_of
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import matmul
from eigenjax.vectors.tree import PyTree

_NEGATIVE = ("clip", "abs", "keep")
# Shift of the first Gram matrix of unit vectors, c k eps: Cholesky succeeds although they are nearly dependent
# (Fukaya et al. 2020). The two passes after it make the vectors orthonormal to rounding.
_GRAM_SHIFT = 11.0


@explained
def low_rank(result: Any, *, damping: Any, negative: str = "clip", like: PyTree = None) -> LowRankPlusDiagonal:
    """Return the operator A = D + sum_i l_i v_i v_i^H of a result's eigenpairs and a positive diagonal D.

    It stands for a damped Hessian, Gauss-Newton or Fisher matrix whose other eigenvalues are small: the precision of a
    Laplace approximation, a preconditioner (`op.inverse()` as `M=` of `jax.scipy.sparse.linalg.cg` or
    `preconditioner=` of `eigsh`), the metric of a natural gradient. `solve`, `inverse`, `sqrt`, `logdet`, `trace`,
    `diagonal` and `sample` of the operator are in closed form.

    Args:
        result: the pairs: an `EigenResult` of `eigsh` or `lanczos` of a symmetric operator, or the state of
            `spectrum_tracker`. Pairs that have not converged are left out.
        damping: D > 0: a number, or a pytree like the vectors with real arrays or numbers as leaves. Leaves of
            parameters that a selection leaves out (`select=`) are ignored.
        negative: rule for negative eigenvalues l, static. "clip" sets them to zero: A is D along their eigenvectors.
            "abs" takes |l|, as in saddle-free Newton. "keep" leaves them: A may then be indefinite, and singular if
            D = -l; `sqrt`, `logdet` and `sample` are NaN unless A is positive definite.
        like: structure of the vectors, a pytree of arrays or of `jax.ShapeDtypeStruct`, for parameters narrower than
            float32, whose eigenvectors are in float32. None: that of the eigenvectors.

    Returns:
        A `LowRankPlusDiagonal` operator. Gradients flow to eigenvalues, eigenvectors and damping. The vectors need not
        be exactly orthonormal: A is what the formula says. With pairs of a generalized problem, it is no
        approximation of the operator.

    Raises:
        ValueError: if the damping is a number that is not positive, lacks a leaf or has another shape, or `negative` is
            unknown.
        TypeError: if `result` holds no real eigenvalues with their eigenvectors, or the damping is not real.

    The sign of arrays of damping is not checked, because values are not available under jit: a negative entry gives
    NaN.

    Cost: 2 k^2 n operations, thrice if D is not one number. Memory: k vectors, beside those of the result.

    Example:
        >>> import eigenjax
        >>> curvature = jnp.diag(jnp.array([9.0, 4.0, 0.01]))
        >>> op = low_rank(eigenjax.eigsh(curvature, 2), damping=1.0)
        >>> print(op.solve(jnp.array([10.0, 5.0, 1.0])).round(3), f"{op.trace():.2f} {op.logdet():.3f}")
        [1. 1. 1.] 16.00 3.912
        >>> op.inverse().sample(jax.random.key(0), 5).shape  # of a Laplace approximation
        (5, 3)

    Source: Woodbury (1950); Daxberger et al. (2021), Laplace redux.
    """
    values, vectors, converged = _pairs(result)
    check_choice("low_rank", "negative", negative, _NEGATIVE)
    own = tree.structure_of(tree.row(vectors, 0))
    is_real(own)  # refuses real and complex leaves at once
    structure = own if like is None else describe_all(like)
    with prefixed("give like=, the structure of the result's vectors"):
        check_vector(tree.row(vectors, 0), tree.working_structure(structure), name="a vector of the result")
    diagonal, is_one_number = _checked_damping(damping, structure)
    values = jnp.where(converged, values, jnp.zeros_like(values))
    values = {"clip": lambda x: jnp.maximum(x, 0), "abs": jnp.abs, "keep": lambda x: x}[negative](values)
    keep = lambda x: jnp.where(converged.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
    rows, core = _compressed(diagonal, values, jax.tree.map(keep, vectors), num_passes=1 if is_one_number else 3)
    leaves, treedef = jax.tree.flatten(structure)
    return LowRankPlusDiagonal(diagonal, rows, core, tuple(leaves), treedef)


def _pairs(result: Any) -> tuple[jax.Array, PyTree, jax.Array]:
    """Return eigenvalues, eigenvectors and flags of a result, an `EigenResult` or the state of a tracker."""
    fields = ("eigenvalues", "eigenvectors", "converged")
    if not all(hasattr(result, name) for name in fields):
        raise TypeError(
            f"low_rank got result={brief(result)}: give what eigsh returns, an EigenResult, or the state of "
            "spectrum_tracker"
        )
    values, vectors, converged = (jax.tree.map(jnp.asarray, getattr(result, name)) for name in fields)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(
            f"low_rank got eigenvalues of dtype {values.dtype}: give the result of eigsh, of a symmetric operator"
        )
    if values.ndim != 1:
        raise ValueError(f"low_rank got eigenvalues of shape {values.shape}: use jax.vmap over a batch of results")
    return values, vectors, converged


def _checked_damping(damping: Any, structure: PyTree) -> tuple[PyTree, bool]:
    """Return the damping in the working dtypes, and whether it is one number for all entries."""
    remedy = "give a positive number, or a pytree of positive numbers like the vectors"
    if damping is None or isinstance(damping, str):
        raise TypeError(f"low_rank got damping={brief(damping)}: {remedy}")
    is_one_number = jax.tree_util.all_leaves([damping]) and jnp.ndim(damping) == 0
    if is_one_number:
        check_number("low_rank", "damping", damping, least=0.0, remedy=remedy)
        if not isinstance(damping, Tracer) and not damping > 0:
            raise ValueError(f"low_rank got damping={brief(damping)}: {remedy}")
        number = damping
        damping = jax.tree.map(lambda _: number, structure)
    damping = part_of(damping, structure, "damping")
    return jax.tree_util.tree_map_with_path(_entries, structure, damping), is_one_number


def _entries(path: Any, leaf: jax.ShapeDtypeStruct, value: Any) -> jax.Array:
    name = f"damping{jax.tree_util.keystr(path)}"
    try:
        value = jnp.asarray(value)
    except TypeError as error:
        raise TypeError(f"{name} is no array of numbers ({type(value).__name__}): give positive numbers") from error
    if value.shape not in ((), leaf.shape):
        raise ValueError(f"{name} has shape {value.shape}, but the vectors have {leaf.shape}: give it, or one number")
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"{name} has dtype {value.dtype}: give positive real numbers")
    return value.astype(tree.real_dtype(tree.accumulation_dtype(leaf)))


@partial(jax.jit, static_argnames="num_passes")
def _compressed(diagonal: PyTree, values: jax.Array, rows: PyTree, *, num_passes: int) -> tuple[PyTree, jax.Array]:
    """Compute U and M by Cholesky QR of D^(-1/2) V; rows of zeros stay zero, with a one in M.

    Eigenvectors need one pass if D is one number. Otherwise the columns may be nearly dependent: the first of three
    passes shifts their Gram matrix.
    """
    rows = scaled(jax.tree.map(lambda d: 1 / d, square_root(diagonal)), rows)
    triangle = jnp.eye(len(values), dtype=tree.accumulation_dtype(rows))
    for index in range(num_passes):
        rows, factor = _cholesky_qr(rows, shift=_GRAM_SHIFT * len(values) if num_passes > 1 and index == 0 else 0.0)
        triangle = matmul(factor, triangle)
    weighted = triangle * values.astype(triangle.dtype)[None, :]
    core = jnp.eye(len(values), dtype=triangle.dtype) + matmul(weighted, jnp.conj(triangle.T))
    return rows, (core + jnp.conj(core.T)) / 2


def _cholesky_qr(rows: PyTree, shift: float) -> tuple[PyTree, jax.Array]:
    """Return Q and an upper triangular R with Q R = X, by R^H R = X^H X + c eps I of the normalized vectors."""
    gram = tree.gram(rows, rows)
    squares = jnp.diagonal(gram).real
    lengths = jnp.sqrt(jnp.where(squares > 0, squares, 1)).astype(gram.dtype)
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    # A one in place of the squared length of a zero vector.
    added = jnp.where(squares > 0, shift * float(jnp.finfo(gram.dtype).eps), 1.0).astype(gram.dtype)
    gram = gram / lengths[:, None] / lengths[None, :] + jnp.diag(added)
    triangle = jnp.conj(jnp.linalg.cholesky(gram).T) * lengths[None, :]
    inverse = jax.scipy.linalg.solve_triangular(triangle, eye)
    return tree.combine(inverse, rows), triangle
