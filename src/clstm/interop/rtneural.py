"""JSON files of RTNeural: layers exported from Keras, or a PyTorch state dictionary.

Keras layers hold kernels of shape (in, out), those of an LSTM (in, 4H) with gates i, f, c, o. A state dictionary holds
PyTorch's names and shapes, and no order: layers run as they stand in the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import as_float_dtype
from ..linear import Linear
from ..lstm import LSTM
from ..serialization import FilePath
from .audio import AudioModel
from .building import Direction, as_mapping, as_numbers, make_lstm, read_json, reading
from .elementwise import Function, elu, relu, sigmoid, softmax, tanh

ACTIVATIONS: dict[str, Function] = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "elu": elu, "softmax": softmax}
Part = LSTM | Linear | Function


def from_rtneural(path: FilePath, *, dtype: DTypeLike = "float32") -> AudioModel:
    """Return the model of an RTNeural JSON file, ready to run a stream of samples.

    Parameters
    ----------
    path : path-like
        A file with `in_shape` and `layers`, of the types lstm, dense, time-distributed-dense and activation; or a
        PyTorch state dictionary of `nn.LSTM` and `nn.Linear` modules, which run in the order of the file.
    dtype : {"float32", "float64"}, default "float32"
        Type to compute in.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or no such file.
    NotImplementedError
        If it holds another type of layer, or another activation.

    Examples
    --------
    >>> import json, os, tempfile
    >>> import clstm
    >>> path = os.path.join(tempfile.mkdtemp(), "model.json")
    >>> lstm = {"type": "lstm", "activation": "tanh", "shape": [None, None, 1],
    ...         "weights": [[[0.5] * 4], [[0.1] * 4], [0.0] * 4]}
    >>> with open(path, "w") as file:
    ...     json.dump({"in_shape": [None, None, 1], "layers": [lstm]}, file)
    >>> clstm.from_rtneural(path).lstms[0].weight_hh_l0.shape
    (4, 1)
    """
    dtype = as_float_dtype(dtype)
    content = read_json(path)
    with reading(path):
        parts = _keras_parts(content, dtype) if "layers" in content else _torch_parts(content, dtype)
        _check_sizes(parts)
        return AudioModel(parts)


# ---- layers exported from Keras ----


def _keras_parts(content: Mapping[str, Any], dtype: np.dtype[Any]) -> list[Part]:
    if content.get("in_skip"):
        raise NotImplementedError("in_skip, which adds the input to the output, is not supported")
    if not isinstance(content["layers"], list):
        raise ValueError(f"layers is {content['layers']!r:.60}, but a list is expected")
    parts: list[Part] = []
    for i, layer in enumerate(content["layers"]):
        layer = as_mapping(f"layer {i}", layer, "type")
        kind = layer["type"]
        if not isinstance(kind, str) or kind not in _LAYERS:
            raise NotImplementedError(f"layer {i} is of type {kind!r:.60}, but only {', '.join(_LAYERS)} are supported")
        parts += _LAYERS[kind](f"layer {i}", layer, dtype)
    return parts


def _lstm_parts(name: str, layer: Mapping[str, Any], dtype: np.dtype[Any]) -> list[Part]:
    if layer.get("activation", "tanh") not in ("tanh", ""):
        raise NotImplementedError(f"{name} is an LSTM with activation {layer['activation']!r:.60}, not 'tanh'")
    kernel, recurrent, bias = _weights(name, layer, 3)
    recurrent = as_numbers(f"{name}, recurrent kernel", recurrent, (None, None))
    H = len(recurrent)
    recurrent = as_numbers(f"{name}, recurrent kernel", recurrent, (H, 4 * H))
    kernel = as_numbers(f"{name}, kernel", kernel, (None, 4 * H))
    bias = as_numbers(f"{name}, bias", bias, (4 * H,))
    return [make_lstm([[Direction(*(array.T for array in (kernel, recurrent, bias)))]], dtype)]


def _dense_parts(name: str, layer: Mapping[str, Any], dtype: np.dtype[Any]) -> list[Part]:
    kernel, bias = _weights(name, layer, 2)
    kernel = as_numbers(f"{name}, kernel", kernel, (None, None))
    linear = Linear(*kernel.shape, dtype=dtype)
    linear.load_state_dict({"weight": kernel.T, "bias": as_numbers(f"{name}, bias", bias, (kernel.shape[1],))})
    return [linear, *_activation_parts(name, layer, dtype)]


def _activation_parts(name: str, layer: Mapping[str, Any], dtype: np.dtype[Any]) -> list[Part]:
    function = layer.get("activation") or "linear"
    if function == "linear":
        return []
    if not isinstance(function, str) or function not in ACTIVATIONS:
        raise NotImplementedError(f"{name} has activation {function!r:.60}, but known are {', '.join(ACTIVATIONS)}")
    return [ACTIVATIONS[function]]


_LAYERS: dict[str, Callable[[str, Mapping[str, Any], np.dtype[Any]], list[Part]]] = {
    "lstm": _lstm_parts,
    "dense": _dense_parts,
    "time-distributed-dense": _dense_parts,
    "activation": _activation_parts,
}


def _weights(name: str, layer: Mapping[str, Any], count: int) -> list[Any]:
    weights = layer.get("weights")
    if not isinstance(weights, list) or len(weights) != count:
        raise ValueError(f"{name} has the weights {weights!r:.60}, but a list of {count} arrays is expected")
    return weights


# ---- PyTorch's state dictionaries ----


def _torch_parts(content: Mapping[str, Any], dtype: np.dtype[Any]) -> list[Part]:
    modules: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        prefix, _, name = key.rpartition(".")
        modules.setdefault(prefix, {})[name] = value
    if not modules:
        raise ValueError("the file has neither layers nor the arrays of a state dictionary")
    return [_torch_part(prefix, arrays, dtype) for prefix, arrays in modules.items()]


def _torch_part(prefix: str, arrays: dict[str, Any], dtype: np.dtype[Any]) -> Part:
    if "weight_ih_l0" in arrays:
        return _torch_lstm(prefix, arrays, dtype)
    if "weight" in arrays and arrays.keys() <= {"weight", "bias"}:
        weight = as_numbers(f"{prefix}.weight", arrays["weight"], (None, None))
        linear = Linear(weight.shape[1], weight.shape[0], "bias" in arrays, dtype=dtype)
        bias = {"bias": as_numbers(f"{prefix}.bias", arrays["bias"], (None,))} if "bias" in arrays else {}
        linear.load_state_dict({"weight": weight} | bias)
        return linear
    raise NotImplementedError(f"the module {prefix!r:.60} has {', '.join(arrays):.80}, which is no LSTM and no Linear")


def _torch_lstm(prefix: str, arrays: dict[str, Any], dtype: np.dtype[Any]) -> LSTM:
    if odd := [name for name in arrays if not re.fullmatch(r"(weight|bias)_[ih]h_l\d+", name)]:
        raise NotImplementedError(f"the LSTM {prefix!r:.60} has {', '.join(odd):.80}, which is not supported")
    layers: list[list[Direction]] = []
    while f"weight_ih_l{len(layers)}" in arrays:
        l = len(layers)
        found = {name: arrays.pop(f"{name}_l{l}", None) for name in Direction._fields[:4]}
        shapes = {name: (None, None) if name.startswith("weight") else (None,) for name in found}
        values = {
            name: as_numbers(f"{prefix}.{name}_l{l}", value, shapes[name])
            for name, value in found.items()
            if value is not None or name.startswith("weight")
        }
        layers.append([Direction(**values)])
    if arrays:
        raise ValueError(f"the LSTM {prefix!r:.60} has {', '.join(arrays):.80}, but no weight_ih_l{len(layers)}")
    H = layers[0][0].weight_hh.shape[1]
    if len(layers[0][0].weight_hh) == 3 * H:
        raise NotImplementedError(f"the module {prefix!r:.60} is a GRU, which is not supported")
    return make_lstm(layers, dtype)


def _check_sizes(parts: list[Part]) -> None:
    """Raise ValueError where a layer takes another number of features than the one before it makes."""
    made = None
    for part in parts:
        if isinstance(part, (LSTM, Linear)):
            takes = part.input_size if isinstance(part, LSTM) else part.in_features
            if made is not None and takes != made:
                raise ValueError(f"{part!r} takes {takes} features, but the layer before it makes {made}")
            made = part.hidden_size if isinstance(part, LSTM) else part.out_features
