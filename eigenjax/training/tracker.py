"""A tracker of the spectrum for training loops: a few eigenpairs, followed at about one product each.

What the loop sees: `init`, `update`, a flat dict of scalars. What an update does is in `measurement`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import check_choice, check_int, check_number, plain_int, shown
from eigenjax.calls import explained
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.checks import prefixed
from eigenjax.operators.convert import as_operator
from eigenjax.result import Status
from eigenjax.training.measurement import Plan, first_followed, measure
from eigenjax.training.tracker_state import TrackerState, begin
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when

# Residuals up to this share of ||A|| leave errors of its square over the gap in the eigenvalues: a percent or less.
DEFAULT_TOL = 1e-2
# What an update may take by default: a search of a Hessian with k outliers needs about 2 k products, early ones more.
_PER_PAIR, _BESIDE = 4, 20
_BETWEEN = ("hold", "rayleigh")


class SpectrumTracker(NamedTuple):
    """Two pure functions, as those of an optimizer of optax."""

    init: Callable[..., TrackerState]
    """`init(op, key=None) -> state`; costs no product: the first update does the work."""
    update: Callable[[Any, TrackerState], tuple[TrackerState, dict[str, jax.Array]]]
    """`update(op, state) -> (state, metrics)`, with the operator as it is at this step."""


@explained
def spectrum_tracker(
    k: int,
    *,
    which: str = "LA",
    every: int = 1,
    matvecs_per_update: int | None = None,
    tol: float = DEFAULT_TOL,
    between: str = "hold",
    max_k: int | None = None,
    threshold: float | None = None,
    krylov_dim: int | None = None,
) -> SpectrumTracker:
    """Follows k eigenpairs of an operator that changes a little at every step, inside a jitted training step.

        Y^H A Y c = theta Y^H Y c,    X = Y C,    R = A X - X Theta,    y_i <- x_i + r_i / (theta_i - sigma)

    An update is one batched pass of k + 1 products: the Ritz pairs of the k vectors, one power step ahead of what they
    were, and of a guard, which is on its way to the next eigenvector in line. Where a residual is above tol, Lanczos
    goes on from there within the budget. Pairs are numbered, and keep their number and their sign through crossings.

    The guard is how newcomers are noticed: an eigenvalue lambda that leaves the bulk takes it over by
    (lambda - far end) / (next eigenvalue - far end) an update, after about log(10 sqrt(n)) / log(that ratio) updates:
    20 where the newcomer is half as large again as what is next, n = 10^5. A search sees it at once.

    Args:
        k: pairs, static.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn.
        every: steps from one update to the next. Those between cost what `between` says.
        matvecs_per_update: products at most; None is 4 k + 20. With k + 1 there are no searches, which also compiles
            in a fraction of the time: good for whoever can wait for the iteration to converge by itself.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; above, a search is
            made. Eigenvalues are off by about the square of the residual over the gap. The bottom of a network's
            Hessian is a hundredth of its top: "SA" says little there without a smaller tol and a larger budget.
        between: "hold" gives the last numbers again, for nothing. "rayleigh" gives the Rayleigh quotient
            <v_0, A v_0> for the first pair, at one product: right to the square of what v_0 has turned since. Its
            residual and its flag are of this product too; those of the other pairs are of the last update.
        max_k: room for so many pairs: the number tracked grows by one an update while the last of them is beyond
            `threshold`, and shrinks again, to k at least. Products are then taken one by one, as many as are needed.
        threshold: with max_k, and `which` other than "BE"; such as 2 / learning_rate.
        krylov_dim: vectors that a search holds; None is max(2 k + 10, 20).

    Returns:
        `init` and `update`. Metrics are scalars: `eigenvalue_i`, `residual_i`, `converged_i`, `track_i` (the number of
        the pair: it stays with the vector) and, with max_k, `active_i`, for each i; `next_eigenvalue` (the guard's
        Rayleigh quotient); `age` (steps since the last update), `num_matvecs` (of this step), `searched` (of the last
        update) and `status`. Where there is no eigenvalue, of a pair not tracked or after the last one, it is -inf
        (+inf for "SA"): never NaN, which `jax_debug_nans` takes for an error. In the state the eigenvectors are
        shaped like the operator's vectors, with a leading axis, and the residuals are theirs.

    Raises:
        ValueError: if an option does not fit; TypeError: if it is no int.

    Cost: k + 1 products an update while the drift is small; a search takes as many more as a cold solve (14 for k = 3).
    Memory: 2 k + 1 vectors in the state, 2 k + 2 more in an update, krylov_dim + k + 4 in a search. NaN and Inf in a
    product are told by `status` and leave the vectors as they were. Gradients do not flow through it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from eigenjax import as_operator
        >>> tracker = spectrum_tracker(2, matvecs_per_update=3)  # no searches: quickly compiled
        >>> spectrum = lambda t: jnp.linspace(0.0, 1.0, 50).at[:2].set(jnp.array([4.0 - t, 2.0 + t]))
        >>> state = tracker.init(as_operator(jnp.diag(spectrum(0.0))), jax.random.key(0))
        >>> for step in range(21):
        ...     state, metrics = tracker.update(as_operator(jnp.diag(spectrum(0.1 * step))), state)
        >>> print(f"{metrics['eigenvalue_0']:.3f} {metrics['eigenvalue_1']:.3f}", metrics["num_matvecs"])
        4.000 2.000 3
        >>> print(metrics["track_0"], metrics["track_1"])  # they have crossed
        1 0

    Source: Rutishauser (1970), Simultaneous iteration method; of the search Wu and Simon (2000).
    """
    k, matvecs_per_update, max_k, krylov_dim, every = map(plain_int, (k, matvecs_per_update, max_k, krylov_dim, every))
    plan = _checked_plan(k, which, matvecs_per_update, tol, max_k, threshold, krylov_dim)
    _check_positive("every", every)
    check_choice("spectrum_tracker", "between", between, _BETWEEN)
    # Under jit, so that a training loop that is not compiled as a whole is not slow.
    measured = jax.jit(functools.partial(_update, plan, every, between))

    @explained
    def init(op: Any, key: jax.Array | None = None) -> TrackerState:
        """Give the state before the first product."""
        return _init(plan, op, key)

    @explained
    def update(op: Any, state: TrackerState) -> tuple[TrackerState, dict[str, Any]]:
        """Take one training step."""
        _check_state(plan, state)
        row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.rows)
        return measured(_operator("update of spectrum_tracker", op, row), state)

    return SpectrumTracker(init, update)


def _init(plan: Plan, op: Any, key: jax.Array | None) -> TrackerState:
    op = _operator("init of spectrum_tracker", op, None)
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(
            f"init of spectrum_tracker got key={shown(key)}: give a typed key, such as jax.random.key(0), or None"
        )
    ritz.check_count(plan.max_k, op.size, "spectrum_tracker")
    return begin(op, key, plan.k, plan.max_k, plan.which)


def _operator(function: str, op: Any, like: Any) -> LinearOperator:
    """The operator that was meant; a plain function is one of vectors like those."""
    is_function = callable(op) and not (isinstance(op, LinearOperator) or hasattr(op, "mv"))
    if is_function and like is None and not hasattr(op, "no_operator"):
        raise TypeError(
            f"{function} got {shown(op)}, which says nothing of its vectors: give an operator, such as "
            "as_operator(f, like=params)"
        )
    with prefixed(function):
        return as_operator(op, like=like)


def _check_state(plan: Plan, state: Any) -> None:
    if not isinstance(state, TrackerState):
        what = "the pair that update returns" if isinstance(state, tuple) else type(state).__name__
        raise TypeError(
            f"update of spectrum_tracker got {what} as state: give update(op, state), with the state of init(op, key) "
            "or the first of what the last update returned"
        )
    room = jnp.shape(state.eigenvalues)
    if room != (plan.max_k,):
        raise ValueError(
            f"update of spectrum_tracker got a state of {room} pairs, and follows {plan.max_k}: give the state of its "
            "own init"
        )


def _update(plan: Plan, every: int, between: str, op: Any, state: TrackerState) -> tuple[TrackerState, dict[str, Any]]:
    """One training step: a measurement when it is due."""
    op = jax.lax.stop_gradient(op)
    check_vector(tree.row(state.rows, 0), tree.working_structure(op.structure), name="the state's vector")
    before = state.num_matvecs
    age = state.num_steps % jnp.int32(every)
    if every == 1:
        state = measure(plan, op, state)
    else:
        state = apply_when(age == 0, lambda state: measure(plan, op, state), state)
        if between == "rayleigh":
            state = apply_when(age != 0, lambda state: first_followed(plan, op, state), state)
    state = state._replace(num_steps=state.num_steps + 1)
    return state, _metrics(plan, state, age, state.num_matvecs - before)


def _metrics(plan: Plan, state: TrackerState, age: jax.Array, spent: jax.Array) -> dict[str, jax.Array]:
    """A flat dict of scalars."""
    each = {"eigenvalue": state.eigenvalues, "residual": state.residuals, "converged": state.converged}
    each |= {"track": state.tracks} | ({"active": state.active} if plan.grows else {})
    metrics = {f"{name}_{i}": values[i] for name, values in each.items() for i in range(plan.max_k)}
    fine = jnp.all(state.converged | ~state.active)
    met_nan = jnp.any(jnp.isnan(state.residuals))
    status = jnp.where(met_nan, jnp.int32(Status.NONFINITE), jnp.int32(Status.NOT_CONVERGED))
    return metrics | {
        "next_eigenvalue": state.next_eigenvalue,
        "age": age,
        "num_matvecs": spent,
        "searched": state.searched,
        "status": jnp.where(fine, jnp.int32(Status.CONVERGED), status),
    }


def _checked_plan(k: Any, which: str, budget: Any, tol: Any, max_k: Any, threshold: Any, krylov_dim: Any) -> Plan:
    """What is to be followed, and at what price."""
    _check_positive("k", k)
    ritz.check_which(which, "spectrum_tracker")
    check_number("spectrum_tracker", "tol", tol, least=0.0, remedy="give a number from 0 up, such as 1e-2")
    check_number(
        "spectrum_tracker", "threshold", threshold, remedy="give one number, such as 2 / learning_rate, or None"
    )
    if tol is None or isinstance(tol, Tracer) or isinstance(threshold, Tracer):
        raise TypeError(f"spectrum_tracker got tol={shown(tol)}, threshold={shown(threshold)}: give Python numbers")
    if (max_k is None) != (threshold is None):
        raise ValueError(
            f"spectrum_tracker got max_k={max_k}, threshold={threshold}: a number of pairs that grows needs both"
        )
    if max_k is not None:
        _check_positive("max_k", max_k)
        if max_k <= k or which == "BE":
            raise ValueError(
                f"spectrum_tracker got max_k={max_k}, which={which!r}: give more than k={k}, and one end of the "
                "spectrum"
            )
    room = max_k or k
    if budget is None:
        budget = _PER_PAIR * room + _BESIDE
    _check_positive("matvecs_per_update", budget)
    if budget < room + 1:
        raise ValueError(
            f"spectrum_tracker got matvecs_per_update={budget}: {room} pairs and the guard take {room + 1} products at "
            "least"
        )
    if krylov_dim is not None:
        _check_positive("krylov_dim", krylov_dim)
        if krylov_dim < room + 1:
            raise ValueError(f"spectrum_tracker got krylov_dim={krylov_dim}: {room} pairs need {room + 1} or more")
    # Both ends in turn, of which only the first: that is the upper one.
    which = "LA" if which == "BE" and k == 1 else which
    return Plan(k, room, which, budget, float(tol), None if threshold is None else float(threshold), krylov_dim)


def _check_positive(name: str, value: Any) -> None:
    check_int("spectrum_tracker", name, value)
