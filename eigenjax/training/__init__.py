"""Curvature inside a training loop: a tracker of the spectrum, penalties and rules for optax, pieces for Flax."""
