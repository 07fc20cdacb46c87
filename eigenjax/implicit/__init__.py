"""Derivatives of the solvers by implicit linear systems.

Read `differentiable` first, which registers a rule with JAX, then the rules: `symmetric`, `interval`, `pencil`,
`general` and `singular`. `systems/` holds their linear systems. `program` sorts the options of a call, `phases` adds
the derivative of the phase convention, and `gauge` tests whether a loss depends on more than the subspace. `blocks`
solves all layers at once, and `info/` reports the convergence of the linear systems.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""

import functools as _functools
from typing import Any as _Any

from eigenjax.implicit import general as _general
from eigenjax.implicit import interval as _interval
from eigenjax.implicit import pencil as _pencil
from eigenjax.implicit import singular as _singular
from eigenjax.implicit import symmetric as _symmetric
from eigenjax.implicit.differentiable import differentiable as _differentiable
from eigenjax.result import EigenResult as _EigenResult
from eigenjax.solvers.dense import general as _dense_general
from eigenjax.solvers.dense import interval as _dense_interval
from eigenjax.solvers.dense import pencil as _dense_pencil
from eigenjax.solvers.dense import singular as _dense_singular
from eigenjax.solvers.dense import symmetric as _dense_symmetric
from eigenjax.solvers.general import eigs as _eigs
from eigenjax.solvers.interval import eigsh as _interval_eigsh
from eigenjax.solvers.pencil import eigsh as _pencil_eigsh
from eigenjax.solvers.singular import svds as _svds
from eigenjax.solvers.symmetric import eigsh as _eigsh
from eigenjax.solvers.symmetric import lanczos as _lanczos
from eigenjax.solvers.symmetric import power_iteration as _power

eigs = _differentiable(_eigs.eigs, _general.RULE, dense=_dense_general.SOLVER)
_eigsh_of_operator = _differentiable(
    _eigsh.eigsh,
    _symmetric.RULE,
    recycles=True,
    shares_programs=_eigsh.shares_programs,
    dense=_dense_symmetric.SOLVER,
)
_eigsh_of_pencil = _differentiable(_pencil_eigsh.eigsh, _pencil.RULE, recycles=True, dense=_dense_pencil.SOLVER)

_eigsh_of_interval = _differentiable(_interval_eigsh.eigsh, _interval.RULE, recycles=True, dense=_dense_interval.SOLVER)


@_functools.wraps(_eigsh_of_operator)
def eigsh(*args: _Any, **options: _Any) -> _EigenResult:
    """Call the solver of an operator, of an interval, or of a pencil."""
    if options.get("interval") is not None:
        return _eigsh_of_interval(*args, **options)
    is_pencil = options.get("b") is not None or options.get("inverse") is not None
    return (_eigsh_of_pencil if is_pencil else _eigsh_of_operator)(*args, **options)


lanczos = _differentiable(_lanczos.lanczos, _symmetric.RULE)
deflated_power_iteration = _differentiable(_power.deflated_power_iteration, _symmetric.RULE)
svds = _differentiable(_svds.svds, _singular.RULE, recycles=True, dense=_dense_singular.SOLVER)
