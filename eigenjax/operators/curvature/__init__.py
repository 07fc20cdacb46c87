"""Curvature of losses and models: Hessian, Gauss-Newton, Fisher information, Jacobian.

Read `hessian` first, then `gauss_newton`. `output_loss` and `likelihood` are the losses and distributions of model
outputs, and `likelihood_choice` finds the one that a user names or gives. `linear_head` computes logits in chunks, and
`modules` supports flax.nnx modules. `means` detects losses that are sums although a mean over examples is needed.

Imports `vectors`, and the rest of `operators`.
"""
