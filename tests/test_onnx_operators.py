"""The operators around LSTMs in ONNX files, and LSTMs in the subgraphs of If, Loop and Scan."""

import re
from pathlib import Path

import numpy as np
import pytest
from onnx_builders import (
    FLOAT,
    INT64,
    B,
    I,
    T,
    assert_close,
    helper,
    if_model,
    loop_model,
    model_of,
    runtime,
    scan_model,
    value,
    written,
)

import clstm
from clstm.interop import elementwise
from clstm.interop.onnx_operators import OPERATORS

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
    nodes = [helper.make_node(op, ["c"], ["y"])]
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


# ---- subgraphs ----


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
