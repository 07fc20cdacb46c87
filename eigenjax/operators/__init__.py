"""Linear operators on pytrees: what eigenvalues are computed of.

Read `base` first: `LinearOperator`, its algebra and `matvec`, the one place where a solver multiplies. `convert` turns
matrices, sparse matrices and callables into operators (`as_operator`); `rectangular` and `maps` are for maps between
two spaces. `inspection` checks an operator that a user has made. Derivatives of losses and models stand in
`curvature/`, parts of an operator in `parts/`, and plain functions made into pytrees in `functions/`.

Imports `vectors` and `operators.functions`.
"""
