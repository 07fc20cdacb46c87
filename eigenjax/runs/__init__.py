"""Long runs: data that does not fit in memory, progress, checkpoints, and an estimate of the resources.

Read `run` first, then `solve` (its compiled steps) and `stream` (operators over batches from disk). `checkpoint`,
`lock` and `fingerprint` save and resume; `estimator` runs the estimators of a spectrum; `estimate` predicts memory and
matvecs.

Imports `vectors`, `operators`, `krylov`, `solvers` and `spectrum`.
"""
