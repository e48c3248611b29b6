"""Model files: what comes back, damaged and hostile files, full disks, and that a file is never half-written."""

import errno
import json
import os
import stat
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import clstm
from clstm.module import Module


def make_models():
    return [
        clstm.Linear(3, 2, seed=1),
        clstm.Linear(3, 2, bias=False, dtype="float64", seed=1),
        clstm.Embedding(5, 4, seed=1),
        clstm.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.5, batch_first=True, seed=1),
        clstm.Sequential(clstm.Embedding(7, 3, seed=1), clstm.LSTM(3, 4, seed=2), clstm.Linear(4, 7, seed=3)),
    ]


def header_of(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def write_model(path, description, tensors):
    """A file with any configuration and any tensors, as no save would write it."""
    metadata = {"format": "clstm", "version": "1", "config": json.dumps(description)}
    clstm.write_safetensors(path, tensors, metadata)


def linear_description(**changes):
    return {"class": "Linear", "config": {"in_features": 3, "out_features": 2, "bias": True, **changes}}


LINEAR = {"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)}


# ---- what comes back


@pytest.mark.parametrize("model", make_models(), ids=lambda model: type(model).__name__)
def test_a_model_comes_back_to_the_last_bit(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    for loaded in (type(model).load(path), Module.load(str(path))):
        assert type(loaded) is type(model)
        assert loaded.config() == model.config()
        state, expected = loaded.state_dict(), model.state_dict()
        assert list(state) == list(expected)
        for name in state:
            assert state[name].dtype == expected[name].dtype
            assert state[name].tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("model", make_models(), ids=lambda model: type(model).__name__)
def test_the_file_opens_in_the_safetensors_library(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == sorted(model.parameters())
        for name, array in model.parameters().items():
            assert file.get_tensor(name).tobytes() == array.tobytes()
        metadata = file.metadata()
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0, "the arrays are aligned"
    assert metadata["format"] == "clstm"
    assert metadata["version"] == "1"
    assert json.loads(metadata["config"])["class"] == type(model).__name__


def test_extra_tensors_and_metadata_live_beside_the_model(tmp_path):
    path = tmp_path / "model.safetensors"
    model = clstm.Linear(3, 2)
    optimizer = clstm.Adam(model)
    optimizer.step({"weight": np.ones((2, 3)), "bias": np.ones(2)})
    model.save(path, extra=optimizer.state_dict(), metadata={"epoch": "3", "text": "grüße\n\0"})
    assert clstm.Linear.load(path).state_dict().keys() == {"weight", "bias"}
    extra, metadata = clstm.read_extra(path)
    assert metadata == {"epoch": "3", "text": "grüße\n\0"}
    expected = optimizer.state_dict()
    assert extra.keys() == expected.keys()
    assert all(extra[name].tobytes() == expected[name].tobytes() for name in extra)


def test_metadata_cannot_replace_the_configuration(tmp_path):
    with pytest.raises(ValueError, match="config, format"):
        clstm.Linear(3, 2).save(tmp_path / "model.safetensors", metadata={"config": "{}", "format": "pt"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10.0)[::-2],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
        np.broadcast_to(np.float32(2.0), (3, 2)),
        np.array(5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.array([np.nan, np.inf, -0.0]),
        [1, 2, 3],
    ],
    ids=str,
)
def test_any_layout_is_stored_as_its_values(array, tmp_path):
    path = tmp_path / "file.safetensors"
    clstm.write_safetensors(path, {"a": array})
    tensors, metadata = clstm.read_safetensors(path)
    assert metadata == {}
    array = np.asarray(array)
    assert tensors["a"].shape == array.shape
    assert tensors["a"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(tensors["a"], array)


def test_equal_contents_make_equal_files_in_every_process_and_order(tmp_path):
    script = """
        import sys, numpy as np, clstm
        tensors = {name: np.ones(2) for name in sys.argv[2]}
        clstm.write_safetensors(sys.argv[1], tensors, {name: "text" for name in sys.argv[2]})
    """
    contents = set()
    for names in ("abcde", "edcba", "caebd", "dbeca"):
        path = tmp_path / names
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), path, names], check=True)
        contents.add(path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"a": np.zeros(2, complex)}, None, TypeError, "tensor 'a' has dtype complex128"),
        ({"a": np.zeros(2, object)}, None, TypeError, "tensor 'a' has dtype object"),
        ({"a": np.zeros(2, np.longdouble)}, None, TypeError, "tensor 'a' has dtype"),
        ({"a": ["text"]}, None, TypeError, "tensor 'a' has dtype <U4"),
        ({1: np.zeros(2)}, None, TypeError, "the name 1"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "__metadata__"),
        ({}, {"epoch": 3}, TypeError, "'epoch': 3"),
    ],
)
def test_what_cannot_be_stored_is_named(tensors, metadata, error, message, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(error, match=message):
        clstm.write_safetensors(path, tensors, metadata)
    assert not list(tmp_path.iterdir())


# ---- damaged and hostile files


def load_error(path):
    """The message of the ValueError that loading raises; it names the file."""
    with pytest.raises(ValueError) as info:
        Module.load(path)
    assert path.name in str(info.value)
    return str(info.value)


def test_a_file_truncated_at_any_byte_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    clstm.Sequential(clstm.Embedding(2, 1), clstm.Linear(1, 2)).save(path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert "not a valid safetensors file" in load_error(path)
    path.write_bytes(data + b"\0")
    assert "not a valid safetensors file" in load_error(path)


def test_a_flipped_bit_is_refused_or_is_another_valid_model(tmp_path):
    path = tmp_path / "model.safetensors"
    model = clstm.Linear(2, 1, bias=False, dtype="float64")
    model.save(path)
    data = path.read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        try:
            loaded = Module.load(path)
        except ValueError as error:
            assert path.name in str(error)
            assert bit // 8 < body, "any bits are a weight"
        else:
            assert isinstance(loaded, clstm.Linear)
            assert loaded.config() == model.config()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("random") / "model.safetensors"
    path.write_bytes(data)
    load_error(path)


@pytest.mark.parametrize("length", [0, 1, 3, 2**20, 10**8, 2**31, 2**63, 2**64 - 1])
def test_a_wrong_header_length_is_refused(length, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    assert "header" in load_error(path)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        {"a": {**F32, "data_offsets": [4, 0]}},
        {"a": {**F32, "shape": [-1]}},
        {"a": {**F32, "shape": [2**62, 2**62]}},
        {"a": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}, "b": F32},
        {"a": {**F32, "shape": [1] * 100}},
        {"a": {**F32, "dtype": "BF16", "shape": [2]}},
        {"a": {**F32, "dtype": "F8_E4M3", "shape": [4]}},
        {"a": {**F32, "dtype": "__import__"}},
        {"__metadata__": {"config": 1}, "a": F32},
    ],
    ids=lambda header: str(header)[:60],
)
def test_a_hostile_header_is_refused(header, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(header, b"\0" * 4))
    load_error(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "the format None, but 'clstm' is expected"),
        ({"format": "pt"}, "the format 'pt', but 'clstm' is expected"),
        ({"format": "clstm", "version": "2", "config": "{}"}, "the version '2', but '1' is expected"),
        ({"format": "clstm", "version": "1"}, "not JSON"),
        ({"format": "clstm", "version": "1", "config": "{"}, "not JSON"),
        ({"format": "clstm", "version": "1", "config": "[" * 100_000}, "not JSON"),
        ({"format": "clstm", "version": "1", "config": "[]"}, "a class and its config are expected"),
        ({"format": "clstm", "version": "1", "config": '{"class": "Linear"}'}, "a class and its config are expected"),
    ],
)
def test_a_foreign_file_is_refused(metadata, message, tmp_path):
    path = tmp_path / "model.safetensors"
    clstm.write_safetensors(path, LINEAR, metadata)
    assert message in load_error(path)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class": "os.system", "config": {}}, "the class 'os.system', but known are"),
        ({"class": ["Linear"], "config": {}}, "the class ['Linear'], but known are"),
        ({"class": "Module", "config": {}}, "the class 'Module', but known are"),
        ({"class": "Linear", "config": [3, 2]}, "names and values are expected"),
        (linear_description(command="rm"), "command"),
        ({"class": "Linear", "config": {"in_features": 3}}, "out_features"),
        (linear_description(in_features="3"), "'weight' has shape (2, 3), but (2, '3') is expected"),
        (linear_description(in_features=3.0), "in_features is 3.0, but an integer is expected"),
        (linear_description(in_features=float("nan")), "'weight' has shape (2, 3), but (2, nan) is expected"),
        (linear_description(in_features=-3), "(2, -3) is expected"),
        (linear_description(bias="no"), "bias is 'no', but True or False is expected"),
        (linear_description(dtype="object"), "dtype is 'object'"),
        (linear_description(in_features=10**12), "(2, 1000000000000) is expected"),
        (linear_description(in_features=10**4000), "is expected"),
        ({"class": "Sequential", "config": {}}, "parts"),
        ({"class": "Sequential", "config": {"parts": 3}}, "the parts 3, but a list is expected"),
        ({"class": "Sequential", "config": {"parts": [3]}}, "a class and its config are expected"),
        ({"class": "Sequential", "config": {"parts": [linear_description()]}}, "missing '0.weight', '0.bias'"),
        ({"class": "Embedding", "config": {"num_embeddings": 2, "embedding_dim": 3}}, "unexpected 'bias'"),
    ],
)
def test_a_hostile_configuration_is_refused(description, message, tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, description, LINEAR)
    assert message in load_error(path)


