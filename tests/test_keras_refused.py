"""What from_keras refuses: wrong layers, unsupported ones, calls that take more than memory_limit."""

import tracemalloc

import numpy as np
import pytest
from keras_builders import B, H, I, KerasLstm, T, chained, sequential, wrapped, write_h5

import clstm


def refused(tmp_path, rng, change, lstm=None):
    lstm = lstm or KerasLstm(rng)
    layer, arrays = lstm.layer(), list(lstm.arrays)
    layer = change(layer, arrays) or layer
    return write_h5(tmp_path / "model.h5", sequential(layer), {"rnn": arrays})


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


def test_a_layer_that_a_call_lacks_does_not_hide_the_lstms(tmp_path, rng):
    lstm = KerasLstm(rng)
    dense = {"class_name": "Dense", "config": {"name": "dense", "activation": "glu"}}
    arrays = {"rnn": lstm.arrays, "dense": [np.ones((H, 2), "f"), np.ones(2, "f")]}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", sequential(lstm.layer(), dense), arrays))
    assert list(model.lstms) == ["rnn"]
    with pytest.raises(NotImplementedError, match=r"dense \(Dense: the activation 'glu' is not supported, only linear"):
        model(rng.standard_normal((B, T, I)))


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
