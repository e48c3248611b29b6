"""Files of named arrays and text, in the safetensors format, written whole or not at all.

The format (https://huggingface.co/docs/safetensors) is the length of a header, the header in JSON and the bytes of
the arrays. Reading one executes nothing. Functions that need safetensors or json import them themselves: `import clstm`
takes three quarters of the time without them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_detached_array

FilePath = str | bytes | os.PathLike[Any]


def write_safetensors(
    path: FilePath, tensors: Mapping[str, ArrayLike], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays and text to one file, atomically.

    The bytes go to a temporary file in the same directory, which replaces `path` when it is complete and on the
    disk. Where anything fails, an old file at `path` stays as it was. Equal arguments give equal bytes.

    Parameters
    ----------
    path : path-like
        The file to write. A symbolic link is followed.
    tensors : mapping of str to array_like
        Real arrays of at most 64 bits per element, of any shape and layout.
    metadata : mapping of str to str, optional
        Text to store in the header.

    Raises
    ------
    OSError
        If the file cannot be written (no space, no permission, no such directory, not a regular file).
    TypeError, ValueError
        If a name, an array or a text cannot be stored.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from clstm import read_safetensors, write_safetensors
    >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
    >>> write_safetensors(path, {"loss": np.array([2.5, 1.5])}, {"epoch": "2"})
    >>> tensors, metadata = read_safetensors(path)
    >>> tensors["loss"].tolist(), metadata["epoch"]
    ([2.5, 1.5], '2')
    """
    import safetensors.numpy

    metadata = dict(metadata or {})
    for key, text in metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"metadata has the item {key!r}: {text!r}, but str: str is expected")
    arrays = {name: _storable(name, value) for name, value in tensors.items()}
    data = safetensors.numpy.save(arrays, metadata)
    replace_file(os.fsdecode(path), _with_sorted_metadata(data, metadata))


def read_safetensors(path: FilePath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and text of a safetensors file, written by `write_safetensors` or any other program.

    Parameters
    ----------
    path : path-like
        The file to read.

    Returns
    -------
    tensors : dict of str to ndarray
    metadata : dict of str to str

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a complete, valid safetensors file, or holds a type that numpy lacks (such as bfloat16).

    Examples
    --------
    See `write_safetensors`.
    """
    import json

    import safetensors.numpy

    data = read_file(path)
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + _header_length(data)])
    except KeyError as error:
        raise ValueError(f"{os.fsdecode(path)!r} holds a tensor of type {error}, which numpy lacks") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{os.fsdecode(path)!r} is not a valid safetensors file: {error}") from error
    return tensors, header.get("__metadata__") or {}


def read_file(path: FilePath) -> bytes:
    """Return the bytes of a file. A number, which `open` would take for a file that is open already, is no path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path is {path!r:.60}, but a str, bytes or path-like object is expected")
    with open(path, "rb") as file:
        return file.read()


def _storable(name: str, value: ArrayLike) -> np.ndarray:
    """`value` as a contiguous array of a type that the format and numpy both have."""
    if not isinstance(name, str):
        raise TypeError(f"tensors has the name {name!r}, but a str is expected")
    if name == "__metadata__":
        raise ValueError("tensors has the name '__metadata__', which the format reserves")
    array = as_detached_array(f"tensor {name!r}", value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"tensor {name!r} has dtype {array.dtype}, but real numbers of at most 64 bits are expected")
    return np.asarray(array, order="C")


def _header_length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _with_sorted_metadata(data: bytes, metadata: dict[str, str]) -> list[bytes | memoryview]:
    """The parts of the file `data` with its metadata in sorted order: the library's is another in each process."""
    import json

    body = 8 + _header_length(data)
    header = json.loads(data[8:body])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays stay aligned
    return [len(text).to_bytes(8, "little"), text, memoryview(data)[body:]]


def replace_file(path: str, parts: Iterable[bytes | memoryview]) -> None:
    """Make `path` a file of these bytes, or raise OSError and leave everything as it was."""
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "the file was not saved: not a regular file", path)
    temporary = os.path.join(os.path.dirname(target), f".clstm-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"the file was not saved: {error.strerror}", path) from error
        raise
