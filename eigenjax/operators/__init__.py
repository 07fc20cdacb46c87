"""Linear operators on pytrees, the input of every solver.

Read `base` first: `LinearOperator`, its algebra and `matvec`, the one function through which solvers compute A v.
`convert` turns matrices, sparse matrices and callables into operators (`as_operator`). `rectangular` and `maps` are for
maps between two spaces, `packed` for the flat vectors inside a solver. `inspection` checks a user's operator for
mistakes. `curvature/` holds derivatives of losses and models, `parts/` the parts of an operator, and `functions/` plain
functions made into pytrees.

Imports `vectors` and `operators.functions`.
"""
