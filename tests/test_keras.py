"""Files of Keras, written here without Keras: what layers mean, which files hold them, how damaged ones are refused.

The expected numbers come from a cell in numpy that follows Keras's own loop, step by step, masks included.
"""

import json
import math
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import clstm
from clstm.interop import keras_activations, keras_layers, keras_operations
from clstm.interop.hdf5 import open_hdf5

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


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


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


# ---- what a layer means ----


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"zero_output_for_mask": True}, {"use_bias": False}])
def test_lstm(tmp_path, rng, mask, sequences, options):
    mask = MASKS[mask]
    x, front = masked_input(rng, mask)
    lstm = KerasLstm(rng, bias=options.get("use_bias", True), **options)
    config = sequential(*front, lstm.layer(return_sequences=sequences, return_state=True))
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"masking": [], "rnn": lstm.arrays}))
    zero = options.get("zero_output_for_mask", False)
    y, states = lstm(x, mask, zero_masked=zero, sequences=sequences)
    for found, expected in zip(model(x), [y, *states], strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(tmp_path, rng, mask, sequences, merge):
    mask = MASKS[mask]
    x, front = masked_input(rng, mask)
    forward, backward = KerasLstm(rng), KerasLstm(rng, go_backwards=True)
    inner = forward.layer(return_sequences=sequences, return_state=True)
    layer = {"class_name": "Bidirectional", "config": {"name": "rnn", "layer": inner, "merge_mode": merge}}
    arrays = {"masking": [], "rnn": forward.arrays + backward.arrays}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(*front, layer), arrays))
    assert model.lstms["rnn"].bidirectional
    (a, states), (b, back_states) = (lstm(x, mask, None, sequences, sequences) for lstm in (forward, backward))
    b = b[:, ::-1] if sequences else b
    merged = {
        "concat": [np.concatenate([a, b], -1)], "sum": [a + b], "mul": [a * b], "ave": [(a + b) / 2], None: [a, b]
    }[merge]  # fmt: skip
    for found, expected in zip(model(x), [*merged, *states, *back_states], strict=True):
        assert_close(found, expected)


def test_cudnn_lstm_has_two_biases_and_matrices_as_cudnn_reads_them(tmp_path, rng):
    features = I + 3
    lstm = KerasLstm(rng, features=features)
    kernel, recurrent, bias = lstm.arrays
    second = rng.standard_normal(4 * H).astype(np.float32)
    lstm.arrays[2] = bias + second
    # Keras converts a gate's block k (I, H) of CuDNNLSTM by k.T.reshape(k.shape, order="F"); this is the way back.
    stored = np.hstack([k.reshape(k.T.shape, order="F").T for k in np.split(kernel, 4, axis=1)])
    for block, k in zip(np.split(stored, 4, axis=1), np.split(kernel, 4, axis=1), strict=True):
        np.testing.assert_array_equal(block.T.reshape(block.shape, order="F"), k)
    arrays = [stored, np.hstack([k.T for k in np.split(recurrent, 4, axis=1)]), np.concatenate([bias, second])]
    layer = {"class_name": "CuDNNLSTM", "config": {"name": "rnn", "units": H}}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"rnn": arrays}))
    x = rng.standard_normal((B, T, features))
    assert_close(model(x), lstm(x)[0])


def test_a_stateful_layer_goes_on_until_it_is_reset(tmp_path, rng):
    lstm = KerasLstm(rng)
    config = sequential(lstm.layer(stateful=True, return_sequences=True))
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}))
    x = rng.standard_normal((B, T, I))
    whole = lstm(x, sequences=True)[0]
    first = model(x[:, :2])
    with pytest.raises(ValueError, match="x has 2 rows, but the state has 3"):
        model(x[:2])
    assert_close(np.concatenate([first, model(x[:, 2:])], axis=1), whole)
    model.reset_state()
    assert_close(model(x[:, :2]), whole[:, :2])


def functional(layers, inputs, outputs):
    """A model; layers: (layer, inbound node or None)."""
    described = [
        layer | {"name": layer["config"]["name"], "inbound_nodes": [node] * bool(node)} for layer, node in layers
    ]
    return {
        "class_name": "Functional",
        "config": {"layers": described, "input_layers": inputs, "output_layers": outputs},
    }


def tensor(name, index=0):
    return {"class_name": "__keras_tensor__", "config": {"shape": None, "keras_history": [name, 0, index]}}


