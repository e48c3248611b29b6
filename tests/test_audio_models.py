"""Files of Neural Amp Modeler and RTNeural, written here: what they mean, and how damaged ones are refused."""

import copy
import json

import numpy as np
import pytest

import clstm


def reference(layers, x):
    """Outputs (T, H) of layers of (w_ih, w_hh, bias, h, c), gates i, f, g, o, in float64, one step after the other."""
    for w_ih, w_hh, bias, h, c in layers:
        outputs = []
        for x_t in x:
            i, f, g, o = np.split(w_ih @ x_t + w_hh @ h + bias, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            outputs.append(h)
        x = np.array(outputs)
    return x


def random_layers(rng, I, H, L, with_state):
    state = rng.standard_normal if with_state else np.zeros
    sizes = [I] + [H] * (L - 1)
    return [
        (
            rng.standard_normal((4 * H, i)),
            rng.standard_normal((4 * H, H)),
            rng.standard_normal(4 * H),
            state(H),
            state(H),
        )
        for i in sizes
    ]


def nam_content(layers, head, I):
    parts = [a.ravel() for w_ih, w_hh, b, h, c in layers for a in (np.hstack([w_ih, w_hh]), b, h, c)]
    config = {"input_size": I, "hidden_size": head.size - 1, "num_layers": len(layers)}
    weights = np.concatenate([*parts, head]).tolist()
    return {"version": "0.5.4", "architecture": "LSTM", "config": config, "weights": weights, "sample_rate": 44100}


def rtneural_content(layers, kernel, bias, activation="tanh"):
    return {
        "in_shape": [None, None, layers[0][0].shape[1]],
        "layers": [
            {"type": "lstm", "activation": "tanh", "weights": [w_ih.T.tolist(), w_hh.T.tolist(), b.tolist()]}
            for w_ih, w_hh, b, _, _ in layers
        ]
        + [{"type": "dense", "activation": activation, "weights": [kernel.tolist(), bias.tolist()]}],
    }


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(("I", "H", "L"), [(1, 3, 1), (1, 8, 2), (2, 5, 3)])
def test_nam_starts_at_its_trained_state(tmp_path, rng, I, H, L):
    layers, head = random_layers(rng, I, H, L, with_state=True), rng.standard_normal(H + 1)
    model = clstm.from_nam(written(tmp_path / "m.nam", nam_content(layers, head, I)), dtype="float64")
    x = rng.standard_normal((50, I))
    expected = reference(layers, x) @ head[:H] + head[H]
    assert model.sample_rate == 44100
    assert (model.channels, len(model.lstms), model.lstms[0].num_layers) == (I, 1, L)
    np.testing.assert_allclose(model.process(x)[:, 0], expected, rtol=1e-11, atol=1e-12)
    model.reset()
    cut = np.concatenate([model.process(block) for block in np.split(x, [0, 1, 7, 33])])
    np.testing.assert_allclose(cut[:, 0], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", ["", "tanh", "relu", "sigmoid"])
def test_rtneural_layers_in_their_order(tmp_path, rng, activation):
    layers = random_layers(rng, 1, 6, 2, with_state=False)
    kernel, bias = rng.standard_normal((6, 2)), rng.standard_normal(2)
    path = written(tmp_path / "m.json", rtneural_content(layers, kernel, bias, activation))
    x = rng.standard_normal((40, 1))
    z = reference(layers, x) @ kernel + bias
    expected = {"": z, "tanh": np.tanh(z), "relu": np.maximum(z, 0), "sigmoid": 1 / (1 + np.exp(-z))}[activation]
    np.testing.assert_allclose(
        clstm.from_rtneural(path, dtype="float64").process(x[:, 0]), expected, rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("bias", [True, False])
def test_rtneural_state_dictionary(tmp_path, bias):
    lstm, linear = clstm.LSTM(1, 4, 2, bias=bias, seed=1), clstm.Linear(4, 1, seed=1)
    arrays = {f"rec.{k}": v.tolist() for k, v in lstm.state_dict().items()}
    arrays |= {f"lin.{k}": v.tolist() for k, v in linear.state_dict().items()}
    model = clstm.from_rtneural(written(tmp_path / "m.json", arrays))
    x = np.linspace(-1, 1, 9, dtype=np.float32)
    np.testing.assert_array_equal(model.process(x), linear(lstm(x[:, None])[0])[:, 0])


def test_a_wrong_call_leaves_the_state(tmp_path, rng):
    head = rng.standard_normal(4)
    model = clstm.from_nam(written(tmp_path / "m.nam", nam_content(random_layers(rng, 1, 3, 1, True), head, 1)))
    x = rng.standard_normal(6)
    model.process(x[:2])
    expected = model.process(x[2:])
    model.reset()
    model.process(x[:2])
    with pytest.raises(ValueError, match=r"samples has shape \(3, 2\), but \(time, 1\) or \(time,\) is expected"):
        model.process(np.zeros((3, 2)))
    np.testing.assert_array_equal(model.process(x[2:]), expected)


def test_a_part_that_fails_leaves_the_state(rng):
    failing = []

    def part(x):
        if failing:
            raise ValueError("a part that fails")
        return x

    model, x = clstm.AudioModel([clstm.LSTM(1, 3, seed=0), part]), rng.standard_normal(6)
    expected = model.process(x)
    model.reset()
    first = model.process(x[:2])
    failing.append(True)
    with pytest.raises(ValueError, match="a part that fails"):
        model.process(x[2:])
    failing.clear()
    np.testing.assert_array_equal(np.concatenate([first, model.process(x[2:])]), expected)


@pytest.mark.parametrize("options", [{"proj_size": 2}, {"learn_initial_state": True}])
def test_a_stream_of_a_variant_starts_where_its_lstm_does(rng, options):
    lstm = clstm.LSTM(1, 4, 2, seed=0, **options)
    for array in lstm.parameters().values():
        array[...] = rng.standard_normal(array.shape)
    x = rng.standard_normal((9, 1))
    model = clstm.AudioModel([lstm])
    expected, state = lstm(x)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([model.process(x[:4]), model.process(x[4:])]), expected)
        model.reset()
    np.testing.assert_array_equal(clstm.AudioModel([lstm], {0: state}).process(x), lstm(x, state)[0])


def test_a_copy_is_a_stream_of_its_own(tmp_path, rng):
    head = rng.standard_normal(4)
    model = clstm.from_nam(written(tmp_path / "m.nam", nam_content(random_layers(rng, 1, 3, 1, True), head, 1)))
    x = rng.standard_normal(6)
    model.process(x)
    other = copy.deepcopy(model)
    expected = model.process(x)
    model.process(x)
    np.testing.assert_array_equal(other.process(x), expected)


def broken_nam(change):
    content = nam_content([[np.ones((4, 1)), np.ones((4, 1)), np.ones(4), np.ones(1), np.ones(1)]], np.ones(2), 1)
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c.update(architecture="WaveNet"), NotImplementedError, "'WaveNet' is not supported"),
        (lambda c: c["weights"].pop(), ValueError, r"weights has shape \(15,\), but \(16,\) is expected"),
        (lambda c: c["weights"].append(1), ValueError, r"weights has shape \(17,\)"),
        (lambda c: c["weights"].__setitem__(3, "1.0"), ValueError, "numbers are expected"),
        (lambda c: c["weights"].__setitem__(3, [1.0]), ValueError, "numbers are expected"),
        (lambda c: c["weights"].__setitem__(3, 1e39), ValueError, "overflow"),
        (lambda c: c["weights"].__setitem__(3, 10**400), ValueError, "numbers are expected"),
        (lambda c: c["config"].update(hidden_size=2**39), ValueError, "weights has shape"),
        (lambda c: c["config"].update(num_layers=2**40), ValueError, "weights has shape"),
        (lambda c: c["config"].update(hidden_size=1.5), ValueError, "hidden_size is 1.5"),
        (lambda c: c["config"].update(out_channels=2), NotImplementedError, "out_channels is 2"),
        (lambda c: c["config"].pop("num_layers"), ValueError, "config lacks 'num_layers'"),
        (lambda c: c.pop("weights"), ValueError, "the file lacks 'weights'"),
    ],
)
def test_a_broken_nam_file_is_refused(tmp_path, change, error, message):
    path = written(tmp_path / "m.nam", broken_nam(change))
    with pytest.raises(error, match=message) as raised:
        clstm.from_nam(path)
    assert "m.nam" in str(raised.value)


