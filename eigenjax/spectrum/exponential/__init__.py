"""Exponential of an operator times a vector, by steps in Krylov spaces.

Read `expm_multiply` first, the function that users call. `steps` is its loop, `defect` one step and its error,
`adjoint` the derivative.
"""
