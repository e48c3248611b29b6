"""The LSTM operator of ONNX (https://onnx.ai/onnx/operators/onnx__LSTM.html).

Weights are (directions, 4H, ...) with gates i, o, f, c; B is [Wb | Rb]; P is the peepholes i, o, f. States and Y_h, Y_c
are (directions, batch, H), Y is (time, directions, batch, H); with layout 1 the batch axis stands first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..lstm import LSTM
from .building import Direction, make_lstm, reorder_gates, reverse_time
from .limits import limited
from .onnx_file import Node

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

# Our names of the activations, by ONNX's in small letters; alpha and beta where they take such, with their defaults.
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    "sigmoid": ("sigmoid", {}),
    "tanh": ("tanh", {}),
    "relu": ("relu", {}),
    "softsign": ("softsign", {}),
    "softplus": ("softplus", {}),
    "elu": ("elu", {"alpha": 1.0}),
    "leakyrelu": ("leaky_relu", {"alpha": 0.01}),
    "thresholdedrelu": ("thresholded_relu", {"alpha": 1.0}),
    "hardsigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "affine": ("affine", {"alpha": 1.0, "beta": 0.0}),
    "scaledtanh": ("scaled_tanh", {"alpha": 1.0, "beta": 1.0}),
}
SPELLING = {name.lower(): name for name in (
    "Sigmoid Tanh Relu Softsign Softplus Elu LeakyRelu ThresholdedRelu HardSigmoid Affine ScaledTanh"
).split()}  # fmt: skip
PLAIN = [("sigmoid",), ("tanh",), ("tanh",)]


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


def lstms_of(node: Node, weights: dict[str, np.ndarray | None]) -> list[LSTM]:
    """Return the LSTM of a node, from its attributes and W, R, B and P; or two, if its directions have different
    activations.

    Raises
    ------
    ValueError
        If shapes or attributes do not fit.
    NotImplementedError
        If an attribute asks for what `clstm.LSTM` lacks.
    """
    D = DIRECTIONS[direction_of(node)]
    W, R, B, P = _checked(node, D, weights)
    directions = []
    for d in range(D):
        biases: list[Any] = [None, None]
        if B is not None:
            biases = [reorder_gates(bias, "iofg") for bias in np.split(B[d], 2)]
        peepholes = None if P is None else reorder_gates(P[d], "iof", "ifo").reshape(3, -1)
        weights_of_d = Direction(reorder_gates(W[d], "iofg"), reorder_gates(R[d], "iofg"), *biases)
        directions.append(weights_of_d._replace(weight_ch=peepholes))
    options: dict[str, Any] = {} if P is None else {"peepholes": True}
    if "clip" in node.attributes:
        options["clip"] = node.attributes["clip"]
    if node.attributes.get("input_forget"):
        options["coupling"] = "forget"
    functions = _activations(node, D)
    if functions[0] == functions[-1]:
        return [make_lstm([directions], **options, **_activation_options(functions[0]))]
    return [
        make_lstm([[direction]], **options, **_activation_options(names))
        for direction, names in zip(directions, functions, strict=True)
    ]


def _checked(node: Node, D: int, weights: dict[str, np.ndarray | None]) -> tuple[Any, Any, Any, Any]:
    """W, R, B and P, of shapes that fit each other."""
    W, R, B, P = (weights.get(key) for key in "WRBP")
    if W is None or R is None:
        raise ValueError(f"LSTM {node.name!r} lacks W or R")
    H = R.shape[-1] if R.ndim == 3 else -1
    shapes: dict[str, tuple[int, ...]] = {
        "W": (D, 4 * H, *W.shape[2:3]), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)
    }  # fmt: skip
    for key, shape in shapes.items():
        array = weights.get(key)
        if array is not None and array.shape != shape:
            raise ValueError(f"{key} of LSTM {node.name!r} has shape {array.shape}, but {shape} is expected")
        if array is not None and array.dtype.kind != "f":
            raise NotImplementedError(f"{key} of LSTM {node.name!r} has the type {array.dtype}")
    if (hidden_size := node.attributes.get("hidden_size", H)) != H:
        raise ValueError(f"LSTM {node.name!r} has hidden_size {hidden_size}, but R has {H} columns")
    return W, R, B, P


def _activations(node: Node, D: int) -> list[list[tuple[Any, ...]]]:
    """Name, alpha and beta of the activations of gates, candidate and output, for each direction.

    ONNX keeps all alphas in one list and all betas in another; functions take from them as they need.
    """
    names = node.attributes.get("activations") or ["Sigmoid", "Tanh", "Tanh"] * D
    if len(names) != 3 * D:
        raise ValueError(f"LSTM {node.name!r} has {len(names)} activations, but {3 * D} are expected")
    given = {key: iter(node.attributes.get(f"activation_{key}", [])) for key in ("alpha", "beta")}
    functions: list[tuple[Any, ...]] = []
    for name in names:
        if name.lower() not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"LSTM {node.name!r} has the activation {name!r:.40}, but known are {known}")
        ours, usual = ACTIVATIONS[name.lower()]
        functions.append((ours, *(next(given[key], value) for key, value in usual.items())))
    return [functions[3 * d : 3 * d + 3] for d in range(D)]


def _activation_options(functions: list[tuple[Any, ...]]) -> dict[str, Any]:
    return {} if functions == PLAIN else {"activations": functions}


def run_lstm(node: Node, lstms: list[LSTM], inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, Y_h, Y_c from X, sequence_lens, initial_h and initial_c.

    As in ONNX Runtime, a sequence of length 0 ends in zeros, whatever its initial state.
    """
    batch_first = node.attributes.get("layout", 0) == 1
    x, lengths = inputs["X"], inputs.get("sequence_lens")
    if x.ndim != 3 or x.shape[2] != lstms[0].input_size:
        raise ValueError(
            f"X of LSTM {node.name!r} has shape {x.shape}, but {lstms[0].input_size} features are expected"
        )
    limited([*x.shape[:2], DIRECTIONS[direction_of(node)], lstms[0].hidden_size])
    h, c = inputs.get("initial_h"), inputs.get("initial_c")
    if batch_first:
        x = x.swapaxes(0, 1)
        h, c = (array if array is None else array.swapaxes(0, 1) for array in (h, c))
    results = []
    for i, lstm in enumerate(lstms):
        D = 1 + lstm.bidirectional
        state = tuple(None if array is None else array[i * D : (i + 1) * D] for array in (h, c))
        results.append(_run_one(lstm, x, state, lengths, reverse=i == 1 or direction_of(node) == "reverse"))
    y, h, c = (np.concatenate(arrays, axis) for arrays, axis in zip(zip(*results, strict=True), (2, 0, 0), strict=True))
    if lengths is not None:
        h[:, lengths == 0] = 0
        c[:, lengths == 0] = 0
    y = y.reshape(*y.shape[:2], len(h), -1)  # (T, B, D, H)
    outputs = (y.swapaxes(0, 1), h.swapaxes(0, 1), c.swapaxes(0, 1)) if batch_first else (y.swapaxes(1, 2), h, c)
    Y, Y_h, Y_c = (array.astype(inputs["X"].dtype, copy=False) for array in outputs)
    return Y, Y_h, Y_c


