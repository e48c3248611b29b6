"""Builds clstm._core from Cython and the C core. Everything else is in pyproject.toml.

CLSTM_SANITIZE=address,undefined (or thread) in the environment builds the extension with sanitizers.
"""

import os
import sys
from glob import glob
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Instruction sets are chosen per function, never per file: no -march here. Contraction and -ffast-math would break
# the promise about bits. Python's own flags have -fwrapv, with which gcc 12 spills in the tiles' loops.
UNIX_FLAGS = ["-O3", "-g0", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-wrapv"]
UNIX_FLAGS += ["-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
# Loops begin with a cache line, also the tiles', which gcc takes for rare (other compilers lack the parameter).
UNIX_FLAGS += ["-falign-loops=64", "--param=align-threshold=1000", "-Wno-unused-command-line-argument"]
MSVC_FLAGS = ["/O2", "/std:c11", "/experimental:c11atomics", "/fp:precise"]


def sanitizer_flags() -> list[str]:
    names = os.environ.get("CLSTM_SANITIZE")
    return [f"-fsanitize={names}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1"] if names else []


class BuildExt(build_ext):
    """Adds each compiler's flags, and puts the public headers inside the package."""

    def build_extensions(self) -> None:
        unix = self.compiler.compiler_type != "msvc"
        for extension in self.extensions:
            extension.extra_compile_args = UNIX_FLAGS + sanitizer_flags() if unix else MSVC_FLAGS
            extension.extra_link_args = ["-pthread", *sanitizer_flags()] if unix else []
            if sys.platform == "linux":  # its own clstm_ functions, also where a program has loaded libclstm.so
                extension.extra_link_args.append("-Wl,-Bsymbolic")
            extension.libraries = ["m"] if unix else []
        super().build_extensions()

    def run(self) -> None:
        super().run()
        package = Path("src" if self.inplace else self.build_lib, "clstm", "include")
        self.mkpath(str(package))
        for header in glob("include/*.h"):
            self.copy_file(header, str(package))

    def get_output_mapping(self) -> dict[str, str]:
        """What a strict editable install links."""
        package = Path(self.build_lib, "clstm", "include")
        headers = {str(package / Path(header).name): header for header in glob("include/*.h")}
        return super().get_output_mapping() | headers


core = Extension(
    "clstm._core",
    sources=["src/clstm/_core.pyx", *sorted(glob("src/clstm/core/*.c"))],
    depends=sorted(
        glob("include/*.h") + glob("src/clstm/*.h") + glob("src/clstm/*.pxi") + glob("src/clstm/core/*.[hi]*")
    ),
    include_dirs=["include", "src/clstm", "src/clstm/core", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("CLSTM_CAPI_IMPLEMENTATION", "1")],
)
core.cython_c_in_temp = True
core.cython_directives = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "embedsignature": True,
    "freethreading_compatible": True,
}

setup(ext_modules=[core], cmdclass={"build_ext": BuildExt})