@pytest.mark.parametrize("version", ["2.4.0", "3.5.0"])
def test_encoder_and_decoder(tmp_path, rng, version):
    encoder, decoder = KerasLstm(rng), KerasLstm(rng, features=2)
    if version < "3":
        nodes = [[["a", 0, 0, {}]], [["b", 0, 0, {}], ["encoder", 0, 1, {}], ["encoder", 0, 2, {}]]]
    else:
        state = [tensor("encoder", 1), tensor("encoder", 2)]
        nodes = [{"args": [tensor("a")], "kwargs": {}}, {"args": [tensor("b")], "kwargs": {"initial_state": state}}]
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "a"}}, None),
        ({"class_name": "InputLayer", "config": {"name": "b"}}, None),
        (decoder.layer("decoder", return_sequences=True), nodes[1]),  # not in the order in which they can run
        (encoder.layer("encoder", return_state=True), nodes[0]),
    ]
    config = functional(layers, [["a", 0, 0], ["b", 0, 0]], [["decoder", 0, 0]])
    arrays = {"a": [], "b": [], "encoder": encoder.arrays, "decoder": decoder.arrays}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays, version))
    assert (model.inputs, set(model.lstms)) == (("a", "b"), {"encoder", "decoder"})
    a, b = rng.standard_normal((B, T, I)), rng.standard_normal((B, 3, 2))
    assert_close(model({"a": a, "b": b}), decoder(b, state=encoder(a)[1], sequences=True)[0])
    with pytest.raises(ValueError, match="inputs has a, but a, b are expected"):
        model({"a": a})


@pytest.mark.parametrize(("version", "slope"), [("2.15.0", 0.2), ("3.0.0", 1 / 6)])
def test_hard_sigmoid_of_either_version(tmp_path, rng, version, slope):
    kernel = np.eye(3, dtype=np.float32)
    layer = {"class_name": "Dense", "config": {"name": "dense", "use_bias": False, "activation": "hard_sigmoid"}}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"dense": [kernel]}, version))
    x = np.array([[-2.9, 0.5, 2.7]])
    assert_close(model(x), np.clip(slope * x + 0.5, 0, 1))


FUNCTIONS = {
    "sigmoid": sigmoid, "tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "linear": lambda x: x, None: lambda x: x,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.log1p(np.exp(x)), "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x), "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1), "silu": lambda x: x * sigmoid(x), "swish": lambda x: x * sigmoid(x),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "log_sigmoid": lambda x: np.log(sigmoid(x)),
    "tanh_shrink": lambda x: x - np.tanh(x), "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))), "exponential": np.exp,
    "celu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.05070099 * np.where(x > 0, x, 1.67326324 * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS, ids=str)
def test_activations_of_a_layer(tmp_path, name):
    layer = {"class_name": "Activation", "config": {"name": "activation", "activation": name}}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"activation": []}))
    x = np.array([[-7.0, -2.5, -0.6, -0.1], [0.1, 0.9, 2.0, 7.0]])
    assert_close(model(x), FUNCTIONS[name](x))


def test_every_activation_and_layer_is_tested_and_documented():
    assert FUNCTIONS.keys() - {None} == keras_activations.FUNCTIONS.keys() | {"hard_sigmoid"}
    page = (Path(__file__).parents[1] / "docs/keras.md").read_text()
    names = set(re.findall(r"\w+", page))
    assert names >= keras_activations.FUNCTIONS.keys() | keras_activations.OF_LSTM.keys()
    assert names >= keras_layers.LAYERS.keys() | set(keras_operations.OPERATIONS)


@pytest.mark.parametrize(
    ("gate", "activation"),
    [
        ("hard_sigmoid", "tanh"), ("sigmoid", "relu"), ("tanh", "softsign"), ("sigmoid", "elu"), ("hard_sigmoid", None),
        ("sigmoid", "linear"), ("sigmoid", "softplus"), ("sigmoid", "leaky_relu"),
    ],
)  # fmt: skip
def test_activations_of_an_lstm(tmp_path, rng, gate, activation):
    lstm = KerasLstm(rng, functions=(FUNCTIONS[gate], FUNCTIONS[activation]))
    lstm.arrays = [0.3 * array for array in lstm.arrays]
    config = sequential(lstm.layer(recurrent_activation=gate, activation=activation))
    x = rng.standard_normal((B, T, I))
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}))
    assert_close(model(x), lstm(x)[0])


def test_hard_sigmoid_of_an_lstm_in_keras_3(tmp_path, rng):
    lstm = KerasLstm(rng, functions=(lambda x: np.clip(x / 6 + 0.5, 0, 1), np.tanh))
    config, x = sequential(lstm.layer(recurrent_activation="hard_sigmoid")), rng.standard_normal((B, T, I))
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}, "3.0.1"))
    assert_close(model(x), lstm(x)[0])


