"""Spectrum tracker for training loops: it follows a few eigenpairs at about one matvec each per step.

The interface consists of `init`, `update` and a flat dict of scalars. `measurement` implements an update.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from eigenjax.arguments import brief, check_choice, check_int, check_number, plain_int
from eigenjax.calls import explained, prefixed
from eigenjax.krylov import ritz
from eigenjax.operators.base import LinearOperator, check_vector
from eigenjax.operators.convert import as_operator
from eigenjax.result import Status
from eigenjax.solvers.convergence.status import attainable_tolerance
from eigenjax.training.measurement import TrackerSpec, first_followed, measure
from eigenjax.training.tracker_state import TrackerState, initial_state
from eigenjax.vectors import tree
from eigenjax.vectors.conditional import apply_when

# A residual of this fraction of ||A|| gives an eigenvalue error of its square over the gap: one percent or less.
DEFAULT_TOL = 1e-2
# Default budget of an update: a search of a Hessian with k outliers needs about 2 k matvecs, early ones more.
_PER_PAIR, _BESIDE = 4, 20
_BETWEEN = ("hold", "rayleigh")


class SpectrumTracker(NamedTuple):
    """Pair of pure functions, in the style of an optimizer of optax.

    Example:
        >>> import jax.numpy as jnp
        >>> tracker = spectrum_tracker(1)
        >>> matrix = jnp.diag(jnp.arange(30.0))
        >>> state, metrics = tracker.update(matrix, tracker.init(matrix))
        >>> print(metrics["eigenvalue_0"].round(2) == 29, metrics["converged_0"])
        True True
    """

    init: Callable[..., TrackerState]
    """`init(op, key=None) -> state`, without matvecs: the first update does the work."""
    update: Callable[[Any, TrackerState], tuple[TrackerState, dict[str, jax.Array]]]
    """`update(op, state) -> (state, metrics)`, with the operator of this step."""


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
    """Create a tracker of k eigenpairs of a slowly changing operator, for use inside a jitted training step.

        Y^H A Y c = theta Y^H Y c,    X = Y C,    R = A X - X Theta,    y_i <- x_i + r_i / (theta_i - sigma)

    An update is one batched pass of k + 1 matvecs, with the k vectors after one power step and with a guard vector. The
    guard vector converges to the next eigenvector. If a Ritz pair has a residual above tol, Lanczos continues from
    these vectors within the budget. Pairs are numbered, and keep their number and their sign through crossings.

    The guard vector detects new outliers. If an eigenvalue lambda leaves the bulk, its component in the guard vector
    grows in every update by

        ratio = (lambda - far end) / (next eigenvalue - far end)

    with far end the unwanted end of the spectrum. Detection takes about log(10 sqrt(n)) / log(ratio) updates: 20 if
    lambda is 1.5 times the next eigenvalue and n = 10^5. A search finds it at once.

    Args:
        k: number of pairs, static.
        which: "LA" largest, "SA" smallest, "LM" largest magnitude, "BE" from both ends in turn.
        every: steps from one update to the next. `between` sets the cost of those in between.
        matvecs_per_update: most matvecs of an update; None is 4 k + 20. With k + 1 there are no searches, which also
            compiles in a fraction of the time; use it if slow convergence of the iteration is acceptable.
        tol: a pair is converged when its residual is at most tol times the largest |Ritz value|; otherwise a search is
            made. Eigenvalue errors are about the square of the residual over the gap. The lowest eigenvalues of a
            network's Hessian are a hundredth of the largest: "SA" needs a smaller tol and a larger budget. At least 4
            eps of leaves and matrix products in 16 bits.
        between: "hold" returns the last metrics again, at no cost. "rayleigh" returns the Rayleigh quotient
            <v_0, A v_0> for the first pair, at one matvec; its error is quadratic in the rotation of v_0 since the last
            update. Residual and flag of this pair are from the same matvec, those of the others from the last update.
        max_k: largest number of pairs. The number tracked grows by one per update while the last pair is beyond
            `threshold`, and shrinks again, to k at least. Matvecs are then taken one by one, as many as needed.
        threshold: limit for max_k, with `which` other than "BE"; such as 2 / learning_rate.
        krylov_dim: number of basis vectors of a search; None is max(2 k + 10, 20).

    Returns:
        `init` and `update`. Metrics are scalars. For each i: `eigenvalue_i`, `residual_i`, `converged_i`, `track_i`
        (the number of the pair, which stays with the vector) and, with max_k, `active_i`. Others:
        `next_eigenvalue` (the Rayleigh quotient of the guard vector), `age` (steps since the last update),
        `num_matvecs` (of this step), `searched` (of the last update) and `status`. A missing eigenvalue, of an
        untracked pair or after the last one, is -inf (+inf for "SA"). It is never NaN, which `jax_debug_nans` treats as
        an error. In the state, the eigenvectors are shaped like the operator's vectors, with a leading axis, and the
        residuals are theirs.

    Raises:
        ValueError: if an option does not fit.
        TypeError: if an integer option is not an int.

    Cost: k + 1 matvecs an update while the drift is small; a search takes as many more as a cold solve (14 for k = 3).
    Memory: 2 k + 1 vectors in the state, 2 k + 2 more in an update, krylov_dim + k + 4 in a search. NaN and Inf in a
    matvec are reported by `status` and leave the vectors unchanged. Gradients do not flow through the tracker.

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
    check_int("spectrum_tracker", "every", every)
    check_choice("spectrum_tracker", "between", between, _BETWEEN)
    # Compiled, so that a training loop that is not jitted as a whole is not slow.
    measured = jax.jit(functools.partial(_update, plan, every, between))

    @explained
    def init(op: Any, key: jax.Array | None = None) -> TrackerState:
        """Create the state before the first matvec."""
        return _init(plan, op, key)

    @explained
    def update(op: Any, state: TrackerState) -> tuple[TrackerState, dict[str, Any]]:
        """Update the state by one training step."""
        _check_state(plan, state)
        row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.rows)
        return measured(_operator("update of spectrum_tracker", op, row), state)

    return SpectrumTracker(init, update)


