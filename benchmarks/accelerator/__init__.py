"""Claim: on an accelerator results are right; and what solvers cost there, beside their products and beside peers.

Four stages, each of which writes its own result after every row, the most important rows first, so that a limit of
time loses nothing: what does not fit into the minutes given is recorded as skipped, and what fails by its error.

    right       values, residuals and gradients against NumPy in float64, for each dtype and solver
    overhead    the time of a solve over that of a bare scan of as many matvecs, on five problems
    peers       CuPy, PyTorch, SciPy and jax.numpy at an equal true residual
    split       one step of `eigsh` in its pieces: matvec, orthogonalization, convergence check, restart

    python -m benchmarks.accelerator [--minutes 6] [--stages right,overhead,peers,split] [--quick] [--out DIR]
"""

import os

# CuPy and PyTorch need room on the same device; read when JAX first touches it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
