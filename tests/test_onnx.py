"""ONNX in and out: any LSTM node, whole graphs, damaged files. ONNX Runtime says what the numbers are."""

import itertools
import re
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from problems import assert_same_bytes, named, problems

import clstm
from clstm.interop import elementwise
from clstm.interop.onnx_file import Node
from clstm.interop.onnx_lstm import ACTIVATIONS as ONNX_ACTIVATIONS
from clstm.interop.onnx_lstm import SPELLING, run_lstm
from clstm.interop.onnx_operators import OPERATORS

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL

T, B, I, H = 5, 3, 4, 4  # equal sizes: only the numbers tell a wrong axis or a wrong order of gates


def value(name, dtype=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def infos_of(arrays):
    """Declarations of inputs with the types of arrays."""
    return [value(name, helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in arrays.items()]


def model_of(nodes, inputs, outputs, constants=None, opset=14, **options):
    """A checked ModelProto; inputs and outputs by name, or as value infos."""
    infos = [[value(v) if isinstance(v, str) else v for v in values] for values in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def written(path, model):
    path.write_bytes(model if isinstance(model, (bytes, bytearray)) else model.SerializeToString())
    return path


def weights(rng, D=1, bias=True):
    arrays = {"W": rng.standard_normal((D, 4 * H, I)), "R": rng.standard_normal((D, 4 * H, H))}
    if bias:
        arrays["B"] = rng.standard_normal((D, 8 * H))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def lstm_node(direction="forward", inputs=("X", "W", "R", "B"), outputs=("Y", "Y_h", "Y_c"), **attributes):
    return helper.make_node("LSTM", inputs, outputs, name="rnn", hidden_size=H, direction=direction, **attributes)


def plain_model(rng):
    return model_of([lstm_node()], [value("X", shape=[None, None, I])], ["Y", "Y_h", "Y_c"], weights(rng))


def runtime(model, inputs):
    """Outputs by name of ONNX Runtime."""
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = ort.InferenceSession(model if isinstance(model, (str, bytes)) else model.SerializeToString())
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=2e-6, err_msg=name)


# ---- LSTM nodes ----


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_choice_of_inputs(tmp_path, rng, direction, bias):
    D = 1 + (direction == "bidirectional")
    arrays = weights(rng, D, bias)
    given = {
        "sequence_lens": np.array([3, T, 1], np.int32),
        "initial_h": rng.standard_normal((D, B, H)).astype(np.float32),
        "initial_c": rng.standard_normal((D, B, H)).astype(np.float32),
    }
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    for present in itertools.product([True, False], repeat=3):
        extra = {name: array for (name, array), there in zip(given.items(), present, strict=True) if there}
        names = ["X", "W", "R", "B" if bias else "", *(name if name in extra else "" for name in given)]
        infos = [
            value(name, onnx.TensorProto.INT32 if array.dtype == np.int32 else FLOAT) for name, array in extra.items()
        ]
        model = model_of([lstm_node(direction, names)], ["X", *infos], ["Y", "Y_h", "Y_c"], arrays)
        assert_close(
            clstm.from_onnx(written(tmp_path / "m", model))({"X": x} | extra), runtime(model, {"X": x} | extra)
        )


def test_batch_first_layout(tmp_path, rng):
    """ONNX Runtime refuses layout 1, so the same node with layout 0 says what the numbers are."""
    arrays = weights(rng, 2)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    state = {f"initial_{key}": rng.standard_normal((2, B, H)).astype(np.float32) for key in "hc"}
    results = []
    for layout in (0, 1):
        node = lstm_node("bidirectional", ("X", "W", "R", "B", "", "initial_h", "initial_c"), layout=layout)
        model = model_of([node], ["X", *state], ["Y", "Y_h", "Y_c"], arrays)
        given = {name: array.swapaxes(0, 1) if layout else array for name, array in ({"X": x} | state).items()}
        results.append(clstm.from_onnx(written(tmp_path / "m", model))(given))
    (time_major, batch_first) = results
    assert_same_bytes(batch_first["Y"], time_major["Y"].transpose(2, 0, 1, 3))
    assert_same_bytes(batch_first["Y_h"], time_major["Y_h"].swapaxes(0, 1))
    assert_same_bytes(batch_first["Y_c"], time_major["Y_c"].swapaxes(0, 1))


def test_lengths_of_zero_end_in_zeros_as_in_onnx_runtime(tmp_path, rng):
    names = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c")
    inputs = {
        "X": rng.standard_normal((T, B, I)).astype(np.float32),
        "sequence_lens": np.array([2, 0, T], np.int32),
        "initial_h": np.ones((1, B, H), np.float32),
        "initial_c": np.ones((1, B, H), np.float32),
    }
    infos = [
        value(name, FLOAT if array.dtype == np.float32 else onnx.TensorProto.INT32) for name, array in inputs.items()
    ]
    model = model_of([lstm_node(inputs=names)], infos, ["Y", "Y_h", "Y_c"], weights(rng))
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(inputs), runtime(model, inputs))


def test_the_layer_by_name_is_what_the_call_runs(tmp_path, rng):
    model = clstm.from_onnx(written(tmp_path / "m", plain_model(rng)))
    assert (list(model.lstms), model.directions, model.inputs) == (["rnn"], {"rnn": "forward"}, ("X",))
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    y, _ = model.lstms["rnn"](x)
    assert_same_bytes(model(x)["Y"][:, 0], y)
    model.lstms["rnn"].weight_hh_l0 = np.zeros((4 * H, H))
    assert np.abs(model(x)["Y"][:, 0] - y).max() > 1e-3


def stored_weights(kind, arrays, folder):
    """Nodes and constants that make W, R and B available in some way; and options of the model."""
    if kind == "initializers":
        return [], arrays
    if kind == "constants":
        tensors = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
        return [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in tensors.items()], {}
    nodes, constants = [], {}
    for name, array in arrays.items():  # "rearranged": without the axis of directions, transposed, in two halves
        first, second = np.split(np.ascontiguousarray(array[0].T), 2, axis=-1)
        constants |= {f"{name}_1": first, f"{name}_2": second}
        nodes.append(helper.make_node("Concat", [f"{name}_1", f"{name}_2"], [f"{name}_3"], axis=-1))
        nodes.append(helper.make_node("Transpose", [f"{name}_3"], [f"{name}_4"]))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_4", "zero"], [name]))
    return nodes, constants | {"zero": np.array([0])}


@pytest.mark.parametrize("kind", ["initializers", "constants", "rearranged"])
def test_where_weights_are_stored(tmp_path, rng, kind):
    arrays = weights(rng)
    nodes, constants = stored_weights(kind, arrays, tmp_path)
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"], constants)
    expected = clstm.from_onnx(written(tmp_path / "plain", plain_model_of(arrays))).lstms["rnn"].state_dict()
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert_same_bytes(found.lstms["rnn"].state_dict(), expected)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(found(x), runtime(model, {"X": x}))


def plain_model_of(arrays):
    return model_of([lstm_node()], ["X"], ["Y"], arrays)


def test_external_data(tmp_path, rng):
    model = plain_model(rng)
    expected = clstm.from_onnx(written(tmp_path / "inline", model)).lstms["rnn"].state_dict()
    onnx.save_model(model, tmp_path / "m", save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m").stat().st_size < 1000
    assert_same_bytes(clstm.from_onnx(tmp_path / "m").lstms["rnn"].state_dict(), expected)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "absent", "", "a\0b"])
