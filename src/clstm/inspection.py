"""How far back the gradient of an LSTM reaches, and that of the network without cell and gates."""

from __future__ import annotations

import copy

import numpy as np

from .lstm import LSTM


def lstm_gradient_reach(lstm: LSTM, x: np.ndarray, dh: np.ndarray) -> np.ndarray:
    """Return how large the gradient is at inputs further and further back.

    Parameters
    ----------
    lstm : LSTM
        It stays as it is, the counter of its dropout masks included. Dropout acts, as in training.
    x : ndarray of shape (time, batch, input_size)
        At least one step; time comes first, also for a layer with `batch_first`.
    dh : ndarray of shape (batch, D * P)
        Gradient of a loss L with respect to the output of the last step T; that of all others is 0.

    Returns
    -------
    ndarray of shape (time, batch)
        Euclidean norm of dL/dx_(T-t), for t = 0, 1, ...

    Raises
    ------
    ValueError
        If a shape is wrong.

    Examples
    --------
    See `docs/inspection.md`.
    """
    lstm = copy.deepcopy(lstm)
    lstm.batch_first = False
    y, _, tape = lstm.forward(x)
    if not len(y):
        raise ValueError("x has no steps, but at least one is expected")
    if np.shape(dh) != y.shape[1:]:
        raise ValueError(f"dh has shape {np.shape(dh)}, but {y.shape[1:]} is expected, that of the last output")
    dy = np.zeros_like(y)
    dy[-1] = dh
    dx = lstm.backward(tape, dy)[0]
    return np.asarray(np.linalg.norm(dx[::-1], axis=-1))


def rnn_gradient_reach(weight_ih: np.ndarray, weight_hh: np.ndarray, x: np.ndarray, dh: np.ndarray) -> np.ndarray:
    """Return what `lstm_gradient_reach` does, for the plain network h_t = tanh(W_ih x_t + W_hh h_(t-1))."""
    h = [np.zeros_like(dh)]
    for x_t in x:
        h.append(np.tanh(x_t @ weight_ih.T + h[-1] @ weight_hh.T))
    reach = []
    for h_t in h[:0:-1]:
        da = dh * (1.0 - h_t**2)  # gradient before the tanh
        reach.append(np.linalg.norm(da @ weight_ih, axis=-1))
        dh = da @ weight_hh
    return np.array(reach)
