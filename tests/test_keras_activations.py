"""Keras's activations, of layers and of the gates of an LSTM; hard_sigmoid as the version of the file has it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from keras_builders import B, I, KerasLstm, T, assert_close, sequential, sigmoid, write_h5

import clstm
from clstm.interop import keras_activations, keras_layers, keras_operations

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


@pytest.mark.parametrize(("version", "slope"), [("2.15.0", 0.2), ("3.0.0", 1 / 6)])
def test_hard_sigmoid_of_either_version(tmp_path, rng, version, slope):
    kernel = np.eye(3, dtype=np.float32)
    layer = {"class_name": "Dense", "config": {"name": "dense", "use_bias": False, "activation": "hard_sigmoid"}}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(layer), {"dense": [kernel]}, version))
    x = np.array([[-2.9, 0.5, 2.7]])
    assert_close(model(x), np.clip(slope * x + 0.5, 0, 1))


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


def test_every_activation_and_layer_is_tested_and_documented():
    assert FUNCTIONS.keys() - {None} == keras_activations.FUNCTIONS.keys() | {"hard_sigmoid"}
    page = (Path(__file__).parents[1] / "docs/keras.md").read_text()
    names = set(re.findall(r"\w+", page))
    assert names >= keras_activations.FUNCTIONS.keys() | keras_activations.OF_LSTM.keys()
    assert names >= keras_layers.LAYERS.keys() | set(keras_operations.OPERATIONS)
