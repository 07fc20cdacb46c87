"""Random probe vectors, Gauss quadratures and the estimates made from them.

Read `probes` first, then `quadrature` (Gauss quadrature from Lanczos). `leave_one_out` serves the exchangeable
estimators, `deflation` projects out known eigenpairs, `node_widths` gives each node of a density its width.
`derivatives` and `bilinear_terms` differentiate quadratic and bilinear forms of functions of an operator, and
`quadrature_slopes` the quadrature itself.

`stages` divides an estimator into stages of matvecs; `krylov_stages` does so for Lanczos, and `host` drives them for
operators over data on disk.

Imports `vectors`, `operators`, `krylov`, `solvers` and `implicit`.
"""
