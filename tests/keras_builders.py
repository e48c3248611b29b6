"""Files of Keras, written without Keras, that several tests share.

The expected numbers come from a cell in numpy that follows Keras's own loop, step by step, masks included.
"""

import json
import zipfile

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="h5py, which writes the test files, is not installed")

T, B, I, H = 6, 3, 4, 4  # equal sizes: only the numbers tell a wrong axis or a wrong order of gates


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class KerasLstm:
    """Keras's LSTM in float64: arrays (batch, time, features), gates i, f, c, o, masks, go_backwards."""

    def __init__(self, rng, units=H, features=I, bias=True, functions=(sigmoid, np.tanh), **config):
        self.functions = functions
        self.config = {
            "units": units,
            "use_bias": bias,
            "activation": "tanh",
            "recurrent_activation": "sigmoid",
        } | config
        shapes = [(features, 4 * units), (units, 4 * units)] + [(4 * units,)] * bias
        self.arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    def __call__(self, x, mask=None, state=None, zero_masked=False, sequences=False):
        """Outputs in the order of processing, or the last one; and [h, c]."""
        kernel, recurrent, *bias = (array.astype(np.float64) for array in self.arrays)
        if self.config.get("go_backwards"):
            x, mask = x[:, ::-1], None if mask is None else mask[:, ::-1]
        h, c = state or [np.zeros((len(x), len(recurrent)))] * 2
        output, outputs = np.zeros_like(h), []
        gate, activation = self.functions
        for t in range(x.shape[1]):
            i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + (bias[0] if bias else 0), 4, axis=1)
            c_new = gate(f) * c + gate(i) * activation(g)
            h_new = gate(o) * activation(c_new)
            valid = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
            h, c = np.where(valid, h_new, h), np.where(valid, c_new, c)
            output = np.where(valid, h_new, 0 if zero_masked else output)
            outputs.append(output)
        return (np.stack(outputs, axis=1) if sequences else output), [h, c]

    def layer(self, name="rnn", **config):
        return {"class_name": "LSTM", "config": {"name": name} | self.config | config}


def rows_of(mask_text):
    """A mask from rows of 0 and 1."""
    return np.array([[digit == "1" for digit in row] for row in mask_text.split()])


MASKS = {
    "none": None,
    "right": rows_of("111111 111000 100000"),
    "left": rows_of("111111 000111 000001"),
    "holes": rows_of("101101 010011 011010"),
    "empty row": rows_of("110100 000000 111111"),
}


def masked_input(rng, mask):
    """x, and the layers in front of the LSTM, that make such a mask."""
    x = rng.standard_normal((B, T, I))
    if mask is None:
        return x, []
    x[~mask] = 0
    return x, [{"class_name": "Masking", "config": {"name": "masking", "mask_value": 0.0}}]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


# ---- configurations ----


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def wrapped(inner):
    """Bidirectional around a layer; inner: what its configuration holds besides the name."""
    return {"class_name": "Bidirectional", "config": {"name": "rnn"} | inner}


def functional(layers, inputs, outputs):
    """A model; layers: (layer, inbound node or None)."""
    described = [
        layer | {"name": layer["config"]["name"], "inbound_nodes": [node] * bool(node)} for layer, node in layers
    ]
    return {
        "class_name": "Functional",
        "config": {"layers": described, "input_layers": inputs, "output_layers": outputs},
    }


def chained(kind, count, **config):
    """Layers that each read the one before twice."""
    layers = [({"class_name": "InputLayer", "config": {"name": "l0"}}, None)]
    for i in range(count):
        layer = {"class_name": kind, "config": {"name": f"l{i + 1}"} | config}
        layers.append((layer, [[f"l{i}", 0, 0, {}], [f"l{i}", 0, 0, {}]]))
    return functional(layers, [["l0", 0, 0]], [[f"l{count}", 0, 0]])


# ---- files ----


def write_h5(path, config, arrays, version="2.4.0", text=str.encode):
    """As Keras 2 writes it; arrays by name of the layer."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = version, json.dumps(config).encode()
        write_by_name(file.create_group("model_weights"), arrays, text)
    return path


def write_by_name(group, arrays, text=str.encode):
    group.attrs["layer_names"] = [text(name) for name in arrays]
    for layer, values in arrays.items():
        names = [f"{layer}/part_{9 - i}:0" for i in range(len(values))]  # not in the order of the alphabet
        inner = group.create_group(layer)
        inner.attrs["weight_names"] = [text(name) for name in names] if names else np.zeros(0, "S1")
        for name, array in zip(names, values, strict=True):
            inner[name] = array


def write_by_position(path, parts, names=True):
    """As Keras 3 writes weights; parts: {group: (name of the layer, {inner path: arrays})}."""
    with h5py.File(path, "w") as file:
        for key, (name, inner) in parts.items():
            file.create_group(f"layers/{key}/vars")
            if names:
                file[f"layers/{key}/vars"].attrs["name"] = name
            for place, arrays in inner.items():
                for i, array in enumerate(arrays):
                    file[f"layers/{key}/{place}/{i}"] = array
    return path


def write_keras(path, config, weights, version="3.5.0"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.read_bytes())
    return path