@pytest.mark.parametrize("joined", ["features", "time", "sum"])
def test_masks_of_joined_branches(tmp_path, rng, joined):
    """As in Keras 2: a step counts where it does in all of them, and everywhere in one without a mask."""
    config = {"name": "joined"} | {"features": {"axis": -1}, "time": {"axis": 1}, "sum": {}}[joined]
    kind = "Add" if joined == "sum" else "Concatenate"
    lstm = KerasLstm(rng, features=3 * I if joined == "features" else I)
    layers = [({"class_name": "InputLayer", "config": {"name": name}}, None) for name in "abc"]
    layers += [({"class_name": "Masking", "config": {"name": f"m{name}"}}, [[name, 0, 0, {}]]) for name in "ab"]
    layers.append(({"class_name": kind, "config": config}, [[name, 0, 0, {}] for name in ("c", "ma", "mb")]))
    layers.append((lstm.layer(), [["joined", 0, 0, {}]]))
    config = functional(layers, [[name, 0, 0] for name in "abc"], [["rnn", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}))
    masks = rng.random((3, B, T)) < 0.6
    masks[2] = True
    a, b, c = arrays = rng.standard_normal((3, B, T, I)) * masks[..., None]
    if joined == "time":
        x, mask = np.concatenate([c, a, b], axis=1), np.concatenate([masks[2], masks[0], masks[1]], axis=1)
    else:
        x, mask = np.concatenate([c, a, b], axis=-1) if joined == "features" else sum(arrays), masks.all(axis=0)
    assert_close(model({"a": a, "b": b, "c": c}), lstm(x, mask)[0])


def used(name, index=0, *numbers, **options):
    """How Keras 3 writes a use of a layer or an operation: of one tensor, or of several."""
    names = [name] if isinstance(name, str) else name
    tensors = [tensor(name, index) for name in names]
    return {"args": [*tensors, *numbers], "kwargs": options}


def operation(kind, name, **config):
    """With the name of its module, as in a .keras file."""
    return {"class_name": kind, "module": "keras.src.ops.numpy", "config": {"name": name} | config}


def without_module(layers):
    """As in an .h5 file."""
    return [({key: value for key, value in layer.items() if key != "module"}, node) for layer, node in layers]


def masked_branches(joined, config):
    """What Keras 3.15 writes for two inputs with Masking behind each, joined in front of an LSTM, but for that LSTM."""
    layers = []
    for name in "ab":
        layers += [
            ({"class_name": "InputLayer", "config": {"name": name}}, None),
            ({"class_name": "Masking", "config": {"name": f"m{name}", "trainable": True}}, used(name)),
            (operation("NotEqual", f"ne{name}"), used(name, 0, 0.0)),
            (operation("Any", f"any{name}", axis=-1, keepdims=False), used(f"ne{name}")),
        ]
    layers.append(
        ({"class_name": joined, "config": {"name": "joined", "trainable": True} | config}, used(["ma", "mb"]))
    )
    if joined == "Add":
        return [*layers, (operation("LogicalOr", "mask"), used(["anya", "anyb"]))]
    for name in "ab":
        layers += [
            (operation("ExpandDims", f"wide{name}", axis=-1), used(f"any{name}")),
            (operation("ZerosLike", f"zeros{name}", dtype="bool"), used(f"m{name}")),
            (operation("LogicalOr", f"or{name}"), used([f"wide{name}", f"zeros{name}"])),
        ]
    layers.append((operation("Concatenate", "all", **config), {"args": [[tensor("ora"), tensor("orb")]], "kwargs": {}}))
    return [*layers, (operation("Any", "mask", axis=-1, keepdims=False), used("all"))]


@pytest.mark.parametrize("modules", [True, False])
@pytest.mark.parametrize("joined", ["features", "time", "sum"])
def test_masks_of_joined_branches_in_keras_3(tmp_path, rng, joined, modules):
    """A step counts where it does in any of them, and the file says so, operation by operation."""
    kind, config = ("Add", {}) if joined == "sum" else ("Concatenate", {"axis": -1 if joined == "features" else 1})
    lstm = KerasLstm(rng, features=2 * I if joined == "features" else I)
    layers = [*masked_branches(kind, config), (lstm.layer(trainable=True), used("joined", mask=tensor("mask")))]
    layers = layers if modules else without_module(layers)
    config = functional(layers, [["a", 0, 0], ["b", 0, 0]], [["rnn", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}, "3.15.1"))
    masks = rng.random((2, B, T)) < 0.5
    a, b = rng.standard_normal((2, B, T, I)) * masks[..., None]
    axis = 1 if joined == "time" else -1
    x = a + b if joined == "sum" else np.concatenate([a, b], axis)
    mask = np.concatenate(list(masks), axis=1) if joined == "time" else masks.any(axis=0)
    assert_close(model({"a": a, "b": b}), lstm(x, mask)[0])