def _init(plan: TrackerSpec, op: Any, key: jax.Array | None) -> TrackerState:
    op = _operator("init of spectrum_tracker", op, None)
    if key is not None and not isinstance(key, jax.Array):
        raise TypeError(
            f"init of spectrum_tracker got key={brief(key)}: give a typed key, such as jax.random.key(0), or None"
        )
    ritz.check_count(plan.max_k, op.size, "spectrum_tracker")
    return initial_state(op, key, plan.k, plan.max_k, plan.which)


def _operator(function: str, op: Any, like: Any) -> LinearOperator:
    """Convert an argument to an operator; a plain function acts on vectors like `like`."""
    is_function = callable(op) and not (isinstance(op, LinearOperator) or hasattr(op, "mv"))
    if is_function and like is None and not hasattr(op, "no_operator"):
        raise TypeError(
            f"{function} got {brief(op)}, which says nothing of its vectors: give an operator, such as "
            "as_operator(f, like=params)"
        )
    with prefixed(function):
        return as_operator(op, like=like)


def _check_state(plan: TrackerSpec, state: Any) -> None:
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


def _update(
    plan: TrackerSpec, every: int, between: str, op: Any, state: TrackerState
) -> tuple[TrackerState, dict[str, Any]]:
    """Update the state by one training step, with a measurement if one is due."""
    op = jax.lax.stop_gradient(op)
    plan = plan._replace(tol=max(plan.tol, attainable_tolerance(op)))
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


def _metrics(plan: TrackerSpec, state: TrackerState, age: jax.Array, num_matvecs: jax.Array) -> dict[str, jax.Array]:
    """Collect the metrics in a flat dict of scalars."""
    each = {"eigenvalue": state.eigenvalues, "residual": state.residuals, "converged": state.converged}
    each |= {"track": state.tracks} | ({"active": state.active} if plan.grows else {})
    metrics = {f"{name}_{i}": values[i] for name, values in each.items() for i in range(plan.max_k)}
    fine = jnp.all(state.converged | ~state.active)
    met_nan = jnp.any(jnp.isnan(state.residuals))
    status = jnp.where(met_nan, jnp.int32(Status.NONFINITE), jnp.int32(Status.NOT_CONVERGED))
    return metrics | {
        "next_eigenvalue": state.next_eigenvalue,
        "age": age,
        "num_matvecs": num_matvecs,
        "searched": state.searched,
        "status": jnp.where(fine, jnp.int32(Status.CONVERGED), status),
    }


def _checked_plan(
    k: Any, which: str, budget: Any, tol: Any, max_k: Any, threshold: Any, krylov_dim: Any
) -> TrackerSpec:
    """Check the options of a tracker, and fill in the defaults."""
    check_int("spectrum_tracker", "k", k)
    ritz.check_which(which, "spectrum_tracker")
    check_number("spectrum_tracker", "tol", tol, least=0.0, remedy="give a number from 0 up, such as 1e-2")
    check_number(
        "spectrum_tracker", "threshold", threshold, remedy="give one number, such as 2 / learning_rate, or None"
    )
    if tol is None or isinstance(tol, Tracer) or isinstance(threshold, Tracer):
        raise TypeError(f"spectrum_tracker got tol={brief(tol)}, threshold={brief(threshold)}: give Python numbers")
    if (max_k is None) != (threshold is None):
        raise ValueError(
            f"spectrum_tracker got max_k={max_k}, threshold={threshold}: a number of pairs that grows needs both"
        )
    if max_k is not None:
        check_int("spectrum_tracker", "max_k", max_k)
        if max_k <= k or which == "BE":
            raise ValueError(
                f"spectrum_tracker got max_k={max_k}, which={which!r}: give more than k={k}, and one end of the "
                "spectrum"
            )
    room = max_k or k
    if budget is None:
        budget = _PER_PAIR * room + _BESIDE
    check_int("spectrum_tracker", "matvecs_per_update", budget)
    if budget < room + 1:
        raise ValueError(
            f"spectrum_tracker got matvecs_per_update={budget}: {room} pairs and the guard take {room + 1} matvecs at "
            "least"
        )
    if krylov_dim is not None:
        check_int("spectrum_tracker", "krylov_dim", krylov_dim)
        if krylov_dim < room + 1:
            raise ValueError(f"spectrum_tracker got krylov_dim={krylov_dim}: {room} pairs need {room + 1} or more")
    # With one pair, "BE" is the upper end.
    which = "LA" if which == "BE" and k == 1 else which
    return TrackerSpec(k, room, which, budget, float(tol), None if threshold is None else float(threshold), krylov_dim)
