"""The derivative: solvers made differentiable by the implicit linear system."""

from eigenjax.implicit.symmetric import differentiable
from eigenjax.solvers import lanczos as _lanczos
from eigenjax.solvers import power as _power

lanczos = differentiable(_lanczos.lanczos)
deflated_power_iteration = differentiable(_power.deflated_power_iteration)
