"""Matrix-free eigenvalue and singular value solvers, and spectral estimators, in JAX."""

from eigenjax.dense import eig, eigenvalue_condition, eigh, svd
from eigenjax.implicit import deflated_power_iteration, eigs, eigsh, lanczos, svds
from eigenjax.implicit.blocks import block_spectra
from eigenjax.implicit.gauge import gauge_residual
from eigenjax.implicit.general import LeftEigenvectors, left_eigenvectors
from eigenjax.implicit.info.adjoint import AdjointInfo, adjoint_info
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.curvature.fisher import fisher
from eigenjax.operators.curvature.gauss_newton import gauss_newton
from eigenjax.operators.curvature.hessian import hessian, hvp
from eigenjax.operators.curvature.jacobian import jacobian, neural_tangent_kernel
from eigenjax.operators.curvature.likelihood_choice import Likelihood
from eigenjax.operators.curvature.linear_head import LinearHead
from eigenjax.operators.curvature.output_loss import softmax_cross_entropy
from eigenjax.operators.inspection import check_operator, symmetry_error, to_dense
from eigenjax.operators.parts.blocks import blocks
from eigenjax.operators.parts.deflated import deflate
from eigenjax.operators.parts.low_rank import low_rank
from eigenjax.operators.parts.low_rank_plus_diagonal import LowRankPlusDiagonal
from eigenjax.operators.parts.precondition import diagonal_operator, precondition
from eigenjax.operators.parts.restriction import restrict
from eigenjax.report.inputs.problem import Problem
from eigenjax.result import EigenError, EigenResult, RunError, SingularResult, Status, raise_if_failed
from eigenjax.runs.estimate import Estimate, estimate
from eigenjax.runs.run import run
from eigenjax.runs.source import memory_mapped_batches
from eigenjax.runs.stream import stream
from eigenjax.solvers.pencil.shift_inverse import shift_inverse
from eigenjax.spectrum import (
    DiagonalResult,
    EstimateStatus,
    FunctionResult,
    SpectralDensity,
    TraceResult,
    diagonal,
    eigenvalue_count,
    frobenius_norm,
    logdet,
    matrix_function,
    spectral_density,
    trace,
    trace_of_function,
)
from eigenjax.spectrum.exponential.expm_multiply import expm_multiply
from eigenjax.training.learning_rate import scale_by_sharpness
from eigenjax.training.natural_gradient import scale_by_natural_gradient
from eigenjax.training.preconditioners import adam_preconditioner
from eigenjax.training.sharpness import sharpness_penalty
from eigenjax.training.spectral_normalization import spectral_norm
from eigenjax.training.tracker import SpectrumTracker, spectrum_tracker
from eigenjax.training.tracker_state import TrackerState

__version__ = "0.2.0"

__all__ = [
    "AdjointInfo",
    "DiagonalResult",
    "EigenError",
    "EigenResult",
    "Estimate",
    "EstimateStatus",
    "FunctionResult",
    "LeftEigenvectors",
    "Likelihood",
    "LinearHead",
    "LinearOperator",
    "LowRankPlusDiagonal",
    "Problem",
    "RunError",
    "SingularResult",
    "SpectralDensity",
    "SpectrumTracker",
    "Status",
    "TraceResult",
    "TrackerState",
    "adam_preconditioner",
    "adjoint_info",
    "as_operator",
    "block_spectra",
    "blocks",
    "check_operator",
    "deflate",
    "deflated_power_iteration",
    "diagonal",
    "diagonal_operator",
    "eig",
    "eigenvalue_condition",
    "eigenvalue_count",
    "eigh",
    "eigs",
    "eigsh",
    "estimate",
    "expm_multiply",
    "fisher",
    "frobenius_norm",
    "gauge_residual",
    "gauss_newton",
    "hessian",
    "hvp",
    "jacobian",
    "lanczos",
    "left_eigenvectors",
    "logdet",
    "low_rank",
    "matrix_function",
    "memory_mapped_batches",
    "neural_tangent_kernel",
    "precondition",
    "raise_if_failed",
    "restrict",
    "run",
    "scale_by_natural_gradient",
    "scale_by_sharpness",
    "sharpness_penalty",
    "shift_inverse",
    "softmax_cross_entropy",
    "spectral_density",
    "spectral_norm",
    "spectrum_tracker",
    "stream",
    "svd",
    "svds",
    "symmetry_error",
    "to_dense",
    "trace",
    "trace_of_function",
]
