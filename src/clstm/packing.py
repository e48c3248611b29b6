"""Sequences of different lengths, padded to one array or packed without padding, as in `torch.nn.utils.rnn`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_array, as_lengths, as_size, kind_of


class PackedSequence(NamedTuple):
    """Sequences of different lengths, step by step without padding: PyTorch's `PackedSequence`, in numpy.

    Made by `pack_sequence` and `pack_padded_sequence`; an `LSTM` takes and returns it.

    Attributes
    ----------
    data : ndarray of shape (sum of lengths, ...)
        Step 0 of all sequences, longest first, then step 1 of those that have one, and so on.
    batch_sizes : ndarray of int64, shape (longest length,)
        Number of sequences that have each step.
    sorted_indices : ndarray of int64, shape (batch,), or None
        The caller's row of each sorted row; None where rows came sorted.
    unsorted_indices : ndarray of int64, shape (batch,), or None
        The sorted row of each of the caller's rows.

    Examples
    --------
    >>> import clstm
    >>> packed = clstm.pack_sequence([[5, 6], [1, 2, 3], [9]], enforce_sorted=False)
    >>> packed.data.tolist(), packed.batch_sizes.tolist(), packed.sorted_indices.tolist()
    ([1, 5, 9, 2, 6, 3], [3, 2, 1], [1, 0, 2])
    """

    data: np.ndarray
    batch_sizes: np.ndarray
    sorted_indices: np.ndarray | None = None
    unsorted_indices: np.ndarray | None = None


def pack_padded_sequence(
    input: ArrayLike, lengths: ArrayLike, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack sequences that lie padded in one array.

    Parameters
    ----------
    input : array_like of shape (time, batch, ...)
        Or (batch, time, ...) with `batch_first`. What lies beyond a sequence's length is left out.
    lengths : array_like of int, shape (batch,)
        Steps of each sequence, 1 to time.
    batch_first : bool, default False
        Whether the first axis is the batch.
    enforce_sorted : bool, default True
        Whether to refuse lengths that do not fall, rather than to sort the rows.

    Raises
    ------
    ValueError
        If a length is less than 1 (a packed sequence has no place for an empty one; an `LSTM` takes length 0 by its
        `lengths`) or more than time, if lengths are not sorted, or shapes are wrong.
    TypeError
        If lengths are not integers.

    Examples
    --------
    >>> import clstm
    >>> padded = [[1, 4, 6], [2, 5, 0], [3, 0, 0]]  # (time, batch)
    >>> clstm.pack_padded_sequence(padded, [3, 2, 1]).data.tolist()
    [1, 4, 6, 2, 5, 3]
    """
    array = _time_major("input", input, batch_first)
    steps = as_lengths(lengths, "input", array.shape[0], array.shape[1], least=1)
    if not steps.size:
        raise ValueError("lengths is empty, but at least one sequence is expected")
    order = inverse = None
    if not enforce_sorted:
        order = np.argsort(-steps, kind="stable")
        inverse = np.argsort(order, kind="stable")
        array, steps = array[:, order], steps[order]
    elif np.any(steps[1:] > steps[:-1]):
        row = int(np.argmax(steps[1:] > steps[:-1])) + 1
        raise ValueError(
            f"lengths has {steps[row]} at row {row} after {steps[row - 1]}, but lengths that fall are expected; "
            "enforce_sorted=False sorts the rows"
        )
    valid = _valid(steps, int(steps[0]))
    return PackedSequence(array[: len(valid)][valid], valid.sum(axis=1, dtype=np.int64), order, inverse)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Undo `pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool, default False
        Whether to return (batch, time, ...) rather than (time, batch, ...).
    padding_value : float, default 0.0
        What to write beyond each sequence's length.
    total_length : int, optional
        Time steps of the result, at least the longest length, which is the default.

    Returns
    -------
    padded : ndarray of shape (time, batch, ...)
        Rows in the order that they had before packing.
    lengths : ndarray of int64, shape (batch,)

    Raises
    ------
    ValueError
        If `total_length` is less than the longest length, or the parts of the sequence do not fit each other.

    Examples
    --------
    >>> import clstm
    >>> packed = clstm.pack_sequence([[1, 2, 3], [4, 5], [6]])
    >>> padded, lengths = clstm.pad_packed_sequence(packed, batch_first=True)
    >>> padded.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 5, 0], [6, 0, 0]], [3, 2, 1])
    """
    lengths = _check(sequence)
    longest = len(sequence.batch_sizes)
    time = longest if total_length is None else as_size("total_length", total_length)
    if time < longest:
        raise ValueError(f"total_length is {time}, but at least {longest} is expected, the longest length")
    data = as_array("data", sequence.data)
    padded = np.full((time, len(lengths), *data.shape[1:]), padding_value, data.dtype)
    padded[_valid(lengths, time)] = data
    if sequence.unsorted_indices is not None:
        padded, lengths = padded[:, sequence.unsorted_indices], lengths[sequence.unsorted_indices]
    return (padded.swapaxes(0, 1) if batch_first else padded), lengths


def pack_like(padded: np.ndarray, sequence: PackedSequence, batch_first: bool) -> PackedSequence:
    """Pack what `pad_packed_sequence` made of a sequence in the sequence's own order of rows."""
    array = padded.swapaxes(0, 1) if batch_first else padded
    if sequence.sorted_indices is not None:
        array = array[:, sequence.sorted_indices]
    rows = np.arange(array.shape[1])
    return sequence._replace(data=array[rows < np.asarray(sequence.batch_sizes)[:, None]])


def pack_sequence(sequences: Iterable[ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack a list of sequences of shape (length, ...). See `pack_padded_sequence` for the rest.

    Examples
    --------
    >>> import clstm
    >>> clstm.pack_sequence([[1, 2, 3], [4, 5], [6]]).batch_sizes.tolist()
    [3, 2, 1]
    """
    arrays = _as_sequences(sequences)
    return pack_padded_sequence(pad_sequence(arrays), [len(array) for array in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[np.ndarray]:
    """Undo `pack_sequence`.

    Examples
    --------
    >>> import clstm
    >>> [array.tolist() for array in clstm.unpack_sequence(clstm.pack_sequence([[1, 2, 3], [4, 5]]))]
    [[1, 2, 3], [4, 5]]
    """
    return unpad_sequence(*pad_packed_sequence(packed_sequences))


def pad_sequence(
    sequences: Iterable[ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> np.ndarray:
    """Put sequences of different lengths into one array.

    Parameters
    ----------
    sequences : iterable of array_like of shape (length, ...)
        At least one; all but the first axis agree. The result has their common dtype.
    batch_first : bool, default False
        Whether to return (batch, time, ...) rather than (time, batch, ...).
    padding_value : float, default 0.0
        What to write where a sequence has no step.
    padding_side : {"right", "left"}, default "right"
        Whether that is after its end or before its beginning.

    Returns
    -------
    ndarray of shape (longest length, batch, ...)

    Raises
    ------
    ValueError
        If there is no sequence, or shapes disagree.

    Examples
    --------
    >>> import clstm
    >>> clstm.pad_sequence([[1, 2, 3], [4]], batch_first=True, padding_side="left").tolist()
    [[1, 2, 3], [0, 0, 4]]
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side is {padding_side!r}, but 'left' or 'right' is expected")
    arrays = _as_sequences(sequences)
    longest = max(map(len, arrays))
    padded = np.full((len(arrays), longest, *arrays[0].shape[1:]), padding_value, np.result_type(*arrays))
    for row, array in zip(padded, arrays, strict=True):
        start = longest - len(array) if padding_side == "left" else 0
        row[start : start + len(array)] = array
    return padded if batch_first else np.ascontiguousarray(padded.swapaxes(0, 1))


def unpad_sequence(padded_sequences: ArrayLike, lengths: ArrayLike, batch_first: bool = False) -> list[np.ndarray]:
    """Return the sequences (length, ...) that lie padded in one array, as copies.

    Parameters
    ----------
    padded_sequences : array_like of shape (time, batch, ...)
        Or (batch, time, ...) with `batch_first`. It is padded on the right.
    lengths : array_like of int, shape (batch,)
        Steps of each sequence, 0 to time.
    batch_first : bool, default False
        Whether the first axis is the batch.

    Raises
    ------
    ValueError, TypeError
        If a shape or a length is wrong.

    Examples
    --------
    >>> import clstm
    >>> [array.tolist() for array in clstm.unpad_sequence([[1, 4], [2, 0]], [2, 1])]
    [[1, 2], [4]]
    """
    array = _time_major("padded_sequences", padded_sequences, batch_first)
    steps = as_lengths(lengths, "padded_sequences", array.shape[0], array.shape[1])
    return [array[:length, row].copy() for row, length in enumerate(steps)]


def _valid(lengths: np.ndarray, time: int) -> np.ndarray:
    """(time, batch): whether a row has a step."""
    return np.arange(time)[:, None] < lengths


def _time_major(name: str, value: ArrayLike, batch_first: bool) -> np.ndarray:
    array = as_array(name, value)
    if array.ndim < 2:
        axes = "batch, time" if batch_first else "time, batch"
        raise ValueError(f"{name} has shape {array.shape}, but ({axes}, ...) is expected")
    return array.swapaxes(0, 1) if batch_first else array


def _as_sequences(sequences: Iterable[ArrayLike]) -> list[np.ndarray]:
    arrays = [as_array(f"sequence {row}", sequence) for row, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences is empty, but at least one sequence is expected")
    for row, array in enumerate(arrays):
        if array.ndim < 1 or array.shape[1:] != arrays[0].shape[1:]:
            expected = ", ".join(["length", *map(str, arrays[0].shape[1:])])
            raise ValueError(f"sequence {row} has shape {array.shape}, but ({expected}) is expected")
    return arrays


def _check(sequence: Any) -> np.ndarray:
    """The lengths of the sorted rows, if the parts of a packed sequence fit each other."""
    if not isinstance(sequence, PackedSequence):
        raise TypeError(f"sequence is a {kind_of(sequence)}, but a clstm.PackedSequence is expected")
    sizes = as_array("batch_sizes", sequence.batch_sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not sizes.size:
        raise ValueError(
            f"batch_sizes has shape {sizes.shape} and dtype {sizes.dtype}, but (time,) integers are expected"
        )
    if sizes[-1] < 1 or np.any(sizes[1:] > sizes[:-1]):
        raise ValueError(f"batch_sizes is {sizes.tolist()}, but numbers of at least 1 that never rise are expected")
    data = as_array("data", sequence.data)
    if data.shape[:1] != (sizes.sum(),):
        raise ValueError(f"data has shape {data.shape}, but batch_sizes makes {sizes.sum()} rows")
    rows = np.arange(sizes[0])
    order = _permutation("sorted_indices", sequence.sorted_indices, rows)
    inverse = _permutation("unsorted_indices", sequence.unsorted_indices, rows)
    if not np.array_equal(order[inverse], rows):
        raise ValueError(
            f"unsorted_indices is {inverse.tolist()}, but the inverse of sorted_indices {order.tolist()} is expected"
        )
    lengths: np.ndarray = (sizes[:, None] > rows).sum(axis=0, dtype=np.int64)
    return lengths


def _permutation(name: str, indices: Any, rows: np.ndarray) -> np.ndarray:
    """`indices`, if it is a permutation of `rows`; without any, those as they are."""
    array = rows if indices is None else as_array(name, indices)
    if array.shape != rows.shape or array.dtype.kind not in "iu" or not np.array_equal(np.sort(array), rows):
        raise ValueError(f"{name} is {array.tolist()}, but a permutation of 0 to {rows[-1]} is expected")
    return array
