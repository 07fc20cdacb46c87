"""Programs compiled for a TPU and for an H100 by their real compilers, on a machine that has neither.

    tpu     memory, collectives and compile time of every public solver, estimator and product, on one chip and on pods
    gpu     memory, kernels and loops of the solvers on an H100

`jax.experimental.topologies` describes the devices, the shapes of the arguments are placed on them, and nothing runs.
Each compiler is in an environment of its own, because JAX looks for the devices of a plugin that is installed:

    pip install -e .[tpu-compiler]        python -m benchmarks.compilers.tpu
    pip install -e .[gpu-compiler]        python -m benchmarks.compilers.gpu
"""

import os

# JAX reads these when it is imported. The compiler for a TPU would ask what machine of a cloud this is, and refuse a
# second process.
os.environ |= {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
