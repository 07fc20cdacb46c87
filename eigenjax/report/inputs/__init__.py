"""The problem of a report: a user's function or the built-in digits, its operators, and errors in it.

Imports `vectors` and `operators`.
"""
