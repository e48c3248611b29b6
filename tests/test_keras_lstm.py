"""What the options of Keras's LSTM, CuDNNLSTM and Bidirectional mean, masks and states among them."""

import numpy as np
import pytest
from keras_builders import MASKS, B, H, I, KerasLstm, T, assert_close, masked_input, sequential, wrapped, write_h5

import clstm


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


@pytest.mark.parametrize(("key", "number"), [("units", H + 1), ("use_bias", False)])
def test_directions_of_different_kinds_are_refused_by_name(tmp_path, rng, key, number):
    forward, backward = KerasLstm(rng), KerasLstm(rng, **({"units": number} if key == "units" else {"bias": number}))
    layer = wrapped({"layer": forward.layer(), "backward_layer": backward.layer()})
    path = write_h5(tmp_path / "m.h5", sequential(layer), {"rnn": forward.arrays + backward.arrays})
    with pytest.raises(NotImplementedError, match=f"layers that differ in {key}"):
        clstm.from_keras(path)


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
