"""to_onnx: what it writes gives the same numbers, in ONNX Runtime and read back; what ONNX has not is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from onnx_builders import B, H, I, T, assert_close, onnx, runtime
from problems import assert_same_bytes, named, problems

import clstm


@given(problem=problems(sizes=(1, 3, 7, 16), batches=(1, 3), steps=(1, 2, 8), dtypes=["float32"]))
@settings(max_examples=25)
def test_written_lstms_give_the_same_numbers(problem, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m"
    lstm, batch = problem.lstm(), problem.batch()
    lengths = None if batch.lengths is None else np.maximum(batch.lengths, 1).astype(np.int32)
    clstm.to_onnx(lstm, path, states=batch.state is not None, lengths=lengths is not None)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    inputs = {"x": batch.x} | dict(zip(("h_0", "c_0"), batch.state or (), strict=False))
    inputs |= {} if lengths is None else {"lengths": lengths}
    expected = named(*lstm(batch.x, batch.state, lengths))
    assert_close(runtime(str(path), inputs), expected)
    assert_same_bytes(clstm.from_onnx(path)(inputs), expected)


VARIANTS = [
    {"peepholes": True},
    {"clip": 0.4},
    {"coupling": "forget"},
    {"coupling": "forget", "peepholes": True, "clip": 0.7, "bias": False},
    {"activations": [("hard_sigmoid", 0.3, 0.4), ("elu", 0.5), ("scaled_tanh", 0.9, 0.8)]},
    {"activations": ["sigmoid", "identity", "softsign"]},
    {"activations": {"g": "relu", "h": "softplus"}},
]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_written_variants_give_the_same_numbers(tmp_path, rng, options, bidirectional):
    lstm = clstm.LSTM(I, H, 2, bidirectional=bidirectional, seed=0, init="pytorch", **options)
    for array in lstm.parameters().values():
        array[...] = 0.5 * rng.standard_normal(array.shape)
    clstm.to_onnx(lstm, tmp_path / "m")
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    expected = named(*lstm(x))
    assert_close(runtime(str(tmp_path / "m"), {"x": x}), expected)
    assert_close(clstm.from_onnx(tmp_path / "m")(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proj_size": 2}, "proj_size"),
        ({"layer_norm": True}, "layer_norm"),
        ({"zoneout_c": 0.1}, "zoneout_c"),
        ({"zoneout_h": 0.1}, "zoneout_h"),
        ({"cell_clip": 1.0}, "cell_clip"),
        ({"learn_initial_state": True}, "learn_initial_state"),
        ({"coupling": "input"}, "coupling 'input'"),
        ({"forget_gate": False}, "without a forget gate"),
        ({"activations": {"i": "relu"}}, "gates have different activations"),
        ({"dtype": "float64", "activations": ["hard_sigmoid", "tanh", "tanh"]}, "alpha or beta 0.2 of float64"),
        ({"dtype": "float64", "clip": 0.3}, "clip, alpha or beta 0.3"),
    ],
)
def test_what_onnx_has_not_is_named(tmp_path, options, message):
    with pytest.raises(NotImplementedError, match=message):
        clstm.to_onnx(clstm.LSTM(I, H, **options), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_written_float64_lstm_checks_and_reads_back(tmp_path, rng):
    exact = ["sigmoid", ("scaled_tanh", 0.5, 1.25), "tanh"]  # in float32, as ONNX stores them
    options = {"bidirectional": True, "batch_first": True, "activations": exact, "clip": 0.75}
    lstm = clstm.LSTM(3, 4, 2, dtype="float64", seed=0, **options)
    clstm.to_onnx(lstm, tmp_path / "m")
    onnx.checker.check_model(onnx.load(tmp_path / "m"), full_check=True)
    x = rng.standard_normal((2, 5, 3))
    assert_same_bytes(clstm.from_onnx(tmp_path / "m")(x), named(*lstm(x)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_written_model(tmp_path, rng, batch_first):
    options = {"batch_first": batch_first, "seed": 1}
    model = clstm.Sequential(
        clstm.Embedding(10, 6, seed=1),
        clstm.LSTM(6, 5, bidirectional=True, **options),
        clstm.Sequential(clstm.LSTM(10, 3, **options), clstm.Linear(3, 2, seed=1)),
        clstm.Linear(2, 2, bias=False, seed=1),
    )
    clstm.to_onnx(model, tmp_path / "m", states=True)
    x = rng.integers(0, 10, (4, 2))
    N = x.shape[0 if batch_first else 1]
    states = [tuple(rng.standard_normal((D, N, H)).astype("f") for _ in "hc") for D, H in ((2, 5), (1, 3))]
    y, (first, (second,)) = model(x, (states[0], (states[1],)))
    inputs = {"x": x} | {f"{key}_0_{i}": state[k] for i, state in enumerate(states) for k, key in enumerate("hc")}
    expected = {"y": y} | {f"{key}_n_{i}": s[k] for i, s in enumerate((first, second)) for k, key in enumerate("hc")}
    assert_close(runtime(str(tmp_path / "m"), inputs), expected)
    assert_close(clstm.from_onnx(tmp_path / "m")(inputs), expected)


def test_the_method_writes_the_same_file(tmp_path):
    lstm = clstm.LSTM(2, 3, seed=0)
    clstm.to_onnx(lstm, tmp_path / "a", states=True, lengths=True)
    lstm.to_onnx(tmp_path / "b", states=True, lengths=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "m"
    path.write_text("old")
    mixed = clstm.Sequential(clstm.LSTM(2, 2), clstm.LSTM(2, 2, dtype="float64"))
    with pytest.raises(NotImplementedError, match="2 dtypes"):
        clstm.to_onnx(mixed, path)
    with pytest.raises(NotImplementedError, match="a LSTMCell cannot be written as ONNX"):
        clstm.to_onnx(clstm.LSTMCell(2, 2), path)
    assert path.read_text() == "old"
