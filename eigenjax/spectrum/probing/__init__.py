"""Random probe vectors, and the quadratures and estimates made from them.

Read `probes` first, then `quadrature` (Gauss quadrature from Lanczos). `leave_one_out` is for exchangeable
estimators, `deflation` takes known eigenpairs out, `node_widths` gives each node of a density its width.

Imports `vectors`, `operators`, `krylov` and `solvers`.
"""
