"""Recurrent layers of Keras: LSTM, CuDNNLSTM, and Bidirectional around one.

Arrays are (batch, time, features). A kernel is (I, 4H), a recurrent kernel (H, 4H), with gates i, f, c, o; there is one
bias (4H). `unit_forget_bias` says how the bias was initialized; the values in a file have it in them already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..lstm import LSTM
from .building import Direction, as_mapping, make_lstm
from .keras_activations import lstm_activation
from .limits import limited

State = list[np.ndarray]

MERGES = ("concat", "sum", "mul", "ave", None)


class Tensor(NamedTuple):
    """What flows between layers."""

    array: np.ndarray  # (batch, ...)
    mask: np.ndarray | None = None  # (batch, time) of bool: False where a step does not count


class RecurrentLayer:
    """An LSTM as Keras runs it.

    Parameters
    ----------
    lstm : LSTM
        With `batch_first`; bidirectional for Keras's Bidirectional.
    config : mapping
        Keras's configuration of the (forward) LSTM layer.
    merge_mode : str, optional
        Of Bidirectional.
    """

    def __init__(self, lstm: LSTM, config: Mapping[str, Any], merge_mode: str | None = None) -> None:
        self.lstm, self.merge_mode = lstm, merge_mode
        self._sequences = bool(config.get("return_sequences"))
        self._return_state = bool(config.get("return_state"))
        self._backwards = bool(config.get("go_backwards"))
        self._stateful = bool(config.get("stateful"))
        # Bidirectional makes its layers put zeros out for masked steps when they return sequences.
        self._zero_masked = self._sequences if lstm.bidirectional else bool(config.get("zero_output_for_mask"))
        self._state: State | None = None

    def reset_state(self) -> None:
        """Forget the state that a stateful layer keeps."""
        self._state = None

    def __call__(self, x: Tensor, state: State | None = None) -> list[Tensor]:
        """Outputs, then states if the layer returns them: h, c, and with Bidirectional those of the reverse direction.

        With `go_backwards` the sequence is read from its end, and outputs stand in the order of processing.
        """
        array, mask = x
        if array.ndim != 3:
            raise ValueError(f"x has shape {array.shape}, but (batch, time, features) is expected")
        limited([*array.shape[:2], 1 + self.lstm.bidirectional, self.lstm.hidden_size])
        if self._backwards:
            array, mask = array[:, ::-1], None if mask is None else mask[:, ::-1]
        y, states = self._run(array, mask, self._state if state is None else state)
        if self._stateful:
            self._state = states
        outputs = self._merged(y)
        after = x.mask if self._sequences else None
        tensors = [Tensor(output, after) for output in outputs]
        return tensors + [Tensor(array) for array in states] if self._return_state else tensors

    def _run(self, x: np.ndarray, mask: np.ndarray | None, state: State | None) -> tuple[np.ndarray, State]:
        """Outputs and final states."""
        pair = None
        if state is not None:
            if len(state) != 2 * (1 + self.lstm.bidirectional):
                raise ValueError(f"initial_state has {len(state)} arrays")
            if state[0].shape[0] != x.shape[0]:
                raise ValueError(f"x has {x.shape[0]} rows, but the state has {state[0].shape[0]}")
            pair = np.stack(state[0::2]), np.stack(state[1::2])  # (D, batch, H)
        y, (h, c) = self.lstm(x, pair, mask=mask)
        if self._zero_masked and mask is not None:
            y[~mask] = 0
        return y, [array for pair in zip(h, c, strict=True) for array in pair]

    def _merged(self, y: np.ndarray) -> list[np.ndarray]:
        """Both directions together, at all steps or at the one that is processed last."""
        if not self._sequences and not y.shape[1]:
            raise ValueError("x has no time steps, but at least one is expected")
        if not self.lstm.bidirectional:
            return [y if self._sequences else y[:, -1]]
        a, b = np.split(y, 2, axis=2)
        if not self._sequences:
            a, b = a[:, -1], b[:, 0]
        if self.merge_mode is None:
            return [a, b]
        if self.merge_mode == "concat":
            return [np.concatenate([a, b], axis=-1)]
        if self.merge_mode == "mul":
            return [a * b]
        return [a + b] if self.merge_mode == "sum" else [(a + b) / 2]


def make_layer(layer: Mapping[str, Any], arrays: list[np.ndarray], version: int | None) -> RecurrentLayer:
    """Return the recurrent layer of a configuration and its arrays.

    Raises
    ------
    ValueError
        If the arrays do not fit the configuration.
    NotImplementedError
        If it asks for what is not supported.
    """
    config = layer["config"]
    if layer["class_name"] != "Bidirectional":
        return RecurrentLayer(_make_lstm([layer], arrays, version), config)
    forward = as_mapping("the layer inside Bidirectional", config.get("layer"), "class_name", "config")
    backward = config.get("backward_layer") or forward
    if config.get("merge_mode", "concat") not in MERGES:
        raise ValueError(f"merge_mode is {config['merge_mode']!r:.60}, but one of {MERGES} is expected")
    for inner in (forward, backward):
        if as_mapping("a layer inside Bidirectional", inner, "class_name")["class_name"] not in ("LSTM", "CuDNNLSTM"):
            raise NotImplementedError(f"Bidirectional around {inner['class_name']!r:.60} is not supported")
    if forward["config"].get("go_backwards"):
        raise NotImplementedError("Bidirectional around a layer that goes backwards is not supported")
    lstm = _make_lstm([forward, backward], arrays, version)
    return RecurrentLayer(lstm, forward["config"], config.get("merge_mode", "concat"))


def _make_lstm(layers: list[Mapping[str, Any]], arrays: list[np.ndarray], version: int | None) -> LSTM:
    """The LSTM of one layer, or of the two of Bidirectional."""
    configs = [as_mapping("the configuration of a layer", layer.get("config"), "units") for layer in layers]
    for key in ("units", "use_bias"):
        if configs[0].get(key) != configs[-1].get(key):
            raise NotImplementedError(f"Bidirectional around layers that differ in {key} is not supported")
    if len(arrays) % len(layers):
        raise ValueError(f"there are {len(arrays)} arrays for {len(layers)} directions")
    each = len(arrays) // len(layers)
    directions, options = [], []
    for i, (layer, config) in enumerate(zip(layers, configs, strict=True)):
        if config.get("time_major"):
            raise NotImplementedError("time_major is not supported")
        units, bias = config["units"], layer["class_name"] == "CuDNNLSTM" or config.get("use_bias", True)
        directions.append(
            _direction(arrays[i * each : (i + 1) * each], units, bias, layer["class_name"] == "CuDNNLSTM")
        )
        options.append(_options(config, version))
    if options[0] != options[-1]:
        raise NotImplementedError("Bidirectional around layers of different activations is not supported")
    return make_lstm([directions], batch_first=True, **options[0])


def _options(config: Mapping[str, Any], version: int | None) -> dict[str, Any]:
    """The arguments of `clstm.LSTM` for what goes beyond the plain cell."""
    output, gates = (
        lstm_activation(config.get(key, usual), version)
        for key, usual in (("activation", "tanh"), ("recurrent_activation", "sigmoid"))
    )
    return {} if (gates, output) == ("sigmoid", "tanh") else {"activations": [gates, output, output]}


def _direction(arrays: list[np.ndarray], H: Any, bias: bool, cudnn: bool) -> Direction:
    """The weights of one LSTM layer. CuDNNLSTM has two biases, and stores each gate's matrices as cuDNN reads them."""
    if not isinstance(H, int) or H < 1:
        raise ValueError(f"units is {H!r:.60}, but an integer of at least 1 is expected")
    if len(arrays) != 2 + bool(bias):
        raise ValueError(f"there are {len(arrays)} arrays, but {2 + bool(bias)} are expected")
    kernel, recurrent = arrays[:2]
    features = kernel.shape[0] if kernel.ndim == 2 else -1
    shapes = [(features, 4 * H), (H, 4 * H), ((8 if cudnn else 4) * H,)]
    for name, array, shape in zip(("kernel", "recurrent kernel", "bias"), arrays, shapes, strict=False):
        if array.shape != shape:
            raise ValueError(f"the {name} has shape {array.shape}, but {shape} is expected: units is {H}")
    biases = [None, None] if not bias else np.split(arrays[2], 2) if cudnn else [arrays[2], None]
    if not cudnn:
        return Direction(kernel.T, recurrent.T, *biases)
    # A gate's block (I, H) holds, in its order of bytes, the matrix (H, I); that of the recurrent kernel likewise.
    blocks = (np.ascontiguousarray(block) for block in np.split(kernel, 4, axis=1))
    weight_ih = np.concatenate([block.reshape(H, features) for block in blocks])
    return Direction(weight_ih, np.concatenate(np.split(recurrent, 4, axis=1)), *biases)


def guess_layer(arrays: list[np.ndarray]) -> RecurrentLayer | None:
    """The LSTM, or Bidirectional of one, that a layer with these arrays is; None if it is neither."""
    for D in (1, 2):
        each, rest = divmod(len(arrays), D)
        if rest or each not in (2, 3) or arrays[1].ndim != 2:
            continue
        H = len(arrays[1])
        cudnn = each == 3 and arrays[2].shape == (8 * H,)
        try:
            directions = [_direction(arrays[d * each : (d + 1) * each], H, each == 3, cudnn) for d in range(D)]
        except ValueError:
            continue
        return RecurrentLayer(make_lstm([directions], batch_first=True), {"return_sequences": True}, "concat")
    return None
