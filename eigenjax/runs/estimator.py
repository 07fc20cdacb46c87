"""Estimates of a whole spectrum as runs: passes in a loop on the host, with progress and checkpoints."""

import contextlib
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp

from eigenjax.arguments import brief
from eigenjax.operators.base import LinearOperator
from eigenjax.runs import checkpoint, checks, fingerprint
from eigenjax.runs.progress import clock, writer
from eigenjax.runs.solve import vector_shardings
from eigenjax.runs.stream import Stream
from eigenjax.spectrum.probing.host import HostEstimate, HostOperator, Plan
from eigenjax.spectrum.probing.probes import matvecs
from eigenjax.vectors import tree
from eigenjax.vectors.tree import PyTree

_ESTIMATORS = "trace, diagonal, frobenius_norm, spectral_density, logdet or trace_of_function"


class EstimatedOperator(HostOperator):
    """Operator of a run, whose estimate is computed with progress reports and checkpoints."""

    no_operator = f"an estimator of run receives an operator that only {_ESTIMATORS} can take"

    def __init__(self, op: LinearOperator | Stream, folder: checkpoint.Folder | None, every: int, reports: bool):
        self._inner, self._folder, self._every, self._reports = op, folder, every, reports
        self.structure = op.structure
        self.arrays = op.arrays if isinstance(op, Stream) else op
        self.num_estimates = 0

    def products(self, vectors: PyTree) -> PyTree:
        """Compute the (b, ...) matvecs with b vectors in working dtypes."""
        return self._inner.products(vectors) if isinstance(self._inner, Stream) else _products(self._inner, vectors)

    def estimated(self, plan: Plan) -> Any:
        """Compute an estimate from the newest checkpoint on, or from the start."""
        self.num_estimates += 1
        if self.num_estimates > 1:
            raise ValueError("estimator made a second estimate of its operator: give a function that makes one")
        op, folder = self._inner, self._folder
        image, numbers = fingerprint.sketch(op.first_operator() if isinstance(op, Stream) else op)
        estimate = HostEstimate(self, plan, vector_shardings(image))
        identity = _identity(op, plan, numbers) if folder else {}
        if folder is not None:
            self._resume(estimate, folder, identity)
        with _display(self._reports and jax.process_index() == 0, plan.name, estimate) as show:
            while not estimate.done:
                next_save = (estimate.num_matvecs // self._every + 1) * self._every
                while not estimate.done and (folder is None or estimate.num_matvecs < next_save):
                    estimate.advance()
                    show()
                if folder is not None:
                    epoch = op.epoch.signature if isinstance(op, Stream) and op.epoch else None
                    folder.save(estimate.num_matvecs, estimate.state, {"identity": identity, "epoch": epoch})
        return estimate.finish()

    def _resume(self, estimate: HostEstimate, folder: checkpoint.Folder, identity: dict[str, Any]) -> None:
        found = folder.latest()
        if found is None:
            return
        num_matvecs, record = found
        checks.check_same_run(folder.path, record["identity"], identity)
        like = estimate.state_after(num_matvecs)
        estimate.resume(num_matvecs, folder.restore(num_matvecs, record, like=like))
        if isinstance(self._inner, Stream) and jax.process_index() == 0:  # the process whose data the record describes
            self._inner.expected = record.get("epoch")


def run_estimator(
    op: LinearOperator | Stream, estimator: Any, directory: pathlib.Path | None, every: int, progress: bool
) -> Any:
    """Return what an estimator returns, computed as a run."""
    if not callable(estimator):
        raise TypeError(f"run got estimator={brief(estimator)}: {_remedy()}")
    with contextlib.ExitStack() as stack:
        folder = None if directory is None else stack.enter_context(checkpoint.opened(directory))
        operator = EstimatedOperator(op, folder, every, progress)
        result = estimator(operator)
        if not operator.num_estimates:
            raise TypeError(
                f"run got estimator={brief(estimator)}, which made no estimate of its operator: {_remedy()}"
            )
        if folder is not None:
            checks.check_saved(folder.path, folder.has_failed and not folder.has_saved, result)
        return result


def _remedy() -> str:
    return f"give a function of the operator, such as functools.partial(eigenjax.trace, key=key), of {_ESTIMATORS}"


def _identity(op: LinearOperator | Stream, plan: Plan, numbers: jax.Array) -> dict[str, Any]:
    arguments = {"estimator": plan.name, **plan.options, "streamed": isinstance(op, Stream)}
    if plan.function is not None:
        # Functions cannot be compared, but their values can.
        at = jnp.linspace(0.25, 4.0, 16, dtype=tree.real_dtype(tree.accumulation_dtype(op.structure)))
        arguments["f"] = fingerprint.checksum(plan.function(at))
    deflated = plan.inputs.deflated
    arguments["deflate"] = None if deflated is None else fingerprint.checksum(deflated)
    return fingerprint.identity(op.structure, numbers, arguments, plan.inputs.key, None)


@contextlib.contextmanager
def _display(wanted: bool, name: str, estimate: HostEstimate) -> Any:
    """Provide `show()`, to be called after every pass; without `wanted` it does nothing."""
    if not wanted:
        yield lambda: None
        return
    start, before = time.monotonic(), estimate.num_passes
    with writer() as write:

        def show() -> None:
            # Without this the line would tell of passes that are only queued.
            jax.block_until_ready(estimate.state)
            each = (time.monotonic() - start) / max(estimate.num_passes - before, 1)
            write(describe(name, estimate, each), estimate.num_matvecs / estimate.total_matvecs, estimate.done)

        yield show


def describe(name: str, estimate: Any, seconds_per_pass: float) -> str:
    """Format one line of progress, without the elapsed time."""
    left = seconds_per_pass * (estimate.total_passes - estimate.num_passes)
    end = "done" if estimate.done else f"about {clock(left)} left" if math.isfinite(left) else ""
    passes = f"{estimate.num_passes}/{estimate.total_passes} passes"
    return f"{name}: {passes}, {estimate.num_matvecs}/{estimate.total_matvecs} matvecs, {end}"


@jax.jit
def _products(op: LinearOperator, vectors: PyTree) -> PyTree:
    return matvecs(op, vectors, jax.tree.leaves(vectors)[0].shape[0])
