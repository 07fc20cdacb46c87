"""Curvature inside a training loop: a tracker of the spectrum, penalties, rules for optax, parts for Flax.

Read `tracker` first; `measurement`, `simultaneous`, `search` and `matching` are its parts, `tracker_state` its state.

Imports `vectors`, `operators`, `krylov`, `solvers` and `implicit`.
"""
