"""The process: threads, and what runs on this processor."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from . import _core
from .arguments import as_size


def set_num_threads(n: int) -> None:
    """Limit the threads that the process's calls use, the calling ones included.

    Parameters
    ----------
    n : int
        1 to 1024. The default is CLSTM_NUM_THREADS in the environment, else the processors that the process may use;
        a value there that is no such number is ignored with a RuntimeWarning at import.

    Raises
    ------
    ValueError
        If n is out of range.
    TypeError
        If it is no integer.

    Notes
    -----
    Results are the same bits for any number of threads. Workers sleep between calls. When several Python threads
    call at once, each takes the workers that are free, and none waits for one. Where threadpoolctl is installed, its
    `threadpool_limits` sets this limit too, under the name "clstm".

    Examples
    --------
    >>> import clstm
    >>> before = clstm.get_num_threads()
    >>> clstm.set_num_threads(1)
    >>> clstm.get_num_threads()
    1
    >>> clstm.set_num_threads(before)
    """
    _core.set_num_threads(as_size("n", n, most=1024))


def get_num_threads() -> int:
    """Return the limit that `set_num_threads` sets."""
    return int(_core.get_num_threads())


def cpu_info() -> dict[str, Any]:
    """Say which kernels run on this processor, and why.

    Returns
    -------
    info : dict
        "isa": the instruction set in use, "portable", "avx2", "avx512" (networks of up to 8 units use AVX2 even so,
        where that is faster) or "neon"; CLSTM_ISA in the environment forces
        a lesser one (a name that this machine does not run is ignored with a RuntimeWarning at import). "reason": why
        that one. "available": all that can run here, best first. "num_threads": the limit of threads.

    Examples
    --------
    >>> import clstm
    >>> info = clstm.cpu_info()
    >>> info["isa"] in info["available"]
    True
    """
    return {
        "isa": _core.isa(),
        "reason": _core.isa_reason(),
        "available": _core.isas(),
        "num_threads": get_num_threads(),
    }


def get_include() -> str:
    """Return the directory of the C headers, for packages that build on clstm: `include_dirs=[clstm.get_include()]`.

    Returns
    -------
    directory : str
        It holds "clstm.h", and "clstm_capi.h" for C extensions and for Cython's `cimport clstm`.

    Examples
    --------
    >>> import clstm, os
    >>> sorted(os.listdir(clstm.get_include()))
    ['clstm.h', 'clstm_capi.h']
    """
    return str(Path(__file__).with_name("include"))


def warn_of_environment() -> None:
    """Name values in the environment that the C library ignores."""
    threads, isa = (os.environ.get(name, "") for name in ("CLSTM_NUM_THREADS", "CLSTM_ISA"))
    if threads and not (re.fullmatch(r"\s*\+?0*[1-9][0-9]{0,3}", threads) and int(threads) <= 1024):
        _warn("CLSTM_NUM_THREADS", threads, "a number from 1 to 1024")
    if isa and isa not in _core.isas():
        _warn("CLSTM_ISA", isa, f"one of {', '.join(_core.isas())}")


def _warn(name: str, value: str, expected: str) -> None:
    warnings.warn(
        f"{name} is {value!r} in the environment, but {expected} is expected: it is ignored",
        RuntimeWarning,
        stacklevel=4,
    )
