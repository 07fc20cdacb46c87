"""Bordered linear systems of eigenpairs, for left eigenvectors and derivatives.

For a simple eigenvalue lambda_i of A with the unit eigenvector v_i, and a norm estimate s of A, the matrix

    K_i = [ conj(lambda_i) - A^H   s v_i ]
          [        s v_i^H           0   ]

is nonsingular. Let Z be an orthonormal basis of the k given eigenvectors, A Z = Z T, and P = I - Z Z^H. The solution
w = Z a + y follows from a small system for `a` and one on the complement, where A^H has none of the k eigenvalues:

    (conj(lambda_i) - T^H) a + s mu Z^H v_i = Z^H f,  s v_i^H Z a = h,    P (conj(lambda_i) - A^H) P y = P f + P A^H Z a

The transposed system, [lambda_i - A, s v_i; s v_i^H, 0], is solved in the reverse order, y first. GMRES solves the
systems on the complement: all k together, or large ones one after another.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eigenjax.operators.base import LinearOperator, matvec
from eigenjax.operators.complexified import complex_matvec, on_complex
from eigenjax.operators.functions.convolutions import fast_in_loops
from eigenjax.solvers.linear.gmres import gmres
from eigenjax.vectors import tree
from eigenjax.vectors.arithmetic import safe_divide
from eigenjax.vectors.orthogonalize import normalize, orthogonalize, project_out_of_vector
from eigenjax.vectors.tree import PyTree

# An eigenvector that keeps less than this share of its norm beside those before it is not projected out: the remainder
# is mostly error.
_DEPENDENT = 1e-3
# Eigenvalues closer than this times the residuals of their pairs are not distinguished by the forward solve ...
_CLUSTER_RESIDUALS = 8.0
# ... nor those closer than this times eps of the largest.
_CLUSTER_ROUNDING = 32.0
# The remainder of a projection is zero below this times eps of the whole vector.
_NEGLIGIBLE = 16.0
# Basis vectors of GMRES between restarts: the first number, or as many as take these bytes for the systems solved
# together, up to the second. GMRES stagnates if it restarts too early: with 40 vectors at the first step on a
# convection-diffusion operator of size 3,600, where 150 suffice.
_RESTART, _LONGEST_RESTART = 40, 256
_RESTART_BYTES = 2**27
# Bytes of k vectors up to which all systems are solved together. Above, a matvec of one vector uses a device as fully,
# and k Krylov bases at once take k times the memory.
_ALL_AT_ONCE = 2**25


class Bordered(NamedTuple):
    """Bordered systems of k pairs."""

    op: LinearOperator  # A
    eigenvalues: jax.Array  # (k,) complex
    vectors: PyTree  # (k, ...) unit vectors
    residuals: jax.Array  # (k,) residuals of the pairs
    scale: jax.Array  # () s, a norm estimate of A


class Solution(NamedTuple):
    """Solutions w and mu of all k systems."""

    vectors: PyTree  # (k, ...) w
    multipliers: jax.Array  # (k,) mu


class SolveInfo(NamedTuple):
    """Convergence information of the k solves."""

    whole: jax.Array  # (k,) ||(f, h, right-hand side of the complement)||, the norm that residuals are relative to
    target: jax.Array  # (k,) target of the residual on the complement
    num_matvecs: jax.Array  # (k,) int32, steps of GMRES
    left_out: jax.Array  # (k,) norm of the part of the small right-hand sides that is dropped as nearly singular


def adjoint_matvec(op: LinearOperator, vector: PyTree) -> PyTree:
    """Compute A^H v for a complex v by transposing the matvec; a real operator takes two of these."""
    structure = tree.working_structure(op.structure)
    transposed = jax.linear_transpose(functools.partial(matvec, op), structure)
    conjugate = functools.partial(jax.tree.map, jnp.conj)
    return conjugate(on_complex(fast_in_loops(lambda x: transposed(x)[0]), structure)(conjugate(vector)))


def apply(system: Bordered, vectors: Solution) -> Solution:
    """Compute K_i (w_i, mu_i) for all i; differentiable."""

    def one(value, v, w, mu):
        image = tree.add_scaled(tree.scale(jnp.conj(value), w), -1.0, adjoint_matvec(system.op, w))
        image = tree.add_scaled(image, system.scale.astype(mu.dtype) * mu, v)
        return image, system.scale.astype(mu.dtype) * tree.inner(v, w)

    return Solution(*jax.vmap(one)(system.eigenvalues, system.vectors, *vectors))


def apply_adjoint(system: Bordered, vectors: Solution) -> Solution:
    """Compute K_i^H (w_i, mu_i) for all i; differentiable."""

    def one(value, v, w, mu):
        image = tree.add_scaled(tree.scale(value, w), -1.0, complex_matvec(system.op, w))
        image = tree.add_scaled(image, system.scale.astype(mu.dtype) * mu, v)
        return image, system.scale.astype(mu.dtype) * tree.inner(v, w)

    return Solution(*jax.vmap(one)(system.eigenvalues, system.vectors, *vectors))


def solve(
    system: Bordered, rhs: Solution, *, tol: jax.Array, max_iter: int, transposed: bool
) -> tuple[Solution, SolveInfo]:
    """Solve K_i (w_i, mu_i) = (f_i, h_i), or the same with K_i^H, for all i; return the convergence information too.

    Args:
        system: the systems; no derivative is taken here.
        rhs: (f, h).
        tol: (k,) residuals to stop at, relative to f and h.
        max_iter: maximal number of GMRES matvecs for one system; static.
        transposed: solve with K_i^H; static.

    Cost: k matvecs for T, k for the coupling of both parts, and those of GMRES; twice as many if A is real.
    """
    basis = _orthonormal(system.vectors)
    images = jax.lax.map(functools.partial(complex_matvec, system.op), basis)
    projected = tree.gram(basis, images)
    parts = _Parts(system, basis, projected, max_iter)
    one = functools.partial(_forward_system if transposed else _adjoint_system, parts)
    each = (system.eigenvalues, system.vectors, system.residuals, tol, *rhs)
    if _is_together(system):
        return jax.vmap(one)(*each)
    return jax.lax.map(lambda arguments: one(*arguments), each)


def residuals(system: Bordered, rhs: Solution, found: Solution) -> jax.Array:
    """Compute (k,) ||P (f_i - (conj(lambda_i) - A^H) w_i)|| for the solutions of K_i.

    Cost: one matvec with A^H for each, two if A is real.
    """
    basis = _orthonormal(system.vectors)

    def one(value, f, w):
        image = tree.add_scaled(adjoint_matvec(system.op, w), -jnp.conj(value), w)
        return tree.norm(project_out_of_vector(basis, jax.tree.map(jnp.add, f, image)))

    return jax.vmap(one)(system.eigenvalues, rhs.vectors, found.vectors)


class _Parts(NamedTuple):
    system: Bordered  # the systems
    basis: PyTree  # Z
    projected: jax.Array  # T
    max_iter: int  # static, maximal number of GMRES matvecs for one system


def _adjoint_system(parts: _Parts, value, v, residual, tol, f, h) -> tuple[Solution, SolveInfo]:
    basis = parts.basis
    part = _inside(parts, jnp.conj(value), jnp.conj(parts.projected).T, v, residual, tree.project(basis, f), h)
    inside = tree.combine(part.small, basis)
    mv = functools.partial(adjoint_matvec, parts.system.op)
    rhs = jax.tree.map(jnp.add, f, mv(inside))
    outside, info = _outside(parts, mv, jnp.conj(value), rhs, f, h, tol)
    return Solution(jax.tree.map(jnp.add, inside, outside), part.multiplier), info._replace(left_out=part.left_out)


def _forward_system(parts: _Parts, value, v, residual, tol, f, h) -> tuple[Solution, SolveInfo]:
    mv = functools.partial(complex_matvec, parts.system.op)
    outside, info = _outside(parts, mv, value, f, f, h, tol)
    rhs = tree.project(parts.basis, jax.tree.map(jnp.add, f, mv(outside)))
    part = _inside(parts, value, parts.projected, v, residual, rhs, h)
    whole = jax.tree.map(jnp.add, tree.combine(part.small, parts.basis), outside)
    return Solution(whole, part.multiplier), info._replace(left_out=part.left_out)


class _Inside(NamedTuple):
    small: jax.Array  # (k,) a
    multiplier: jax.Array  # () mu
    left_out: jax.Array  # () norm of the dropped part of the right-hand side


def _inside(parts: _Parts, value, projected, v, residual, rhs, h) -> _Inside:
    """Solve the small system, scaled to order one; nearly singular directions, those of a cluster, are dropped."""
    k, scale = rhs.shape[0], parts.system.scale
    border = tree.project(parts.basis, v)
    matrix = jnp.zeros((k + 1, k + 1), rhs.dtype)
    matrix = matrix.at[:k, :k].set((value * jnp.eye(k, dtype=rhs.dtype) - projected) / scale.astype(rhs.dtype))
    matrix = matrix.at[:k, k].set(border).at[k, :k].set(jnp.conj(border))
    left, values, right = jnp.linalg.svd(jnp.where(jnp.isfinite(matrix), matrix, 0))
    unit = _CLUSTER_ROUNDING * jnp.finfo(values.dtype).eps
    width = _CLUSTER_RESIDUALS * residual / scale + unit * jnp.max(values)
    is_regular = values > width
    inverse = safe_divide(1, values, where=is_regular, otherwise=0).astype(rhs.dtype)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    numbers = product(jnp.conj(left).T, jnp.append(rhs, h))
    found = product(jnp.conj(right).T, inverse * numbers / scale.astype(rhs.dtype))
    return _Inside(found[:k], found[k], tree.norm(jnp.where(is_regular, 0, numbers)))


def _outside(parts: _Parts, mv: Callable, value, rhs, f, h, tol) -> tuple[PyTree, SolveInfo]:
    """Solve the system on the complement."""
    zeros, none = jnp.zeros_like(tol), jnp.zeros((), jnp.int32)
    rhs_norm = tree.norm((f, h, rhs))
    if jax.tree.leaves(parts.basis)[0].shape[0] == parts.system.op.size:
        return jax.tree.map(jnp.zeros_like, rhs), SolveInfo(rhs_norm, zeros, none, zeros)  # there is no complement
    away = functools.partial(project_out_of_vector, parts.basis)
    # At every matvec: rounding would bring the eigenvectors back.
    shifted = lambda x: away(tree.add_scaled(tree.scale(value, away(x)), -1.0, mv(away(x))))
    projected = away(rhs)
    target = jnp.maximum(tol * tree.norm(projected), _NEGLIGIBLE * jnp.finfo(tol.dtype).eps * rhs_norm)
    restart = min(_restart_length(parts.system), parts.max_iter)
    found = gmres(shifted, projected, target=target, restart=restart, max_iter=parts.max_iter)
    return away(found.solution), SolveInfo(rhs_norm, target, found.num_matvecs, zeros)


def _restart_length(system: Bordered) -> int:
    """Return the number of basis vectors of GMRES between restarts."""
    count = system.eigenvalues.shape[0] if _is_together(system) else 1
    bytes_at_once = max(count * _bytes(system) // system.eigenvalues.shape[0], 1)
    affordable = min(_RESTART_BYTES // bytes_at_once, _LONGEST_RESTART)
    return min(max(_RESTART, affordable), system.op.size)


def _is_together(system: Bordered) -> bool:
    """Return whether all systems are solved together."""
    return _bytes(system) <= _ALL_AT_ONCE


def _bytes(system: Bordered) -> int:
    """Return the bytes of all k vectors."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(system.vectors))


def _orthonormal(vectors: PyTree) -> PyTree:
    """Compute an orthonormal basis of the eigenvectors; dependent ones give zero rows."""

    def clean(i, done):
        residual = orthogonalize(done, tree.row(vectors, i))
        length = jnp.where(residual.norm > _DEPENDENT, residual.norm, 0)
        direction = tree.where(
            length > 0, normalize(residual.vector, length), jax.tree.map(jnp.zeros_like, residual.vector)
        )
        return tree.set_row(done, i, direction)

    k = jax.tree.leaves(vectors)[0].shape[0]
    return jax.lax.fori_loop(0, k, clean, jax.tree.map(jnp.zeros_like, vectors))
