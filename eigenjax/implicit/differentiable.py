"""Registration of a solver's derivative with JAX, the same for every kind of problem.

A `Rule` defines the derivative: `symmetric`, `general` and `singular` each contain one. It is registered in two forms,
for cotangents ("reverse") and for tangents ("forward"). No iteration is differentiated. Each rule holds to any order,
because all its parts are differentiable: the saved solution by this same rule, the linear solves by rules of their own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.calls import named
from eigenjax.implicit.program import Method, Rule, bind, explain_forward_mode, signature
from eigenjax.implicit.systems.tangents import is_zero, no_tangent
from eigenjax.krylov.recycling import WithRecycled
from eigenjax.solvers.dense.choice import DenseSolver, is_chosen
from eigenjax.vectors.placement import on_mesh_of


def differentiable(
    solver: Callable[..., Any],
    rule: Rule,
    *,
    recycles: bool = False,
    shares_programs: Callable[[Any, dict[str, Any]], bool] | None = None,
    dense: DenseSolver | None = None,
) -> Callable[..., Any]:
    """Make a solver differentiable in its operator, to any order, and compile it.

    The result takes three more options. `derivative`, static, is "reverse" for jax.grad to any order, or "forward" for
    jax.jvp, jacfwd, jax.hessian and jax.grad, which transposes it. `adjoint_tol` is the residual of the linear solves
    relative to their right-hand sides. None derives it from the residuals of the pairs: a smaller one gains nothing.
    `adjoint_max_iter`, static, limits their matvecs for one pair. The function is compiled once per operator type,
    shape and static options.

    The derivative is as accurate as the pairs: a pair with residual r belongs to a matrix at the distance r from A, and
    its derivative has an error of order r / gap. `adjoint_info` reports the convergence of the linear solves. v0, key,
    tol and the other options have zero derivatives.

    Args:
        solver: `solver(op, k, **options)`, a black box that returns an `EigenResult` or a `SingularResult`.
        rule: its derivative.
        recycles: the solver returns `WithRecycled`: its result, and recycled Ritz pairs that save matvecs.
        shares_programs: (op, options) -> whether the solver compiles its own programs, which several operators share.
            It is then called outside of any program, where no derivative is wanted.
        dense: dense counterpart of the solver, for small operators. JAX differentiates it, without the rule.

    Returns:
        The same function with this derivative.

    Example:
        >>> from eigenjax.implicit.symmetric import RULE
        >>> from eigenjax.solvers.symmetric.lanczos import lanczos
        >>> loss = lambda a: 6 * differentiable(lanczos, RULE)(a, k=1).eigenvectors[0, 1]
        >>> print(jnp.abs(jax.grad(loss)(jnp.diag(jnp.array([4.0, 1.0, 1.0])))).round(4))
        [[0. 1. 0.]
         [1. 0. 0.]
         [0. 0. 0.]]
    """

    @named
    @functools.wraps(solver)
    def solve(*args: Any, **options: Any) -> Any:
        method, derivative, op, traced = bind(solver, rule, recycles, args, options)
        options = dict(method.options) | traced
        if dense is not None and is_chosen(dense, op, options):
            run = functools.partial(_decompose, dense)
        elif shares_programs is not None and shares_programs(op, options):
            run = Method.solve
        else:
            run = {"reverse": _reverse, "forward": _forward}[derivative]
        try:
            with on_mesh_of(op, traced):
                result = run(method, op, traced, False).result
        except TypeError as error:
            explain_forward_mode(solver, (op, traced), error)
            raise
        return rule.finish(method, op, traced, result)

    solve.__signature__ = signature(solver)  # type: ignore[attr-defined]
    return solve


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def _decompose(dense: DenseSolver, method: Method, op: Any, traced: dict[str, Any], _: bool) -> WithRecycled:
    return WithRecycled(dense.solve(op, **dict(method.options), **traced), None)


@functools.partial(jax.jit, static_argnums=(0, 3))
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _reverse(method: Method, op: Any, traced: dict[str, Any], keep_recycled: bool) -> WithRecycled:
    return method.solve(op, traced, keep_recycled)


def _save(method: Method, op: Any, traced: Any, keep_recycled: bool) -> tuple[WithRecycled, Any]:
    op, traced = jax.tree.map(lambda leaf: leaf.value, (op, traced), is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    # Call the rule, not the solver: this makes the second derivative right.
    solved = _reverse(method, op, traced, method.recycles)
    saved = method.rule.save(method, op, solved, traced["adjoint_tol"])
    return solved if keep_recycled else solved._replace(recycled=None), saved


def _pull_back(method: Method, keep_recycled: bool, saved: Any, cotangents: WithRecycled) -> tuple[Any, None]:
    # The recycled Ritz pairs only accelerate the solve: their cotangent is ignored.
    del keep_recycled
    with on_mesh_of(saved):
        return method.rule.cotangent(method, saved, cotangents.result), None


_reverse.__wrapped__.defvjp(_save, _pull_back, symbolic_zeros=True)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnums=(0, 3))
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def _forward(method: Method, op: Any, traced: dict[str, Any], keep_recycled: bool) -> WithRecycled:
    return method.solve(op, traced, keep_recycled)


def _push_forward(
    method: Method, keep_recycled: bool, primals: Any, tangents: Any
) -> tuple[WithRecycled, WithRecycled]:
    op, traced = primals
    # Call the rule, not the solver: this makes the second derivative right.
    solved = _forward(method, op, traced, method.recycles)
    saved = method.rule.save(method, op, solved, traced["adjoint_tol"])
    solved = solved if keep_recycled else solved._replace(recycled=None)
    zero = jax.tree.map(no_tangent, solved)
    fields = method.rule.tangent(method, saved, tangents[0]) or {}
    return solved, zero._replace(result=zero.result._replace(**fields))


_forward.__wrapped__.defjvp(_push_forward, symbolic_zeros=True)  # type: ignore[attr-defined]


def conjugated(leaf: Any, like: jax.Array) -> jax.Array:
    """Conjugate a cotangent; a symbolic zero becomes an array.

    JAX's cotangents are the conjugates of those in the formulas of the rules: rules conjugate on entry and on exit.
    """
    return jnp.zeros_like(like) if is_zero(leaf) else jnp.conj(leaf)
