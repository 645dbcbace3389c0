"""The table of extensions. Everything else about the package stands in pyproject.toml.

Environment switches
--------------------
ETACORE_DEBUG=1     bounds checks, no optimisation, line numbers for a debugger
ETACORE_SANITIZE=1  address and undefined-behaviour sanitizers (see ``make sanitize``)
"""

import os
import sys

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("ETACORE_DEBUG") == "1"
SANITIZE = os.environ.get("ETACORE_SANITIZE") == "1"
N_CPUS = os.cpu_count() or 1

KERNELS = (
    "batch",
    "encode",
    "features",
    "fleet",
    "forest",
    "histogram",
    "index",
    "resolve",
    "resp",
    "routes",
    "select",
    "snapshots",
    "window",
)

compile_args = ["-std=c11", "-fno-math-errno", "-fwrapv", "-Wall", "-Wno-unused-function"]
compile_args += ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
# What a kernel marks inline is meant: gcc would make a function of the longer ones, at a few per cent of a batch.
compile_args += ["--param=max-inline-insns-single=400"]
link_args = []
if SANITIZE:
    sanitizers = "-fsanitize=address,undefined"
    compile_args += ["-O1", "-g", sanitizers, "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    link_args += [sanitizers]

extensions = [
    Extension(
        f"etacore._kernels.{name}",
        [f"src_ext/etacore/_kernels/{name}.pyx"],
        include_dirs=[np.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        libraries=["m", "dl"],
    )
    for name in KERNELS
    if os.path.exists(f"src_ext/etacore/_kernels/{name}.pyx")
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["src_ext"],
        build_dir="build/cython",
        nthreads=N_CPUS if sys.platform == "linux" else 0,
        compiler_directives={
            "language_level": "3",
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
    options={"build_ext": {"parallel": N_CPUS}},
)
