"""Vectors as pytrees of arrays, with the operations that solvers need.

Read `tree` first (inner products, sums, bases with a leading axis), then `orthogonalize`. `packing` makes one flat
array of all leaves, and `placement` tells on which devices they are. `basis_change` computes V <- V C in place,
`storage` holds a basis in fewer bits or in host memory. `signs` fixes the sign or phase of an eigenvector. Start
vectors come from `pseudorandom` (a hash, cheap to compile), samples of estimators from `random_vectors`. `arithmetic`
divides without dividing by zero and multiplies small matrices in full precision, `conditional` skips work that is not
needed.

Imports nothing else of the package.
"""