def test_external_data_never_leaves_the_folder(tmp_path, rng, location):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    (folder / "link").symlink_to(tmp_path / "secret")
    model = plain_model(rng)
    for tensor in model.graph.initializer:
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (("location", location), ("length", str(length))):
            tensor.external_data.add(key=key, value=text)
    message = (
        "outside of the model's folder" if location in ("../secret", "/etc/passwd", "link") else "cannot be loaded"
    )
    with pytest.raises(ValueError, match=message):
        clstm.from_onnx(written(folder / "m", model))


@pytest.mark.parametrize(
    ("key", "number"),
    [("offset", "-1"), ("offset", "9999999"), ("length", "9999999"), ("length", "x"), ("length", "4")],
)
def test_external_data_beyond_the_file_is_refused(tmp_path, rng, key, number):
    (tmp_path / "data").write_bytes(bytes(4096))
    model = plain_model(rng)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data")
    tensor.external_data.add(key=key, value=number)
    with pytest.raises(ValueError, match="cannot be loaded"):
        clstm.from_onnx(written(tmp_path / "m", model))


def external(name, dims, **entries):
    tensor = onnx.TensorProto(name=name, data_type=1, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": "data", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_of_external_data_no_more_is_read_than_the_shape_needs(tmp_path, rng):
    """The file may be huge, and take no room on the disk."""
    with open(tmp_path / "data", "wb") as file:
        file.truncate(2**40)
    model = plain_model(rng)
    model.graph.initializer.append(external("more", [2]))
    assert list(clstm.from_onnx(written(tmp_path / "m", model)).lstms) == ["rnn"]
    model.graph.initializer.append(external("much", [2], length=2**40))
    with pytest.raises(ValueError, match=rf"tensor 'much' has {2**40} bytes, but \[2\] needs 8"):
        clstm.from_onnx(written(tmp_path / "m", model))


def test_external_data_that_is_read_again_and_again_is_refused(tmp_path, rng):
    (tmp_path / "data").write_bytes(bytes(10**6))
    model = plain_model(rng)
    model.graph.initializer.extend(external(f"copy{i}", [250_000]) for i in range(100))
    with pytest.raises(ValueError, match="tensors take more than 16 times the bytes of their files"):
        clstm.from_onnx(written(tmp_path / "m", model))


# ---- variants of the cell ----

# Names, alphas and betas. ONNX Runtime has defaults of its own for ThresholdedRelu, ScaledTanh and Affine.
ACTIVATIONS = [
    ("Relu LeakyRelu Elu", [], []),
    ("HardSigmoid Tanh Softplus", [], []),
    ("sigmoid softsign TANH", [], []),
    ("Sigmoid LeakyRelu Elu", [0.3, 0.6], []),
    ("HardSigmoid Tanh Elu", [0.3, 0.6], [0.4]),
    ("HardSigmoid ThresholdedRelu ScaledTanh", [0.3, 0.6, 0.7], [0.4, 0.9]),
    ("Tanh HardSigmoid Affine", [0.3, 0.6], [0.4, 0.1]),
]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("names", "alpha", "beta"), ACTIVATIONS)
def test_activations(tmp_path, rng, direction, names, alpha, beta):
    D = 1 + (direction == "bidirectional")
    numbers = {"activation_alpha": alpha * D, "activation_beta": beta * D}
    node = lstm_node(direction, activations=names.split() * D, **{k: v for k, v in numbers.items() if v})
    arrays = {name: 0.3 * array for name, array in weights(rng, D).items()}
    model = model_of([node], ["X"], ["Y", "Y_h", "Y_c"], arrays)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert found.directions == {"rnn": direction}
    assert_close(found(x), runtime(model, {"X": x}))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("attributes", [{}, {"clip": 0.4}, {"input_forget": 1}, {"clip": 0.4, "input_forget": 1}])
@pytest.mark.parametrize("peepholes", [True, False])
def test_peepholes_clip_and_coupled_gates(tmp_path, rng, direction, attributes, peepholes):
    D = 1 + (direction == "bidirectional")
    arrays = weights(rng, D) | ({"P": rng.standard_normal((D, 3 * H)).astype(np.float32)} if peepholes else {})
    inputs = ["X", "W", "R", "B", "", "", "", "P"] if peepholes else ["X", "W", "R", "B"]
    model = model_of([lstm_node(direction, inputs, **attributes)], ["X"], ["Y", "Y_h", "Y_c"], arrays)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(x), runtime(model, {"X": x}))


def test_directions_with_activations_of_their_own(tmp_path, rng):
    arrays = {name: 0.3 * array for name, array in weights(rng, 2).items()}
    names = ("X", "W", "R", "B", "lengths", "h", "c")
    node = lstm_node("bidirectional", names, activations=["Sigmoid", "Relu", "Tanh", "HardSigmoid", "Tanh", "Softsign"])
    inputs = {
        "X": rng.standard_normal((T, B, I)).astype(np.float32),
        "lengths": np.array([3, T, 1], np.int32),
        "h": rng.standard_normal((2, B, H)).astype(np.float32),
        "c": rng.standard_normal((2, B, H)).astype(np.float32),
    }
    model = model_of([node], infos_of(inputs), ["Y", "Y_h", "Y_c"], arrays)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert found.directions == {"rnn": "forward", "rnn/reverse": "reverse"}
    assert_close(found(inputs), runtime(model, inputs))


BOUNDED = ["Sigmoid", "Tanh", "HardSigmoid", "Softsign", "ScaledTanh"]  # of gates: with others, numbers grow too large


