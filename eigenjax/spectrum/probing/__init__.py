"""Random probe vectors, Gauss quadratures and the estimates made from them.

Read `probes` first, then `quadrature` (Gauss quadrature from Lanczos). `leave_one_out` serves the exchangeable
estimators, `deflation` projects out known eigenpairs, `node_widths` gives each node of a density its width.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""
