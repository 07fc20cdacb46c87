"""The derivative: solvers made differentiable by the implicit linear system."""

from eigenjax.implicit.symmetric import differentiable
from eigenjax.solvers import eigsh as _eigsh
from eigenjax.solvers import lanczos as _lanczos
from eigenjax.solvers import power as _power

eigsh = differentiable(_eigsh.eigsh)
lanczos = differentiable(_lanczos.lanczos)
deflated_power_iteration = differentiable(_power.deflated_power_iteration)
