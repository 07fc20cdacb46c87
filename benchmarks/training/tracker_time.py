"""Claim: following three eigenvalues at every 10th or 50th step slows a training loop down by little.

The network and the trainings of `tracker`: 500 steps in one program, with and without a tracker, timed in turn. A
tracker must at least pay for its matvecs, of about three gradients each. `products_share` is this cost relative to the
gradients of all steps, from the matvecs counted. The rest of the slowdown is the tracker's own computation.

    python -m benchmarks.training.tracker_time
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.support import timing
from benchmarks.training.tracker import PAIRS, TRAININGS, Training, digits, loss, network, training_steps
from eigenjax import hessian, spectrum_tracker

# Cost of a Hessian matvec in forward-over-reverse mode, in gradients.
GRADIENTS_PER_PRODUCT = 3


def measure(training: Training, every: int, data: Any, steps: int, repeats: int) -> dict[str, Any]:
    """Return one row."""
    tracker = spectrum_tracker(PAIRS, every=every)
    params = network(jax.random.key(0))
    carry = (params, training.optimizer.init(params), tracker.init(hessian(loss, params, data), jax.random.key(1)))
    tracked, plain = (training_steps(training, data, which, steps) for which in (tracker, None))
    # Skip the first missed-pair search, to time the typical part of a run.
    carry, _ = tracked(carry, jax.random.key(2))
    key = jax.random.key(3)
    programs = {"tracked": functools.partial(tracked, carry, key), "plain": functools.partial(plain, carry, key)}
    timings = timing.interleaved(programs, repeats)
    products = int(np.sum(tracked(carry, key)[1]["num_matvecs"]))
    return {
        "training": training.name,
        "every": every,
        "products": products,
        "tracked_s": timings["tracked"].median,
        "plain_s": timings["plain"].median,
        "slow_down": timing.ratio(timings["tracked"], timings["plain"]),
        "products_share": GRADIENTS_PER_PRODUCT * products / steps,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure times and record them."""
    args = timing.arguments(__doc__, 9, argv)
    data = digits(128 if args.quick else 1797)
    cases = [(TRAININGS[0], 50)] if args.quick else [(training, every) for training in TRAININGS for every in (10, 50)]
    steps = 50 if args.quick else 500
    timing.record("tracker_time", [measure(*case, data, steps, args.repeats) for case in cases], args)


if __name__ == "__main__":
    main()
