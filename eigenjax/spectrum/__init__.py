"""The spectrum as a whole: its density, the trace, the diagonal, and functions of the operator."""

from eigenjax.spectrum.density import SpectralDensity, spectral_density
from eigenjax.spectrum.diagonal import DiagonalResult, diagonal
from eigenjax.spectrum.functions import FunctionResult, frobenius_norm, logdet, matrix_function, trace_of_function
from eigenjax.spectrum.trace import TraceResult, trace

__all__ = [
    "DiagonalResult",
    "FunctionResult",
    "SpectralDensity",
    "TraceResult",
    "diagonal",
    "frobenius_norm",
    "logdet",
    "matrix_function",
    "spectral_density",
    "trace",
    "trace_of_function",
]
