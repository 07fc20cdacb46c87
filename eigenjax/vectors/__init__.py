"""The vector space: vectors are pytrees of arrays, and all that solvers do with them is here.

Read `tree` first (inner products, sums, bases with a leading axis), then `orthogonalize`. `basis_change` computes
V <- V C in place, `storage` keeps a basis in fewer bits or in host memory, `signs` fixes the sign or phase of an
eigenvector. Start vectors come from `pseudorandom` (a hash, cheap to compile), samples of estimators from
`random_vectors`. `matmul` multiplies small matrices in full precision, `conditional` does work only when it is needed.

Imports nothing else of the package.
"""
