"""The layers around LSTMs in files of Keras."""

import numpy as np
import pytest
from keras_builders import MASKS, B, H, I, KerasLstm, T, assert_close, masked_input, sequential, write_h5

import clstm


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
