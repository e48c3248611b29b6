"""Where an ONNX file keeps the weights of an LSTM, external data among it, and their types."""

import numpy as np
import pytest
from onnx_builders import (
    FLOAT,
    B,
    H,
    I,
    T,
    assert_close,
    helper,
    lstm_node,
    model_of,
    numpy_helper,
    onnx,
    plain_model,
    plain_model_of,
    runtime,
    value,
    weights,
    written,
)
from problems import assert_same_bytes

import clstm


def stored_weights(kind, arrays, folder):
    """Nodes and constants that make W, R and B available in some way; and options of the model."""
    if kind == "initializers":
        return [], arrays
    if kind == "constants":
        tensors = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
        return [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in tensors.items()], {}
    nodes, constants = [], {}
    for name, array in arrays.items():  # "rearranged": without the axis of directions, transposed, in two halves
        first, second = np.split(np.ascontiguousarray(array[0].T), 2, axis=-1)
        constants |= {f"{name}_1": first, f"{name}_2": second}
        nodes.append(helper.make_node("Concat", [f"{name}_1", f"{name}_2"], [f"{name}_3"], axis=-1))
        nodes.append(helper.make_node("Transpose", [f"{name}_3"], [f"{name}_4"]))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}_4", "zero"], [name]))
    return nodes, constants | {"zero": np.array([0])}


@pytest.mark.parametrize("kind", ["initializers", "constants", "rearranged"])
def test_where_weights_are_stored(tmp_path, rng, kind):
    arrays = weights(rng)
    nodes, constants = stored_weights(kind, arrays, tmp_path)
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"], constants)
    expected = clstm.from_onnx(written(tmp_path / "plain", plain_model_of(arrays))).lstms["rnn"].state_dict()
    found = clstm.from_onnx(written(tmp_path / "m", model))
    assert_same_bytes(found.lstms["rnn"].state_dict(), expected)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(found(x), runtime(model, {"X": x}))


# ---- external data ----


def test_external_data(tmp_path, rng):
    model = plain_model(rng)
    expected = clstm.from_onnx(written(tmp_path / "inline", model)).lstms["rnn"].state_dict()
    onnx.save_model(model, tmp_path / "m", save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m").stat().st_size < 1000
    assert_same_bytes(clstm.from_onnx(tmp_path / "m").lstms["rnn"].state_dict(), expected)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link", "absent", "", "a\0b"])
def test_external_data_never_leaves_the_folder(tmp_path, rng, location):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    (folder / "link").symlink_to(tmp_path / "secret")
    model = plain_model(rng)
    for tensor in model.graph.initializer:
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, text in (("location", location), ("length", str(length))):
            tensor.external_data.add(key=key, value=text)
    message = (
        "outside of the model's folder" if location in ("../secret", "/etc/passwd", "link") else "cannot be loaded"
    )
    with pytest.raises(ValueError, match=message):
        clstm.from_onnx(written(folder / "m", model))


@pytest.mark.parametrize(
    ("key", "number"),
    [("offset", "-1"), ("offset", "9999999"), ("length", "9999999"), ("length", "x"), ("length", "4")],
)
def test_external_data_beyond_the_file_is_refused(tmp_path, rng, key, number):
    (tmp_path / "data").write_bytes(bytes(4096))
    model = plain_model(rng)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data")
    tensor.external_data.add(key=key, value=number)
    with pytest.raises(ValueError, match="cannot be loaded"):
        clstm.from_onnx(written(tmp_path / "m", model))


def external(name, dims, **entries):
    tensor = onnx.TensorProto(name=name, data_type=1, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    for key, entry in {"location": "data", **entries}.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def test_of_external_data_no_more_is_read_than_the_shape_needs(tmp_path, rng):
    """The file may be huge, and take no room on the disk."""
    with open(tmp_path / "data", "wb") as file:
        file.truncate(2**40)
    model = plain_model(rng)
    model.graph.initializer.append(external("more", [2]))
    assert list(clstm.from_onnx(written(tmp_path / "m", model)).lstms) == ["rnn"]
    model.graph.initializer.append(external("much", [2], length=2**40))
    with pytest.raises(ValueError, match=rf"tensor 'much' has {2**40} bytes, but \[2\] needs 8"):
        clstm.from_onnx(written(tmp_path / "m", model))


def test_external_data_that_is_read_again_and_again_is_refused(tmp_path, rng):
    (tmp_path / "data").write_bytes(bytes(10**6))
    model = plain_model(rng)
    model.graph.initializer.extend(external(f"copy{i}", [250_000]) for i in range(100))
    with pytest.raises(ValueError, match="tensors take more than 16 times the bytes of their files"):
        clstm.from_onnx(written(tmp_path / "m", model))


# ---- types ----


@pytest.mark.parametrize("per_row", [False, True])
def test_quantized_weights_are_read(tmp_path, rng, per_row):
    """int8 with DequantizeLinear behind it, for all of an array or row by row."""
    nodes, constants, exact = [], {}, weights(rng)
    for name, array in exact.items():
        scale = np.abs(array).max(axis=-1 if per_row and name != "B" else None).reshape(-1).astype("f") / 127
        shape = (1, -1, 1) if per_row and name != "B" else ()
        constants |= {f"{name}_q": np.rint(array / scale.reshape(shape)).astype(np.int8)}
        constants |= {
            f"{name}_s": scale.reshape(-1 if shape else ()),
            f"{name}_z": np.zeros(scale.size if shape else (), np.int8),
        }
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_{key}" for key in "qsz"], [name], axis=1))
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"], constants)
    found = clstm.from_onnx(written(tmp_path / "m", model))
    np.testing.assert_allclose(found.lstms["rnn"].weight_hh_l0[:H], exact["R"][0, :H], atol=0.03)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(found(x), runtime(model, {"X": x}))


def test_weights_of_float16_are_computed_in_float32(tmp_path, rng):
    arrays = {name: array.astype(np.float16) for name, array in weights(rng).items()}
    x = rng.standard_normal((T, B, I)).astype(np.float16)
    model = model_of([lstm_node()], [value("X", onnx.TensorProto.FLOAT16)], ["Y"], arrays)
    found = clstm.from_onnx(written(tmp_path / "half", model))(x)["Y"]
    same = plain_model_of({name: array.astype(np.float32) for name, array in arrays.items()})
    expected = clstm.from_onnx(written(tmp_path / "m", same))(x)["Y"]
    assert_same_bytes(found, expected.astype(np.float16))


def test_weights_of_bfloat16_are_read_behind_a_cast_and_refused_by_name_without_one(tmp_path, rng):
    arrays = {name: (array.view(np.uint32) >> 16 << 16).view("f") for name, array in weights(rng).items()}
    nodes = [helper.make_node("Cast", [f"{name}_b"], [name], to=FLOAT) for name in arrays]
    model = model_of([*nodes, lstm_node()], ["X"], ["Y"])
    for name, array in arrays.items():
        bits = (array.view(np.uint32) >> 16).astype(np.uint16)
        raw = {"data_type": onnx.TensorProto.BFLOAT16, "dims": array.shape, "raw_data": bits.tobytes()}
        model.graph.initializer.add(name=f"{name}_b", **raw)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    assert_close(clstm.from_onnx(written(tmp_path / "m", model))(x), runtime(plain_model_of(arrays), {"X": x}))
    del model.graph.node[0]
    model.graph.initializer[0].name = "W"
    with pytest.raises(NotImplementedError, match="W of LSTM 'rnn' has the type bfloat16"):
        clstm.from_onnx(written(tmp_path / "m", model))
