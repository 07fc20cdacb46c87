"""Eigenvalues and eigenvectors of operators too large to write down, in JAX."""

from eigenjax.dense import eig, eigenvalue_condition, eigh, svd
from eigenjax.implicit import deflated_power_iteration, eigs, eigsh, lanczos, svds
from eigenjax.implicit.adjoint import AdjointInfo, adjoint_info
from eigenjax.implicit.gauge import gauge_residual
from eigenjax.implicit.general import LeftEigenvectors, left_eigenvectors
from eigenjax.operators.base import LinearOperator
from eigenjax.operators.convert import as_operator
from eigenjax.operators.hessian import hessian, hvp
from eigenjax.operators.inspection import symmetry_error, to_dense
from eigenjax.report.problem import Problem
from eigenjax.result import EigenError, EigenResult, SingularResult, Status, raise_if_failed
from eigenjax.training.learning_rate import scale_by_sharpness
from eigenjax.training.sharpness import sharpness_penalty
from eigenjax.training.spectral_normalization import spectral_norm
from eigenjax.training.tracker import SpectrumTracker, spectrum_tracker
from eigenjax.training.tracker_state import TrackerState

__all__ = [
    "AdjointInfo",
    "EigenError",
    "EigenResult",
    "LeftEigenvectors",
    "LinearOperator",
    "Problem",
    "SingularResult",
    "SpectrumTracker",
    "Status",
    "TrackerState",
    "adjoint_info",
    "as_operator",
    "deflated_power_iteration",
    "eig",
    "eigenvalue_condition",
    "eigh",
    "eigs",
    "eigsh",
    "gauge_residual",
    "hessian",
    "hvp",
    "lanczos",
    "left_eigenvectors",
    "raise_if_failed",
    "scale_by_sharpness",
    "sharpness_penalty",
    "spectral_norm",
    "spectrum_tracker",
    "svd",
    "svds",
    "symmetry_error",
    "to_dense",
]
