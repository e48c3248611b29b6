"""What all formats share: weights in any order of gates become a `clstm.LSTM`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..lstm import LSTM
from ..serialization import FilePath, read_file


class Direction(NamedTuple):
    """The arrays of one direction of one layer; gates in the order i, f, g, o along the first axis.

    All four are there even where two gates are coupled; the one without weights of its own is not read.
    """

    weight_ih: np.ndarray  # (4H, I)
    weight_hh: np.ndarray  # (4H, H)
    bias_ih: np.ndarray | None = None  # (4H)
    bias_hh: np.ndarray | None = None  # (4H)
    weight_ch: np.ndarray | None = None  # (3, H): peepholes of i, f, o

    def gates(self, kept: str) -> Direction:
        """The same without the gates that are not in `kept`."""
        arrays: list[Any] = [None if array is None else reorder_gates(array, "ifgo", kept) for array in self[:4]]
        weight_ch = None if self.weight_ch is None else self.weight_ch[[gate in kept for gate in "ifo"]]
        return Direction(*arrays)._replace(weight_ch=weight_ch)


def reorder_gates(array: np.ndarray, order: str, wanted: str = "ifgo") -> np.ndarray:
    """Return `array`, whose first axis holds a block per letter of `order`, with the blocks as in `wanted`.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.interop.building import reorder_gates
    >>> reorder_gates(np.array([1, 2, 3, 4]), "iofg")
    array([1, 3, 4, 2])
    """
    blocks = dict(zip(order, np.split(array, len(order)), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted])


def make_lstm(layers: Sequence[Sequence[Direction]], dtype: Any = None, **options: Any) -> LSTM:
    """Return an LSTM of these weights.

    Parameters
    ----------
    layers : sequence of sequence of Direction
        From the first layer up; forward, then reverse if there is one.
    dtype : {"float32", "float64"}, optional
        Float64 if the first weights are, else float32.
    **options
        Further arguments of `clstm.LSTM`.

    Raises
    ------
    ValueError
        If shapes do not fit each other.
    NotImplementedError
        If `clstm.LSTM` has no such option.
    """
    if unknown := sorted(options.keys() - inspect.signature(LSTM).parameters.keys()):
        raise NotImplementedError(f"an LSTM with {', '.join(unknown)} is not supported")
    first = layers[0][0]
    for name in ("weight_ih", "weight_hh"):
        if getattr(first, name).ndim != 2:
            raise ValueError(f"{name} has shape {getattr(first, name).shape}, but two axes are expected")
    hidden_size = first.weight_hh.shape[1]
    for name in ("weight_ih", "weight_hh"):
        # Compared before anything is built: a hostile file asks for any size.
        if len(getattr(first, name)) != 4 * hidden_size:
            shape = getattr(first, name).shape
            raise ValueError(f"{name} has shape {shape}, but {4 * hidden_size} rows are expected: H is {hidden_size}")
    bias = any(direction.bias_ih is not None for layer in layers for direction in layer)
    lstm = LSTM(
        first.weight_ih.shape[1],
        hidden_size,
        len(layers),
        bias=bias,
        bidirectional=len(layers[0]) == 2,
        dtype=dtype or ("float64" if first.weight_ih.dtype == np.float64 else "float32"),
        init="pytorch",
        **options,
    )
    kept = {"forget": "igo", "input": "fgo"}.get(options.get("coupling") or "", "ifgo")
    lstm.load_state_dict(dict(_state_dict(layers, kept, bias)))
    return lstm


def _state_dict(layers: Sequence[Sequence[Direction]], kept: str, bias: bool) -> Iterator[tuple[str, np.ndarray]]:
    for l, layer in enumerate(layers):
        for suffix, direction in zip(("", "_reverse"), layer, strict=False):
            for name, array in direction.gates(kept)._asdict().items():
                if array is not None:
                    yield f"{name}_l{l}{suffix}", array
                elif bias and name.startswith("bias"):
                    yield f"{name}_l{l}{suffix}", np.zeros(len(kept) * direction.weight_hh.shape[1])


@contextlib.contextmanager
def reading(path: FilePath, *damage: type[Exception]) -> Iterator[None]:
    """Name the file in errors about its content. Exceptions in `damage` become ValueError too."""
    try:
        with np.errstate(over="raise"):  # a number that its type cannot hold is damage
            yield
    except NotImplementedError as error:
        raise NotImplementedError(f"{os.fsdecode(path)!r} cannot be loaded: {error}") from error
    except damage as error:
        raise ValueError(f"{os.fsdecode(path)!r} cannot be loaded: {type(error).__name__}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{os.fsdecode(path)!r} cannot be loaded: {error}") from error


def require(module: str, extra: str) -> Any:
    """Import an optional dependency.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing: pip install '.[{extra}]' from a clone of clstm brings it") from error


def read_json(path: FilePath, *keys: str) -> Mapping[str, Any]:
    """The JSON object in a file, which has `keys`."""
    data = read_file(path)
    with reading(path):
        return as_mapping("the file", json.loads(data), *keys)


def as_mapping(name: str, value: Any, *keys: str) -> Mapping[str, Any]:
    """Return `value`, a JSON object that has `keys`."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}, but a JSON object is expected")
    if missing := [key for key in keys if key not in value]:
        raise ValueError(f"{name} lacks {', '.join(map(repr, missing))}")
    return value


def as_numbers(name: str, value: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Return nested lists of numbers as a float64 array of `shape`, in which None is any size."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} is {value!r:.60}, but numbers are expected")
    if array.ndim != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {array.shape}, but {str(shape).replace('None', 'any')} is expected")
    return array.astype(np.float64)


def reverse_time(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Each row of x (T, B, ...) from its own last step to its first; what lies beyond its length stays."""
    if lengths is None:
        return x[::-1]
    t = np.arange(len(x))[:, None]
    return x[np.where(t < lengths, lengths - 1 - t, t), np.arange(x.shape[1])]
