"""Estimators for the whole spectrum: its density, the trace, the diagonal, and functions of the operator.

Read `trace` first, then `density`. `function_traces` has `logdet`, over `function_estimates`; `functions` has functions
times a vector, over `general_functions` for operators without symmetry, and `function_adjoint` their derivative.
`probing/` holds the random probes and quadratures, `exponential/` the exponential; `status` holds the status codes.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""

from eigenjax.spectrum.count import eigenvalue_count
from eigenjax.spectrum.density import SpectralDensity, spectral_density
from eigenjax.spectrum.diagonal import DiagonalResult, diagonal
from eigenjax.spectrum.frobenius import frobenius_norm
from eigenjax.spectrum.function_traces import logdet, trace_of_function
from eigenjax.spectrum.functions import FunctionResult, matrix_function
from eigenjax.spectrum.status import EstimateStatus
from eigenjax.spectrum.trace import TraceResult, trace

__all__ = [
    "DiagonalResult",
    "EstimateStatus",
    "FunctionResult",
    "SpectralDensity",
    "TraceResult",
    "diagonal",
    "eigenvalue_count",
    "frobenius_norm",
    "logdet",
    "matrix_function",
    "spectral_density",
    "trace",
    "trace_of_function",
]
