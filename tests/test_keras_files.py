"""The kinds of files that Keras writes, and damaged or hostile ones."""

import zipfile

import numpy as np
import pytest
from keras_builders import (
    B,
    I,
    KerasLstm,
    T,
    assert_close,
    h5py,
    sequential,
    write_by_name,
    write_by_position,
    write_h5,
    write_keras,
)

import clstm


@pytest.mark.parametrize("names", [True, False])
def test_the_same_model_from_every_kind_of_file(tmp_path, rng, names):
    first, forward, backward = KerasLstm(rng), KerasLstm(rng), KerasLstm(rng, go_backwards=True)
    wrapped = {"name": "two", "layer": forward.layer("f", return_sequences=True)}
    layers = [first.layer("one", return_sequences=True), {"class_name": "Bidirectional", "config": wrapped}]
    config = sequential(*layers)
    inner = {"backward_layer/cell/vars": backward.arrays, "forward_layer/cell/vars": forward.arrays}
    inner["forward_layer/cell/seed_generator/vars"] = [np.zeros(2, np.uint32)]
    parts = {"lstm": ("one", {"cell/vars": first.arrays}), "bidirectional": ("two", inner)}
    weights = write_by_position(tmp_path / "m.weights.h5", parts, names)
    arrays = {"one": first.arrays, "two": forward.arrays + backward.arrays}
    models = [
        clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays)),
        clstm.from_keras(write_h5(tmp_path / "text.h5", config, arrays, text=str)),
        clstm.from_keras(write_keras(tmp_path / "m.keras", config, weights)),
    ]
    x = rng.standard_normal((B, T, I))
    y = first(x, sequences=True)[0]
    expected = np.concatenate([forward(y, sequences=True)[0], backward(y, sequences=True)[0][:, ::-1]], axis=-1)
    for model in models:
        assert list(model.lstms) == ["one", "two"]
        assert_close(model(x), expected)
    model = clstm.from_keras(weights)
    assert set(model.lstms) == ({"one", "two"} if names else {"lstm", "bidirectional"})
    with pytest.raises(NotImplementedError, match="holds weights only"):
        model(x)
    for lstm, other in zip(model.lstms.values(), sorted(models[0].lstms), strict=True):
        other = models[0].lstms["two" if lstm.bidirectional else "one"]
        for name, array in lstm.state_dict().items():
            np.testing.assert_array_equal(array, other.state_dict()[name])


def test_weights_of_keras_2(tmp_path, rng):
    lstm = KerasLstm(rng)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        write_by_name(file, {"rnn": lstm.arrays, "dense": [np.ones((3, 2)), np.ones(2)]})
    model = clstm.from_keras(tmp_path / "w.h5")
    x = rng.standard_normal((B, T, I))
    assert list(model.lstms) == ["rnn"]
    assert_close(model.lstms["rnn"](x)[0], lstm(x, sequences=True)[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"{}", bytes(2000), b"PK" + bytes(99)])
def test_what_is_no_file_of_keras_is_refused(tmp_path, content):
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded"):
        clstm.from_keras(path)
    with pytest.raises(FileNotFoundError):
        clstm.from_keras(tmp_path / "absent")


def test_an_archive_that_grows_without_measure_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 10**7)
    with pytest.raises(ValueError, match="config.json grows"):
        clstm.from_keras(tmp_path / "m.keras")


@pytest.mark.parametrize("how", ["lzma", "bzip2", "encrypted"])
def test_an_archive_of_an_unusual_kind_is_refused(tmp_path, how):
    kind = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2, "encrypted": zipfile.ZIP_STORED}[how]
    with zipfile.ZipFile(tmp_path / "m.keras", "w", kind) as archive:
        archive.writestr("config.json", "{}")
    content = (tmp_path / "m.keras").read_bytes()
    if how == "encrypted":  # by the flags of both of its headers
        content = content.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(
            b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
        )
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(NotImplementedError, match="config.json is encrypted, or compressed in an unusual way"):
        clstm.from_keras(tmp_path / "m.keras")


def test_random_damage_never_does_anything_else(tmp_path, rng):
    """Cut or flipped bytes: a model, or one of the errors that the documentation names."""
    lstm = KerasLstm(rng, units=2, features=1)
    config = sequential(lstm.layer())
    weights = write_by_position(tmp_path / "m.weights.h5", {"lstm": ("rnn", {"cell/vars": lstm.arrays})})
    paths = [weights, write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays})]
    path = tmp_path / "damaged"
    for content in (write_keras(tmp_path / "m.keras", config, weights).read_bytes(), *(p.read_bytes() for p in paths)):
        for _ in range(200):
            damaged = bytearray(content[: rng.integers(len(content) + 1)] if rng.random() < 0.2 else content)
            for position in rng.integers(0, len(damaged), rng.integers(1, 9)) if damaged else []:
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                clstm.from_keras(path)
            except (ValueError, NotImplementedError) as error:
                assert "damaged" in str(error)
