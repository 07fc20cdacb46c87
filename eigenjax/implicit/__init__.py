"""Derivatives of the solvers by implicit linear systems.

Read `symmetric` first, then `general` and `singular`; `systems/` holds the linear systems. `program` compiles a solver
with its options, `phases` adds the derivative of the phase convention, and `gauge` tests whether a loss depends on more
than the subspace. `blocks` solves all layers at once, and `info/` reports the convergence of the linear systems.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""

from eigenjax.implicit.general import differentiable as _differentiable_general
from eigenjax.implicit.singular import differentiable as _differentiable_triplets
from eigenjax.implicit.symmetric import differentiable
from eigenjax.solvers.general import eigs as _eigs
from eigenjax.solvers.singular import svds as _svds
from eigenjax.solvers.symmetric import eigsh as _eigsh
from eigenjax.solvers.symmetric import lanczos as _lanczos
from eigenjax.solvers.symmetric import power_iteration as _power

eigs = _differentiable_general(_eigs.eigs)
eigsh = differentiable(_eigsh.eigsh, recycling=_eigsh.eigsh_and_recycled)
lanczos = differentiable(_lanczos.lanczos)
deflated_power_iteration = differentiable(_power.deflated_power_iteration)
svds = _differentiable_triplets(_svds.svds, recycling=_svds.svds_and_recycled)
