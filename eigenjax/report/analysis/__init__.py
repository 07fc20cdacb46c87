"""Computations of a report: eigenpairs, layers, the loss landscape, and tables of them.

Imports `report.inputs` and the library.
"""