def any_lstm(rng):
    """An LSTM node with any attributes and inputs that the standard allows, and arrays for what it reads."""
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 1 + (direction == "bidirectional")
    floats = {
        "B": (D, 8 * H), "sequence_lens": None, "initial_h": (D, B, H), "initial_c": (D, B, H), "P": (D, 3 * H)
    }  # fmt: skip
    arrays = {"X": rng.standard_normal((T, B, I)), "W": rng.standard_normal((D, 4 * H, I)) / 2}
    arrays["R"] = rng.standard_normal((D, 4 * H, H)) / 2
    for name, shape in floats.items():
        if rng.random() < 0.5:
            arrays[name] = rng.standard_normal(shape) if shape else rng.integers(0, T + 1, B).astype(np.int32)
    names = [name if name in arrays else "" for name in ("X", "W", "R", *floats)]
    while rng.random() < 0.7 and not names[-1]:
        names.pop()
    attributes = {"clip": rng.uniform(0.1, 2), "input_forget": int(rng.integers(2)), "layout": 0}
    attributes = {key: number for key, number in attributes.items() if rng.random() < 0.5}
    if rng.random() < 0.7:
        chosen = [str(rng.choice(BOUNDED if i % 3 == 0 else list(SPELLING.values()))) for i in range(3 * D)]
        needs = [ONNX_ACTIVATIONS[name.lower()][1] for name in chosen]
        for key in ("alpha", "beta"):
            if numbers := list(rng.uniform(0.2, 0.7, sum(key in need for need in needs))):
                attributes[f"activation_{key}"] = numbers
        attributes["activations"] = [name if rng.random() < 0.7 else name.upper() for name in chosen]
    outputs = [name if rng.random() < 0.7 else "" for name in ("Y", "Y_h")] + ["Y_c"]
    arrays = {name: array if array.dtype == np.int32 else array.astype("f") for name, array in arrays.items()}
    return lstm_node(direction, names, outputs, **attributes), arrays


@pytest.mark.parametrize("seed", range(60))
def test_any_combination_of_attributes(tmp_path, seed):
    rng = np.random.default_rng(seed)
    node, arrays = any_lstm(rng)
    constants = {name: array for name, array in arrays.items() if name in "WRBP" and rng.random() < 0.8}
    inputs = {name: array for name, array in arrays.items() if name not in constants}
    opset = int(rng.choice([14, 17, 21]))
    model = model_of([node], infos_of(inputs), [name for name in node.output if name], constants, opset)
    found, expected = clstm.from_onnx(written(tmp_path / "m", model))(inputs), runtime(model, inputs)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5 * (1 + np.abs(array).max()), err_msg=name)


# ---- types of weights ----


@pytest.mark.parametrize("per_row", [False, True])
def test_quantized_weights_are_read(tmp_path, rng, per_row):
    """int8 with DequantizeLinear behind it, for all of an array or row by row."""
    nodes, constants, exact = [], {}, weights(rng)
    for name, array in exact.items():
        scale = np.abs(array).max(axis=-1 if per_row and name != "B" else None).reshape(-1).astype("f") / 127
        shape = (1, -1, 1) if per_row and name != "B" else ()
        constants |= {f"{name}_q": np.rint(array / scale.reshape(shape)).astype(np.int8)}
        constants |= {
            f"{name}_s": scale.reshape(-1 if shape else ()),
            f"{name}_z": np.zeros(scale.size if shape else (), np.int8),
        }
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_{key}" for key in "qsz"], [name], axis=1))
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"], constants)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    np.testing.assert_allclose(found.lstms["rnn"].weight_hh_l0[:H], exact["R"][0, :H], atol=0.03)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(found(x), runtime(model, {"X": x}))


def test_weights_of_float16_are_computed_in_float32(tmp_path, rng):
    arrays = {name: array.astype(np.float16) for name, array in weights(rng).items()}
    x = rng.standard_normal((T, B, I)).astype(np.float16)
    model = model_of([lstm_node()], [value("X", onnx.TensorProto.FLOAT16)], ["Y"], arrays)
    found = clstm.from_onnx(written(tmp_path / "half", model))(x)["Y"]
    same = plain_model_of({name: array.astype(np.float32) for name, array in arrays.items()})
    expected = clstm.from_onnx(written(tmp_path / "m", same))(x)["Y"]
    assert_same_bytes(found, expected.astype(np.float16))


def test_weights_of_bfloat16_are_read_behind_a_cast_and_refused_by_name_without_one(tmp_path, rng):
    arrays = {name: (array.view(np.uint32) >> 16 << 16).view("f") for name, array in weights(rng).items()}
    nodes = [helper.make_node("Cast", [f"{name}_b"], [name], to=FLOAT) for name in arrays]
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"])
    for name, array in arrays.items():
        bits = (array.view(np.uint32) >> 16).astype(np.uint16)
        raw = {"data_type": onnx.TensorProto.BFLOAT16, "dims": array.shape, "raw_data": bits.tobytes()}
        model.graph.initializer.add(name=f"{name}_b", **raw)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(x), runtime(plain_model_of(arrays), {"X": x}))
    del model.graph.node[0]
    model.graph.initializer[0].name = "W"
    with pytest.raises(NotImplementedError, match="W of LSTM 'rnn' has the type bfloat16"):
        clstm.from_onnx(written(tmp_path / "m", model))


# ---- subgraphs ----


def if_model(rng):
    branches = {}
    for branch in ("then", "else"):
        tensors = [numpy_helper.from_array(array, name) for name, array in weights(rng).items()]
        node = helper.make_node("LSTM", ["X", "W", "R", "B"], ["", "h"], name=f"{branch}_rnn", hidden_size=H)
        branches[f"{branch}_branch"] = helper.make_graph([node], branch, [], [value("h")], tensors)
    node = helper.make_node("If", ["condition"], ["Y_h"], name="if", **branches)
    return model_of([node], ["X", value("condition", BOOL, [])], ["Y_h"])


def loop_model(rng):
    """Runs an LSTM over its own output three times; each result is collected."""
    body = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], name="body_rnn", hidden_size=H),
            helper.make_node("Squeeze", ["y", "one"], ["x_next"]),
            helper.make_node("Identity", ["x_next"], ["collected"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            value("i", onnx.TensorProto.INT64, []),
            value("go", onnx.TensorProto.BOOL, []),
            value("x", shape=[None, None, I]),
        ],
        [value("go_on", onnx.TensorProto.BOOL, []), value("x_next"), value("collected")],
    )
    node = helper.make_node("Loop", ["count", "true", "X"], ["last", "all"], name="loop", body=body)
    constants = weights(rng) | {"one": np.array([1]), "count": np.array(3), "true": np.array(True)}
    return model_of([node], [value("X", shape=[None, None, I])], ["last", "all"], constants)


