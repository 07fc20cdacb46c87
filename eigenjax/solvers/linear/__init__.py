"""Linear systems for the derivatives: several right-hand sides at once, each with its own shift.

Read `minres` first. `conjugate_gradients` is for definite systems, `gmres` for those that are not symmetric, and
`bordered` for the bordered systems of general eigenpairs.

Imports `vectors` and `operators`.
"""
