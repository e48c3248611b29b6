"""Builders of ONNX models that several tests share, and ONNX Runtime, which says what the numbers are."""

import numpy as np
import pytest

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


def plain_model_of(arrays):
    return model_of([lstm_node()], ["X"], ["Y"], arrays)


def plain_model(rng):
    return model_of([lstm_node()], [value("X", shape=[None, None, I])], ["Y", "Y_h", "Y_c"], weights(rng))


def if_model(rng):
    """An LSTM in each branch."""
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
        [value("i", INT64, []), value("go", BOOL, []), value("x", shape=[None, None, I])],
        [value("go_on", BOOL, []), value("x_next"), value("collected")],
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