def scan_model(rng):
    """Adds up the outputs of an LSTM that runs over each slice of X."""
    body = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", "W", "R", "B"], ["", "h"], name="scan_rnn", hidden_size=H),
            helper.make_node("Add", ["total", "h"], ["total_next"]),
            helper.make_node("Identity", ["total_next"], ["collected"]),
        ],
        "body",
        [value("total"), value("x", shape=[None, None, I])],
        [value("total_next"), value("collected")],
    )
    node = helper.make_node("Scan", ["start", "X"], ["last", "all"], name="scan", body=body, num_scan_inputs=1)
    constants = weights(rng) | {"start": np.zeros((1, B, H), np.float32)}
    return model_of([node], [value("X", shape=[None, None, None, I])], ["last", "all"], constants)


def test_lstms_inside_if(tmp_path, rng):
    model = if_model(rng)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert sorted(found.lstms) == ["else_rnn", "then_rnn"]
    for condition in (True, False):
        inputs = {"X": rng.standard_normal((T, B, I)).astype(np.float32), "condition": np.array(condition)}
        assert_close(found(inputs), runtime(model, inputs))


@pytest.mark.parametrize(("make", "name"), [(loop_model, "body_rnn"), (scan_model, "scan_rnn")])
def test_lstms_inside_loops(tmp_path, rng, make, name):
    model = make(rng)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert list(found.lstms) == [name]
    x = rng.standard_normal((T, B, I) if make is loop_model else (2, T, B, I)).astype(np.float32)
    assert_close(found(x), runtime(model, {"X": x}))


# ---- operators ----