def test_a_mask_counts_in_keras_3_only_where_it_is_written(tmp_path, rng):
    """Keras 3 gives a decoder with an initial state no mask."""
    encoder, decoder = KerasLstm(rng), KerasLstm(rng)
    table = rng.standard_normal((7, I)).astype("f")
    state = [tensor("encoder", 1), tensor("encoder", 2)]
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        ({"class_name": "Embedding", "config": {"name": "table", "mask_zero": True}}, used("x")),
        (operation("NotEqual", "mask"), used("x", 0, 0)),
        (encoder.layer("encoder", return_state=True), used("table", mask=tensor("mask"))),
        (decoder.layer("decoder"), used("table", initial_state=state)),
    ]
    config = functional(layers, [["x", 0, 0]], [["decoder", 0, 0]])
    arrays = {"table": [table], "encoder": encoder.arrays, "decoder": decoder.arrays}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays, "3.15.1"))
    x = np.array([[1, 0, 2, 0], [3, 4, 0, 0]])
    assert_close(model(x), decoder(table[x], state=encoder(table[x], x != 0)[1])[0])


@pytest.mark.parametrize("modules", [True, False])
def test_numbers_among_the_arguments_of_an_operation(tmp_path, rng, modules):
    """x + 1 is no layer Add of x alone."""
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        (operation("Multiply", "times"), used("x", 0, 3)),
        (operation("Subtract", "minus"), {"args": [1.5, tensor("times")], "kwargs": {}}),
    ]
    config = functional(layers if modules else without_module(layers), [["x", 0, 0]], [["minus", 0, 0]])
    x = rng.standard_normal((2, 3))
    assert_close(clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))(x), 1.5 - 3 * x)
    layers[1] = (operation("Multiply", "times"), used("x", 0, [1, 2, 3]))
    config = functional(layers, [["x", 0, 0]], [["minus", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))
    with pytest.raises(NotImplementedError, match=r"times \(Multiply: the argument \[1, 2, 3\] is not supported"):
        model(x)


def test_an_operation_with_a_tensor_too_few_is_refused(tmp_path):
    odd = used("x") | {"args": [tensor("x"), {"class_name": "__keras_tensor__", "config": {"keras_history": []}}]}
    layers = [({"class_name": "InputLayer", "config": {"name": "x"}}, None), (operation("Add", "sum"), odd)]
    config = functional(layers, [["x", 0, 0]], [["sum", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))
    with pytest.raises(ValueError, match="layer 'sum' cannot be computed: there are 1 tensors"):
        model(np.zeros((2, 3)))


def test_a_model_that_names_its_inputs_and_outputs(tmp_path, rng):
    lstm = KerasLstm(rng)
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        ({"class_name": "InputLayer", "config": {"name": "m", "dtype": "bool"}}, None),
        (lstm.layer(return_state=True), used("x", mask=tensor("m"))),
    ]
    config = functional(
        layers, {"samples": ["x", 0, 0], "valid": ["m", 0, 0]}, {"c": ["rnn", 0, 2], "y": ["rnn", 0, 0]}
    )
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}, "3.15.1"))
    assert model.inputs == ("samples", "valid")
    x, mask = rng.standard_normal((B, T, I)), MASKS["holes"]
    found, (y, (_, c)) = model({"samples": x, "valid": mask}), lstm(x, mask)
    assert list(found) == ["c", "y"]
    assert_close(found["c"], c)
    assert_close(found["y"], y)


@pytest.mark.parametrize(("key", "number"), [("units", H + 1), ("use_bias", False)])
def test_directions_of_different_kinds_are_refused_by_name(tmp_path, rng, key, number):
    forward, backward = KerasLstm(rng), KerasLstm(rng, **({"units": number} if key == "units" else {"bias": number}))
    layer = wrapped({"layer": forward.layer(), "backward_layer": backward.layer()})
    path = write_h5(tmp_path / "m.h5", sequential(layer), {"rnn": forward.arrays + backward.arrays})
    with pytest.raises(NotImplementedError, match=f"layers that differ in {key}"):
        clstm.from_keras(path)


def test_layers_in_any_order(tmp_path, rng):
    names = [f"l{i}" for i in range(2000)]
    rescaling = {"class_name": "Rescaling", "config": {"scale": 1.0, "offset": 1.0}}
    layers = [
        (rescaling | {"config": rescaling["config"] | {"name": name}}, [[before, 0, 0, {}]])
        for before, name in zip(["x", *names], names, strict=False)
    ]
    layers.append(({"class_name": "InputLayer", "config": {"name": "x"}}, None))
    config = functional(layers[::-1], [["x", 0, 0]], [[names[-1], 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))
    assert_close(model(np.zeros((1, 2))), np.full((1, 2), 2000))


def test_layers_in_a_circle_are_refused(tmp_path):
    config = chained("Add", 3)
    config["config"]["layers"][1]["inbound_nodes"][0][0] = ["l3", 0, 0, {}]
    with pytest.raises(ValueError, match=r"cannot be loaded: layer 'l\d' reads what is made of its own output"):
        clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))


