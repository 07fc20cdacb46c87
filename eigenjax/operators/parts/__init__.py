"""Parts of an operator: a block of the parameters, all diagonal blocks, a diagonally scaled operator.

Read `selection` first (parameters by path), then `restriction`, `blocks` and `precondition`.

Imports `vectors` and `operators`, not `operators.curvature`.
"""
