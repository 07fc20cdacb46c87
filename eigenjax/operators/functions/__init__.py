"""Plain functions as parts of operators: traced once, with the arrays they read as leaves.

Read `closure` first. `captured` finds the values that a user's function reads from outside, and `trace_key` decides
whether two functions compute the same. `linearization` holds the linear maps of a model. `convolutions` rewrites
convolutions that XLA compiles badly inside loops.

Imports `vectors`.
"""