def test_an_input_that_no_layer_makes_is_refused(tmp_path):
    config = chained("Add", 3)
    config["config"]["layers"][2]["inbound_nodes"][0][0] = ["other", 0, 0, {}]
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))
    with pytest.raises(ValueError, match="layer 'l2' reads what layer 'other' does not make"):
        model(np.zeros((2, 2)))


def mean_of_valid(x, mask):
    return np.stack([row[valid].mean(0) for row, valid in zip(x, mask, strict=True)])


AROUND = [
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2},
     lambda x, m: np.where(x >= 1, 1, np.where(x >= 0.2, x, 0.1 * (x - 0.2)))),
    ("ReLU", {}, lambda x, m: np.maximum(x, 0)),
    ("LeakyReLU", {}, lambda x, m: np.where(x > 0, x, 0.3 * x)),
    ("LeakyReLU", {"alpha": 0.1}, lambda x, m: np.where(x > 0, x, 0.1 * x)),
    ("LeakyReLU", {"negative_slope": 0.1}, lambda x, m: np.where(x > 0, x, 0.1 * x)),
    ("ELU", {"alpha": 0.5}, lambda x, m: np.where(x > 0, x, 0.5 * np.expm1(np.minimum(x, 0)))),
    ("Rescaling", {"scale": 0.5, "offset": 2}, lambda x, m: 0.5 * x + 2),
    ("Permute", {"dims": [2, 1]}, lambda x, m: x.swapaxes(1, 2)),
    ("GlobalAveragePooling1D", {}, mean_of_valid),
    ("GlobalMaxPooling1D", {"keepdims": True}, lambda x, m: x.max(1, keepdims=True)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "expected"), AROUND)
def test_other_layers(tmp_path, rng, kind, config, expected):
    mask = MASKS["holes"]
    x, front = masked_input(rng, mask)
    layers = sequential(*front, {"class_name": kind, "config": {"name": "other"} | config})
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", layers, {"masking": [], "other": []}))
    assert_close(model(x), expected(x, mask))


def test_layer_normalization(tmp_path, rng):
    gamma, beta, x = *rng.standard_normal((2, I)).astype("f"), 5 + rng.standard_normal((B, T, I))
    layer = {"class_name": "LayerNormalization", "config": {"name": "ln", "axis": [2], "epsilon": 0.01}}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"ln": [gamma, beta]}))
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01)
    np.testing.assert_allclose(model(x), z * gamma + beta, rtol=1e-4, atol=1e-4)


def test_softmax_of_what_is_masked_is_refused(tmp_path, rng):
    x, front = masked_input(rng, MASKS["holes"])
    layer = {"class_name": "Softmax", "config": {"name": "softmax"}}
    z = np.exp(x)
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"softmax": []}))
    assert_close(model(x), z / z.sum(-1, keepdims=True))
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(*front, layer), {"masking": [], "softmax": []}))
    with pytest.raises(NotImplementedError, match="Softmax of what is masked"):
        model(x)


def test_a_layer_that_a_call_lacks_does_not_hide_the_lstms(tmp_path, rng):
    lstm = KerasLstm(rng)
    dense = {"class_name": "Dense", "config": {"name": "dense", "activation": "glu"}}
    arrays = {"rnn": lstm.arrays, "dense": [np.ones((H, 2), "f"), np.ones(2, "f")]}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(lstm.layer(), dense), arrays))
    assert list(model.lstms) == ["rnn"]
    with pytest.raises(NotImplementedError, match=r"dense \(Dense: the activation 'glu' is not supported, only linear"):
        model(rng.standard_normal((B, T, I)))