def _run_one(
    lstm: LSTM, x: np.ndarray, state: Any, lengths: np.ndarray | None, reverse: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y, h_n, c_n of one LSTM; with `reverse`, a forward one that is fed from the last step to the first."""
    y, (h, c) = lstm(reverse_time(x, lengths) if reverse else x, state, lengths)
    return (reverse_time(y, lengths) if reverse else y), h, c


# ---- out ----


def attributes_of(lstm: LSTM) -> dict[str, Any]:
    """The attributes of the nodes for the layers of an LSTM.

    Raises
    ------
    NotImplementedError
        If ONNX's operator cannot do what the LSTM does.
    """
    config = lstm.config()
    for option in (
        "proj_size",
        "cell_clip",
        "proj_clip",
        "learn_initial_state",
        "layer_norm",
        "zoneout_c",
        "zoneout_h",
    ):
        if config.get(option):
            raise NotImplementedError(f"an LSTM with {option} cannot be written as ONNX")
    if config.get("coupling") == "input" or not config.get("forget_gate", True):
        raise NotImplementedError("an LSTM without a forget gate, or with coupling 'input', cannot be written as ONNX")
    attributes: dict[str, Any] = {
        "hidden_size": lstm.hidden_size,
        "direction": "bidirectional" if lstm.bidirectional else "forward",
    }
    if config.get("coupling"):
        attributes["input_forget"] = 1
    if config.get("clip"):
        attributes["clip"] = config["clip"]
    if config.get("activations"):
        attributes |= _activation_attributes(config["activations"], 1 + lstm.bidirectional)
    numbers = [number for key in ("activation_alpha", "activation_beta") for number in attributes.get(key, [])]
    for number in [attributes.get("clip", 0.0), *numbers]:
        if lstm.dtype == np.float64 and float(np.float32(number)) != number:
            raise NotImplementedError(
                f"clip, alpha or beta {number} of float64 cannot be written as ONNX, only float32"
            )
    return attributes


def _activation_attributes(functions: Mapping[str, Any], D: int) -> dict[str, Any]:
    """activations, activation_alpha and activation_beta for activations by place (i, f, g, o, h)."""
    usual = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid", "h": "tanh"}
    placed = {place: functions.get(place, name) for place, name in usual.items()}
    if not placed["i"] == placed["f"] == placed["o"]:
        raise NotImplementedError("an LSTM whose gates have different activations cannot be written as ONNX")
    names: list[str] = []
    numbers: dict[str, list[float]] = {"alpha": [], "beta": []}
    for place in "igh":
        name, *given = [placed[place]] if isinstance(placed[place], str) else placed[place]
        if name == "identity":
            name, given = "affine", [1.0, 0.0]
        theirs, usual_numbers = next((key, value[1]) for key, value in ACTIVATIONS.items() if value[0] == name)
        names.append(SPELLING[theirs])
        for key, number in zip(usual_numbers, given, strict=True):
            numbers[key].append(number)
    attributes: dict[str, Any] = {"activations": names * D}
    return attributes | {f"activation_{key}": values * D for key, values in numbers.items() if values}


def arrays_of(lstm: LSTM, weights: dict[str, np.ndarray], l: int) -> dict[str, np.ndarray]:
    """W, R and, with biases and peepholes, B and P of layer l as ONNX stacks them. A coupled gate gets zeros."""
    suffixes = ["", "_reverse"] if lstm.bidirectional else [""]
    missing = "f" if lstm.config().get("coupling") else ""

    def stacked(name: str, stored: str, wanted: str) -> np.ndarray:
        have = "".join(gate for gate in stored if gate not in missing)
        arrays = [weights[f"{name}_l{l}{suffix}"] for suffix in suffixes]
        zeros = np.zeros_like(arrays[0][: len(arrays[0]) // len(have) * len(missing)])
        return np.stack([reorder_gates(np.concatenate([array, zeros]), have + missing, wanted) for array in arrays])

    arrays = {"W": stacked("weight_ih", "ifgo", "iofg"), "R": stacked("weight_hh", "ifgo", "iofg")}
    if lstm.bias:
        arrays["B"] = np.concatenate([stacked(name, "ifgo", "iofg") for name in ("bias_ih", "bias_hh")], axis=1)
    if lstm.config().get("peepholes"):
        arrays["P"] = stacked("weight_ch", "ifo", "iof").reshape(len(suffixes), -1)
    return arrays
