"""What an LSTM is, read off the names and shapes of its arrays: a state dict of PyTorch or a safetensors file."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_detached_array
from .module import Shape
from .serialization import FilePath

Source = Mapping[str, ArrayLike] | FilePath

_NAME = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)_l([0-9]{1,6})(?:_reverse)?", re.ASCII)
_OTHERS = {1: "an RNN", 3: "a GRU"}  # gates of PyTorch's other recurrent layers, whose arrays have the same names


def read_arrays(source: Source, prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of one LSTM by their names after `prefix`; of a file, nothing else is read."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix is a {type(prefix).__name__}, but a str is expected")
    if isinstance(source, Mapping):
        names = _names(source, prefix, "state_dict")
        arrays = {name: as_detached_array(repr(prefix + name), source[prefix + name]) for name in names}
        return {name: _checked(prefix + name, array) for name, array in arrays.items()}
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise TypeError(f"source is a {type(source).__name__}, but a mapping of names to arrays or a path is expected")
    from safetensors import SafetensorError, safe_open  # here: see serialization.py

    path = os.fsdecode(source)
    with open(path, "rb"):  # an OSError that names the file, where it cannot be read
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _read_tensor(file, prefix + name) for name in _names(file.keys(), prefix, repr(path))}
    except SafetensorError as error:
        raise ValueError(f"{path!r} is not a valid safetensors file: {error}") from error


def infer_config(arrays: Mapping[str, np.ndarray], owner: str) -> dict[str, Any]:
    """Return the arguments of the LSTM that these arrays are meant for; the caller compares all names and shapes."""
    shapes = {name: array.shape for name, array in arrays.items()}
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in shapes:
            raise ValueError(f"{owner}: missing {name!r}")
        if len(shapes[name]) != 2:
            raise ValueError(f"{owner}: {name!r} has shape {shapes[name]}, but a matrix is expected")
    config = {
        "input_size": shapes["weight_ih_l0"][1],
        "hidden_size": _hidden_size(shapes, owner),
        "num_layers": len({match[1] for match in map(_NAME.fullmatch, shapes) if match}),
        "bias": any(name.startswith("bias_") for name in shapes),
        "bidirectional": any(name.endswith("_reverse") for name in shapes),
        "dtype": "float64" if any(array.dtype == np.float64 for array in arrays.values()) else "float32",
    }
    if "weight_hr_l0" in shapes:
        config["proj_size"] = shapes["weight_hr_l0"][0]
    return config


def _hidden_size(shapes: Mapping[str, Shape], owner: str) -> int:
    rows, columns = shapes["weight_hh_l0"]
    projection = shapes.get("weight_hr_l0")
    if projection is not None and len(projection) != 2:
        raise ValueError(f"{owner}: 'weight_hr_l0' has shape {projection}, but a matrix is expected")
    hidden_size = columns if projection is None else projection[1]
    if rows != 4 * hidden_size:
        other = {gates * columns: name for gates, name in _OTHERS.items()}.get(rows)
        hint = f", and {other} {rows}" if other else ""
        raise ValueError(
            f"{owner}: 'weight_hh_l0' has shape {(rows, columns)}, but an LSTM of hidden_size {hidden_size} has "
            f"{4 * hidden_size} rows{hint}"
        )
    return hidden_size


def _names(keys: Collection[str], prefix: str, owner: str) -> list[str]:
    """The names after the prefix, without those of modules below it (which have a dot)."""
    names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    names = [name for name in names if "." not in name]
    if "weight_ih_l0" not in names:
        known = sorted(key.removesuffix("weight_ih_l0") for key in keys if key.endswith("weight_ih_l0"))
        raise ValueError(
            f"{owner} has no {prefix + 'weight_ih_l0'!r}; "
            + (f"the prefixes of its LSTMs are {', '.join(map(repr, known))}" if known else "no other prefix has one")
        )
    return names


def _read_tensor(file: Any, name: str) -> np.ndarray:
    try:
        array = file.get_tensor(name)
    except TypeError:
        raise TypeError(f"{name!r} has dtype {file.get_slice(name).get_dtype()}, which numpy lacks") from None
    return _checked(name, array)


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.name not in ("float16", "float32", "float64"):
        raise TypeError(f"{name!r} has dtype {array.dtype}, but float32, float64 or float16 is expected")
    return array
