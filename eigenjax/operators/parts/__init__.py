"""Parts of an operator: blocks of the parameters, a diagonally scaled operator, low rank plus diagonal.

Read `selection` first (parameters by path), then `restriction`, `blocks`, `precondition` and `low_rank`.

Imports `vectors` and `operators`, not `operators.curvature`.
"""
