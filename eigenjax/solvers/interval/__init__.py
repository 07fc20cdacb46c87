"""All eigenvalues in an interval, by polynomial filtering.

Read `solve` first. `bounds` estimates the ends of the spectrum and its density, `polynomial` chooses the filter,
`assembly` selects the pairs inside, and `eigsh` checks the options.

Imports `vectors`, `operators`, `krylov`, `solvers`, `solvers/convergence` and `solvers/symmetric`.
"""
