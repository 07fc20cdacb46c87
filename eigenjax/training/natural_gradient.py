"""Natural-gradient steps for optax, with the largest pairs of the curvature.

    update <- (V max(L, 0) V^T + damping I)^-1 update

Along the k largest eigenvectors this is a damped Newton step (of a Fisher matrix, a natural gradient); across them it
is gradient descent with the rate 1 / damping. A pair that is missing, such as a copy of a repeated eigenvalue, would
make the steps unstable: `eigsh` finds the pairs, with its search for copies, from those of the last refresh.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import brief, check_choice, check_int, check_number
from eigenjax.calls import explained, prefixed
from eigenjax.implicit import eigsh
from eigenjax.krylov.ritz import check_count
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.convert import as_operator, describe_all
from eigenjax.operators.parts.low_rank import low_rank
from eigenjax.result import EigenResult, Status
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when
from eigenjax.vectors.pseudorandom import arbitrary_rows, seed_of
from eigenjax.vectors.tree import PyTree

# Relative residual of the pairs: the error of an eigenvalue is about its square over the gap.
DEFAULT_TOL = 1e-2
_NAME = "scale_by_natural_gradient"
# End of the spectrum that each rule for negative eigenvalues needs.
_WHICH = {"clip": "LA", "abs": "LM"}


class ScaleByNaturalGradientState(NamedTuple):
    """State of the transformation."""

    eigenvalues: jax.Array  # (k,) the last ones; zero before the first update
    eigenvectors: PyTree  # (k, ...) their orthonormal vectors; the next refresh begins with them
    num_steps: jax.Array  # () int32, number of calls of `update`
    num_matvecs: jax.Array  # () int32, number of matvecs with the curvature


@explained
def scale_by_natural_gradient(
    k: int,
    *,
    damping: float | Callable[[Any], Any],
    every: int = 10,
    negative: str = "clip",
    tol: float = DEFAULT_TOL,
    max_matvecs: int | None = None,
) -> Any:
    """Precondition gradients by the inverse of a damped curvature of low rank.

        update <- (V max(L, 0) V^T + damping I)^-1 update

    Args:
        k: number of eigenpairs, static.
        damping: positive number, or a schedule of optax. A step eta is stable if damping > eta l / 2 for the largest
            eigenvalue l that is not among the k: with eta = 1, damping = l serves.
        every: steps from one refresh of the pairs to the next.
        negative: rule for negative eigenvalues, static. "clip" sets them to zero, and takes the k largest eigenvalues;
            "abs" takes the k of largest magnitude, as in saddle-free Newton, for a Hessian.
        tol: tolerance of the pairs' residuals, relative to the largest |eigenvalue|.
        max_matvecs: most matvecs of a refresh; None is that of `eigsh`.

    Returns:
        An `optax.GradientTransformationExtraArgs`, to be followed by the learning rate in `optax.chain`. Its
        `update(updates, state, params, *, curvature)` needs the operator of this step: `fisher`, `gauss_newton` or
        `hessian` of the current parameters. Ritz pairs that have not converged are used too: of any accuracy, they
        leave the metric positive definite. If matvecs are NaN or Inf, the last pairs are kept.

    Raises:
        ImportError: if optax is not installed.
        ValueError: if an option does not fit.
        TypeError: if an integer option is not an int, or `update` is called without `curvature`.

    Cost: a warm-started solve of `eigsh` every `every` steps, and U read six times at each step. Memory: k vectors in
    the state, k more in a step, and in a refresh those of `eigsh`.

    Example:
        >>> import eigenjax, jax.numpy as jnp, optax
        >>> curvature = eigenjax.as_operator(jnp.diag(jnp.array([100.0, 10.0, 1.0])))
        >>> optimizer = optax.chain(scale_by_natural_gradient(2, damping=1.0), optax.scale(-1.0))
        >>> params = jnp.ones(3)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(curvature(params), state, params, curvature=curvature)
        >>> print([f"{x:.2f}" for x in updates])
        ['-0.99', '-0.91', '-1.00']

    Source: Amari (1998), Natural gradient works efficiently in learning; Dauphin et al. (2014) for "abs".
    """
    try:
        import optax
    except ImportError as error:
        raise ImportError(f'{_NAME} needs optax: pip install "eigenjax[training]"') from error
    _check_options(damping, negative)
    k, every = (check_int(_NAME, name, value) for name, value in (("k", k), ("every", every)))
    solve = partial(eigsh, k=k, which=_WHICH[negative], tol=tol, max_matvecs=max_matvecs)

    def init(params: Any) -> ScaleByNaturalGradientState:
        return _initial_state(k, params)

    def update(updates: Any, state: Any, params: Any = None, *, curvature: Any = None, **others: Any):
        del params, others
        op = _checked_curvature(curvature, state, updates)
        now = damping(state.num_steps) if callable(damping) else damping
        _check_damping(now, " by its schedule" if callable(damping) else "")
        is_due = state.num_steps % jnp.int32(every) == 0
        state = apply_when(is_due, lambda state: _refreshed(solve, op, state), state)
        pairs = _pairs(state)
        metric = low_rank(pairs, damping=now, negative=negative, like=op.structure)
        return metric.solve(updates), state._replace(num_steps=state.num_steps + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _initial_state(k: int, params: PyTree) -> ScaleByNaturalGradientState:
    """Create the state before the first matvec: pseudo-random rows, no values."""
    structure = tree.working_structure(describe_all(params))
    check_count(k, tree.size(structure), f"init of {_NAME}")
    rows = arbitrary_rows(seed_of(None), structure, k)
    zero = jnp.zeros((), jnp.int32)
    return ScaleByNaturalGradientState(jnp.zeros(k, tree.real_dtype(tree.accumulation_dtype(rows))), rows, zero, zero)


def _refreshed(solve: Callable[..., EigenResult], op: LinearOperator, state: Any) -> ScaleByNaturalGradientState:
    """Compute the pairs from the previous ones; keep the previous ones if matvecs are NaN or Inf."""
    found = solve(jax.lax.stop_gradient(op), v0=state.eigenvectors)
    state = state._replace(num_matvecs=state.num_matvecs + found.num_matvecs)
    new = state._replace(eigenvalues=found.eigenvalues, eigenvectors=found.eigenvectors)
    return tree.where(found.status != jnp.int32(Status.NONFINITE), new, state)


def _pairs(state: ScaleByNaturalGradientState) -> EigenResult:
    """Return the pairs as a result all of whose pairs count."""
    values, zero = state.eigenvalues, jnp.zeros((), jnp.int32)
    return EigenResult(values, state.eigenvectors, jnp.zeros_like(values), jnp.ones(values.shape, bool), zero, zero)


def _check_options(damping: Any, negative: Any) -> None:
    check_choice(_NAME, "negative", negative, tuple(_WHICH))
    if not callable(damping):
        _check_damping(damping, "")


def _check_damping(damping: Any, source: str) -> None:
    remedy = "give a positive number, or a schedule of such numbers"
    if damping is None:
        raise TypeError(f"{_NAME} got damping=None{source}: {remedy}")
    check_number(_NAME, "damping", damping, least=0.0, remedy=remedy)
    if not isinstance(damping, Tracer) and not damping > 0:
        raise ValueError(f"{_NAME} got damping={float(damping)}{source}: {remedy}")


def _checked_curvature(curvature: Any, state: Any, updates: PyTree) -> LinearOperator:
    """Return the operator of a step; raise an error unless state, curvature and updates fit."""
    if not isinstance(state, ScaleByNaturalGradientState):
        raise TypeError(f"{_NAME} got {brief(state)} as state: give that of its init(params), or of its last update")
    if curvature is None:
        raise TypeError(
            f"{_NAME} got curvature=None: pass the operator of this step, optimizer.update(gradient, state, params, "
            "curvature=eigenjax.fisher(model, params, data))"
        )
    with prefixed(f"{_NAME} got a curvature that does not fit, give an operator on vectors like the updates"):
        op = as_operator(curvature, like=tree.structure_of(updates))
        check_vector(updates, op.structure, name="the updates")
    return op