def test_layers_around_an_lstm(tmp_path, rng):
    lstm = KerasLstm(rng)
    table, kernel = rng.standard_normal((7, I)).astype("f"), rng.standard_normal((H, 2)).astype("f")
    scale, shift, mean, variance = rng.uniform(0.5, 1, (4, 2)).astype("f")
    dense = {"class_name": "Dense", "config": {"name": "inner", "use_bias": False, "activation": "relu"}}
    config = sequential(
        {"class_name": "Embedding", "config": {"name": "embedding", "mask_zero": True}},
        {"class_name": "Dropout", "config": {"name": "dropout", "rate": 0.5}},
        lstm.layer(return_sequences=True),
        {"class_name": "TimeDistributed", "config": {"name": "td", "layer": dense}},
        {"class_name": "BatchNormalization", "config": {"name": "bn", "axis": [2], "epsilon": 0.01}},
        {"class_name": "Activation", "config": {"name": "softmax", "activation": "softmax"}},
        {"class_name": "Flatten", "config": {"name": "flatten"}},
    )
    arrays = {"embedding": [table], "rnn": lstm.arrays, "td": [kernel], "bn": [scale, shift, mean, variance]}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays))
    x = np.array([[3, 1, 0, 2], [0, 6, 6, 0]])
    y = np.maximum(lstm(table[x], x != 0, sequences=True)[0] @ kernel, 0)
    z = np.exp((y - mean) / np.sqrt(variance + 0.01) * scale + shift)
    assert_close(model(x), (z / z.sum(axis=-1, keepdims=True)).reshape(2, -1))
    with pytest.raises(ValueError, match="layer 'embedding' cannot be computed: x has values from 1 to 7"):
        model(x + 1)


# ---- kinds of files ----


@pytest.mark.parametrize("names", [True, False])
def test_the_same_model_from_every_kind_of_file(tmp_path, rng, names):
    first, forward, backward = KerasLstm(rng), KerasLstm(rng), KerasLstm(rng, go_backwards=True)
    wrapped = {"name": "two", "layer": forward.layer("f", return_sequences=True)}
    layers = [first.layer("one", return_sequences=True), {"class_name": "Bidirectional", "config": wrapped}]
    config = sequential(*layers)
    inner = {"backward_layer/cell/vars": backward.arrays, "forward_layer/cell/vars": forward.arrays}
    inner["forward_layer/cell/seed_generator/vars"] = [np.zeros(2, np.uint32)]
    parts = {"lstm": ("one", {"cell/vars": first.arrays}), "bidirectional": ("two", inner)}
    weights = write_by_position(tmp_path / "m.weights.h5", parts, names)
    arrays = {"one": first.arrays, "two": forward.arrays + backward.arrays}
    models = [
        clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays)),
        clstm.from_keras(write_h5(tmp_path / "text.h5", config, arrays, text=str)),
        clstm.from_keras(write_keras(tmp_path / "m.keras", config, weights)),
    ]
    x = rng.standard_normal((B, T, I))
    y = first(x, sequences=True)[0]
    expected = np.concatenate([forward(y, sequences=True)[0], backward(y, sequences=True)[0][:, ::-1]], axis=-1)
    for model in models:
        assert list(model.lstms) == ["one", "two"]
        assert_close(model(x), expected)
    model = clstm.from_keras(weights)
    assert set(model.lstms) == ({"one", "two"} if names else {"lstm", "bidirectional"})
    with pytest.raises(NotImplementedError, match="holds weights only"):
        model(x)
    for lstm, other in zip(model.lstms.values(), sorted(models[0].lstms), strict=True):
        other = models[0].lstms["two" if lstm.bidirectional else "one"]
        for name, array in lstm.state_dict().items():
            np.testing.assert_array_equal(array, other.state_dict()[name])


def test_weights_of_keras_2(tmp_path, rng):
    lstm = KerasLstm(rng)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        write_by_name(file, {"rnn": lstm.arrays, "dense": [np.ones((3, 2)), np.ones(2)]})
    model = clstm.from_keras(tmp_path / "w.h5")
    x = rng.standard_normal((B, T, I))
    assert list(model.lstms) == ["rnn"]
    assert_close(model.lstms["rnn"](x)[0], lstm(x, sequences=True)[0])


# ---- HDF5 ----


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "<i4", ">u2"])
def test_hdf5_arrays(tmp_path, rng, version, dtype):
    arrays = {
        f"a{i}": rng.integers(0, 100, shape).astype(dtype) for i, shape in enumerate([(), (3,), (2, 0), (2, 3, 4)])
    }
    with h5py.File(tmp_path / "m.h5", "w", libver=version) as file:
        for name, array in arrays.items():
            file[f"deep/er/{name}"] = array
    root = open_hdf5((tmp_path / "m.h5").read_bytes())
    for name, array in arrays.items():
        found = root[f"deep/er/{name}"].read()
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_hdf5_attributes(tmp_path, version):
    values = {"text": "åß∂" * 3000, "bytes": b"plain", "list": ["one", "two", ""], "fixed": np.array([b"ab", b"c"])}
    with h5py.File(tmp_path / "m.h5", "w", libver=version) as file:
        file.attrs.update(values | {"number": 3, "numbers": np.arange(4)})
    expected = {"text": values["text"], "bytes": "plain", "list": ["one", "two", ""], "fixed": ["ab", "c"]}
    assert open_hdf5((tmp_path / "m.h5").read_bytes()).attributes == expected


