"""What counting achieves: the baseline of a character model."""

from __future__ import annotations

import numpy as np

CONCENTRATION = 5.0  # how many occurrences of a context outweigh the shorter context's opinion


def ngram_bits(text: np.ndarray, held_out: np.ndarray, order: int, size: int) -> float:
    """Return the bits per held-out character of the model that counts runs of `order` characters.

    Parameters
    ----------
    text, held_out : ndarray of int
        Encoded texts, to count in and to measure on.
    order : int
        1 counts single characters, 2 pairs, ...
    size : int
        Size V of the vocabulary; V**order must fit 63 bits.

    Notes
    -----
    Smoothed by the next shorter context (MacKay & Peto 1995), from the uniform p_0 = 1/V up::

        p_n(c | context) = (count(context c) + a p_{n-1}(c | context)) / (count(context) + a)
    """
    p = np.full(len(held_out), 1.0 / size)
    for n in range(1, order + 1):
        in_run = _counts(_runs(text, n, size), _runs(held_out, n, size))
        in_context = _counts(_runs(text[:-1], n - 1, size), _runs(held_out[:-1], n - 1, size))
        p[n - 1 :] = (in_run + CONCENTRATION * p[n - 1 :]) / (in_context + CONCENTRATION)
    return float(-np.log2(p).mean())


def _runs(ids: np.ndarray, n: int, size: int) -> np.ndarray:
    """Each run of n characters as one number."""
    length = len(ids) - n + 1
    return sum((ids[k : k + length] * size ** (n - 1 - k) for k in range(n)), np.zeros(length, np.int64))


def _counts(runs: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How often each of `asked` is among `runs`."""
    known, counts = np.unique(runs, return_counts=True)
    place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[place] == asked, counts[place], 0)