@pytest.mark.parametrize("read", [clstm.from_nam, clstm.from_rtneural])
@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100000, '{"layers": 3}', "{}", "\x00\xff"])
def test_what_is_no_such_file_is_refused(tmp_path, read, content):
    with pytest.raises(ValueError, match="cannot be loaded"):
        read(written(tmp_path / "m", content))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")


def dense(inputs, activation=""):
    return {"type": "dense", "activation": activation, "weights": [[[1]] * inputs, [1]]}


def lstm_of(kernel_columns=4, recurrent_columns=4, bias=4):
    return {"type": "lstm", "weights": [[[1] * kernel_columns], [[1] * recurrent_columns], [1] * bias]}


W = [[1]] * 4  # both weights of an LSTM with one input and one unit


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([{"type": "gru"}], NotImplementedError, "layer 0 is of type 'gru', but only lstm, dense"),
        ([{"type": ["lstm"]}], NotImplementedError, "layer 0 is of type"),
        ([{"type": "lstm", "activation": "relu"}], NotImplementedError, "activation 'relu'"),
        ([{"type": "lstm"}], ValueError, "layer 0 has the weights None"),
        (
            [{"type": "lstm", "weights": [[[1] * 4], [[1] * 3], [1] * 4]}],
            ValueError,
            r"recurrent kernel has shape \(1, 3\)",
        ),
        ([{"type": "lstm", "weights": [[[1] * 5], [[1] * 4], [1] * 4]}], ValueError, r"kernel has shape \(1, 5\)"),
        ([{"type": "lstm", "weights": [[[1] * 4], [[1] * 4], [1] * 3]}], ValueError, r"bias has shape \(3,\)"),
        ([{"type": "dense", "activation": "prelu", "weights": [[[1]], [1]]}], NotImplementedError, "'prelu'"),
        (
            [{"type": "dense", "weights": [[[1]], [1]]}, {"type": "dense", "weights": [[[1], [1]], [1]]}],
            ValueError,
            "takes 2",
        ),
        ([], ValueError, "neither an LSTM nor a Linear"),
    ],
)
def test_a_broken_rtneural_file_is_refused(tmp_path, layers, error, message):
    with pytest.raises(error, match=message):
        clstm.from_rtneural(written(tmp_path / "m.json", {"in_shape": [None, None, 1], "layers": layers}))


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"a.weight_ih_l0": W}, ValueError, "a.weight_hh_l0 is None"),
        ({"a.weight_ih_l0": [[1]] * 3, "a.weight_hh_l0": [[1]] * 3}, NotImplementedError, "'a' is a GRU"),
        (
            {"a.weight_ih_l0": W, "a.weight_hh_l0": W, "a.weight_hr_l0": [[1]]},
            NotImplementedError,
            "weight_hr_l0",
        ),
        (
            {"a.weight_ih_l0": W, "a.weight_hh_l0": W, "a.bias_ih_l2": [1] * 4},
            ValueError,
            "no weight_ih_l1",
        ),
        ({"a.gamma": [1]}, NotImplementedError, "gamma"),
    ],
)
def test_a_broken_state_dictionary_is_refused(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        clstm.from_rtneural(written(tmp_path / "m.json", arrays))


READERS = [
    clstm.from_nam, clstm.from_rtneural, clstm.from_keras, clstm.from_onnx, clstm.read_safetensors, clstm.LSTM.load,
]  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__qualname__)
def test_a_number_is_no_path(tmp_path, read):
    """`open` takes an integer for a file that is open already, and closes it."""
    if read is clstm.from_onnx:
        pytest.importorskip("onnx", reason="onnx is not installed")
    with open(tmp_path / "m", "w+b") as file:
        for path in (file.fileno(), True, 3.5, None):
            with pytest.raises(TypeError, match=f"path is {path}, but a str, bytes or path-like object is expected"):
                read(path)
        file.write(b"still open")


def test_random_damage_never_does_anything_else(tmp_path, rng):
    """Cut or flipped bytes: a model, or one of the errors that the documentation names."""
    contents = [
        json.dumps(nam_content(random_layers(rng, 1, 2, 2, True), rng.standard_normal(3), 1)).encode(),
        json.dumps(rtneural_content(random_layers(rng, 1, 2, 1, False), np.ones((2, 1)), np.ones(1))).encode(),
    ]
    for read, content in zip((clstm.from_nam, clstm.from_rtneural), contents, strict=True):
        for _ in range(300):
            damaged = bytearray(content[: rng.integers(len(content) + 1)] if rng.random() < 0.3 else content)
            for position in rng.integers(0, max(len(damaged), 1), rng.integers(0, 4)) if damaged else []:
                damaged[position] = rng.integers(256)
            path = tmp_path / "damaged"
            path.write_bytes(damaged)
            try:
                read(path)
            except (ValueError, NotImplementedError) as error:
                assert "damaged" in str(error)
