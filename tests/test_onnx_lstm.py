"""LSTM nodes of ONNX files: inputs, directions, layouts, lengths, variants of the cell."""

import itertools

import numpy as np
import pytest
from onnx_builders import (
    FLOAT,
    B,
    H,
    I,
    T,
    assert_close,
    infos_of,
    lstm_node,
    model_of,
    onnx,
    plain_model,
    runtime,
    value,
    weights,
    written,
)
from problems import assert_same_bytes

import clstm
from clstm.interop.onnx_lstm import ACTIVATIONS as ONNX_ACTIVATIONS
from clstm.interop.onnx_lstm import SPELLING


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
