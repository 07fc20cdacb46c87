"""Problem of a report: a user's function, the digits or generated data; its operators, and checks of its values.

Imports `vectors`, `operators` and `solvers`.
"""
