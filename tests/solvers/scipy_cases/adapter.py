"""SciPy's `eigsh`, `eigs`, `svds` and `lobpcg` in terms of eigenjax, for the cases of SciPy's own tests.

With a shift, `which` selects among the eigenvalues of a transformed problem, here solved as one:

    normal    1 / (lambda - s)               M F M x = nu M x,    F = (A - s M)^-1
    cayley    (lambda + s) / (lambda - s)    (M + 2 s M F M) x = nu M x
    buckling  lambda / (lambda - s)          A F A x = nu A x
"""

import jax.numpy as jnp
import numpy as np

import eigenjax


def dense(a):
    """Return an operator of SciPy or a sparse matrix as an array."""
    return a if isinstance(a, np.ndarray) else np.asarray(a @ np.eye(a.shape[0], dtype=a.dtype))


def rows(v0):
    return None if v0 is None else jnp.asarray(np.asarray(v0).T)


def quotients(a, m, vectors):
    """Return the Rayleigh quotients of rows of vectors."""
    along = lambda b: np.einsum("ij,ij->i", vectors.conj(), vectors @ b.T)
    return along(dense(a)) / (along(dense(m)) if m is not None else np.sum(np.abs(vectors) ** 2, axis=1))


def eigsh(a, k, m=None, *, sigma=None, which="LM", mode="normal", v0=None, tol=None):
    """Return k eigenvalues and the eigenvectors in rows."""
    options = {"v0": rows(v0), "tol": tol}
    if sigma is None:
        result = eigenjax.eigsh(a, k, which=which, b=m, **options)
    elif (which, mode) == ("LM", "normal"):
        inverse = eigenjax.shift_inverse(dense(a), sigma, None if m is None else dense(m))
        result = eigenjax.eigsh(a, k, b=m, sigma=sigma, inverse=inverse, **options)
    else:
        first, mass = dense(a), np.eye(a.shape[0], dtype=a.dtype) if m is None else dense(m)
        mass = mass.astype(first.dtype)
        inverse = eigenjax.shift_inverse(first, sigma, mass)
        metric = jnp.asarray(first if mode == "buckling" else mass)
        if mode == "cayley":
            product = lambda v: metric @ (v + 2 * sigma * inverse(metric @ v))
        else:
            product = lambda v: metric @ inverse(metric @ v)
        like = jnp.zeros(first.shape[0], first.dtype)
        result = eigenjax.eigsh(product, k, which=which, b=metric, like=like, **options)
        return quotients(a, m, np.asarray(result.eigenvectors)).real, np.asarray(result.eigenvectors)
    return np.asarray(result.eigenvalues), np.asarray(result.eigenvectors)


def eigs(a, k, m=None, *, sigma=None, which="LM", part=None, v0=None, tol=None):
    """Return k eigenvalues and the eigenvectors in rows; `part` is the real or imaginary part of the inverse."""
    options = {"which": which, "v0": rows(v0), "tol": tol}
    if sigma is None:
        result = eigenjax.eigs(a, k, b=m, **options)
        return np.asarray(result.eigenvalues), np.asarray(result.eigenvectors)
    first, mass = dense(a), np.eye(a.shape[0], dtype=a.dtype) if m is None else dense(m)
    if (part is None or not np.iscomplexobj(sigma)) and which == "LM":
        inverse = eigenjax.shift_inverse(first, sigma, mass.astype(first.dtype))
        result = eigenjax.eigs(a, k, b=m, sigma=sigma, inverse=inverse, v0=rows(v0), tol=tol)
        return np.asarray(result.eigenvalues), np.asarray(result.eigenvectors)
    inverse = np.linalg.solve(first - sigma * mass, mass)
    inverse = {None: inverse, "r": inverse.real, "i": inverse.imag}[part].astype(first.dtype)
    vectors = np.asarray(eigenjax.eigs(jnp.asarray(inverse), k, **options).eigenvectors)
    return quotients(a, m, vectors), vectors


def svds(a, k, *, which="LM", v0=None, tol=None):
    """Return the left vectors in rows, the values, and the right vectors in rows."""
    result = eigenjax.svds(a, k, which=which, v0=v0, tol=tol)
    return np.asarray(result.left), np.asarray(result.values), np.asarray(result.right)


def lobpcg(a, x, b=None, preconditioner=None, y=None, *, largest=True, tol=None):
    """Return eigenvalues, and eigenvectors in rows that are orthogonal to the columns of y."""
    which, first = "LA" if largest else "SA", a
    if y is not None:
        # The vectors to avoid get an eigenvalue at the other end.
        beyond = np.linalg.norm(dense(a)) * (-1 if largest else 1)
        first = eigenjax.deflate(a, jnp.asarray(y.T), shift=beyond, b=b)
    options = {"which": which, "b": b, "v0": rows(x), "tol": tol}
    result = eigenjax.eigsh(first, x.shape[1], preconditioner=preconditioner, **options)
    return np.asarray(result.eigenvalues), np.asarray(result.eigenvectors)
