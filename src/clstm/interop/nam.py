"""Files of Neural Amp Modeler (.nam) that hold an LSTM.

A file is JSON. The weights are one list: for each layer [W_ih | W_hh], row by row (4H rows of I + H numbers, gates
i, f, g, o), bias (4H), h_0 (H), c_0 (H); then the head's weight (H) and bias (1).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import as_float_dtype, as_size
from ..linear import Linear
from ..serialization import FilePath
from .audio import AudioModel
from .building import Direction, as_mapping, as_numbers, make_lstm, read_json, reading


def from_nam(path: FilePath, *, dtype: DTypeLike = "float32") -> AudioModel:
    """Return the model of a .nam file, ready to run a stream of samples from its trained initial state.

    Parameters
    ----------
    path : path-like
        A file of Neural Amp Modeler with the architecture "LSTM".
    dtype : {"float32", "float64"}, default "float32"
        Type to compute in.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or no .nam file.
    NotImplementedError
        If it has another architecture.

    Examples
    --------
    >>> import json, os, tempfile
    >>> import clstm
    >>> path = os.path.join(tempfile.mkdtemp(), "amp.nam")
    >>> config = {"input_size": 1, "hidden_size": 1, "num_layers": 1}
    >>> weights = [0.5] * (4 * 2 + 4) + [0.1, 0.2] + [1.0, 0.0]
    >>> with open(path, "w") as file:
    ...     json.dump({"version": "0.5.4", "architecture": "LSTM", "config": config, "weights": weights}, file)
    >>> model = clstm.from_nam(path)
    >>> model.process([0.0, 1.0]).shape
    (2,)
    """
    dtype = as_float_dtype(dtype)
    content = read_json(path, "architecture", "config", "weights")
    with reading(path):
        if content["architecture"] != "LSTM":
            raise NotImplementedError(f"the architecture {content['architecture']!r:.60} is not supported, only 'LSTM'")
        return _make_model(content, dtype)


def _make_model(content: Mapping[str, Any], dtype: np.dtype[Any]) -> AudioModel:
    config = as_mapping("config", content["config"], "input_size", "hidden_size", "num_layers")
    I, H, L = (as_size(name, config[name]) for name in ("input_size", "hidden_size", "num_layers"))
    if (outputs := config.get("out_channels", 1)) != 1:
        raise NotImplementedError(f"out_channels is {outputs!r:.60}, but only 1 is supported")
    columns = (I + H) + (L - 1) * 2 * H
    weights = as_numbers("weights", content["weights"], (4 * H * (columns + L) + 2 * H * L + H + 1,))
    rest = iter(np.split(weights, np.cumsum(_sizes(I, H, L))[:-1]))
    layers, states = [], []
    for _ in range(L):
        w, bias, h_0, c_0 = itertools.islice(rest, 4)
        w = w.reshape(4 * H, -1)
        layers.append([Direction(w[:, :-H], w[:, -H:], bias)])
        states.append((h_0, c_0))
    lstm, head = make_lstm(layers, dtype), Linear(H, 1, dtype=dtype)
    head.load_state_dict({"weight": next(rest)[None], "bias": next(rest)})
    h_0, c_0 = (np.stack(arrays) for arrays in zip(*states, strict=True))
    rate = content.get("sample_rate")
    return AudioModel(
        [lstm, head], {0: (h_0, c_0)}, sample_rate=float(rate or 48000), metadata=content.get("metadata") or {}
    )


def _sizes(I: int, H: int, L: int) -> list[int]:
    """Numbers in each array of the file, in its order."""
    sizes = []
    for l in range(L):
        sizes += [4 * H * ((H if l else I) + H), 4 * H, H, H]
    return [*sizes, H, 1]
