"""Eigensolvers without derivatives: start, restart, convergence, and assembly of the result.

Symmetric operators have `symmetric/` (read `eigsh` first), others `general/`, singular values `singular/`. Small
operators are decomposed in `dense/`. Linear systems for the derivatives are in `linear/`. `convergence/` is shared:
residuals, flags, and the search for missed pairs. `start` and `warm_start` make the first vectors, `budget` the largest
number of matvecs.

Imports `vectors`, `operators`, `dense` and `krylov`.
"""
