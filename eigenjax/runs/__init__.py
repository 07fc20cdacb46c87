"""Long runs: data that does not fit in memory, progress, checkpoints, and an estimate beforehand.

Read `run` first, then `solve` (the compiled steps that it drives) and `stream` (operators over batches from disk).
`checkpoint`, `lock` and `fingerprint` save and resume; `estimate` predicts memory and time.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""
