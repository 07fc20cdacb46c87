"""Problem of a report: a user's function or the built-in digits, its operators, and checks of its values.

Imports `vectors`, `operators` and `solvers`.
"""
