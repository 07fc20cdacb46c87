"""Curvature of losses and models: Hessian, Gauss-Newton, Fisher information, Jacobian.

Read `hessian` first, then `gauss_newton`. `output_loss` and `likelihood` are the losses and distributions of model
outputs, `linear_head` computes logits in chunks, `modules` supports flax.nnx modules, and `means` detects losses that
are sums where a mean over examples is needed.

Imports `vectors`, and the rest of `operators`.
"""
