"""Sparse matrices in a format whose products compile to fast programs.

`layout` arranges the places of the entries, on the host; `padded` is the matrix.

Imports `vectors`.
"""
