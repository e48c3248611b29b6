"""A stacked, bidirectional LSTM in plain numpy, written from its formulas. It shares nothing with the package.

Everything is computed in float64, or in complex128 where an argument is complex: all functions here are analytic, so
the derivative along a direction v is exactly imag(f(x + 1e-30i v)) * 1e30 (Squire & Trapp 1998), without cancellation.
"""

from functools import partial

import numpy as np
from reference_variants import run_variant, sigmoid


def run_direction(parameters, suffix, x, h, c):
    """One direction of one layer over the whole of x (T, I). Returns y (T, H) and the final h and c."""
    zero = np.zeros(4 * len(h))
    W_ii, W_if, W_ig, W_io = np.split(parameters[f"weight_ih_{suffix}"], 4)
    W_hi, W_hf, W_hg, W_ho = np.split(parameters[f"weight_hh_{suffix}"], 4)
    b_ii, b_if, b_ig, b_io = np.split(parameters.get(f"bias_ih_{suffix}", zero), 4)
    b_hi, b_hf, b_hg, b_ho = np.split(parameters.get(f"bias_hh_{suffix}", zero), 4)
    y = []
    for x_t in x:
        i = sigmoid(W_ii @ x_t + b_ii + W_hi @ h + b_hi)
        f = sigmoid(W_if @ x_t + b_if + W_hf @ h + b_hf)
        g = np.tanh(W_ig @ x_t + b_ig + W_hg @ h + b_hg)
        o = sigmoid(W_io @ x_t + b_io + W_ho @ h + b_ho)
        c = f * c + i * g
        h = o * np.tanh(c)
        y.append(h)
    return np.array(y).reshape(len(y), len(h)), h, c


def run_row(parameters, x, h_0, c_0, masks, run_direction=run_direction):
    """The whole stack over one sequence x (T, I), states (L*D, H). masks: factors on the outputs of each layer."""
    directions = 1 + any(name.endswith("_reverse") for name in parameters)
    h_n, c_n = [], []
    for index in range(len(h_0)):
        layer, reverse = divmod(index, directions)
        if not reverse:
            below = x if layer == 0 else y * masks[layer - 1] if masks is not None else y  # noqa: F821
            outputs = []
        order = slice(None, None, -1 if reverse else 1)
        suffix = f"l{layer}" + "_reverse" * reverse
        output, h, c = run_direction(parameters, suffix, below[order], h_0[index], c_0[index])
        outputs.append(output[order])
        y = np.concatenate(outputs, axis=-1)
        h_n.append(h)
        c_n.append(c)
    return y, np.array(h_n), np.array(c_n)


def lstm(parameters, x, state=(None, None), lengths=None, masks=None, options=None):
    """y (T, B, D*P) and (h_n, c_n), (L*D, B, P) and (L*D, B, H), of x (T, B, I). P is H without projection.

    parameters: arrays under PyTorch's names. masks: (L-1, T, B, D*P) factors on the outputs of all layers but the last.
    options: those of a variant, see reference_variants.py.
    """
    T, B, _ = x.shape
    names = [name for name in parameters if name.startswith("weight_hh")]
    features = parameters["weight_hh_l0"].shape[1]
    hidden_size = parameters["weight_hr_l0"].shape[1] if "weight_hr_l0" in parameters else features
    run = partial(run_variant, options) if options else run_direction
    directions = 1 + ("weight_hh_l0_reverse" in parameters)
    parameters = {name: _wide(array) for name, array in parameters.items()}
    h_0, c_0 = (
        initial_state(parameters, kind, names, B, n) if array is None else _wide(array)
        for array, kind, n in zip(state, ("h_0", "c_0"), (features, hidden_size), strict=True)
    )
    x = _wide(x)
    dtype = np.result_type(x, h_0, c_0, *parameters.values())
    y = np.zeros((T, B, directions * features), dtype)
    h_n, c_n = np.zeros(h_0.shape, dtype), np.zeros(c_0.shape, dtype)
    for b in range(B):
        length = T if lengths is None else lengths[b]
        row_masks = None if masks is None else masks[:, :length, b]
        y[:length, b], h_n[:, b], c_n[:, b] = run_row(parameters, x[:length, b], h_0[:, b], c_0[:, b], row_masks, run)
    return y, (h_n, c_n)


def initial_state(parameters, kind, names, B, features):
    """(L*D, B, features): the learned one, or zeros."""
    own = [parameters.get(name.replace("weight_hh", kind), np.zeros(features)) for name in names]
    return np.broadcast_to(np.stack(own)[:, None], (len(names), B, features))


def _wide(array):
    return np.asarray(array, np.complex128 if np.iscomplexobj(array) else np.float64)
