"""The derivative: solvers made differentiable by the implicit linear system."""

from eigenjax.implicit.general import differentiable as _differentiable_general
from eigenjax.implicit.singular import differentiable as _differentiable_triplets
from eigenjax.implicit.symmetric import differentiable
from eigenjax.solvers import eigs as _eigs
from eigenjax.solvers import eigsh as _eigsh
from eigenjax.solvers import lanczos as _lanczos
from eigenjax.solvers import power as _power
from eigenjax.solvers import svds as _svds

eigs = _differentiable_general(_eigs.eigs)
eigsh = differentiable(_eigsh.eigsh, knowing=_eigsh.eigsh_and_remainder)
lanczos = differentiable(_lanczos.lanczos)
deflated_power_iteration = differentiable(_power.deflated_power_iteration)
svds = _differentiable_triplets(_svds.svds, knowing=_svds.svds_and_remainder)