POSITIVE, MASK, ONES = np.array([0.5, 1, 2, 3], "f"), np.array([True, False, True, True]), np.ones(4, "f")
ODD = np.array([1, np.nan, np.inf, -np.inf], "f")
OPERATOR_CASES = [  # name, attributes, inputs: None for a random (2, 3, 4) in the first place, left out in others
    *("Relu Sigmoid Tanh Elu LeakyRelu HardSigmoid Softplus Softsign Softmax LogSoftmax Neg Abs Exp Floor".split()),
    *("Ceil Sin Cos Identity Dropout Shape Size Flatten Transpose GlobalAveragePool ReduceMin ReduceMax".split()),
    *((op, {}, None, ONES) for op in "Add Sub Mul Min Max Sum Less Greater LessOrEqual GreaterOrEqual Equal".split()),
    *((op, {}, POSITIVE) for op in ("Sqrt", "Log", "Reciprocal")),
    ("And", {}, MASK, ~MASK), ("Or", {}, MASK, ~MASK), ("Not", {}, MASK),
    ("Where", {}, MASK, ONES, np.zeros((2, 4), "f")), ("Sum", {}, None, ONES, POSITIVE), ("Max", {}, POSITIVE),
    ("Div", {}, np.array([-7, 7]), np.array([2, -2])), ("Div", {}, None, POSITIVE), ("Pow", {}, None, np.array(2)),
    ("Elu", {"alpha": 0.5}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("PRelu", {}, None, POSITIVE),
    ("Clip", {}, None, np.array(-0.5, "f")), ("Clip", {}, None, None, np.array(0.5, "f")), ("Softmax", {"axis": 1}),
    ("Gemm", {"alpha": 0.5, "beta": 2.0, "transB": 1}, np.ones((2, 3), "f"), np.ones((4, 3), "f"), POSITIVE),
    ("Gemm", {"transA": 1}, np.ones((3, 2), "f"), np.ones((3, 4), "f")), ("MatMul", {}, None, np.ones((4, 2), "f")),
    ("Flatten", {"axis": 2}), ("Flatten", {"axis": -1}), ("Transpose", {"perm": [2, 0, 1]}), ("Cast", {"to": 7}),
    ("Reshape", {}, None, np.array([0, -1])), ("Reshape", {"allowzero": 1}, np.ones((0, 3), "f"), np.array([3, 0])),
    ("Squeeze", {}, np.ones((1, 3, 1), "f"), np.array([-1])), ("Squeeze", {}, np.ones((1, 3, 1), "f")),
    ("Unsqueeze", {}, None, np.array([0, -1])), ("Concat", {"axis": -1}, None, np.ones((2, 3, 1), "f")),
    ("Gather", {"axis": 1}, None, np.array([[2, -1], [0, 0]])), ("Gather", {}, None, np.array(1)),
    ("Slice", {}, None, np.array([2]), np.array([-100]), np.array([1]), np.array([-1])),
    ("Slice", {}, None, np.array([0, -2]), np.array([99, -1]), np.array([0, 2])),
    ("Slice", {}, None, np.array([-100]), np.array([-100]), np.array([2]), np.array([-1])),
    ("Slice", {}, None, np.array([1]), np.array([2**62])), ("Tile", {}, None, np.array([1, 2, 1])),
    ("Expand", {}, np.ones((3, 1), "f"), np.array([2, 1, 4])), ("ConstantOfShape", {}, np.array([2, 3])),
    ("Range", {}, np.array(1), np.array(9), np.array(3)), ("Range", {}, np.array(3), np.array(1), np.array(1)),
    ("Pad", {}, None, np.array([0, 1, 0, 2, 0, 0]), np.array(3.5, "f")),
    ("Pad", {"mode": "reflect"}, None, np.array([0, 1, 0, 0, 2, 0])),
    ("ReduceMean", {"axes": [1], "keepdims": 0}), ("ReduceSum", {}, None, np.array([0, 2])), ("ArgMax", {"axis": -1}),
    ("ReduceSum", {"noop_with_empty_axes": 1}, None, np.zeros(0, int)), ("ReduceSum", {}, np.ones((2, 3), np.int32)),
    ("LogSoftmax", {}, np.array([0.0, 300.0, -200.0], "f")),
    ("ReverseSequence", {"time_axis": 0, "batch_axis": 1}, None, np.array([2, 1, 0])),
    ("ReverseSequence", {"time_axis": 1, "batch_axis": 0}, None, np.array([2, 3])),
    ("LayerNormalization", {}, None, POSITIVE, ONES), ("LayerNormalization", {"axis": 1}, None, np.ones((3, 4), "f")),
    ("BatchNormalization", {}, None, *(np.array([1, 2, 3], "f"),) * 4),
    ("Conv", {"strides": [2], "pads": [1, 0], "group": 3}, None, np.ones((6, 1, 2), "f"), np.ones(6, "f")),
    ("Conv", {"kernel_shape": [2], "dilations": [2]}, None, np.ones((2, 3, 2), "f")),
    *("Erf Sign Round Gelu Mish HardSwish Selu Celu ThresholdedRelu ReduceProd ReduceL1 ReduceL2 ArgMin".split()),
    ("Sigmoid", {}, np.array(0.3, "f")), ("Tanh", {}, np.array(0.3, "f")),
    ("Gelu", {"approximate": "tanh"}), ("Celu", {"alpha": 0.3}), ("Selu", {"alpha": 0.3, "gamma": 2.0}),
    ("ThresholdedRelu", {"alpha": 0.3}), "Clip", "ReduceSumSquare", ("ReduceL2", {"axes": [-1], "keepdims": 0}),
    ("ReduceProd", {}, np.ones((2, 3), np.int32)), ("Round", {}, np.array([0.5, 1.5, -2.5, 0.3], "f")),
    ("Xor", {}, MASK, np.array([True, True, False, False])),
    ("IsNaN", {}, ODD), ("IsInf", {}, ODD), ("IsInf", {"detect_positive": 0}, ODD),
    ("IsInf", {"detect_negative": 0}, ODD),
    ("Mod", {}, np.array([-7, 7, 5]), np.array([3, -3, 3])), ("Mod", {"fmod": 1}, None, POSITIVE),
    ("Einsum", {"equation": "bti, bsi -> bts"}, None, np.ones((2, 5, 4), "f")),
    ("Einsum", {"equation": "bti->ibt"}, None),
    ("CumSum", {}, None, np.array(1)), ("CumSum", {"reverse": 1, "exclusive": 1}, None, np.array(-1)),
    ("TopK", {}, None, np.array([2])), ("TopK", {"axis": 1, "largest": 0}, None, np.array([3])),
    ("TopK", {}, np.array([1, 3, 3, 2, 3]), np.array([4])),
    ("TopK", {"largest": 0}, np.array([2, 1, 1, 3]), np.array([3])),
    ("GatherElements", {"axis": 1}, None, np.array([[[2, -1], [0, 0]]])),
    ("GatherND", {}, None, np.array([[0, 2], [1, -1]])), ("GatherND", {}, None, np.array([[[1]], [[0]]])),
    ("ScatterElements", {"axis": 1}, np.zeros((2, 3), "f"), np.array([[2], [-3]]), np.array([[5], [6]], "f")),
    ("ScatterElements", {"reduction": "add"}, np.ones(3, "f"), np.array([1, 1, 0]), np.array([2, 3, 4], "f")),
    ("ScatterND", {}, np.zeros((3, 2), "f"), np.array([[2], [0]]), np.array([[1, 2], [3, 4]], "f")),
    ("ScatterND", {"reduction": "mul"}, np.ones((3, 2), "f"), np.array([[2, 0], [2, 0]]), np.array([2, 3], "f")),
    ("NonZero", {}, np.array([[1, 0, 2], [0, 0, 3]])),
    ("MaxPool", {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}),
    ("MaxPool", {"kernel_shape": [2], "dilations": [2]}), ("AveragePool", {"kernel_shape": [2], "pads": [1, 1]}),
    ("AveragePool", {"kernel_shape": [2], "pads": [0, 1], "strides": [2], "count_include_pad": 1}),
    ("DequantizeLinear", {}, np.array([[3, -5], [127, 0]], np.int8), np.array(0.25, "f"), np.array(-3, np.int8)),
    ("DequantizeLinear", {"axis": 0}, np.array([[3]] * 2, np.uint8), POSITIVE[:2], np.array([9, 0], np.uint8)),
]  # fmt: skip


@pytest.mark.parametrize("case", OPERATOR_CASES, ids=lambda case: case if isinstance(case, str) else case[0])
def test_operator(tmp_path, rng, case):
    op, attributes, *arrays = (case, {}) if isinstance(case, str) else case
    opset = 20 if op in ("Gelu", "Mish") else 17
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    arrays = [x if array is None and i == 0 else array for i, array in enumerate(arrays or [None])]
    inputs = {f"x{i}": array for i, array in enumerate(arrays) if array is not None}
    infos = [value(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in inputs.items()]
    names = [f"x{i}" if array is not None else "" for i, array in enumerate(arrays)]
    outputs = ["y", "z"] if op == "TopK" else ["y"]
    model = model_of([helper.make_node(op, names, outputs, **attributes)], infos, [], opset=opset)
    for name in outputs:
        model.graph.output.add(name=name)
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(inputs), runtime(model, inputs))


@pytest.mark.parametrize("op", ["Squeeze", "Unsqueeze", "Split", "Slice", "Softmax", "TopK", "Clip", "Scatter"])
def test_operators_before_their_attributes_became_inputs(tmp_path, rng, op):
    attributes = {
        "Squeeze": {"axes": [0]}, "Unsqueeze": {"axes": [0, 2]}, "Split": {"split": [1, 2], "axis": 1},
        "Slice": {"starts": [1], "ends": [3], "axes": [2]}, "Softmax": {}, "TopK": {"k": 2}, "Clip": {"max": 0.5},
        "Scatter": {"axis": 1},
    }[op]  # fmt: skip
    x = rng.standard_normal((1, 3, 4)).astype(np.float32)
    outputs = ["y", "z"] if op in ("Split", "TopK") else ["y"]
    inputs = ["x", "indices", "updates"] if op == "Scatter" else ["x"]
    constants = {"indices": np.array([[[2, 0]]]), "updates": np.array([[[5, 6]]], "f")} if op == "Scatter" else {}
    node = helper.make_node(op, inputs, outputs, **attributes)
    infos = [value(name, INT64 if (op, name) == ("TopK", "z") else FLOAT) for name in outputs]
    model = model_of([node], [value("x", shape=x.shape)], infos, constants, opset=9)
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(x), runtime(model, {"x": x}))


def test_every_operator_is_tested_and_documented():
    tested = {case if isinstance(case, str) else case[0] for case in OPERATOR_CASES}
    assert tested | {"Split", "Scatter"} == OPERATORS.keys()
    page = (Path(__file__).parents[1] / "docs/onnx.md").read_text()
    listed = set(re.findall(r"\w+", page.split("### Other operators")[1].split("##")[0]))
    assert listed >= OPERATORS.keys() | {"Constant", "If", "Loop", "Scan"}


# ---- what is refused ----


def test_an_unsupported_operator_is_named_and_the_lstms_can_be_used(tmp_path, rng):
    nodes = [helper.make_node("Det", ["X"], ["D"]), helper.make_node("Thing", ["D"], ["Z"], domain="org.example")]
    model = clstm.from_onnx(written(tmp_path / "m", model_of([lstm_node(), *nodes], ["X"], ["Z"], weights(rng))))
    assert model.lstms["rnn"].hidden_size == H
    assert model.unsupported == ("Det", "org.example.Thing")
    with pytest.raises(NotImplementedError, match="not supported: Det, org.example.Thing"):
        model(np.zeros((T, B, I)))


