"""A package that builds on clstm in two ways: `cimport clstm` from Cython, and clstm_capi.h from plain C."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import clstm

INCLUDE = [clstm.get_include()]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

setup(
    name="embed_pkg",
    version="1",
    packages=["embed_pkg"],
    ext_modules=[
        *cythonize([Extension("embed_pkg.from_cython", ["embed_pkg/from_cython.pyx"], include_dirs=INCLUDE)]),
        Extension("embed_pkg.from_c", ["embed_pkg/from_c.c"], include_dirs=INCLUDE, extra_compile_args=WARNINGS),
    ],
)