def test_hdf5_groups_with_many_members(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for i in range(1000):
            file[f"group/{i}"] = np.float32(i)
    group = open_hdf5((tmp_path / "m.h5").read_bytes()).group("group")
    assert set(group) == {str(i) for i in range(1000)}
    assert [float(group[str(i)].read()) for i in (0, 500, 999)] == [0, 500, 999]


def hostile(kind, file):
    if kind == "compressed":
        file.create_dataset("a", data=np.zeros((100, 100)), compression="gzip")
    elif kind == "in pieces":
        file.create_dataset("a", shape=(2**20, 2**20), dtype="f", chunks=(64, 64))
    elif kind == "never written":
        file.create_dataset("a", shape=(2**20, 2**20), dtype="f")
    elif kind == "in another file":
        file.create_dataset("a", shape=(2,), dtype="f", external="/etc/passwd")
    elif kind == "link to another file":
        file["a"] = h5py.ExternalLink("/etc/passwd", "/")
    elif kind == "link":
        file["a"] = h5py.SoftLink("/b")
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape=(4,), dtype="f")
        layout[:] = h5py.VirtualSource("other.h5", "x", shape=(4,))
        file.create_virtual_dataset("a", layout)
    elif kind == "complex":
        file["a"] = np.zeros(3, complex)
    elif kind == "text":
        file["a"] = "text"


REFUSED = {
    "compressed": "arrays that are compressed",
    "in pieces": "only arrays in one piece",
    "never written": "lie outside",
    "in another file": "or in other files",
    "link to another file": "there is no 'a'",
    "link": "there is no 'a'",
    "virtual": "only arrays in one piece",
    "complex": "only arrays of integers",
    "text": "only arrays of integers",
    "absent": "there is no 'a'",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_hdf5_arrays_that_are_not_in_the_file_are_refused(tmp_path, kind):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        hostile(kind, file)
    with pytest.raises((ValueError, NotImplementedError), match=f"HDF5: .*({REFUSED[kind]})"):
        open_hdf5((tmp_path / "m.h5").read_bytes())["a"].read()


def test_a_group_inside_itself_ends(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("layers/a")
        group["b"] = file["layers"]
    with pytest.raises(ValueError, match="more than 12 deep"):
        clstm.from_keras(tmp_path / "m.h5")


# ---- what is refused ----


def refused(tmp_path, rng, change, lstm=None):
    lstm = lstm or KerasLstm(rng)
    layer, arrays = lstm.layer(), list(lstm.arrays)
    layer = change(layer, arrays) or layer
    return write_h5(tmp_path / "model.h5", sequential(layer), {"rnn": arrays})


def wrapped(inner):
    return {"class_name": "Bidirectional", "config": {"name": "rnn"} | inner}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda layer, a: layer["config"].update(units=5), ValueError, r"kernel has shape \(4, 16\), but \(4, 20"),
        (lambda layer, a: layer["config"].update(units=2**60), ValueError, "the kernel has shape"),
        (lambda layer, a: layer["config"].update(units="4"), ValueError, "units is '4'"),
        (lambda layer, a: layer["config"].update(use_bias=False), ValueError, "there are 3 arrays, but 2"),
        (lambda layer, a: a.clear(), ValueError, "there are 0 arrays, but 3"),
        (lambda layer, a: a.reverse(), ValueError, r"the kernel has shape \(16,\)"),
        (lambda layer, a: layer["config"].update(time_major=True), NotImplementedError, "time_major"),
        (lambda layer, a: layer["config"].update(activation="my_own"), NotImplementedError, "my_own"),
        (lambda layer, a: wrapped({"layer": 3}), ValueError, "inside Bidirectional is 3"),
        (lambda layer, a: wrapped({"layer": layer, "merge_mode": "max"}), ValueError, "merge_mode is 'max'"),
        (lambda layer, a: wrapped({"layer": {"class_name": "GRU", "config": {}}}), NotImplementedError, "'GRU'"),
        (
            lambda layer, a: {"class_name": "Dense", "config": {"name": "rnn"}},
            ValueError,
            r"of shapes \(4, 16\)",
        ),
        (lambda layer, a: {"class_name": "Dense"}, ValueError, "a layer lacks 'config'"),
        (lambda layer, a: {"class_name": ["Dense"], "config": {}}, ValueError, r"class \['Dense'\]"),
    ],
)
def test_a_wrong_layer_is_refused(tmp_path, rng, change, error, message):
    with pytest.raises(error, match=message) as raised:
        clstm.from_keras(refused(tmp_path, rng, change))
    assert "model.h5" in str(raised.value)


