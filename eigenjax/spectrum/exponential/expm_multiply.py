"""Exponential of an operator times a vector, exp(t A) v."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import check_int, check_number
from eigenjax.calls import explained
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.packed import packed, packed_operator, packing_used, unpacked
from eigenjax.solvers.convergence.status import tolerance
from eigenjax.spectrum.exponential.adjoint import pullback
from eigenjax.spectrum.exponential.steps import Exponential, exponential
from eigenjax.spectrum.functions import TOL_REMEDY, FunctionResult, operator_and_vector
from eigenjax.spectrum.probing.derivatives import first_only, not_differentiable
from eigenjax.spectrum.status import EstimateStatus, status_of
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

# The bound takes the growth of errors from the Krylov spaces, which can only underestimate it.
_SAFETY = 2.0
_ONE_TIME = "give one number, the time; for several times use jax.vmap"
# Share of the tolerance that the steps aim at, so that rounding does not exceed it.
_AIM = 0.8


@explained
def expm_multiply(
    op: Any,
    v: PyTree,
    t: Any = 1.0,
    *,
    tol: Any = None,
    krylov_dim: int = 30,
    max_matvecs: int = 3000,
    like: Any = None,
) -> FunctionResult:
    """Compute the exponential of an operator times a vector, exp(t A) v, by steps in Krylov spaces (Arnoldi).

        y' = A y,  y(0) = v,    y(t) = exp(t A) v

    Each step builds a Krylov space of m vectors, and goes as far as its error bound allows. The operator need not be
    symmetric.

    Args:
        op: whatever `as_operator` takes; a bare callable takes vectors like v, or `like`. A real one may act on a
            complex v.
        v: a vector of the operator.
        t: the time, a number, traced; complex numbers, such as -1j for a Schroedinger equation, need a complex v.
        tol: tolerance of the error relative to the norm of the vector, over all steps; None is sqrt(eps).
        krylov_dim: m, matvecs in each step, static; at most n. More make longer steps.
        max_matvecs: limit of the matvecs, static.
        like: for a bare callable, the vectors that it takes: a pytree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The vector. `error_estimate` estimates a bound on the norm of its error, by the defect of each step and the
        growth exp(mu s) of errors, with mu the largest eigenvalue of the Hermitian part of A on the Krylov spaces (a
        growing mode that v hardly contains may be missed by few vectors), doubled. It includes the rounding
        eps ||t A|| ||v||, so that in float32 a large ||t A|| needs a larger tol. `converged`: it is at most tol times
        the larger of the norms of v and the result. If the matvecs do not suffice, the vector is that at an earlier
        time, the estimate infinite, `status` is `EstimateStatus.NOT_CONVERGED`, and gradients are NaN.
        The vector is differentiable once, in reverse mode, in A, v and t; the estimate is a constant.

    Raises:
        ValueError: if krylov_dim or max_matvecs is less than 1, or v does not fit.
        TypeError: if they are not ints, or t is complex and v real.

    Cost: m matvecs for each step, of about a quarter of m / ||A|| in time; longer ones for Hermitian operators, whose
    space of m vectors reaches about m^2 / (10 ||A||). m + 5 vectors. A gradient takes 2 m matvecs for each step, half
    of them with A^H, and ten to twenty products with the adjoint of dA, and holds a vector for each of the
    max_matvecs / m steps.

    Example:
        >>> import jax.numpy as jnp
        >>> rotation = jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> found = expm_multiply(rotation, jnp.array([1.0, 0.0]), jnp.pi / 2)
        >>> print(jnp.abs(found.vector - jnp.array([0.0, 1.0])).max() < 1e-6, found.converged)
        True True

    Source: Saad (1992), Analysis of some Krylov subspace approximations to the matrix exponential operator; Sidje
    (1998), Expokit.
    """
    op = as_operator(op, like=v if like is None else like)
    krylov_dim = check_int(None, "krylov_dim", krylov_dim)
    max_matvecs = check_int(None, "max_matvecs", max_matvecs)
    check_number("expm_multiply", "t", t, remedy=_ONE_TIME, is_complex=True)
    check_number("expm_multiply", "tol", tol, least=0, remedy=TOL_REMEDY)
    op, start = operator_and_vector(op, v)
    op = packed_operator(op, start)
    start = packed(start, packing_used(op))
    dtype = tree.accumulation_dtype(start)
    t = jnp.asarray(t)
    if jnp.iscomplexobj(t) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"t={t} is complex, and the operator's vectors are {dtype}: give complex vectors and operators")
    t = t.astype(dtype if jnp.iscomplexobj(t) else tree.real_dtype(dtype))
    tol = tolerance(tol, tree.real_dtype(dtype))
    krylov_dim = min(krylov_dim, op.size)
    steps = max(max_matvecs // krylov_dim, 1)
    try:
        parts: Any = _exponential(krylov_dim, steps, op, start, t, tol * _AIM / _SAFETY)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        raise TypeError("expm_multiply has a derivative in reverse mode only: take jax.grad or jax.jacrev") from error
    vector, (done, error, num_steps) = parts
    error = jnp.where(done < 1, jnp.inf, _SAFETY * error)
    norm = tree.norm(vector)
    converged = (error <= tol * jnp.maximum(norm, tree.norm(start))) & jnp.isfinite(norm)
    num_matvecs = num_steps * krylov_dim
    status = jnp.where((done < 1) & jnp.isfinite(norm), jnp.int32(EstimateStatus.NOT_CONVERGED), status_of(norm))
    return FunctionResult(unpacked(vector, packing_used(op)), error, converged, num_matvecs, status)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _exponential(krylov_dim: int, max_steps: int, op: LinearOperator, v: PyTree, t: jax.Array, tol: jax.Array) -> Any:
    return _parts(_solve(op, v, t, tol, krylov_dim, max_steps, keep=False))


def _forward(krylov_dim: int, max_steps: int, op: LinearOperator, v: PyTree, t: jax.Array, tol: jax.Array) -> Any:
    op, v, t, tol = not_differentiable(first_only("expm_multiply"), (op, v, t, tol))
    solved = _solve(op, v, t, tol, krylov_dim, max_steps, keep=True)
    return _parts(solved), (op, t, tol, solved)


def _backward(krylov_dim: int, _max_steps: int, saved: Any, cotangents: Any) -> Any:
    op, t, tol, solved = saved
    return (*_pull(op, t, solved, cotangents[0], krylov_dim), jnp.zeros_like(tol))


_exponential.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames=("krylov_dim", "max_steps", "keep"))
def _solve(op, v, t, tol, krylov_dim, max_steps, *, keep) -> Exponential:
    return exponential(op, v, t, tol, krylov_dim, max_steps, keep=keep)


@functools.partial(jax.jit, static_argnums=4)
def _pull(op, t, solved, cotangent, krylov_dim) -> tuple[Any, PyTree, jax.Array]:
    return pullback(op, t, solved, cotangent, krylov_dim)


def _parts(solved: Exponential) -> tuple[PyTree, tuple[jax.Array, ...]]:
    return solved.vector, (solved.done, solved.error, solved.num_steps)
