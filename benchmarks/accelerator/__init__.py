"""Claim: on an accelerator results are correct; measures the solvers' cost relative to their matvecs and to peers.

Four stages. Each writes its result file after every row, with the most important rows first, so that a time limit loses
no results. Rows that do not fit into the given minutes are recorded as skipped, and failures by their error.

    right       values, residuals and gradients against NumPy in float64, for each dtype and solver
    overhead    the time of a solve over that of a bare scan of as many matvecs, on five problems
    peers       CuPy, PyTorch, SciPy and jax.numpy at an equal true residual
    split       one step of `eigsh` in its pieces: matvec, orthogonalization, convergence check, restart

    python -m benchmarks.accelerator [--minutes 6] [--stages right,overhead,peers,split] [--quick] [--out DIR]
"""

import os

# Leave memory on the device to CuPy and PyTorch. JAX reads this when it first uses the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