@pytest.mark.parametrize("kind", ["GRU", "Lambda", "Custom>Mine"])
def test_an_unsupported_layer_is_named_and_the_lstms_can_be_used(tmp_path, rng, kind):
    lstm = KerasLstm(rng)
    other = {"class_name": kind, "config": {"name": "other", "function": ["code", None, None]}}
    path = write_h5(tmp_path / "m.h5", sequential(lstm.layer(), other), {"rnn": lstm.arrays})
    model = clstm.from_keras(path)
    assert list(model.lstms) == ["rnn"]
    with pytest.raises(NotImplementedError, match=rf"other \({kind}\)"):
        model(np.zeros((B, T, I)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"{}", bytes(2000), b"PK" + bytes(99)])
def test_what_is_no_file_of_keras_is_refused(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded"):
        clstm.from_keras(path)
    with pytest.raises(FileNotFoundError):
        clstm.from_keras(tmp_path / "absent")


def test_an_archive_that_grows_without_measure_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 10**7)
    with pytest.raises(ValueError, match="config.json grows"):
        clstm.from_keras(tmp_path / "m.keras")


@pytest.mark.parametrize("how", ["lzma", "bzip2", "encrypted"])
def test_an_archive_of_an_unusual_kind_is_refused(tmp_path, how):
    kind = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2, "encrypted": zipfile.ZIP_STORED}[how]
    with zipfile.ZipFile(tmp_path / "m.keras", "w", kind) as archive:
        archive.writestr("config.json", "{}")
    content = (tmp_path / "m.keras").read_bytes()
    if how == "encrypted":  # by the flags of both of its headers
        content = content.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(
            b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
        )
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(NotImplementedError, match="config.json is encrypted, or compressed in an unusual way"):
        clstm.from_keras(tmp_path / "m.keras")


def chained(kind, count, **config):
    """Layers that each read the one before twice."""
    layers = [({"class_name": "InputLayer", "config": {"name": "l0"}}, None)]
    for i in range(count):
        layer = {"class_name": kind, "config": {"name": f"l{i + 1}"} | config}
        layers.append((layer, [[f"l{i}", 0, 0, {}], [f"l{i}", 0, 0, {}]]))
    return functional(layers, [["l0", 0, 0]], [[f"l{count}", 0, 0]])


BLOW_UPS = {
    "one on another": chained("Concatenate", 40),
    "side by side": chained("Add", 1000),
    "repeated": sequential({"class_name": "RepeatVector", "config": {"name": "many", "n": 10**12}}),
    "wide": sequential({"class_name": "Dense", "config": {"name": "wide", "use_bias": False}}),
    "embedded": sequential({"class_name": "Embedding", "config": {"name": "wide"}}),
}


@pytest.mark.parametrize("kind", BLOW_UPS)
def test_a_call_that_blows_up_is_refused(tmp_path, kind):
    arrays = {"wide": [np.zeros((1, 10**6), "f")]}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", BLOW_UPS[kind], arrays))
    assert model.memory_limit == 2**32
    model.memory_limit = 10**6
    tracemalloc.start()
    with pytest.raises(ValueError, match="memory_limit"):
        model(np.zeros((1000, 1)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


def test_a_text_that_is_pointed_to_again_and_again_is_refused(tmp_path):
    """A thousand attributes of one long text: a small file that asks for gigabytes."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["x" * 10**6] + ["short"] * 1000, h5py.string_dtype())
    content = path.read_bytes()
    start = content.index(struct.pack("<I", 10**6))  # length, address and index of the first text
    path.write_bytes(content.replace(content[start + 16 : start + 1001 * 16], content[start : start + 16] * 1000, 1))
    with pytest.raises(ValueError, match="attributes hold more than 16 times the file"):
        clstm.from_keras(path)


def test_random_damage_never_does_anything_else(tmp_path, rng):
    """Cut or flipped bytes: a model, or one of the errors that the documentation names."""
    lstm = KerasLstm(rng, units=2, features=1)
    config = sequential(lstm.layer())
    weights = write_by_position(tmp_path / "m.weights.h5", {"lstm": ("rnn", {"cell/vars": lstm.arrays})})
    paths = [weights, write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays})]
    path = tmp_path / "damaged"
    for content in (write_keras(tmp_path / "m.keras", config, weights).read_bytes(), *(p.read_bytes() for p in paths)):
        for _ in range(200):
            damaged = bytearray(content[: rng.integers(len(content) + 1)] if rng.random() < 0.2 else content)
            for position in rng.integers(0, len(damaged), rng.integers(1, 9)) if damaged else []:
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                clstm.from_keras(path)
            except (ValueError, NotImplementedError) as error:
                assert "damaged" in str(error)
