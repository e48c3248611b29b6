"""Checks and conversions of arguments. Every error names the argument, what came and what was expected."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


def as_size(name: str, value: Any, most: int = 2**40, least: int = 1) -> int:
    """Return `value` as an int of `least` to `most`."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, but an integer is expected")
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but an integer is expected") from None
    if size < least:
        raise ValueError(f"{name} is {size}, but at least {least} is expected")
    if size > most:
        raise ValueError(f"{name} is {size}, but at most {most} is expected")
    return size


def as_flag(name: str, value: Any) -> bool:
    """Return `value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, but True or False is expected")
    return bool(value)


def as_probability(name: str, value: Any) -> float:
    """Return `value` as a float of 0 to 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}, but a number from 0 to 1 is expected")
    if not 0 <= value <= 1 or math.isnan(value):
        raise ValueError(f"{name} is {value}, but a number from 0 to 1 is expected")
    return float(value) if value == 0 else at_least_normal(name, float(value))


def as_seed(seed: Any) -> int:
    """Return `seed` as an int of 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed is {seed!r}, but an integer or None is expected")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, but 0 to 2**64 - 1 is expected")
    return int(seed)


def at_least_normal(name: str, value: float) -> float:
    """Return `value`, which is above 0, if it does not count as 0 in a step."""
    least = float(np.finfo(np.float32).tiny)
    if value < least:
        raise ValueError(f"{name} is {value}, but at least {least} is expected: less counts as 0 in a step")
    return value


def as_float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return float32 or float64 as a numpy dtype in native byte order."""
    for known in (np.float32, np.float64):
        if dtype is known or (isinstance(dtype, (str, np.dtype)) and dtype == np.dtype(known).name):
            return np.dtype(known)
    raise ValueError(f"dtype is {dtype!r}, but 'float32' or 'float64' is expected")


def kind_of(value: Any) -> str:
    """Return module and name of the class of `value`: an LSTM may be numpy's or PyTorch's."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def as_pair(name: str, value: Any, parts: tuple[str, str]) -> tuple[Any, Any]:
    """Return `value`, a tuple or list of two."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        length = f" of length {len(value)}" if isinstance(value, (tuple, list)) else ""
        raise TypeError(f"{name} is a {type(value).__name__}{length}, but a pair ({', '.join(parts)}) is expected")
    first, second = value
    return first, second


def as_array(name: str, value: Any) -> np.ndarray:
    """Return `value` as an array of any type; not a copy where it is one."""
    if value is None:
        raise TypeError(f"{name} is None, but an array is expected")
    if type(value).__name__ == "PackedSequence":
        raise TypeError(
            f"{name} is a {kind_of(value)}, but an array is expected: pad_packed_sequence returns one, and the lengths"
        )
    if np.ma.is_masked(value):
        raise TypeError(f"{name} is an array with masked values, but one without is expected")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from error
    except (RuntimeError, TypeError) as error:  # of PyTorch's, for a tensor that requires a gradient, or bfloat16
        raise TypeError(f"{name} is no array: {error}") from error


def as_detached_array(name: str, value: Any) -> np.ndarray:
    """Return `value` as an array of any type; a tensor of PyTorch's may require a gradient."""
    detach = getattr(value, "detach", None)
    return as_array(name, value if detach is None else detach())


def as_real_array(name: str, value: ArrayLike, dtype: DTypeLike | None = None) -> np.ndarray:
    """Return `value` as an array of `dtype`; not a copy where it is one already.

    Without `dtype`, float32 and float64 stay, float16 becomes float32 and every other real type float64.
    """
    if type(value) is np.ndarray and value.dtype == dtype:
        return value
    array = as_array(name, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}, but real numbers are expected")
    if dtype is None:
        dtype = np.float32 if array.dtype.name in ("float16", "float32") else np.float64
    return array.astype(dtype, copy=False)


def as_index_array(
    name: str, value: ArrayLike, limit: int, limit_name: str, ignore_index: int | None = None
) -> np.ndarray:
    """Return a new intp array of `value`, whose numbers all lie in 0..limit-1 or equal `ignore_index`."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        example = f" (the first value is {array.flat[0]!r})" if array.size else ""
        raise TypeError(f"{name} has dtype {array.dtype}{example}, but integers are expected")
    outside = (array < 0) | (array >= limit)
    if ignore_index is not None:
        outside &= array != ignore_index
    if outside.any():
        position = tuple(int(i) for i in np.argwhere(outside)[0])
        at = f" at position {position}" if position else ""
        raise ValueError(f"{name} has the value {array[position]}{at}, but {limit_name} is {limit}")
    return array.astype(np.intp)


def as_lengths(lengths: Any, owner: str, T: int, B: int, least: int = 0) -> np.ndarray:
    """Return the lengths of `owner`'s B rows as a new int64 array, each `least` to T."""
    array = as_array("lengths", lengths)
    if array.dtype.kind not in "iu":
        if array.size:
            raise TypeError(f"lengths has dtype {array.dtype}, but integers are expected")
        array = array.astype(np.int64)
    if array.shape != (B,):
        raise ValueError(f"lengths has shape {array.shape}, but ({B},) is expected: one length per row of {owner}")
    outside = (array < least) | (array > T)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"lengths has {array[row]} at row {row}, but {least} to {T} is expected: {owner} has {T} time steps"
        )
    return np.array(array, np.int64)


def as_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `mask` as an array of bool of this shape."""
    array = as_array("mask", mask)
    if array.dtype != np.bool_:
        raise TypeError(f"mask has dtype {array.dtype}, but bool is expected")
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape}, but {shape} is expected: one value per step of x")
    return array
