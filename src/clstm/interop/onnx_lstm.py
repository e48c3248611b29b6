"""The LSTM operator of ONNX (https://onnx.ai/onnx/operators/onnx__LSTM.html).

Weights are (directions, 4H, ...) with gates i, o, f, c; B is [Wb | Rb]; P is the peepholes i, o, f. States and Y_h, Y_c
are (directions, batch, H), Y is (time, directions, batch, H); with layout 1 the batch axis stands first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..lstm import LSTM
from .building import Direction, make_lstm, reorder_gates, reverse_time
from .onnx_file import Node

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
DEFAULT_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]


def inputs_of(node: Node) -> dict[str, str]:
    """Names of the values that the node reads, by the standard's names of its inputs."""
    if len(node.inputs) > len(INPUTS):
        raise ValueError(f"LSTM {node.name!r} has {len(node.inputs)} inputs, but at most {len(INPUTS)} are expected")
    return {key: name for key, name in zip(INPUTS, node.inputs, strict=False) if name}


def direction_of(node: Node) -> str:
    """forward, reverse or bidirectional."""
    direction = node.attributes.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(
            f"LSTM {node.name!r} has direction {direction!r}, but one of {', '.join(DIRECTIONS)} is expected"
        )
    return str(direction)


def lstm_of(node: Node, weights: dict[str, np.ndarray | None]) -> LSTM:
    """Return the LSTM of a node, from its attributes and W, R, B and P.

    Raises
    ------
    ValueError
        If shapes or attributes do not fit.
    NotImplementedError
        If an attribute asks for what `clstm.LSTM` lacks.
    """
    D = DIRECTIONS[direction_of(node)]
    W, R, B, P = (weights.get(key) for key in "WRBP")
    if W is None or R is None:
        raise ValueError(f"LSTM {node.name!r} lacks W or R")
    H = R.shape[-1] if R.ndim == 3 else -1
    expected = {
        "W": (W, (D, 4 * H, *W.shape[2:3])),
        "R": (R, (D, 4 * H, H)),
        "B": (B, (D, 8 * H)),
        "P": (P, (D, 3 * H)),
    }
    for key, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{key} of LSTM {node.name!r} has shape {array.shape}, but {shape} is expected")
        if array is not None and array.dtype.kind != "f":
            raise NotImplementedError(f"{key} of LSTM {node.name!r} has the type {array.dtype}")
    if (hidden_size := node.attributes.get("hidden_size", H)) != H:
        raise ValueError(f"LSTM {node.name!r} has hidden_size {hidden_size}, but R has {H} columns")
    biases = [(None, None)] * D if B is None else [np.split(_reorder_both(b), 2) for b in B]
    layer = [Direction(reorder_gates(W[d], "iofg"), reorder_gates(R[d], "iofg"), *biases[d]) for d in range(D)]
    return make_lstm([layer], **_options(node, D, P))


def _reorder_both(bias: np.ndarray) -> np.ndarray:
    """[Wb | Rb] with the gates of each in our order."""
    return np.concatenate([reorder_gates(half, "iofg") for half in np.split(bias, 2)])


def _options(node: Node, D: int, P: np.ndarray | None) -> dict[str, Any]:
    """The arguments of `clstm.LSTM` for what goes beyond the plain cell."""
    options: dict[str, Any] = {}
    activations = node.attributes.get("activations") or DEFAULT_ACTIVATIONS * D
    if [name.lower() for name in activations] != DEFAULT_ACTIVATIONS * D:
        options["activations"] = activations
    if "clip" in node.attributes:
        options["clip"] = node.attributes["clip"]
    if node.attributes.get("input_forget"):
        options["coupling"] = "forget"
    if P is not None:
        options["peepholes"] = True
    return options


def run_lstm(node: Node, lstm: LSTM, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, Y_h, Y_c from X, sequence_lens, initial_h and initial_c.

    As in ONNX Runtime, a sequence of length 0 ends in zeros, whatever its initial state.
    """
    batch_first = node.attributes.get("layout", 0) == 1
    x, lengths = inputs["X"], inputs.get("sequence_lens")
    if x.ndim != 3 or x.shape[2] != lstm.input_size:
        raise ValueError(f"X of LSTM {node.name!r} has shape {x.shape}, but {lstm.input_size} features are expected")
    h, c = inputs.get("initial_h"), inputs.get("initial_c")
    if batch_first:
        x = x.swapaxes(0, 1)
        h, c = (array if array is None else array.swapaxes(0, 1) for array in (h, c))
    reverse = direction_of(node) == "reverse"
    y, (h, c) = lstm(reverse_time(x, lengths) if reverse else x, (h, c), lengths)
    y = reverse_time(y, lengths) if reverse else y
    if lengths is not None:
        h[:, lengths == 0] = 0
        c[:, lengths == 0] = 0
    y = y.reshape(*y.shape[:2], len(h), -1)  # (T, B, D, H)
    outputs = (y.swapaxes(0, 1), h.swapaxes(0, 1), c.swapaxes(0, 1)) if batch_first else (y.swapaxes(1, 2), h, c)
    Y, Y_h, Y_c = (array.astype(inputs["X"].dtype, copy=False) for array in outputs)
    return Y, Y_h, Y_c