def test_dropout_in_training_is_refused(tmp_path):
    node = helper.make_node("Dropout", ["X", "ratio", "training"], ["Z"])
    constants = {"ratio": np.array(0.5, "f"), "training": np.array(True)}
    model = clstm.from_onnx(written(tmp_path / "m", model_of([node], ["X"], ["Z"], constants)))
    with pytest.raises(NotImplementedError, match="training_mode"):
        model(np.zeros((T, B, I)))


@pytest.mark.parametrize("inputs", [["", "W", "R"], ["X", "W"]])
def test_a_node_that_lacks_an_input_cannot_be_computed(tmp_path, rng, inputs):
    names = [f"absent_{name}" if name == "W" else name for name in inputs]  # W is an input of the model: no layer
    model = model_of([lstm_node(inputs=names)], ["X", "absent_W"], ["Y"], weights(rng))
    model = clstm.from_onnx(written(tmp_path / "m", model))
    with pytest.raises(ValueError, match="LSTM 'rnn' cannot be computed"):
        model({"X": np.zeros((T, B, I)), "absent_W": weights(rng)["W"]})


def test_a_text_constant_does_not_hide_the_lstms(tmp_path, rng):
    nodes = [helper.make_node("Constant", [], ["t"], value_string=b"text"), helper.make_node("Identity", ["t"], ["Z"])]
    model = clstm.from_onnx(written(tmp_path / "m", model_of([*nodes, lstm_node()], ["X"], ["Z"], weights(rng))))
    assert list(model.lstms) == ["rnn"]
    with pytest.raises(NotImplementedError, match="Constant 't' holds value_string"):
        model(np.zeros((T, B, I)))


def test_wrong_inputs_are_named(tmp_path, rng):
    model = clstm.from_onnx(written(tmp_path / "m", plain_model(rng)))
    with pytest.raises(ValueError, match="inputs has Z, but X are expected"):
        model({"Z": np.zeros((T, B, I))})
    with pytest.raises(
        ValueError, match=r"LSTM 'rnn' cannot be computed: X of LSTM 'rnn' has shape \(5, 3, 7\), but 4"
    ):
        model(np.zeros((T, B, 7)))


def add_attribute(node, **attribute):
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attribute.items())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda node, arrays: add_attribute(node, hidden_size=5), ValueError, "hidden_size 5"),
        (lambda node, arrays: add_attribute(node, direction="up"), ValueError, "direction 'up'"),
        (lambda node, arrays: arrays.update(W=arrays["W"][:, :-1]), ValueError, r"W of LSTM 'rnn' .* \(1, 15, 4\)"),
        (lambda node, arrays: arrays.update(R=arrays["R"][0]), ValueError, "W of LSTM 'rnn' has shape"),
        (lambda node, arrays: arrays.update(B=arrays["B"][:, :8]), ValueError, r"B of LSTM 'rnn' .* \(1, 8\)"),
        (lambda node, arrays: arrays.update(W=arrays["W"].astype(int)), NotImplementedError, "type int64"),
        (lambda node, arrays: add_attribute(node, activations=["Sigmoid", "Tanh"]), ValueError, "2 activations, but 3"),
        (
            lambda node, arrays: add_attribute(node, activations=["Gelu", "Tanh", "Tanh"]),
            ValueError,
            "'Gelu', but known",
        ),
        (lambda node, arrays: add_attribute(node, clip=-1.0), ValueError, "clip is -1.0"),
        (lambda node, arrays: node.input.extend(["a"] * 9), ValueError, "13 inputs"),
    ],
)
def test_a_wrong_lstm_is_refused(tmp_path, rng, change, error, message):
    node, arrays = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], name="rnn"), weights(rng)
    change(node, arrays)
    with pytest.raises(error, match=message) as raised:
        clstm.from_onnx(written(tmp_path / "model", model_of([node], ["X"], ["Y"], arrays)))
    assert "model" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x08", b"PK\x03\x04", b"{}", bytes(100), b"\xff" * 50, b"\x0a" * 1000])
def test_what_is_no_model_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="cannot be loaded"):
        clstm.from_onnx(written(tmp_path / "m", content))


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        clstm.from_onnx(tmp_path / "absent")


def test_constants_that_blow_up_are_not_computed(tmp_path, rng):
    """Forty doublings of one array: a small file that asks for terabytes."""
    nodes = [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(40)]
    node = helper.make_node("ConstantOfShape", ["huge"], ["Z"])
    constants = weights(rng) | {"c0": np.zeros((64, 64), "f"), "huge": np.array([2**20, 2**20])}
    model = clstm.from_onnx(written(tmp_path / "m", model_of([*nodes, lstm_node()], ["X"], ["Y"], constants)))
    assert list(model.lstms) == ["rnn"]
    model = clstm.from_onnx(written(tmp_path / "m", model_of([node], ["X"], ["Z"], constants)))
    with pytest.raises(ValueError, match="ConstantOfShape 'Z' cannot be computed: a result of shape"):
        model(np.zeros(1))


def test_constants_that_blow_up_side_by_side_are_not_computed(tmp_path, rng):
    """A thousand conversions of one array: a small file that asks for hundreds of megabytes."""
    nodes = [helper.make_node("Cast", ["c"], [f"c{i}"], to=onnx.TensorProto.DOUBLE) for i in range(1000)]
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"], weights(rng) | {"c": np.zeros(50_000, "f")})
    path = written(tmp_path / "m", model)
    tracemalloc.start()
    assert list(clstm.from_onnx(path).lstms) == ["rnn"]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200 * path.stat().st_size


ODD_TYPES = {
    "integers": np.arange(1000, dtype=np.int32),
    "bytes": np.arange(1000, dtype=np.uint8),
    "complex numbers": np.ones(1000, np.complex64),
    "text": np.array(["text"] * 1000, object),
}


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh"])
@pytest.mark.parametrize("kind", [*ODD_TYPES, "nothing"])
def test_what_is_no_floating_point_number_is_refused(tmp_path, op, kind):
    """The C library would take the bytes for numbers, beyond the end of the array."""
    nodes = [
        helper.make_node(op, ["c"], ["y"], approximate="tanh") if op == "Gelu" else helper.make_node(op, ["c"], ["y"])
    ]
    if kind == "nothing":  # a Constant without its array
        nodes.insert(0, helper.make_node("Constant", [], ["c"]))
        nodes[0].attribute.add(name="value")
    model = model_of(nodes, ["X"], ["y"], {} if kind == "nothing" else {"c": ODD_TYPES[kind]}, opset=20)
    model = clstm.from_onnx(written(tmp_path / "m", model))
    with pytest.raises(
        (ValueError, NotImplementedError), match="floating-point numbers are expected|holds text|Constant"
    ):
        model(np.zeros(1))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", ">f8", "<f4", "<f8"])