@pytest.mark.parametrize("depth", [100, 400, 1000, 3000, 100_000])
def test_nested_parts_without_end_are_refused(depth, tmp_path):
    path = tmp_path / "model.safetensors"
    config = '{"class": "Sequential", "config": {"parts": [' * depth + "]}}" * depth
    clstm.write_safetensors(path, LINEAR, {"format": "clstm", "version": "1", "config": config})
    load_error(path)


@pytest.mark.parametrize(
    "description",
    [
        {"class": "Embedding", "config": {"num_embeddings": 20_000, "embedding_dim": 10**6}},
        {"class": "Linear", "config": {"in_features": 50_000, "out_features": 50_000}},
        {"class": "LSTM", "config": {"input_size": 1, "hidden_size": 50_000}},
        {"class": "LSTM", "config": {"input_size": 1, "hidden_size": 1, "num_layers": 10**15}},
    ],
    ids=lambda description: description["class"],
)
def test_a_small_file_that_asks_for_a_huge_model_costs_nothing(description, tmp_path, monkeypatch):
    """It is refused from the shapes alone: nothing of that size is made."""
    path = tmp_path / "model.safetensors"
    write_model(path, description, LINEAR)
    kind = getattr(clstm, description["class"])
    monkeypatch.setattr(kind, "__init__", lambda *args, **kwargs: pytest.fail("the model was built"))
    load_error(path)


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, linear_description(), {"weight": LINEAR["weight"].T, "gain": np.zeros(2)})
    message = load_error(path)
    assert "missing 'bias'" in message
    assert "unexpected 'gain'" in message
    assert "'weight' has shape (3, 2), but (2, 3) is expected" in message


