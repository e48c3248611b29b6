"""Small ONNX files that ask for much memory or time: memory_limit and step_limit."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from onnx_builders import BOOL, INT64, assert_close, helper, lstm_node, model_of, onnx, runtime, value, weights, written

import clstm
from clstm.interop.onnx_file import Node
from clstm.interop.onnx_lstm import run_lstm
from clstm.interop.onnx_operators import OPERATORS


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