def test_activations_of_any_floating_point_numbers(rng, dtype):
    x = rng.standard_normal((3, 4)).astype(dtype)[:, ::2]
    for function, exact in ((elementwise.tanh, np.tanh), (elementwise.sigmoid, lambda x: 1 / (1 + np.exp(-x)))):
        y = function(x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        np.testing.assert_allclose(y, exact(x.astype(np.float64)), rtol=2 * np.finfo(dtype).eps)


def doubling(op, **attributes):
    """A hundred nodes, each of which makes an array twice as large as that before."""
    second = {"Concat": lambda i: f"c{i}", "Tile": lambda i: "two"}[op]
    return [helper.make_node(op, [f"c{i}", second(i)], [f"c{i + 1}"], **attributes) for i in range(100)]


def loop_of(nodes, carried, collected=(), count="", condition="true"):
    """A Loop whose body has these nodes, and a condition that always holds."""
    inputs = [value("i", INT64, []), value("go", BOOL, []), *(value(name) for name, _ in carried)]
    outputs = [value("go_on", BOOL, []), *(value(name) for _, name in carried), *(value(name) for name in collected)]
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["go_on"]), *nodes], "body", inputs, outputs)
    results = [f"last{i}" for i in range(len(carried) + len(collected))]
    return helper.make_node("Loop", [count, condition, *(["X"] * len(carried))], results, body=body)


SUM_WITH_ITSELF_TURNED = [
    helper.make_node("Transpose", ["big"], ["turned"]),
    helper.make_node("Add", ["big", "turned"], ["Z"]),
]
BLOW_UPS = {
    "one on another": doubling("Concat", axis=0),
    "again and again": doubling("Tile"),
    "side by side": [helper.make_node("Exp", ["X"], [f"e{i}"]) for i in range(1000)],
    "an expanded view": [helper.make_node("Expand", ["X", "huge"], ["v"]), helper.make_node("Exp", ["v"], ["Z"])],
    "two views": [helper.make_node("Expand", ["X", "huge"], ["big"]), *SUM_WITH_ITSELF_TURNED],
    "in a loop": [loop_of([helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], [("x", "y")])],
    "collected by a loop": [loop_of([helper.make_node("Identity", ["x"], ["y"])], [("x", "y")], ["y"])],
}


@pytest.mark.parametrize("kind", BLOW_UPS)
def test_a_call_that_blows_up_is_refused(tmp_path, kind):
    constants = {"c0": np.zeros(100, "f"), "two": np.array([2]), "huge": np.array([300_000, 1]), "true": np.array(True)}
    model = clstm.from_onnx(written(tmp_path / "m", model_of(BLOW_UPS[kind], ["X"], ["Z"], constants)))
    model.memory_limit = 10**6
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"cannot be computed.*a result of shape|memory_limit is 1000000"):
        model(np.zeros((1, 1000)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10**7


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("Add", [(2**15, 1), (1, 2**15)], {}), ("Where", [(2**15, 1), (1, 2**15), (1,)], {}),
        ("MatMul", [(2**15, 1), (1, 2**15)], {}), ("MatMul", [(2**10, 1, 2**9, 1), (2**10, 1, 2**9)], {}),
        ("Gemm", [(2**15, 1), (1, 2**15)], {}), ("Einsum", [(2**15,), (2**15,)], {"equation": "i,j->ij"}),
        ("Clip", [(2**15, 1), (1, 2**15)], {}), ("Mod", [(2**15, 1), (1, 2**15)], {}),
        ("LayerNormalization", [(2**15, 1), (1, 2**15)], {}), ("Concat", [(2**15,)] * 2**14, {"axis": 0}),
        ("BatchNormalization", [(2**15, 1), *[(2**15,)] * 4], {}), ("GatherND", [(1, 2**15), (2**15, 1)], {}),
        ("Conv", [(1, 1, 2**15), (2**15, 1, 1)], {}), ("Conv", [(1, 1, 2**16), (1, 1, 2**15)], {}),
        ("LSTM", [(2**15, 1, 1), (1, 4 * 2**15, 1), (1, 4 * 2**15, 2**15)], {}),
    ],
)  # fmt: skip
def test_one_operator_that_makes_much_of_little_is_refused(op, shapes, attributes):
    """By its shapes alone: nothing is read of the arrays, which take no room here."""
    arrays = [
        np.broadcast_to(
            np.zeros((), np.bool_ if op == "Where" and i == 0 else np.int64 if op == "GatherND" and i else "f"), shape
        )
        for i, shape in enumerate(shapes)
    ]
    node = Node("n", op, ("",) * len(shapes), ("Y",), attributes, 17)
    with pytest.raises(ValueError, match="a result of shape .*, but at most 268435456 elements fit memory_limit"):
        if op == "LSTM":
            run_lstm(node, [SimpleNamespace(input_size=1, hidden_size=2**15)], {"X": arrays[0]})
        else:
            OPERATORS[op](node, arrays)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("count", ["", "many"])
def test_a_loop_without_an_end_is_refused(tmp_path, nested, count):
    loop = loop_of([loop_of([], [], count=count)] if nested else [], [], count=count)
    constants = {"true": np.array(True), "many": np.array(2**62)}
    model = clstm.from_onnx(written(tmp_path / "m", model_of([loop], ["X"], ["X"], constants)))
    assert model.step_limit == 2**24
    model.step_limit = 1000
    with pytest.raises(ValueError, match="cannot be computed: .*more steps than step_limit, which is 1000"):
        model(np.zeros((1, 2)))


def test_what_a_call_shares_or_drops_does_not_count(tmp_path, rng):
    """Views take no memory, and what an iteration of a loop has made is gone in the next."""
    turns = [helper.make_node("Transpose", [f"x{i}"], [f"x{i + 1}"]) for i in range(100)]
    loop = loop_of([helper.make_node("Neg", ["x"], ["y"])], [("x", "y")], count="count")
    constants = {"true": np.array(True), "count": np.array(100)}
    first = helper.make_node("Identity", ["X"], ["x0"])
    model = model_of([first, *turns, loop], [value("X", shape=[None, None])], ["x100", "last0"], constants)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    x = rng.standard_normal((30, 40)).astype("f")
    found.memory_limit = 2 * x.nbytes + 100
    assert_close(found(x), runtime(model, {"X": x}))


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: clstm.from_onnx(tmp_path / "m"), lambda: clstm.to_onnx(clstm.Linear(1, 1), tmp_path / "m")):
        with pytest.raises(ImportError, match=r"onnx is missing: pip install '\.\[onnx\]'"):
            call()