def test_complex_tensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    metadata = {"format": "clstm", "version": "1", "config": json.dumps(linear_description())}
    path.write_bytes(safetensors.numpy.save({**LINEAR, "bias": np.zeros(2, np.complex64)}, metadata))
    assert "'bias' has dtype complex64" in load_error(path)


def test_a_file_of_another_class_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    clstm.Linear(3, 2).save(path)
    with pytest.raises(ValueError, match=r"model\.safetensors.*holds a Linear, not a Embedding"):
        clstm.Embedding.load(path)


def test_files_that_cannot_be_read_raise_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        clstm.Linear.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        clstm.Linear.load(tmp_path)


# ---- full disks and interrupted writes


def failing(number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(function, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    clstm.Linear(3, 2).save(path)
    old = path.read_bytes()
    monkeypatch.setattr(os, function, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="the file was not saved: No space left on device") as info:
        clstm.Linear(30, 20).save(path)
    assert info.value.errno == errno.ENOSPC
    assert info.value.filename == str(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_limit_on_file_size_leaves_the_old_file(tmp_path):
    pytest.importorskip("resource", reason="file size limits are POSIX")
    path = tmp_path / "model.safetensors"
    clstm.Linear(3, 2).save(path)
    old = path.read_bytes()
    script = """
        import resource, sys, clstm
        model = clstm.Linear(1000, 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            model.save(sys.argv[1])
        except OSError as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path], capture_output=True, text=True, check=True
    )
    assert "the file was not saved: File too large" in run.stdout
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    clstm.Linear(3, 2).save(path)
    old = path.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        clstm.Linear(30, 20).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_complete_and_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = clstm.Linear(30, 20)
    events = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_size))
        return fsync(descriptor)

    def recorded_replace(source, target):
        assert not path.exists()
        events.append(("replace", os.stat(source).st_size))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    model.save(path)
    size = path.stat().st_size
    assert events == [("fsync", size), ("replace", size)]


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not saved.*model\.safetensors"):
        clstm.Linear(3, 2).save(tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_not_a_regular_file_is_never_replaced(make, tmp_path):
    path = tmp_path / "target"
    getattr(os, make)(path)
    before = path.stat()
    with pytest.raises(OSError, match="not a regular file"):
        clstm.Linear(3, 2).save(path)
    assert path.stat().st_ino == before.st_ino
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model.safetensors", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    clstm.Linear(3, 2).save(link)
    assert link.is_symlink()
    assert isinstance(clstm.Linear.load(target), clstm.Linear)


def test_permissions_of_an_old_file_stay(tmp_path):
    path = tmp_path / "model.safetensors"
    clstm.Linear(3, 2).save(path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o600)
    clstm.Linear(3, 2).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
