"""What happens inside an LSTM: its gates over a sequence, and how far back its gradient reaches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .lstm import LSTM


class Gates(NamedTuple):
    """Values at each step, each (time, hidden_size)."""

    i: np.ndarray
    f: np.ndarray
    o: np.ndarray
    c: np.ndarray


def gate_values(lstm: LSTM, x: np.ndarray) -> Gates:
    """Return input, forget and output gates and cells of an LSTM's first layer, from a zero state.

    Parameters
    ----------
    lstm : LSTM
        Not a variant. The formulas are those of `LSTM`; they are computed here by numpy.
    x : ndarray of shape (time, input_size)

    Raises
    ------
    ValueError
        If lstm is a variant.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> from clstm.inspection import gate_values
    >>> lstm = clstm.LSTM(3, 4, seed=0)
    >>> x = np.ones((5, 3), np.float32)
    >>> h_n, c_n = lstm(x)[1]
    >>> bool(np.allclose(gate_values(lstm, x).c[-1], c_n[0], atol=1e-6))
    True
    """
    if options := lstm._variant.options():
        raise ValueError(f"lstm has {', '.join(options)}, but an LSTM without variants is expected")
    weights = lstm.parameters()
    inputs = x @ weights["weight_ih_l0"].T
    if lstm.bias:
        inputs = inputs + weights["bias_ih_l0"] + weights["bias_hh_l0"]
    h, c = np.zeros((2, lstm.hidden_size), inputs.dtype)
    steps = []
    for input_t in inputs:
        i, f, g, o = np.split(input_t + weights["weight_hh_l0"] @ h, 4)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((i, f, o, c))
    return Gates(*(np.array(values) for values in zip(*steps, strict=True)))


def lstm_gradient_reach(lstm: LSTM, x: np.ndarray, dh: np.ndarray) -> np.ndarray:
    """Return how large the gradient is at inputs further and further back.

    Parameters
    ----------
    lstm : LSTM
    x : ndarray of shape (time, batch, input_size)
    dh : ndarray of shape (batch, hidden_size)
        Gradient of a loss L with respect to the output of the last step T; that of all others is 0.

    Returns
    -------
    ndarray of shape (time, batch)
        Euclidean norm of dL/dx_(T-t), for t = 0, 1, ...
    """
    y, _, tape = lstm.forward(x)
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


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
