"""Generalized eigenproblems A x = lambda B x, and shift-invert.

Read `pencil` first, then `transforms`: the operators that a symmetric solver multiplies in place of A. `mass` solves
systems with B, `solve` runs the solver, and `assembly` makes the result of the pencil from its vectors. `quotient` is
B^-1 A for `eigs`.

Imports `symmetric` and what stands below the solvers.
"""
