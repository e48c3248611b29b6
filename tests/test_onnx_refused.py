"""What from_onnx refuses, and how it says so: wrong nodes and inputs, unsupported operators, damaged files."""

import sys

import numpy as np
import pytest
from onnx_builders import B, H, I, T, helper, if_model, loop_model, lstm_node, model_of, plain_model, weights, written

import clstm


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
