"""Long runs: data that does not fit, progress, checkpoints, and an estimate beforehand."""