def test_random_damage_never_does_anything_else(tmp_path, rng):
    """Cut or flipped bytes: a model, or one of the errors that the documentation names."""
    path = tmp_path / "damaged"
    for make in (plain_model, if_model, loop_model):
        content = make(rng).SerializeToString()
        for _ in range(150):
            damaged = bytearray(content[: rng.integers(len(content) + 1)] if rng.random() < 0.3 else content)
            for position in rng.integers(0, len(damaged), rng.integers(1, 4)) if damaged else []:
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                clstm.from_onnx(path)
            except (ValueError, NotImplementedError) as error:
                assert "damaged" in str(error)


# ---- out ----


@given(problem=problems(sizes=(1, 3, 7, 16), batches=(1, 3), steps=(1, 2, 8), dtypes=["float32"]))
@settings(max_examples=25)
def test_written_lstms_give_the_same_numbers(problem, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m"
    lstm, batch = problem.lstm(), problem.batch()
    lengths = None if batch.lengths is None else np.maximum(batch.lengths, 1).astype(np.int32)
    clstm.to_onnx(lstm, path, states=batch.state is not None, lengths=lengths is not None)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    inputs = {"x": batch.x} | dict(zip(("h_0", "c_0"), batch.state or (), strict=False))
    inputs |= {} if lengths is None else {"lengths": lengths}
    expected = named(*lstm(batch.x, batch.state, lengths))
    assert_close(runtime(str(path), inputs), expected)
    assert_same_bytes(clstm.from_onnx(path)(inputs), expected)


VARIANTS = [
    {"peepholes": True},
    {"clip": 0.4},
    {"coupling": "forget"},
    {"coupling": "forget", "peepholes": True, "clip": 0.7, "bias": False},
    {"activations": [("hard_sigmoid", 0.3, 0.4), ("elu", 0.5), ("scaled_tanh", 0.9, 0.8)]},
    {"activations": ["sigmoid", "identity", "softsign"]},
    {"activations": {"g": "relu", "h": "softplus"}},
]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_written_variants_give_the_same_numbers(tmp_path, rng, options, bidirectional):
    lstm = clstm.LSTM(I, H, 2, bidirectional=bidirectional, seed=0, init="pytorch", **options)
    for array in lstm.parameters().values():
        array[...] = 0.5 * rng.standard_normal(array.shape)
    clstm.to_onnx(lstm, tmp_path / "m")
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    expected = named(*lstm(x))
    assert_close(runtime(str(tmp_path / "m"), {"x": x}), expected)
    assert_close(clstm.from_onnx(tmp_path / "m")(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proj_size": 2}, "proj_size"),
        ({"layer_norm": True}, "layer_norm"),
        ({"zoneout_c": 0.1}, "zoneout_c"),
        ({"zoneout_h": 0.1}, "zoneout_h"),
        ({"cell_clip": 1.0}, "cell_clip"),
        ({"learn_initial_state": True}, "learn_initial_state"),
        ({"coupling": "input"}, "coupling 'input'"),
        ({"forget_gate": False}, "without a forget gate"),
        ({"activations": {"i": "relu"}}, "gates have different activations"),
        ({"dtype": "float64", "activations": ["hard_sigmoid", "tanh", "tanh"]}, "alpha or beta 0.2 of float64"),
        ({"dtype": "float64", "clip": 0.3}, "clip, alpha or beta 0.3"),
    ],
)
def test_what_onnx_has_not_is_named(tmp_path, options, message):
    with pytest.raises(NotImplementedError, match=message):
        clstm.to_onnx(clstm.LSTM(I, H, **options), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_written_float64_lstm_checks_and_reads_back(tmp_path, rng):
    exact = ["sigmoid", ("scaled_tanh", 0.5, 1.25), "tanh"]  # in float32, as ONNX stores them
    options = {"bidirectional": True, "batch_first": True, "activations": exact, "clip": 0.75}
    lstm = clstm.LSTM(3, 4, 2, dtype="float64", seed=0, **options)
    clstm.to_onnx(lstm, tmp_path / "m")
    onnx.checker.check_model(onnx.load(tmp_path / "m"), full_check=True)
    x = rng.standard_normal((2, 5, 3))
    assert_same_bytes(clstm.from_onnx(tmp_path / "m")(x), named(*lstm(x)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_written_model(tmp_path, rng, batch_first):
    options = {"batch_first": batch_first, "seed": 1}
    model = clstm.Sequential(
        clstm.Embedding(10, 6, seed=1),
        clstm.LSTM(6, 5, bidirectional=True, **options),
        clstm.Sequential(clstm.LSTM(10, 3, **options), clstm.Linear(3, 2, seed=1)),
        clstm.Linear(2, 2, bias=False, seed=1),
    )
    clstm.to_onnx(model, tmp_path / "m", states=True)
    x = rng.integers(0, 10, (4, 2))
    N = x.shape[0 if batch_first else 1]
    states = [tuple(rng.standard_normal((D, N, H)).astype("f") for _ in "hc") for D, H in ((2, 5), (1, 3))]
    y, (first, (second,)) = model(x, (states[0], (states[1],)))
    inputs = {"x": x} | {f"{key}_0_{i}": state[k] for i, state in enumerate(states) for k, key in enumerate("hc")}
    expected = {"y": y} | {f"{key}_n_{i}": s[k] for i, s in enumerate((first, second)) for k, key in enumerate("hc")}
    assert_close(runtime(str(tmp_path / "m"), inputs), expected)
    assert_close(clstm.from_onnx(tmp_path / "m")(inputs), expected)


def test_the_method_writes_the_same_file(tmp_path):
    lstm = clstm.LSTM(2, 3, seed=0)
    clstm.to_onnx(lstm, tmp_path / "a", states=True, lengths=True)
    lstm.to_onnx(tmp_path / "b", states=True, lengths=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "m"
    path.write_text("old")
    mixed = clstm.Sequential(clstm.LSTM(2, 2), clstm.LSTM(2, 2, dtype="float64"))
    with pytest.raises(NotImplementedError, match="2 dtypes"):
        clstm.to_onnx(mixed, path)
    with pytest.raises(NotImplementedError, match="a LSTMCell cannot be written as ONNX"):
        clstm.to_onnx(clstm.LSTMCell(2, 2), path)
    assert path.read_text() == "old"
